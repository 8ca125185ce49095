"""Where the time of a model's requests goes, as the protocol's statistics extension tells it.

Source: triton-inference-server/server, ``docs/protocol/extension_statistics.md``. Totals since the
model was loaded; durations are nanoseconds.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from edgectl_agent import clock

__all__ = ["Duration", "Statistics", "Totals"]


class Duration(NamedTuple):
    """How often, and how long in all."""

    times: int
    ns: int


class Totals(NamedTuple):
    """A model's requests since it was loaded."""

    last_ms: int
    """When the last one was answered, in milliseconds since 1970; 0 for never."""
    rows: int
    """Inferences: one for each row of each batch."""
    success: Duration
    fail: Duration
    queue: Duration
    read: Duration
    run: Duration
    write: Duration


class Statistics:
    """Counters of one loaded model; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered = self._failed = self._rows = 0
        self._fail_ns = 0
        self._queue = self._read = self._run = self._write = 0
        self._last_s: float | None = None

    def answered(self, *, queue: int, read: int, run: int, write: int, rows: int) -> None:
        """Count a request with outputs, and where its nanoseconds went."""
        with self._lock:
            self._answered += 1
            self._rows += rows
            self._queue += queue
            self._read += read
            self._run += run
            self._write += write
            self._last_s = time.monotonic()

    def failed(self, ns: int) -> None:
        """Count a request that was refused or failed."""
        with self._lock:
            self._failed += 1
            self._fail_ns += ns

    def totals(self) -> Totals:
        """Return the counts."""
        with self._lock:
            count = self._answered
            last_ms = 0
            if self._last_s is not None:
                age_s = time.monotonic() - self._last_s
                last_ms = round((clock.now().timestamp() - age_s) * 1000)
            whole = self._queue + self._read + self._run + self._write
            return Totals(
                last_ms,
                self._rows,
                Duration(count, whole),
                Duration(self._failed, self._fail_ns),
                *(Duration(count, ns) for ns in (self._queue, self._read, self._run, self._write)),
            )
