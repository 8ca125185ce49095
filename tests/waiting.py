"""Waiting for a level, with a bound: the one way in which tests wait for what nothing announces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

__all__ = ["alive", "wait_for"]

_PAUSE_S = 0.01
_PAUSES = 3
"""So many times as long as it looked it waits: who asks a server must not be what keeps it busy."""
_PAUSE_S_MAX = 0.2

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], what: str = "", *, bound_s: float = 60.0) -> Found:
    """Return the first true value of `look`; fail with `what` and its last one after `bound_s`."""
    end = time.monotonic() + bound_s
    while True:
        begun = time.monotonic()
        found = look()
        if found:
            return found
        now = time.monotonic()
        assert now < end, f"{what or look} not within {bound_s} s; last: {found!r}"
        pause_s = min(max(_PAUSE_S, _PAUSES * (now - begun)), _PAUSE_S_MAX)
        threading.Event().wait(pause_s)  # between two looks, not instead of one


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended; any of them may end while it is asked."""

    def has_not_ended(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [one for one in processes if has_not_ended(one)]
