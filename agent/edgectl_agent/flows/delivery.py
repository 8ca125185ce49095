"""Between the flow and one sink: a bounded queue and a thread, so that a slow sink holds up nobody.

A row that cannot be sent is tried again a few times, with growing pauses, then dropped and counted;
so is the oldest one when the queue is full.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque

from msgspec import Struct

from edgectl_agent.flows.sinks import Sink, Unwelcome

__all__ = ["Delivered", "Delivery"]

log = logging.getLogger(__name__)

QUEUE_MAX = 1000
_TRIES_MAX = 5
_PAUSE_S_MAX = 30.0


class Delivered(Struct, kw_only=True):
    """Counts of one sink."""

    sent: int = 0
    dropped: int = 0
    retried: int = 0


class Delivery:
    """See the module."""

    def __init__(self, name: str, sink: Sink, *, pause_s: float = 0.5) -> None:
        """Begin to deliver.

        Args:
            name: of the sink, for the log.
            sink: becomes this one's to close.
            pause_s: before the second try; it doubles.
        """
        self.name = name
        self.counts = Delivered()
        self._sink, self._pause_s = sink, pause_s
        self._rows: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._stopped = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, row: bytes) -> None:
        """Take a row; never waits."""
        with self._changed:
            if len(self._rows) >= QUEUE_MAX:
                self._rows.popleft()
                self.counts.dropped += 1
            self._rows.append(row)
            self._changed.notify_all()

    def close(self, wait_s: float) -> None:
        """Deliver what is queued, for at most `wait_s`; the rest is dropped and counted."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(wait_s)
        self._stopped.set()
        self._thread.join(wait_s)
        with self._changed:
            self.counts.dropped += len(self._rows)
            self._rows.clear()
        self._sink.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._ending)
                if not self._rows:
                    return
                row = self._rows.popleft()
            self._deliver(row)

    def _deliver(self, row: bytes) -> None:
        problem = ""
        for attempt in range(_TRIES_MAX):
            try:
                self._sink.send(row)
            except Unwelcome as error:
                problem = str(error)
                break
            except OSError as error:
                problem = str(error)
            else:
                self.counts.sent += 1
                self._failing = False
                return
            if attempt == _TRIES_MAX - 1:
                break
            pause_s = min(self._pause_s * 2**attempt, _PAUSE_S_MAX)
            if self._stopped.wait(pause_s * random.uniform(0.5, 1)):  # noqa: S311 - spreads
                break
            self.counts.retried += 1
        self.counts.dropped += 1
        if not self._failing:
            log.warning("results are dropped: %s: %s", self.name, problem)
        self._failing = True
