"""Log lines as they come: a real server, both brokers, a real agent, the command line."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.fleet import Server
from edgectl.errors import ApiError
from edgectl.types import LogsStart
from waiting import wait_for

pytestmark = pytest.mark.e2e


@contextmanager
def following(server: Server, device: str, *options: str) -> Iterator[tuple[Any, list[str]]]:
    """The command line of an operator who looks; its lines grow while it runs."""
    token = server.client.create_token("logs", "operator", 600).token
    process = subprocess.Popen(
        [sys.executable, "-m", "edgectl", "devices", "logs", device, "--follow", *options],
        env={**os.environ, "EDGECTL_URL": server.url, "EDGECTL_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []

    def collect() -> None:
        assert process.stdout is not None
        lines.extend(iter(process.stdout.readline, ""))

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)
        reader.join(30)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()


def state(server: Server) -> tuple[int, str]:
    """Return how many follows there are in the database, and why the newest has ended."""
    with sqlite3.connect(server.data / "edgectl.sqlite") as database:
        found = database.execute(
            "SELECT reason FROM log_follow ORDER BY started_at DESC"
        ).fetchall()
    return len(found), found[0][0] if found else ""


def test_an_operator_follows_the_log_of_a_device(start: Any, broker: str) -> None:
    server = start.server(broker=broker)
    token = server.enrol_token()
    agent = start.agent(server, "pi-1", token=token)
    wait_for(lambda: server.client.device("pi-1").online, "the device online")
    assert state(server) == (0, "")

    with following(server, "pi-1") as (process, lines):
        wait_for(lambda: any("an operator follows" in line for line in lines), "the first lines")
        # Something happens on the device: an operator asks for its logs, and it says so.
        assert server.client.wait_job(server.client.start_logs("pi-1", LogsStart()).id)
        wait_for(lambda: any("has asked for the logs" in line for line in lines), "a new line")
        assert process.poll() is None
    assert token not in "".join(lines)
    assert len(set(lines)) == len(lines), "each line once"
    wait_for(lambda: state(server)[1] == "unwatched", "the end of it", bound_s=60)

    with following(server, "pi-1", "--json") as (process, lines):
        wait_for(lambda: any("an operator follows" in line for line in lines), "lines of JSON")
        assert {"time", "level", "logger", "text"} == set(json.loads(lines[0]))
        agent.stop()
        wait_for(lambda: not server.client.device("pi-1").online, "the device offline")
        wait_for(lambda: state(server)[1] == "offline", "the end with the device")
        wait_for(lambda: process.poll() is not None, "the end of the command")
        assert "not connected any more" in process.stderr.read()
    assert state(server)[1] == "offline"
    with pytest.raises(ApiError, match="not connected"):
        server.client.follow_logs("pi-1")
    audited = [one for one in server.client.audit().items if one.action == "follow_device_logs"]
    assert [one.outcome for one in audited] == ["refused", "done", "done"]
