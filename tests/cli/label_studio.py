"""The real Label Studio takes our tasks, has them labelled, and we take its exports back.

Not part of ``make test``: ``make test-label-studio`` installs Label Studio into an environment of
its own (some hundred packages) and names its program in EDGECTL_TEST_LABEL_STUDIO.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from e2e.fleet import Server
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from ui import rows, sample_rows
from waiting import wait_for

PROGRAM = os.environ.get("EDGECTL_TEST_LABEL_STUDIO", "")
USER, PASSWORD = "studio@example.org", "correct horse battery staple"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
pytestmark = pytest.mark.timeout(1800)
MODELS = {
    "har": sample_rows.SERIES - 2,
    "door": sample_rows.PICTURES,
    "kws": sample_rows.TABLES,
}
"""Series, pictures, tables; with how many samples nobody has labelled yet."""


class Studio:
    """A running Label Studio, asked by its REST API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                got: bytes = answer.read()
        except HTTPError as error:
            told = error.read()[:2000]
            raise AssertionError(f"{method} {path}: {error.code} {told!r}") from error
        return got if "exportType" in path else json.loads(got or b"null")

    def project(self, setup: str, tasks: Path) -> int:
        """Make a project of what we have exported; return its number."""
        title = tasks.stem
        made = self.call("POST", "/api/projects/", {"title": title, "label_config": setup})
        number = int(made["id"])
        taken = self.call("POST", f"/api/projects/{number}/import", json.loads(tasks.read_text()))
        assert taken["task_count"] == len(json.loads(tasks.read_text()))
        return number

    def tasks(self, project: int) -> list[dict[str, Any]]:
        found = self.call("GET", f"/api/tasks/?project={project}&fields=all&page_size=100")
        return list(found["tasks"])

    def say(self, task: int, label: str | None) -> None:
        """Label a task, as the page does; None: skip it."""
        chosen = {"from_name": "label", "to_name": "sample", "type": "choices"}
        result = [] if label is None else [chosen | {"value": {"choices": [label]}}]
        self.call(
            "POST",
            f"/api/tasks/{task}/annotations/",
            {"result": result, "was_cancelled": label is None, "lead_time": 1.5},
        )

    def export(self, project: int, kind: str, path: Path) -> Path:
        address = f"/api/projects/{project}/export?exportType={kind}&download_all_tasks=true"
        path.write_bytes(self.call("GET", address))
        return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    if not PROGRAM:
        pytest.fail("EDGECTL_TEST_LABEL_STUDIO names no program: make test-label-studio")
    folder = tmp_path_factory.mktemp("studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PROGRAM, "start", "--no-browser", "--port", str(port)]
    command += ["--internal-host", "127.0.0.1", "--data-dir", str(folder / "data")]
    command += ["--username", USER, "--password", PASSWORD, "--user-token", TOKEN]
    environment = {
        **os.environ,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
        "HOME": str(folder),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    found = Studio(f"http://127.0.0.1:{port}")

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return bool(found.call("GET", "/api/version"))
        except (OSError, AssertionError, ValueError):
            return False

    try:
        wait_for(ready, "Label Studio", bound_s=1200)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with samples of series, pictures and tables."""
    started = Server(tmp_path_factory.mktemp("server") / "data")
    started.start()
    try:
        database = Database(f"sqlite:///{started.data / 'edgectl.sqlite'}")
        blobs = BlobStore(str(started.data / "blobs"))
        uploads = BlobStore(str(started.data / "blobs/device-uploads"))
        rows.fill(database, blobs, uploads, datetime.now(UTC))  # noqa: TID251
        database.close()
        yield started
    finally:
        started.stop()


@pytest.fixture
def operator(server: Server, edgectl: Callable[..., Any]) -> Callable[..., Any]:
    login = ("login", server.url, "--username", "operator", "--password-stdin")
    assert edgectl(*login, stdin=rows.PASSWORD).code == 0
    return edgectl


@pytest.mark.parametrize("model", MODELS)
def test_there_and_back(
    studio: Studio, operator: Callable[..., Any], tmp_path: Path, model: str
) -> None:
    """Each kind of input: taken as it is exported, labelled there, taken back from both files."""
    tasks = tmp_path / f"{model}.json"
    got = operator("labels", "export", model, "--format", "label-studio", "-o", tasks)
    assert got.code == 0, got.err
    project = studio.project(tasks.with_suffix(".xml").read_text(), tasks)
    there = studio.tasks(project)
    assert len(there) == MODELS[model]
    assert all(one["total_predictions"] == 1 for one in there), "the model's answer is shown"
    classes = json.loads(operator("labels", "status", model, "--json").out)["classes"]
    said = {one["data"]["sample"]: classes[n % len(classes)] for n, one in enumerate(there)}
    skipped = there[-1]["data"]["sample"]
    said[skipped] = None
    for one in there:
        studio.say(one["id"], said[one["data"]["sample"]])
    exported = studio.export(project, "JSON", tmp_path / "back.json")

    got = operator("labels", "import", exported, "--model", model, "--json")
    assert got.code == 0, got.err + got.out
    assert json.loads(got.out) == {"changed": len(there), "unchanged": 0, "refused": []}
    again = json.loads(operator("labels", "import", exported, "--json").out)
    assert (again["changed"], again["unchanged"]) == (0, len(there))
    rows_ = json.loads(operator("labels", "list", "--model", model, "--json").out)
    found = {one["sample"]: one for one in rows_ if one["source"] == "import"}
    assert {name: one["label"] for name, one in found.items()} == said
    (labeller,) = {one["labeller"] for one in found.values()}
    assert labeller in {"label-studio-1", USER}, labeller

    # Its CSV has a line for each annotation that is a choice, with our columns among its own.
    csv = studio.export(project, "CSV", tmp_path / "back.csv")
    of_csv = json.loads(operator("labels", "import", csv, "--check", "--json").out)
    assert of_csv["refused"] == []
    assert of_csv["changed"] + of_csv["unchanged"] == len(there) - 1


def test_what_is_labelled_already_stays_whose_it_is(
    studio: Studio, operator: Callable[..., Any], tmp_path: Path
) -> None:
    """Ann's and Bob's words travel to Label Studio and back, and are not said by its user then."""
    tasks = tmp_path / "conflict.json"
    got = operator(
        "labels", "export", "har", "--format", "label-studio", "--state", "conflict", "-o", tasks
    )
    assert got.code == 0, got.err
    project = studio.project(tasks.with_suffix(".xml").read_text(), tasks)
    (task,) = studio.tasks(project)
    assert task["total_annotations"] == 2
    classes = json.loads(operator("labels", "status", "har", "--json").out)["classes"]
    studio.say(task["id"], classes[1])
    exported = studio.export(project, "JSON", tmp_path / "back.json")
    got = operator("labels", "import", exported, "--json")
    assert (got.code, json.loads(got.out)["refused"]) == (0, []), got.err
    rows_ = json.loads(operator("labels", "list", "--model", "har", "--json").out)
    said = {
        (one["labeller"], one["source"]): one["label"]
        for one in rows_
        if one["sample"] == sample_rows.CONFLICT
    }
    assert said["ann", "import"] == said["ann", "person"] == classes[1]
    assert said["bob", "import"] == said["bob", "person"] == classes[2]
    (third,) = [one for one in said if one[0] not in {"ann", "bob"}]
    assert said[third] == classes[1]
    found = json.loads(operator("samples", "list", "--model", "har", "--json").out)
    (shown,) = [one for one in found if one["id"] == sample_rows.CONFLICT]
    assert (shown["label_state"], shown["label"]) == ("labelled", classes[1]), "two votes of three"
