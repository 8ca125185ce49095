"""The server's connections to the broker, as the ticker hears of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

__all__ = ["Connections", "News"]


class News(NamedTuple):
    """What has happened since it was asked last."""

    new: bool
    """There is a new connection."""
    forgotten: bool
    """The broker had forgotten our session."""
    lost_at: datetime | None
    """When the connection before the new one ended; the first, where there were several."""


class Connections:
    """What the network thread has to say to the ticker."""

    def __init__(self, wake: Callable[[], None], now: Callable[[], datetime]) -> None:
        self._wake, self._now = wake, now
        self._lock = threading.Lock()
        self._new = self._forgotten = False
        self._lost_at: datetime | None = None

    def note(self, remembered: bool) -> None:
        """There is a new connection, to a broker that remembers our session or not."""
        with self._lock:
            self._new = True
            self._forgotten = self._forgotten or not remembered
        self._wake()

    def lost(self) -> None:
        """A connection has ended."""
        with self._lock:
            self._lost_at = self._lost_at or self._now()

    def take(self) -> News:
        """Return what is new; that one was lost is said with the one that follows it."""
        with self._lock:
            news = News(self._new, self._forgotten, self._lost_at if self._new else None)
            if self._new:
                self._lost_at = None
            self._new = self._forgotten = False
            return news
