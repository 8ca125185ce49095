"""Where the benchmark of requests runs both ends: all threads, and everywhere again afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.device.placement import Placement, placed, placements

_THREADS = """
import sys, threading
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[int]:
    """A process of four threads, told apart from this one."""
    with subprocess.Popen(
        [sys.executable, "-c", _THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_both_ends_run_where_they_are_placed_and_everywhere_afterwards(server: int) -> None:
    everywhere = os.sched_getaffinity(0)
    for placement in placements():
        with placed(placement, server):
            assert threads_of(server) == [{placement.server}] * 4
            assert os.sched_getaffinity(0) == {placement.client}
        assert threads_of(server) == [everywhere] * 4
        assert os.sched_getaffinity(0) == everywhere


def test_a_failure_in_between_leaves_nothing_bound(server: int) -> None:
    everywhere = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), placed(placements()[0], server):
        raise ZeroDivisionError
    assert threads_of(server) == [everywhere] * 4
    assert os.sched_getaffinity(0) == everywhere


def test_a_machine_of_one_processor_has_one_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert placements() == (Placement("one processor", 3, 3),)


def test_where_there_are_more_the_ends_are_together_and_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5})
    assert [(one.client, one.server) for one in placements()] == [(1, 1), (1, 5)]


def threads_of(pid: int) -> list[set[int]]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [os.sched_getaffinity(int(one.name)) for one in threads]
