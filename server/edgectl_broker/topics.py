"""Topic names and filters (MQTT 5 §4.7): their grammar, and two trees that match them.

`FilterTree` answers which subscriptions a topic reaches, `TopicTree` which topics a filter covers.
A filter that begins with a wildcard never reaches topics that begin with ``$`` (§4.7.2).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from mqtt5 import DisconnectReasonCode

from edgectl_broker.errors import ProtocolViolation
from edgectl_broker.settings import BrokerSettings

__all__ = ["FilterTree", "SharedFilter", "TopicTree", "check_filter", "check_topic", "split_shared"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SharedFilter(NamedTuple):
    """What ``$share/<group>/<filter>`` names; `group` is empty for an ordinary filter."""

    group: str
    filter: str


def _check_shape(text: str, settings: BrokerSettings, reason: DisconnectReasonCode) -> None:
    if not text or "\0" in text:
        raise ProtocolViolation(reason, "a topic is at least one character and holds no NUL")
    if len(text.encode()) > settings.topic_bytes_max:
        detail = f"a topic is at most {settings.topic_bytes_max} bytes"
        raise ProtocolViolation(reason, detail)
    if text.count("/") >= settings.topic_levels_max:
        detail = f"a topic has at most {settings.topic_levels_max} levels"
        raise ProtocolViolation(reason, detail)


def check_topic(topic: str, settings: BrokerSettings) -> str:
    """Return `topic` if a message may carry it; raise `ProtocolViolation` otherwise."""
    reason = DisconnectReasonCode.TOPIC_NAME_INVALID
    _check_shape(topic, settings, reason)
    if "#" in topic or "+" in topic:
        raise ProtocolViolation(reason, "a topic name holds no wildcard")
    return topic


def check_filter(text: str, settings: BrokerSettings) -> SharedFilter:
    """Split and check a topic filter; raise `ProtocolViolation` when it is none."""
    reason = DisconnectReasonCode.TOPIC_FILTER_INVALID
    _check_shape(text, settings, reason)
    shared = split_shared(text)
    levels = shared.filter.split("/")
    wrong = (
        any(len(level) > 1 and ("#" in level or "+" in level) for level in levels)
        or "#" in levels[:-1]
        or not shared.filter
        or "+" in shared.group
        or "#" in shared.group
        or (text.startswith("$share/") and not shared.group)
    )
    if wrong:
        raise ProtocolViolation(reason, f"{text[:200]!r} is not a topic filter")
    return shared


def split_shared(text: str) -> SharedFilter:
    """Split ``$share/<group>/<filter>``; anything else is an ordinary filter."""
    if not text.startswith("$share/"):
        return SharedFilter("", text)
    _, group, *rest = text.split("/", 2)
    return SharedFilter(group, rest[0] if rest else "")


class _Node(Generic[Key, Value]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Key, Value]] = {}
        self.values: dict[Key, Value] = {}


class FilterTree(Generic[Key, Value]):
    """Values under topic filters, each with a key that is unique within its filter."""

    def __init__(self) -> None:
        self._root: _Node[Key, Value] = _Node()

    def get(self, pattern: str, key: Key) -> Value | None:
        """Return the value at `pattern` under `key`, or None."""
        node = self._root
        for level in pattern.split("/"):
            child = node.children.get(level)
            if child is None:
                return None
            node = child
        return node.values.get(key)

    def put(self, pattern: str, key: Key, value: Value) -> None:
        """Set the value at `pattern` under `key`."""
        node = self._root
        for level in pattern.split("/"):
            node = node.children.setdefault(level, _Node())
        node.values[key] = value

    def drop(self, pattern: str, key: Key) -> None:
        """Forget the value at `pattern` under `key`, and the branches that it alone held."""
        path: list[tuple[_Node[Key, Value], str]] = []
        node = self._root
        for level in pattern.split("/"):
            child = node.children.get(level)
            if child is None:
                return
            path.append((node, level))
            node = child
        node.values.pop(key, None)
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.values or child.children:
                return
            del parent.children[level]

    def match(self, topic: str) -> Iterator[Value]:
        """Yield the values of all filters that cover the name `topic`."""
        levels = topic.split("/")
        hidden = topic.startswith("$")
        pending = [(self._root, 0)]
        while pending:
            node, position = pending.pop()
            wildcards = position > 0 or not hidden
            if wildcards and (rest := node.children.get("#")) is not None:
                yield from rest.values.values()  # "a/#" also covers "a" (§4.7.1.2)
            if position == len(levels):
                yield from node.values.values()
                continue
            if (exact := node.children.get(levels[position])) is not None:
                pending.append((exact, position + 1))
            if wildcards and (one := node.children.get("+")) is not None:
                pending.append((one, position + 1))


class TopicTree:
    """A set of topic names that can be asked what a filter covers."""

    def __init__(self) -> None:
        self._tree: FilterTree[str, str] = FilterTree()

    def add(self, topic: str) -> None:
        """Add a topic name."""
        self._tree.put(topic, topic, topic)

    def discard(self, topic: str) -> None:
        """Remove a topic name if it is there."""
        self._tree.drop(topic, topic)

    def covered_by(self, pattern: str) -> Iterator[str]:
        """Yield the topic names that the filter `pattern` covers, in no particular order."""
        levels = pattern.split("/")
        pending = [(self._tree._root, 0)]  # noqa: SLF001 - the two trees share their nodes
        while pending:
            node, position = pending.pop()
            if position == len(levels):
                yield from node.values
                continue
            level = levels[position]
            if level == "#":
                yield from node.values
            if level not in {"#", "+"}:
                if (child := node.children.get(level)) is not None:
                    pending.append((child, position + 1))
                continue
            following = position if level == "#" else position + 1
            pending.extend(
                (child, following)
                for name, child in node.children.items()
                if position > 0 or node is not self._tree._root or not name.startswith("$")  # noqa: SLF001
            )
