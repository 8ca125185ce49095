"""The only module that reads the clock. Everything else gets time as an argument."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from edgectl_agent.core.timing import Moment

__all__ = ["Moment", "moment", "now"]


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - this is the agent's clock


def moment() -> Moment:
    """Return the present moment."""
    wall = now()
    offset = wall.astimezone().utcoffset()
    return Moment(wall, time.monotonic(), offset.total_seconds() if offset else 0.0)
