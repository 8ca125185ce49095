"""Samples between a real agent and a real server: sealed wherever they lie and travel, redacted.

What is looked for are the very bytes of inputs, in every file and in every message of the broker.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.scene import Client
from e2e.fleet import Agent, Server
from edgectl.errors import EdgectlError
from edgectl.types import DatasetRequest, SampleInfo, SamplePolicyChange
from edgectl_protocol.samples import SampleParts, read_sample_parts
from edgectl_protocol.sealed_samples import is_sealed
from waiting import wait_for

pytestmark = pytest.mark.e2e
PIECE_BYTES = 64
"""Of an input: so many that are the same are no accident."""


class Asked:
    """A device whose model is asked with windows that nobody else has."""

    def __init__(self, agent: Agent, windows: Any) -> None:
        self.agent = agent
        self._windows = windows
        self._random = np.random.default_rng(7)
        self.pieces: list[bytes] = []
        """Of the inputs, in the order in which they were asked."""

    def ask(self, count: int = 10) -> None:
        for number in range(count):
            window = self._windows[number].astype("<f4")
            window = window + self._random.normal(0, 0.01, window.shape).astype("<f4")
            self.agent.infer("har", window[None], id=f"w-{len(self.pieces)}")
            self.pieces.append(window.tobytes()[:PIECE_BYTES])

    def asked_since(self, begin: int, sample: bytes) -> bool:
        """Say whether the input in a file is one that was asked from number `begin` on."""
        return any(piece in sample for piece in self.pieces[begin:])


def found_in(pieces: Iterable[bytes], contents: Iterable[bytes]) -> int:
    """Count contents that hold one of the pieces."""
    known = list(pieces)
    return sum(any(piece in content for piece in known) for content in contents)


def files_of(folder: Path) -> list[bytes]:
    contents = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                contents.append(path.read_bytes())
        except OSError:
            continue  # a file that has just gone
    return contents


def put(server: Server, seal: str | None = None) -> None:
    change = SamplePolicyChange(bytes_per_day=10**9, reasons=["random"], seal=seal)
    server.client.put_sample_policy("har", change)


def samples_of(server: Server, known: set[str]) -> list[SampleInfo]:
    return [one for one in server.client.samples().items if one.id not in known]


def edgectl(server: Server, folder: Path, *words: str) -> str:
    """Run the command line as somebody who has logged in."""
    password = (server.data / "admin-password").read_text()
    base = [sys.executable, "-m", "edgectl"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    login = [*base, "login", server.url, "--username", "admin", "--password-stdin"]
    subprocess.run(login, input=password, env=environment, check=True, text=True, cwd=folder)
    done = subprocess.run(
        [*base, *words], env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nobody_between_reads_a_sample_and_the_server_only_what_is_sealed_to_it(
    start: Any, activity: Any, pushed_har: Path, tmp_path: Path
) -> None:
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1")
    pki = server.data / "pki"
    identity = (pki / "server.pem", pki / "server.key")
    thief = Client(server.broker_port, identity, pki / "authority.pem", "server-thief")
    thief.listen("edgectl/v1/#")
    asked = Asked(agent, activity["windows"])

    def heard() -> list[bytes]:
        return [payload for payloads in list(thief.got.values()) for payload in list(payloads)]

    def take(known: set[str], begin: int) -> SampleInfo:
        """Wait for a sample of what was asked from `begin` on."""

        def look() -> Any:
            asked.ask()
            return samples_of(server, known)

        return wait_for(look, "a sample", bound_s=90)[0]

    try:
        put(server)
        server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
        one = take(set(), 0)
        content = server.client.sample(one.id)
        assert asked.asked_since(0, content), "the server has opened it"
        assert (one.sealed, one.redacted) == (False, False)
        (key,) = server.client.sample_keys()
        assert (one.key, key.holder, key.current) == (key.id, "server", True)
        assert found_in(asked.pieces, heard()) == 0, "the broker has no input"

        # What waits on the device, while nobody fetches it.
        server.stop()
        begin = len(asked.pieces)
        asked.ask()

        def waiting() -> Any:
            asked.ask(2)
            return list((agent.state / "samples").glob("?" * 64))

        wait_for(waiting, "a sample on the disk", bound_s=60)
        assert any(is_sealed(one) for one in files_of(agent.state)), "they are there"
        assert found_in(asked.pieces, files_of(agent.state)) == 0, "its disk has no input"
        server.start()
        wait_for(thief.client.is_connected, "the thief is back")
        thief.listen("edgectl/v1/#")

        # A key that the server does not have.
        edgectl(server, tmp_path, "samples", "key", "create", "team.pem", "--json")
        assert (tmp_path / "team.pem").stat().st_mode & 0o777 == 0o600
        policy = ("samples", "policy", "har", "--seal", "team.pem.pub", "--json")
        team = json.loads(edgectl(server, tmp_path, *policy))["key"]
        known: set[str] = set()

        def sealed() -> Any:
            asked.ask()
            found = [one for one in server.client.samples().items if one.key == team]
            known.update(one.id for one in found)
            return found

        closed = wait_for(sealed, "a sample that is sealed to the team's key", bound_s=120)[0]
        assert (closed.sealed, closed.tensors, closed.answer) == (True, [], -1)
        assert is_sealed(server.client.sample(closed.id))
        for call in (
            lambda: server.client.sample_content(closed.id),
            lambda: server.client.create_dataset(
                DatasetRequest(
                    name="closed", model="har", labelled=False, since=closed.taken_at.isoformat()
                )
            ),
        ):
            with pytest.raises(EdgectlError) as caught:
                call()
            assert caught.value.code in {"sample.sealed", "dataset.sealed"}, caught.value
        get = ("samples", "get", closed.id, "--key", "team.pem", "--output", "one.safetensors")
        edgectl(server, tmp_path, *get)
        plain = (tmp_path / "one.safetensors").read_bytes()
        assert asked.asked_since(begin, plain)
        (piece,) = {one for one in asked.pieces if one in plain}
        assert found_in([piece], files_of(server.data)) == 0, "the server has no part of it"
        assert found_in(asked.pieces, heard()) == 0
        assert found_in(asked.pieces, files_of(agent.state)) == 0

        # The search finds what is there: the same without a key.
        put(server, "none")
        wait_for(lambda: asked.ask() or found_in(asked.pieces, heard()), "an input", bound_s=120)
    finally:
        thief.close()


ZERO = """
import json, sys
content = sys.stdin.buffer.read()
length = int.from_bytes(content[:8], "little")
head = json.loads(content[8:8 + length])
data = bytearray(content[8 + length:])
for name, one in head.items():
    if name.startswith("input."):
        begin, end = one["data_offsets"]
        data[begin:end] = bytes(end - begin)
