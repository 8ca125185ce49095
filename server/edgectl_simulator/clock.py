"""The simulator's clock, by which each device has its own, right or wrong."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["now"]


def now() -> datetime:
    """Return the time of this machine, aware, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - this module is where the simulator gets its time from
