"""MQTT packets out of what a connection brings, without the network; and what is a piece of a blob.

Formats: MQTT 5, 1.5.5 (lengths), 2.1 (the fixed header), 3.3 (PUBLISH), 3.8 (SUBSCRIBE), 3.10
(UNSUBSCRIBE). Rules:

1. The buffer holds one packet and what came after it; no packet may be longer than was agreed, and
   one that announces more is refused before any of it is kept.
2. Only a well-formed PUBLISH of QoS 1 on a topic of blobs is a piece. Everything else, also what
   is malformed, is for the library that speaks the rest of MQTT.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "PacketBuffer",
    "PacketTooLong",
    "Piece",
    "Retained",
    "read_piece",
    "subscribe_packet",
    "unsubscribe_packet",
]

READ_BYTES = 16 * 1024
"""A TLS record is no longer, and one is read at a time (RFC 8446, 5.1)."""
_LENGTH_BYTES_MAX = 4
_MORE = 0x80
_PUBLISH = 0x30
_QOS_1 = 0x02
_TYPE_AND_QOS = 0xF6
_SUBSCRIBE = 0x82
_UNSUBSCRIBE = 0xA2
_NO_PROPERTIES = b"\0"


class Retained(IntEnum):
    """When a subscription brings the retained message."""

    ALWAYS = 0
    WHERE_NEW = 1
    """Only where the session did not have the subscription."""


class PacketTooLong(Exception):
    """The other side announces a packet that was not agreed."""


class Piece(NamedTuple):
    """A PUBLISH that carries a piece of a blob."""

    topic: str
    identifier: bytes
    """Of the packet, two bytes, for its acknowledgement."""
    payload: bytes


class PacketBuffer:
    """Cuts a stream into packets; of each connection a new one."""

    def __init__(self, bytes_max: int, *, long_bytes: int) -> None:
        """Begin.

        Args:
            bytes_max: what may follow the fixed header of a packet.
            long_bytes: packets with more than that are counted in `long_bytes_in`.
        """
        self._bytes_max = bytes_max
        self._long_bytes = long_bytes
        self._view = memoryview(bytearray(bytes_max + 1 + _LENGTH_BYTES_MAX + 4 * READ_BYTES))
        self._start = self._stop = 0
        self._counted = 0
        self.long_bytes_in = 0
        """Bytes of long packets, also of one that is not whole yet."""

    def room(self) -> memoryview:
        """Return where to put what comes next; what `take` returned is worth nothing after it."""
        if self._start == self._stop:
            self._start = self._stop = 0
        elif len(self._view) - self._stop < READ_BYTES:
            kept = self._stop - self._start
            self._view[:kept] = self._view[self._start : self._stop]
            self._start, self._stop = 0, kept
        return self._view[self._stop : self._stop + READ_BYTES]

    def came(self, count: int) -> None:
        """Note that so many bytes were put into the room."""
        self._stop += count

    def take(self) -> tuple[memoryview, int] | None:
        """Return the next packet and where its content begins in it; None: it is not whole yet.

        Raises:
            PacketTooLong: it is longer than agreed, or its length is none.
        """
        view, start, stop = self._view, self._start, self._stop
        at, length, shift = start + 1, 0, 0
        while True:
            if at >= stop:
                return None
            byte = view[at]
            at += 1
            length |= (byte & ~_MORE) << shift
            if byte < _MORE:
                break
            shift += 7
            if shift == 7 * _LENGTH_BYTES_MAX:
                raise PacketTooLong("a length of more than four bytes")
        if length > self._bytes_max:
            raise PacketTooLong(f"a packet of {length} bytes")
        end = at + length
        have = min(end, stop) - start
        if length > self._long_bytes:
            self.long_bytes_in += have - self._counted
            self._counted = have
        if end > stop:
            return None
        self._start, self._counted = end, 0
        return view[start:end], at - start


def read_piece(packet: memoryview, content: int, prefix: bytes) -> Piece | None:
    """Return the piece of a blob that a packet carries; None: it is something else.

    Args:
        packet: whole, with its fixed header.
        content: where the variable header begins in it.
        prefix: of the topics of blobs.
    """
    if packet[0] & _TYPE_AND_QOS != _PUBLISH | _QOS_1:
        return None
    topic_at = content + 2
    identifier_at = topic_at + int.from_bytes(packet[content:topic_at], "big")
    properties_at = identifier_at + 2
    if properties_at >= len(packet):
        return None
    topic = bytes(packet[topic_at:identifier_at])
    identifier = bytes(packet[identifier_at:properties_at])
    # A broker adds few properties to a retained piece, if any: more than 127 bytes are not ours.
    properties = packet[properties_at]
    payload_at = properties_at + 1 + properties
    if properties >= _MORE or payload_at > len(packet):
        return None
    if not topic.startswith(prefix) or not topic.isascii() or not any(identifier):
        return None
    return Piece(topic.decode(), identifier, bytes(packet[payload_at:]))


def subscribe_packet(identifier: int, topics: Iterable[str], retained: Retained) -> bytes:
    """Return a SUBSCRIBE with QoS 1.

    Args:
        identifier: of the packet.
        topics: at least one.
        retained: when their retained messages come.
    """
    options = bytes([1 | retained << 4])
    return _packet(_SUBSCRIBE, identifier, (_text(one) + options for one in topics))


def unsubscribe_packet(identifier: int, topics: Iterable[str]) -> bytes:
    """Return an UNSUBSCRIBE; arguments as of `subscribe_packet`."""
    return _packet(_UNSUBSCRIBE, identifier, map(_text, topics))


def _text(text: str) -> bytes:
    content = text.encode()
    return len(content).to_bytes(2, "big") + content


def _packet(kind: int, identifier: int, filters: Iterable[bytes]) -> bytes:
    content = identifier.to_bytes(2, "big") + _NO_PROPERTIES + b"".join(filters)
    length, rest = bytearray(), len(content)
    while True:
        rest, low = divmod(rest, _MORE)
        length.append(low | (_MORE if rest else 0))
        if not rest:
            return bytes([kind]) + length + content
