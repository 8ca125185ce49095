"""A tracking server in this process that answers what MLflow answers to the calls that we make."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["FakeMlflow", "mlflow"]


class FakeMlflow:
    """What it was told; `broken` says what it answers instead, `token` what it asks for."""

    def __init__(self) -> None:
        self.url = ""
        self.token = ""
        self.broken: tuple[int, bytes] | None = None
        self.broken_at = ""
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        call = path.removeprefix("/api/2.0/mlflow/")
        self.calls.append(call)
        if call == "experiments/get-by-name":
            found = self.experiments.get(asked["experiment_name"])
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST"}
            return (404, missing) if found is None else (200, {"experiment": _id(found)})
        if call == "experiments/create":
            self.experiments[asked["name"]] = "7"
            return 200, _id("7")
        if call == "runs/search":
            wanted = asked["filter"].split("'")[1]
            found_runs = [
                {"info": {"run_id": name}}
                for name, run in self.runs.items()
                if run["tags"].get("edgectl.retraining") == wanted
            ]
            return 200, {"runs": found_runs} if found_runs else {}
        if call == "runs/create":
            name = f"{len(self.runs):032x}"
            tags = {one["key"]: one["value"] for one in asked["tags"]}
            self.runs[name] = {"tags": tags, "params": {}, "metrics": {}, "status": "RUNNING"}
            return 200, {"run": {"info": {"run_id": name}}}
        run = self.runs[asked["run_id"]]
        if call == "runs/log-batch":
            for kind in ("params", "metrics", "tags"):
                run[kind] |= {one["key"]: one["value"] for one in asked[kind]}
            return 200, {}
        assert call == "runs/update", call
        run["status"] = asked["status"]
        return 200, {"run_info": {}}


def _id(experiment: str) -> dict[str, Any]:
    return {"experiment_id": experiment, "name": "edgectl"}


@contextmanager
def mlflow() -> Iterator[FakeMlflow]:
    """Run one until the end of the block."""
    fake = FakeMlflow()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            asked = json.loads(self.rfile.read(length) or b"{}")
            asked |= {name: values[0] for name, values in parse_qs(parts.query).items()}
            if fake.token and self.headers.get("Authorization") != f"Bearer {fake.token}":
                status, content = 401, b"{}"
            elif fake.broken is not None and fake.broken_at in parts.path:
                status, content = fake.broken
            else:
                status, found = fake.answer(parts.path, asked)
                content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _do  # noqa: N815 - as the base class wants it

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
