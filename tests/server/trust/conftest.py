"""A whole server with its API, a team with keys of its own, and pushes of a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from edgectl_server.api.app import create_app
from edgectl_server.ceremony.cli import main
from edgectl_server.clock import now
from edgectl_server.services import Services, open_services
from edgectl_server.settings import Settings
from edgectl_server.storage.tables import Blob
from server.signing.devices import Person
from waiting import wait_for

ACTIVITY = Path(__file__).parents[3] / "server/edgectl/demo/activity"


@dataclass
class Desk:
    """The server as people see it: over the API, and on its data folder."""

    settings: Settings
    services: Services
    client: TestClient
    tokens: dict[str, str]

    def call(self, method: str, path: str, *, role: str = "admin", **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        headers |= options.pop("headers", {})
        return self.client.request(method, f"/api/v1{path}", headers=headers, **options)

    def get(self, path: str, *, role: str = "viewer") -> Any:
        answer = self.call("GET", path, role=role)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def staged(self, role: str) -> bytes:
        answer = self.call("GET", f"/trust/staged/{role}", role="viewer")
        assert answer.status_code == 200, answer.text
        return bytes(answer.content)

    def submit(self, role: str, document: bytes, *, by: str = "operator") -> Any:
        return self.call("POST", f"/trust/staged/{role}", role=by, content=document)

    def keys(self, *arguments: str) -> str:
        """What ``edgectl keys`` does on the data folder, beside the running server."""
        done = CliRunner().invoke(main, [*arguments, "--data", self.settings.data])
        assert done.exit_code in {0, 3}, done.output
        return done.output

    def delegate(self, *team: Person, threshold: int = 1, family: str = "vision") -> None:
        """Give the models named vision-… to a team, which signs its first, empty document."""
        arguments = ["delegate", family, "--pattern", f"{family}-*", "--threshold", str(threshold)]
        for number, person in enumerate(team):
            file = self.settings.data_path.parent / f"{family}-{number}.pub"
            key = {"keyid": person.key.keyid, **person.key.to_dict()}
            file.write_text(json.dumps(key))
            arguments += ["--key", str(file)]
        self.keys(*arguments)
        wait_for(lambda: family in self.waiting())
        document = self.staged(family)
        for person in team[:threshold]:
            document = person.sign(document)
        answer = self.submit(family, document)
        assert answer.status_code == 200, answer.text

    def waiting(self) -> list[str]:
        return [one["role"] for one in self.get("/trust")["staged"]]

    def push(self, model: str, version: str, **more: Any) -> dict[str, Any]:
        """Push a real model, and return the version once its job has ended."""
        digest = self.services.blobs.add_file(ACTIVITY / "har_v1.onnx")
        with self.services.database.write() as session:
            size = self.services.blobs.size(digest)
            session.merge(Blob(digest=digest, size=size, created_at=now()))
        body = {
            "model": digest.removeprefix("sha256:"),
            "filename": "m.onnx",
            "version": version,
            "options": {"precisions": ["fp32"]},
            **more,
        }
        answer = self.call("POST", f"/models/{model}/versions", role="operator", json=body)
        assert answer.status_code in {200, 202}, answer.text
        job = answer.json()["job"]
        wait_for(lambda: self.get(f"/jobs/{job}")["state"] in {"succeeded", "failed"})
        return self.version(model, version)

    def version(self, model: str, version: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/models/{model}/versions/{version}")
        return found

    def becomes(self, model: str, version: str, state: str) -> dict[str, Any]:
        """Wait until the version has a state by itself."""
        wait_for(lambda: self.version(model, version)["state"] == state)
        return self.version(model, version)

    def restart(self) -> None:
        self.client.__exit__(None, None, None)
        self.services.close()
        self.services = open_services(self.settings)
        self.client = TestClient(create_app(self.services))
        self.client.__enter__()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    settings = Settings(data=str(tmp_path / "data"), broker_port=0, tick_s=0.1)
    settings.data_path.mkdir(mode=0o700)
    services = open_services(settings)
    made = Desk(settings, services, TestClient(create_app(services)), {})
    made.client.__enter__()
    login = {"username": "admin", "password": services.first_password}
    answer = made.client.post("/api/v1/tokens:login", json=login)
    made.tokens["admin"] = answer.json()["token"]
    for role in ("operator", "viewer"):
        body = {"name": role, "role": role}
        made.tokens[role] = made.call("POST", "/tokens", json=body).json()["token"]
    yield made
    made.client.__exit__(None, None, None)
    made.services.close()
