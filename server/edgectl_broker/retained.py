"""Retained messages: at most one a topic, bounded in number and bytes, with a quota per client.

The quota keeps one device from filling the store that everybody's models pass through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgectl_broker.messages import Message
from edgectl_broker.settings import BrokerSettings
from edgectl_broker.topics import TopicTree

__all__ = ["RetainedStore"]


@dataclass(slots=True)
class _Usage:
    messages: int = 0
    size: int = 0


class RetainedStore:
    """Retained messages by topic."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._messages: dict[str, Message] = {}
        self._topics = TopicTree()
        self._expiring: set[str] = set()
        self._total = _Usage()
        self._owners: dict[str, _Usage] = {}

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def size(self) -> int:
        """Bytes that the messages are counted with."""
        return self._total.size

    def get(self, topic: str, now: float) -> Message | None:
        """Return what is retained at `topic`, unless it has expired."""
        message = self._messages.get(topic)
        return None if message is None or message.expired(now) else message

    def put(self, message: Message) -> bool:
        """Retain `message` in place of what its topic holds; False when a bound forbids it."""
        old = self._messages.get(message.topic)
        if not self._fits(message, old):
            return False
        self.drop(message.topic)
        self._messages[message.topic] = message
        self._topics.add(message.topic)
        if message.expires_at is not None:
            self._expiring.add(message.topic)
        self._count(message, 1)
        return True

    def drop(self, topic: str) -> bool:
        """Forget what `topic` holds; say whether it held something."""
        old = self._messages.pop(topic, None)
        if old is None:
            return False
        self._topics.discard(topic)
        self._expiring.discard(topic)
        self._count(old, -1)
        return True

    def covered_by(self, pattern: str) -> Iterator[str]:
        """Yield the topics that hold a message and that the filter `pattern` covers."""
        if "#" in pattern or "+" in pattern:
            yield from self._topics.covered_by(pattern)
        elif pattern in self._messages:
            yield pattern

    def expired(self, now: float) -> list[str]:
        """Return the topics whose message has expired."""
        return [topic for topic in self._expiring if self._messages[topic].expired(now)]

    def _count(self, message: Message, sign: int) -> None:
        owner = self._owners.setdefault(message.publisher.name, _Usage())
        for usage in (self._total, owner):
            usage.messages += sign
            usage.size += sign * message.size
        if not owner.messages:
            del self._owners[message.publisher.name]

    def _fits(self, message: Message, old: Message | None) -> bool:
        limits, name = self._settings, message.publisher.name
        freed, freed_size = (0, 0) if old is None else (1, old.size)
        if (
            self._total.messages - freed >= limits.retained_messages_max
            or self._total.size - freed_size + message.size > limits.retained_bytes_max
        ):
            return False
        if name in limits.privileged:
            return True
        owner = self._owners.get(name, _Usage())
        if old is not None and old.publisher.name != name:
            freed, freed_size = 0, 0
        return (
            owner.messages - freed < limits.retained_per_client_messages_max
            and owner.size - freed_size + message.size <= limits.retained_per_client_bytes_max
        )
