"""The broker's clock: session and message expiry outlive a restart, so they need the wall clock."""

from __future__ import annotations

import time

__all__ = ["now"]


def now() -> float:
    """Seconds since 1970, UTC."""
    return time.time()  # noqa: TID251 - this module is the broker's clock
