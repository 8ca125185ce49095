"""Outcomes from a topic of the site's broker: each told once, whatever else comes on it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.control_plane import ControlPlane
from agent.core.test_local_commands import MakeDevice, started
from agent.sdk.test_flows import client_of, mosquitto
from edgectl_agent import InputRefused, SdkError
from edgectl_agent.flows.items import Item, Malformed
from edgectl_agent.flows.outcomes import WAITING_MAX, Heard, Listening
from waiting import wait_for


class Given:
    """A source that gives what it is made of, then waits."""

    newest_wins = True

    def __init__(self, *given: object) -> None:
        self.given = given

    def run(self, deliver: Callable[[Item], None], stop: threading.Event) -> None:
        for one in self.given:
            deliver(Item(name="truth", given=one))
        stop.wait(60)


class Site:
    """A listening in a thread, and what it tells an agent that may be away."""

    def __init__(self, *given: object) -> None:
        self.told: list[tuple[str, str]] = []
        self.away = threading.Event()
        self.listening = Listening(Given(*given), self.tell, pause_s=0.01)
        self.thread = threading.Thread(target=self.listening.run)

    def tell(self, request: str, label: str) -> None:
        if self.away.is_set():
            raise SdkError("agent.down", "no agent", hint="start it")
        if " " in request:
            raise InputRefused("sdk.request", "no name")
        if label == "unasked":
            raise SdkError("outcome.unasked", "nobody asks", hint="")
        self.told.append((request, label))

    @property
    def counts(self) -> Heard:
        return self.listening.counts

    def stop(self) -> Heard:
        self.listening.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.counts


def said(request: object, label: object = "walk", **more: object) -> dict[str, object]:
    return {"request": request, "label": label, **more}


def test_what_is_an_outcome_is_told_and_all_else_is_counted() -> None:
    site = Site(
        said("r-1"), Malformed("no JSON"), [1], {"request": "r-2"}, said(3), said("r 4"),
        said("r-5", "unasked"), said("r-6", "sit", at="2031-01-01"),
    )  # fmt: skip
    site.thread.start()
    wait_for(lambda: len(site.told) == 2)
    assert site.stop() == Heard(received=8, told=2, malformed=5, refused=1)
    assert site.told == [("r-1", "walk"), ("r-6", "sit")]


def test_while_the_agent_is_away_they_wait_and_the_oldest_go() -> None:
    site = Site(*(said(f"r-{number}") for number in range(WAITING_MAX + 20)))
    site.away.set()
    site.thread.start()
    wait_for(lambda: site.counts.received == WAITING_MAX + 20)
    site.away.clear()
    wait_for(lambda: site.told and site.told[-1][0] == f"r-{WAITING_MAX + 19}")
    counts = site.stop()
    assert counts.told + counts.dropped == WAITING_MAX + 20
    assert 0 < counts.dropped <= 20
    assert len(set(site.told)) == counts.told


@pytest.mark.mosquitto
def test_the_command_line(plane: ControlPlane, make_device: MakeDevice, tmp_path: Path) -> None:
    """By a real broker to a real agent, which refuses what no policy asks for."""
    device = started(plane, make_device)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    running = subprocess.Popen(
        [sys.executable, "-m", "edgectl_agent", "outcome", "har", "--json",
         "--state", str(device.state), "--from", f"mqtt://127.0.0.1:{port}/truth/+?qos=1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stderr is not None
    lines: list[bytes] = []

    def read() -> None:
        for line in running.stderr or ():
            lines.append(line)  # noqa: PERF402 - one by one, as they come

    reading = threading.Thread(target=read)
    reading.start()
    try:
        with mosquitto(tmp_path, port), client_of(port) as (client, _):

            def heard() -> bool:
                client.publish("truth/door", json.dumps(said("r-1")), 1)
                client.publish("truth/door", b"{", 1)
                assert running.poll() is None
                return any(b"outcome.unasked" in line for line in lines)

            wait_for(heard)
    finally:
        running.terminate()
        running.wait(60)
        reading.join(60)
        running.stderr.close()
    assert running.returncode == 0
    counts = json.loads(lines[-1])
    assert counts["refused"] >= 1
    assert counts["told"] == 0
