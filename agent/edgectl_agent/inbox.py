"""What the main thread has to hear, from all others: one bounded queue, and what is put into it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from edgectl_agent.benchmarks import Measured
from edgectl_agent.core import steps
from edgectl_agent.core.requests import RequestArrived, RequestRefused
from edgectl_agent.downloader import Progress
from edgectl_agent.local_desk import Asked
from edgectl_agent.workers import Crashed
from edgectl_protocol.messages import Reason

__all__ = [
    "AckCame",
    "Alarmed",
    "Inbox",
    "Item",
    "LinkChanged",
    "ProgressMade",
    "Said",
    "SampleMade",
    "WantCame",
]

ITEMS_MAX = 1024
_AGAIN_S = 1.0


class LinkChanged(Struct, frozen=True):
    """The connection to the broker has come or gone."""

    up: bool


class AckCame(Struct, frozen=True):
    """The server has stored something."""

    payload: bytes


class WantCame(Struct, frozen=True):
    """The server has said something of an upload."""

    payload: bytes


class ProgressMade(Struct, frozen=True):
    """A download has come further."""

    slot: str
    progress: Progress


class SampleMade(Struct, frozen=True):
    """A sample that was redacted or sealed, as it may be written."""

    content: bytes


class Alarmed(Struct, frozen=True):
    """An attacker may have done this."""

    reason: Reason


class Said(Struct, frozen=True):
    """A line for who reads our output, from another thread."""

    line: dict[str, Any]


Item = (
    steps.Event
    | RequestArrived
    | RequestRefused
    | Measured
    | LinkChanged
    | AckCame
    | WantCame
    | ProgressMade
    | SampleMade
    | Alarmed
    | Said
    | Asked
    | Crashed
)


class Inbox:
    """The queue of one run; everything but `take` may be called from any thread."""

    def __init__(self, stopping: threading.Event) -> None:
        """Make it empty; nobody waits for room once `stopping` is set."""
        self._stopping = stopping
        self._items: queue.Queue[Item] = queue.Queue(ITEMS_MAX)

    def put(self, item: Item) -> None:
        """Put something in; waits while it is full, unless the agent is stopping."""
        while not self._stopping.is_set():
            try:
                self._items.put(item, timeout=_AGAIN_S)
            except queue.Full:
                continue
            return

    def offer(self, item: Item) -> None:
        """Put in what an attacker causes, or what is worth nothing late, where there is room."""
        if self._items.qsize() < ITEMS_MAX // 2:
            self.put(item)

    def take(self, timeout_s: float) -> Iterator[Item]:
        """Go through what is there; wait for the first, but no longer than `timeout_s`.

        What comes meanwhile is for the next call: who sends without end must not keep the main
        thread from all else that it does.
        """
        try:
            yield self._items.get(timeout=timeout_s)
            for _ in range(self._items.qsize()):
                yield self._items.get_nowait()
        except queue.Empty:
            return
