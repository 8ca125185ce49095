"""Which topics are wanted of the broker, and for whom.

At another connection all are subscribed to again. So that retained messages come anew, for most;
but for a topic of which one message is wanted (a piece of a blob), only where the broker does not
have the subscription still: else the message waits in our session there, and would come twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

__all__ = ["Handler", "Subscriptions"]

Handler = Callable[[str, bytes], None]


class Subscriptions:
    """The topics of one client; may be used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[str, Handler] = {}
        self._once: dict[str, bool] = {}
        """Topics of which one message is wanted; whether it has come."""

    def add(self, topics: Sequence[str], handler: Handler, *, once: bool) -> None:
        """Want the topics; with `once` one message of each."""
        with self._lock:
            self._handlers.update(dict.fromkeys(topics, handler))
            if once:
                self._once.update(dict.fromkeys(topics, False))

    def came(self, topic: str) -> None:
        """Note that the one message that was wanted of a topic has come."""
        with self._lock:
            if topic in self._once:
                self._once[topic] = True

    def remove(self, topics: Sequence[str]) -> None:
        """Want nothing more of the topics."""
        with self._lock:
            for topic in topics:
                self._handlers.pop(topic, None)
                self._once.pop(topic, None)

    def handler(self, topic: str) -> Handler | None:
        """Return for whom a message is; None for nobody."""
        with self._lock:
            return self._handlers.get(topic)

    def again(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return what to subscribe to at a new connection: always, and where it is not known."""
        with self._lock:
            always = [one for one in self._handlers if one not in self._once]
            return always, [one for one, came in self._once.items() if not came]
