"""Time as the core sees it: an argument."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

__all__ = ["Moment", "delay_s"]


class Moment(NamedTuple):
    """One moment on both clocks."""

    wall: datetime
    """UTC. May be wrong, may jump: good for expiry dates and for people."""
    elapsed_s: float
    """Seconds since some moment in this process; only grows: good for durations."""
    offset_s: float = 0.0
    """By how much the device's local time is ahead of UTC now; for maintenance windows."""


def delay_s(attempt: int, *, first_s: float, max_s: float, jitter: float) -> float:
    """Return how long to wait after failed attempt number `attempt`.

    Doubles from `first_s` up to `max_s`; then between half and the whole of it, so that a fleet
    that failed together does not come back together.

    Args:
        attempt: from 1.
        first_s: longest wait after the first attempt, seconds.
        max_s: longest wait at all, seconds.
        jitter: a random number from 0 to 1.
    """
    whole = min(max_s, first_s * 2.0 ** min(attempt - 1, 32))
    return whole * (0.5 + jitter / 2)
