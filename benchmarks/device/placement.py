"""On which processors the two ends of a request run.

Where the client has a processor of its own, the server wakes another processor with every answer
and sleeps on one that goes idle; where both share one, it does neither. That is charged to the
server, whatever it is: of two calls, `recv` and `send`, in a loop, it made 37 us instead of 10 on a
virtual machine. The kernel moves processes from one to the other as it likes, so that a median over
both says nothing: each is measured by itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Placement", "placed", "placements"]


class Placement(NamedTuple):
    """One way to place them."""

    name: str
    client: int
    server: int


def placements() -> tuple[Placement, ...]:
    """Return those that this machine has; one alone where there is one processor."""
    first, *others = sorted(os.sched_getaffinity(0))
    shared = Placement("one processor", first, first)
    return (shared, *(Placement("two processors", first, one) for one in others[-1:]))


@contextlib.contextmanager
def placed(placement: Placement, pid: int) -> Iterator[None]:
    """Run this process, the client, and all threads of the process `pid` as `placement` says.

    Both may use all processors afterwards that this process could use before.
    """
    before = os.sched_getaffinity(0)
    try:
        _bind(pid, {placement.server})
        _bind(os.getpid(), {placement.client})
        yield
    finally:
        _bind(pid, before)
        _bind(os.getpid(), before)


def _bind(pid: int, processors: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), processors)
