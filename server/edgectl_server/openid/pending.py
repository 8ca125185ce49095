"""What has been begun in a browser and must be finished soon: once, and in this process.

Rules: an entry is found by a random key that only its owner has; it is gone with the first attempt
to take it, right or wrong, and after its time. There are at most `entries_max`, and
`entries_per_source_max` of one source: a source that begins more loses its own oldest first. They
are kept in memory: a restart ends what was not finished, and a person begins again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Pending"]

Kept = TypeVar("Kept")


class _Entry(NamedTuple, Generic[Kept]):
    source: str
    until: datetime
    kept: Kept


class Pending(Generic[Kept]):
    """Entries by key, the oldest first."""

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        lasts_s: int,
        entries_max: int = 4096,
        entries_per_source_max: int = 64,
    ) -> None:
        self._now = now
        self._lasts = timedelta(seconds=lasts_s)
        self._entries_max = entries_max
        self._per_source_max = entries_per_source_max
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry[Kept]] = OrderedDict()

    def put(self, key: str, source: str, kept: Kept) -> None:
        """Keep something under a new random key, for whoever began it (an address, a user)."""
        at = self._now()
        with self._lock:
            for old in [one for one, entry in self._entries.items() if entry.until <= at]:
                del self._entries[old]
            mine = [one for one, entry in self._entries.items() if entry.source == source]
            if len(mine) >= self._per_source_max:
                del self._entries[mine[0]]
            while len(self._entries) >= self._entries_max:
                self._entries.popitem(last=False)
            self._entries[key] = _Entry(source, at + self._lasts, kept)

    def take(self, key: str) -> Kept | None:
        """Return what was kept, for the first and last time; None when there is nothing."""
        with self._lock:
            entry = self._entries.pop(key, None)
        if entry is None or entry.until <= self._now():
            return None
        return entry.kept
