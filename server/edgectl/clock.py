"""The command line's clock: ages in tables, the clock check of ``edgectl doctor``."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["now"]


def now() -> datetime:
    """Return the time of this machine, aware, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - this module is where the CLI gets its time from
