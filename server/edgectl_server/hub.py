"""Live snapshots: what is shown is looked up once a second, whoever and however many are looking.

A topic is ``fleet``, ``trust``, ``alerts``, or ``<kind>:<id>``. While somebody listens to it, one
thread asks its snapshot function once a second, and wakes the listeners only when the answer has
changed. All listeners of a topic get the same text. A slow listener misses intermediate snapshots
and nothing else: there is no queue. Nobody listens: nothing is asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import BaseModel

from edgectl_server.errors import Refused, TooMany

__all__ = ["Hub", "Snapshot"]

logger = logging.getLogger(__name__)

LISTENERS_MAX = 500
TOPICS_PER_LISTENER_MAX = 16
TOPIC_CHARACTERS_MAX = 160


class Snapshot(NamedTuple):
    """The newest state of a topic."""

    topic: str
    kind: str
    revision: int
    text: str
    """JSON ``{"topic": …, "snapshot": …}``."""


@dataclass
class _Topic:
    listeners: int = 0
    newest: Snapshot | None = None


@dataclass(eq=False)
class _Listener:
    loop: asyncio.AbstractEventLoop
    topics: tuple[str, ...]
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Wake the listener from another thread; its loop may be gone."""
        try:
            self.loop.call_soon_threadsafe(self.changed.set)
        except RuntimeError:
            logger.debug("a listener's loop has been closed")


class Hub:
    """Shares one snapshot a topic and second among all listeners; call `close` at the end."""

    def __init__(self, *, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._sources: dict[str, Callable[[str], BaseModel | None]] = {}
        self._lock = threading.Lock()
        self._topics: dict[str, _Topic] = {}
        self._listeners: set[_Listener] = set()
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._revision = 0
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self._thread.start()

    def register(self, kind: str, snapshot: Callable[[str], BaseModel | None]) -> None:
        """Say how topics of `kind` are looked up.

        Args:
            kind: the part of the topic before the colon.
            snapshot: takes the part after the colon; None when there is no such thing.
        """
        self._sources[kind] = snapshot

    def check(self, topics: list[str]) -> tuple[str, ...]:
        """Return `topics` without duplicates, before an answer has begun.

        Raises:
            Refused: ``events.topic``: there is no such topic.
            TooMany: ``events.listeners``.
        """
        self._check_room()
        unique = tuple(dict.fromkeys(topics))
        if not 1 <= len(unique) <= TOPICS_PER_LISTENER_MAX:
            raise Refused(
                "events.topic", f"1 to {TOPICS_PER_LISTENER_MAX} topics, got {len(unique)}"
            )
        for topic in unique:
            if len(topic) > TOPIC_CHARACTERS_MAX or topic.partition(":")[0] not in self._sources:
                raise Refused(
                    "events.topic",
                    f"{topic[:80]!r} is not a topic",
                    hint=f"a topic begins with one of: {', '.join(sorted(self._sources))}",
                )
        return unique

    async def listen(
        self, topics: tuple[str, ...], *, idle_s: float | None = None
    ) -> AsyncIterator[Snapshot | None]:
        """Yield the newest snapshot of each topic at once, then those that change, until closed.

        Args:
            topics: as `check` has returned them.
            idle_s: yield None when nothing has changed for so long; None: never.
        """
        listener = _Listener(asyncio.get_running_loop(), topics)
        self._enter(listener)
        seen: dict[str, int] = {}
        try:
            while True:
                listener.changed.clear()
                for snapshot in self._newest(topics):
                    if seen.get(snapshot.topic) != snapshot.revision:
                        seen[snapshot.topic] = snapshot.revision
                        yield snapshot
                if self._closing.is_set():
                    return
                try:
                    async with asyncio.timeout(idle_s):
                        await listener.changed.wait()
                except TimeoutError:
                    yield None
        finally:
            self._leave(listener)

    def close(self) -> None:
        """End every listener and the thread; may be called twice, and from a signal handler."""
        self._closing.set()
        self._wanted.set()
        for listener in list(self._listeners):
            listener.wake()

    def join(self, timeout_s: float = 5.0) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    @property
    def listeners(self) -> int:
        """How many are listening."""
        return len(self._listeners)

    def _enter(self, listener: _Listener) -> None:
        with self._lock:
            self._check_room()
            self._listeners.add(listener)
            for topic in listener.topics:
                self._topics.setdefault(topic, _Topic()).listeners += 1
        self._wanted.set()

    def _check_room(self) -> None:
        if len(self._listeners) >= LISTENERS_MAX:
            raise TooMany(
                "events.listeners",
                f"{LISTENERS_MAX} clients are listening already",
                data={"retry_after_s": 10},
            )

    def _leave(self, listener: _Listener) -> None:
        with self._lock:
            self._listeners.discard(listener)
            for name in listener.topics:
                topic = self._topics[name]
                topic.listeners -= 1
                if topic.listeners == 0:
                    del self._topics[name]

    def _newest(self, topics: tuple[str, ...]) -> list[Snapshot]:
        with self._lock:
            found = (self._topics[topic].newest for topic in topics)
            return [snapshot for snapshot in found if snapshot is not None]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._closing.is_set():
            self._wanted.wait(max(0.0, due - time.monotonic()) if self._topics else None)
            self._wanted.clear()
            # What somebody new waits for is looked up at once, the rest once an interval.
            every = time.monotonic() >= due
            if every:
                due = time.monotonic() + self._interval_s
            self._look(only_new=not every)

    def _look(self, *, only_new: bool) -> None:
        with self._lock:
            names = [
                name for name, topic in self._topics.items() if not only_new or topic.newest is None
            ]
        for name in names:
            if self._closing.is_set():
                return
            self._update(name)

    def _update(self, name: str) -> None:
        kind, _, argument = name.partition(":")
        try:
            content = self._sources[kind](argument)
        except Exception:  # one failing snapshot must not silence the others
            logger.exception("the snapshot of %s cannot be made", name)
            return
        if content is None:
            return
        text = json.dumps({"topic": name, "snapshot": content.model_dump(mode="json")})
        with self._lock:
            topic = self._topics.get(name)
            if topic is None or (topic.newest is not None and topic.newest.text == text):
                return
            self._revision += 1
            topic.newest = Snapshot(name, kind, self._revision, text)
            waiting = [listener for listener in self._listeners if name in listener.topics]
        for listener in waiting:
            listener.wake()
