"""A broker at the far end of a bad link, in simulated time: the same numbers on every machine.

The link is that of `links`, the broker keeps sessions as MQTT 5 says: what was not acknowledged
before the connection died is sent again, whole, at the next one, and subscriptions persist. Real is
what the device remembers of its subscriptions; the rest of its connection is modelled.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgectl_agent.subscriptions import Subscriptions
from links import SEGMENT_BYTES, Weather

PACKET_BYTES = 140
"""Of a publication, beside its payload; TLS and topic."""
HANDSHAKE_BYTES = 4000
HANDSHAKE_TRIPS = 4


@dataclass
class Segment:
    """Bytes on their way to the device; the last one of a message completes it."""

    arrives_s: float
    size: int
    whole: tuple[str, bytes] | None = None


@dataclass
class ModelledLink:
    """A `Transport`; `elapsed` is its clock, which only `receive` moves."""

    retained: Mapping[str, bytes]
    weather: Weather
    seed: int = 0
    stall_every_s: float = 0.0
    """Nothing passes for `weather.stall_s`, so often."""
    keeps_sessions: bool = True
    now_s: float = 0.0
    bytes_down: int = 0
    connections: int = 1
    seeds: int = 0
    lost_by_broker: set[str] = field(default_factory=set)
    """Topics whose first publication the broker loses without a word."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._subscriptions = Subscriptions()
        self._known: set[str] = set()
        """Subscriptions in the broker's session."""
        self._asked: deque[tuple[float, Sequence[str], bool]] = deque()
        self._coming: deque[Segment] = deque()
        self._session: deque[tuple[str, bytes]] = deque()
        self._free_s = self._last_s = 0.0
        self._up = True
        self._up_at_s = 0.0
        self._begun_s = 0.0
        self._next_stall_s = self.stall_every_s or float("inf")
        self._inbox: deque[tuple[str, bytes]] = deque()

    def elapsed(self) -> float:
        return self.now_s

    # ------------------------------------------------------------ the transport

    def connected(self) -> bool:
        return self._up

    def subscribe(self, topics: Sequence[str]) -> None:
        self._subscriptions.add(topics, lambda *_: None, once=True)
        if self.connected():
            self._send(topics, always=True)

    def came(self, topic: str) -> None:
        self._subscriptions.came(topic)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        self._subscriptions.remove(topics)
        self._known.difference_update(topics if self.connected() else ())

    def bytes_in(self) -> int:
        return self.bytes_down

    def publish(self, topic: str, payload: bytes) -> None:
        self.seeds += 1
        self.lost_by_broker.clear()

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        until_s = self.now_s + max(timeout_s, 0.001)
        while not self._inbox:
            next_s = min(
                self._coming[0].arrives_s if self._coming else float("inf"),
                self._asked[0][0] if self._asked else float("inf"),
                self._dies_s(),
                float("inf") if self._up else self._up_at_s,
            )
            if next_s > until_s:
                self.now_s = until_s
                return None
            self.now_s = max(self.now_s, next_s)
            self._step()
        return self._inbox.popleft()

    # ------------------------------------------------------------ what happens

    def _dies_s(self) -> float:
        after_s = self.weather.dies_after_s
        return self._begun_s + after_s if after_s and self._up else float("inf")

    def _step(self) -> None:
        if self.now_s >= self._dies_s():
            self._die()
        elif not self._up and self.now_s >= self._up_at_s:
            self._come_back()
        elif self._asked and self._asked[0][0] <= self.now_s:
            _, topics, always = self._asked.popleft()
            self._publish(topics, always=always)
        elif self._coming and self._coming[0].arrives_s <= self.now_s:
            segment = self._coming.popleft()
            self.bytes_down += segment.size
            if segment.whole is not None:
                self._session.popleft()  # what is acknowledged; the way back is taken as short
                if self._subscriptions.handler(segment.whole[0]) is not None:
                    self._inbox.append(segment.whole)

    def _die(self) -> None:
        trip_s = 2 * self.weather.latency_s
        self._up = False
        self._coming.clear()
        self._asked.clear()
        self._up_at_s = self.now_s + 1.0 + HANDSHAKE_TRIPS * trip_s

    def _come_back(self) -> None:
        self._up = True
        self._begun_s = self.now_s
        self._free_s = self._last_s = self.now_s
        self.connections += 1
        self.bytes_down += HANDSHAKE_BYTES
        waiting, self._session = self._session, deque()
        if self.keeps_sessions:
            for topic, payload in waiting:
                self._transmit(topic, payload)
        else:
            self._known.clear()
        always, unknown = self._subscriptions.again()
        assert not always
        self._send(unknown, always=False)

    def _send(self, topics: Sequence[str], *, always: bool) -> None:
        if topics:
            self._asked.append((self.now_s + self.weather.latency_s, topics, always))

    def _publish(self, topics: Sequence[str], *, always: bool) -> None:
        """The broker has got a SUBSCRIBE; `always` is its Retain Handling."""
        for topic in topics:
            wanted = always or topic not in self._known
            self._known.add(topic)
            if wanted and topic in self.retained and topic not in self.lost_by_broker:
                self._transmit(topic, self.retained[topic])

    def _transmit(self, topic: str, payload: bytes) -> None:
        self._session.append((topic, payload))
        self._carry(len(payload) + PACKET_BYTES, (topic, payload))

    def _carry(self, size: int, whole: tuple[str, bytes]) -> None:
        weather = self.weather
        while size > 0:
            part = min(size, SEGMENT_BYTES)
            size -= part
            self._free_s = max(self._free_s, self.now_s)
            if weather.bytes_per_s:
                self._free_s += part / weather.bytes_per_s
            lost = self._random.random() < weather.loss
            arrives_s = self._free_s + weather.latency_s + (weather.rto_s if lost else 0.0)
            self._last_s = max(self._last_s, arrives_s)
            while self._last_s >= self._next_stall_s:
                if self._last_s < self._next_stall_s + weather.stall_s:
                    self._last_s = self._next_stall_s + weather.stall_s
                    break
                self._next_stall_s += weather.stall_s + self.stall_every_s
            self._coming.append(Segment(self._last_s, part, None if size else whole))
