"""Waiting for a level, with a bound: the one way in which tests wait for what nothing announces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_for"]

_PAUSE_S = 0.01

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], what: str = "", *, bound_s: float = 60.0) -> Found:
    """Return the first true value of `look`; fail with `what` and its last one after `bound_s`."""
    end = time.monotonic() + bound_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"{what or look} not within {bound_s} s; last: {found!r}"
        threading.Event().wait(_PAUSE_S)  # between two looks, not instead of one
