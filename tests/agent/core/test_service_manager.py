"""What a manager of services is told, on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl_agent.service_manager import ServiceManager


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


def manager_of(told: socket.socket, **environment: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": told.getsockname(), **environment})


def all_of(told: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(told.recv(4096).decode())
        except BlockingIOError:
            return found


def test_it_says_ready_how_it_goes_and_the_end(told: socket.socket) -> None:
    manager = manager_of(told)
    manager.ready("serves at\nhttp://127.0.0.1:8500")
    manager.status("connected")
    manager.stopping()
    assert all_of(told) == [
        "READY=1\nSTATUS=serves at http://127.0.0.1:8500",
        "STATUS=connected",
        "STOPPING=1\nSTATUS=ends in good order",
    ]


def test_a_sign_of_life_every_half_of_the_interval(told: socket.socket) -> None:
    manager = manager_of(told, WATCHDOG_USEC="20000000")
    for elapsed_s in (100.0, 105.0, 109.9, 110.0, 119.0, 120.0):
        manager.alive(elapsed_s)
    assert all_of(told) == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "much"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "-5"}],
)
def test_no_sign_of_life_where_nobody_waits_for_it(
    told: socket.socket, environment: dict[str, str]
) -> None:
    manager_of(told, **environment).alive(1.0)
    assert all_of(told) == []


def test_the_watchdog_of_another_process_is_not_ours(told: socket.socket) -> None:
    other = str(os.getppid())
    manager_of(told, WATCHDOG_USEC="1000000", WATCHDOG_PID=other).alive(1.0)
    assert all_of(told) == []


def test_a_pause_has_signs_of_life(told: socket.socket) -> None:
    manager_of(told, WATCHDOG_USEC="20000").pause(0.05)
    assert len(all_of(told)) >= 3


def test_without_a_manager_nothing_is_said() -> None:
    manager = ServiceManager({"WATCHDOG_USEC": "1000"})
    manager.ready("x")
    manager.alive(1.0)


def test_a_manager_that_has_gone_is_no_fault(
    told: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_of(told)
    Path(told.getsockname()).unlink()
    manager.ready("x")
    assert "cannot be told" in caplog.text
