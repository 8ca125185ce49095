"""A bound on bytes per second, without a clock: a bucket that fills at the rate."""

from __future__ import annotations

import math

__all__ = ["Pacer"]

BURST_S = 1.0
"""So much of the rate may come at once."""


class Pacer:
    """Says how long to wait after what has come."""

    def __init__(self, bytes_per_s: int) -> None:
        """Begin; 0 is no bound."""
        self._rate = bytes_per_s
        self._free_at_s = -math.inf

    @property
    def bytes_per_s(self) -> int:
        """The bound; 0 is none."""
        return self._rate

    def spend(self, size: int, elapsed_s: float) -> float:
        """Count `size` bytes that have come; return how many seconds to ask for no more."""
        if not self._rate:
            return 0.0
        self._free_at_s = max(self._free_at_s, elapsed_s - BURST_S) + size / self._rate
        return max(0.0, self._free_at_s - elapsed_s)