sys.stdout.buffer.write(content[:8 + length] + data)
"""


def program(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def parts_of(server: Server, sample: str) -> SampleParts:
    return read_sample_parts(server.client.sample(sample))


def status_of(agent: Agent) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgectl_agent", "status", "--state", agent.state, "--json"]
    done = subprocess.run(command, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)["samples"]
    return found


def test_the_devices_owner_has_samples_redacted_and_nothing_else_leaves(
    start: Any, activity: Any, pushed_har: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    folder = tmp_path / "programs"
    folder.mkdir(mode=0o755)
    command = program(folder / "redact", ZERO)
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1", redact_command=command, redact_timeout_s="3")
    put(server)
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    asked = Asked(agent, activity["windows"])

    def look() -> Any:
        asked.ask()
        return server.client.samples().items

    one = wait_for(look, "a sample", bound_s=90)[0]
    assert one.redacted
    note, tensors = parts_of(server, one.id)
    assert note is not None
    assert note.redacted
    inputs = [content for tensor, content in tensors if tensor.name.startswith("input.")]
    assert inputs
    assert not any(any(content) for content in inputs)
    assert status_of(agent)["redaction_command"] == command
    assert status_of(agent)["counts"]["redaction.done"] >= 1

    for text, code in (
        ("import time\ntime.sleep(600)", "redaction.timeout"),
        ("", "redaction.dropped"),
        ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[:-8])", "redaction.changed"),
    ):
        program(folder / "redact", text)

        def told(code: str = code) -> Any:
            asked.ask()
            system = server.client.device("pi-1").system or {}
            return (system.get("samples") or {}).get(code)

        wait_for(told, f"{code} told of", bound_s=90)
        assert status_of(agent)["counts"][code] >= 1
    for each in server.client.samples().items:
        assert each.redacted
        content = server.client.sample(each.id)
        assert not asked.asked_since(0, content), "no input has left as it was"
    assert found_in(asked.pieces, files_of(agent.state)) == 0

    # What has come before is not let out by taking the program away for a start, and back.
    agent.stop()
    agent.settings["redact_command"] = str(folder / "gone")
    agent.start()

    def refused() -> Any:
        asked.ask()
        return status_of(agent)["counts"].get("redaction.refused")

    wait_for(refused, "samples are dropped where the program is gone", bound_s=90)
    assert all(one.redacted for one in server.client.samples().items)
