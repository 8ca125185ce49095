"""The only module that reads the clock. Everything else gets time as an argument."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["Moment", "moment", "now"]


class Moment(NamedTuple):
    """One moment on both clocks."""

    wall: datetime
    """UTC. May be wrong, may jump: good for expiry dates and for people."""
    elapsed_s: float
    """Seconds since some moment in this process; only grows: good for durations."""


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - this is the agent's clock


def moment() -> Moment:
    """Return the present moment."""
    return Moment(now(), time.monotonic())
