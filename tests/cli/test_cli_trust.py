"""A team signs its models at the command line, against a real server in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.fleet import Server
from edgectl.demo import activity_data
from waiting import wait_for

pytestmark = pytest.mark.e2e
Run = Callable[..., Any]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def team(site: Server, edgectl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line of somebody who may push, when a team of two signs for vision-…"""
    password = (site.data / "admin-password").read_text()
    login = ("login", site.url, "--username", "admin", "--password-stdin")
    assert edgectl(*login, stdin=password).code == 0
    monkeypatch.chdir(tmp_path)
    for name in ("vera", "vito"):
        ceremony("generate", f"{name}.pem", "--name", name, "--no-passphrase")
    ceremony(
        *("delegate", "vision", "--pattern", "vision-*", "--threshold", "2"),
        *("--key", "vera.pub", "--key", "vito.pub", "--data", str(site.data)),
    )
    wait_for(lambda: "vision 1 waits for 2 of 2" in edgectl("keys", "status").out)
    return edgectl


def ceremony(*arguments: str) -> None:
    """What becomes another process: on the server's data folder, or on a machine of a person."""
    command = [sys.executable, "-m", "edgectl", "keys", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def push(run: Run, version: str) -> Any:
    options = ("--name", "vision-door", "--version", version, "--precision", "fp32")
    return run("push", activity_data.MODEL, *options)


def test_push_sign_and_ready(team: Run, tmp_path: Path) -> None:
    sign = ("keys", "sign", "vision", "--yes", "--key")
    assert team(*sign, "vera.pem").code == 0
    done = team(*sign, "vito.pem")
    assert done.code == 0, done.err
    assert "published: " in done.out

    pushed = push(team, "1")
    assert pushed.code == 0, pushed.err
    assert (
        "vision-door@1 waits for 2 of 2 signatures of vision. Next: edgectl keys sign vision"
        in pushed.out
    )
    refused = team("rollout", "start", "vision-door@1", "--all")
    assert (refused.code, refused.err[:23]) == (1, "error[rollout.unsigned]")

    status = team("keys", "status")
    assert status.code == 3
    assert "vision 2 waits for 2 of 2 signatures: vera, vito" in status.out
    assert "+ 'models/vision-door/1/" in status.out
    found = {one["name"]: one for one in json.loads(team("doctor", "--json").out)}
    assert found["trust.unsigned"]["status"] == "warn"

    # One over the API, the other with a file that is carried, and a version that joins meanwhile.
    assert team(*sign, "vera.pem", "--output", "mine.json").code == 0
    assert push(team, "2").code == 0
    late = team("keys", "import", "mine.json")
    assert (late.code, late.err[:18]) == (1, "error[tuf.changed]")
    assert team("keys", "export", "vision", "--output", "vision.json").code == 0
    assert Path("vision.json.previous").exists()
    for name in ("vera", "vito"):
        ceremony("sign", "vision.json", "--key", f"{name}.pem", "--yes")
    done = team("keys", "import", "vision.json", "--json")
    assert json.loads(done.out)["staged"] == []
    for version in ("1", "2"):
        shown = team("models", "show", f"vision-door@{version}", "--watch", "--json")
        assert json.loads(shown.out)["state"] == "ready"
    status = team("keys", "status")
    assert status.code == 0, status.out
    assert re.search(r"vision +2 .* offline +2 of: vera, vito +models/vision-\*", status.out)
    found = {one["name"]: one for one in json.loads(team("doctor", "--json").out)}
    assert found["trust"]["status"] == "ok"


def test_a_watcher_hears_of_the_signature(team: Run) -> None:
    for name in ("vera", "vito"):
        team("keys", "sign", "vision", "--yes", "--key", f"{name}.pem")
    push(team, "1")
    watch = [sys.executable, "-m", "edgectl", "models", "show", "vision-door@1", "--watch"]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watcher:
        assert watcher.stderr is not None
        try:
            waits = b"vision-door@1 waits for %d of 2 signatures of vision\n"
            assert watcher.stderr.readline() == waits % 2
            team("keys", "sign", "vision", "--yes", "--key", "vera.pem")
            assert watcher.stderr.readline() == waits % 1
            team("keys", "sign", "vision", "--yes", "--key", "vito.pem")
            assert watcher.wait(30) == 0
        finally:
            watcher.kill()


def test_a_stranger_signs_in_vain(team: Run) -> None:
    ceremony("generate", "eve.pem", "--name", "eve", "--no-passphrase")
    done = team("keys", "sign", "vision", "--yes", "--key", "eve.pem")
    assert done.code == 1
    assert done.err.startswith("error[tuf.unknown_key]")
    assert done.err.splitlines()[1].startswith("while: bringing the signature of vision to ")
