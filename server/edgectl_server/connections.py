"""The server's connections to the broker, as the ticker hears of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Connections"]


class Connections:
    """What the network thread has to say to the ticker."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._new = self._forgotten = False

    def note(self, remembered: bool) -> None:
        """There is a new connection, to a broker that remembers our session or not."""
        with self._lock:
            self._new = True
            self._forgotten = self._forgotten or not remembered
        self._wake()

    def take(self) -> tuple[bool, bool]:
        """Return whether there is a new connection, and whether the broker had forgotten us."""
        with self._lock:
            taken = (self._new, self._forgotten)
            self._new = self._forgotten = False
            return taken
