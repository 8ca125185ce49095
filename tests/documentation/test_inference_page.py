"""The examples of docs/inference.md, and its table of routes, against a running endpoint."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.inference.models import Client, make_bundle
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/inference.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
ROUTES = re.findall(r"^\| `(GET|POST) (/\S+)`", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    running = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, options=Options(shared_memory=True)
    )
    running.start()
    running.load(make_bundle(tmp_path_factory.mktemp("page")))
    yield running
    running.stop()


def here(text: str, process: InferenceProcess) -> str:
    return text.replace("127.0.0.1:8500", urlsplit(process.endpoint).netloc)


@pytest.mark.parametrize("program", PROGRAMS, ids=["urllib", "tritonclient"])
def test_programs_run(program: str, process: InferenceProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-c", here(program, process)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_commands_run(process: InferenceProcess, tmp_path: Path) -> None:
    for command in COMMANDS:
        subprocess.run(
            ["bash", "-ec", here(command, process)], cwd=tmp_path, check=True, timeout=60
        )
    assert b'"binary_data_size":28' in (tmp_path / "answer.bin").read_bytes()
    assert (tmp_path / "endpoint.token").stat().st_mode & 0o077 == 0


def test_routes_exist(process: InferenceProcess) -> None:
    assert len(ROUTES) == 14
    client = Client(process.endpoint)
    for method, path in ROUTES:
        path = path.replace("/models/<name>", "/models/activity")  # noqa: PLW2901
        status, answer = client.call(method, path.replace("<name>", "x"), {})
        told = str(answer)
        assert "no others" not in told, path
        assert "no such route" not in told, path
        assert status in {200, 400, 403, 404}, path
    client.close()


def test_settings_are_those_of_the_agent() -> None:
    named = set(re.findall(r"`(endpoint_\w+|shared_memory|grpc_port)\b", PAGE))
    assert named == {
        field
        for field in Settings.__struct_fields__
        if field.startswith("endpoint_") or field in {"shared_memory", "grpc_port"}
    }
    settings = Settings()
    assert f"`endpoint_queue_max` ({settings.endpoint_queue_max})" in PAGE
    assert f"`endpoint_client_max` ({settings.endpoint_client_max})" in PAGE
    assert f"`endpoint_connections_max` ({settings.endpoint_connections_max})" in PAGE
