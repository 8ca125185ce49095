"""Check the fields of a packet that the codec does not: text, and bits that must be zero.

The `mqtt5` codec is Rust and panics on text that is not UTF-8: the panic can be caught, but leaves
a stack trace in the log for each packet that a client cares to send. It lets U+0000 pass, which no
text may hold (§1.5.4) and which ends the connection of whoever gets it; and it drops reserved bits.
So these fields are walked here first; everything else is the codec's work.
"""

from __future__ import annotations

from typing import Literal

from mqtt5 import DisconnectReasonCode

from edgectl_broker.errors import ProtocolViolation

__all__ = ["check_fields", "check_properties"]

_CONNECT, _PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE = 1, 3, 8, 10
_REASON_PACKETS = frozenset({4, 5, 6, 7})  # PUBACK to PUBCOMP: identifier, reason, properties
_CLOSING_PACKETS = frozenset({14, 15})  # DISCONNECT, AUTH: reason, properties
_ALWAYS = frozenset({1, 8, 10, 14, 15})  # rare ones; the others when there is something to see
_NUMBER_ALONE_BYTES = 4  # a PUBACK without reason and properties
_RESERVED, _WILL, _WILL_REST, _PASSWORD, _USER_NAME = 0x01, 0x04, 0x38, 0x40, 0x80  # §3.1.2.3
_RESERVED_OPTIONS = 0xC0  # §3.8.3.1
_CONTINUES = 0x80
_QOS = 0x06

_Kind = Literal["text", "pair", "binary", "variable"] | int
_PROPERTIES: dict[int, _Kind] = {  # §2.2.2.2; numbers are sizes in bytes
    0x01: 1, 0x02: 4, 0x03: "text", 0x08: "text", 0x09: "binary", 0x0B: "variable", 0x11: 4,
    0x12: "text", 0x13: 2, 0x15: "text", 0x16: "binary", 0x17: 1, 0x18: 4, 0x19: 1, 0x1A: "text",
    0x1C: "text", 0x1F: "text", 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x26: "pair",
    0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip


def _malformed(detail: str) -> ProtocolViolation:
    return ProtocolViolation(DisconnectReasonCode.MALFORMED_PACKET, detail)


class _Walk:
    """A position in a frame that never passes its end."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.at = 1
        self.variable()

    @property
    def left(self) -> int:
        return len(self.frame) - self.at

    def skip(self, count: int) -> int:
        """Pass `count` bytes; return where they began."""
        if self.left < count:
            raise _malformed("the packet ends within a field")
        began, self.at = self.at, self.at + count
        return began

    def byte(self) -> int:
        return self.frame[self.skip(1)]

    def variable(self) -> int:
        value = 0
        for shift in range(0, 28, 7):
            byte = self.byte()
            value |= (byte & ~_CONTINUES) << shift
            if byte < _CONTINUES:
                return value
        raise _malformed("a variable byte integer is longer than four bytes")

    def binary(self) -> bytes:
        began = self.skip(2)
        size = int.from_bytes(self.frame[began : self.at])
        began = self.skip(size)
        return self.frame[began : self.at]

    def text(self) -> None:
        content = self.binary()
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise _malformed("the packet holds text that is not UTF-8") from error
        if 0 in content:
            raise _malformed("the packet holds text with U+0000")

    def properties(self) -> None:
        size = self.variable()
        end = self.at + size
        while self.at < end:
            match _PROPERTIES.get(self.byte()):
                case "text":
                    self.text()
                case "pair":
                    self.text()
                    self.text()
                case "binary":
                    self.binary()
                case "variable":
                    self.variable()
                case int(count):
                    self.skip(count)
                case None:
                    raise _malformed("the packet holds an unknown property")
        if self.at != end:
            raise _malformed("a property passes the end of the properties")


def check_fields(frame: bytes) -> None:
    """Raise `ProtocolViolation` if `frame`, one whole packet, has a field that is malformed.

    A PUBLISH in ASCII is not walked, for speed: its topic is checked as a topic, and what has
    properties is given to `check_properties`.
    """
    kind = frame[0] >> 4
    short = kind == _PUBLISH or len(frame) <= _NUMBER_ALONE_BYTES
    if short and kind not in _ALWAYS and frame.isascii():
        return
    walk = _Walk(frame)
    if kind == _CONNECT:
        _connect(walk)
    elif kind == _PUBLISH:
        _publish(walk)
    elif kind in {_SUBSCRIBE, _UNSUBSCRIBE}:
        walk.skip(2)
        walk.properties()
        while walk.left:
            walk.text()
            if kind == _SUBSCRIBE and walk.byte() & _RESERVED_OPTIONS:
                raise _malformed("a reserved bit of a subscription is set")
    elif kind in _REASON_PACKETS | _CLOSING_PACKETS:
        walk.skip(min(walk.left, 3 if kind in _REASON_PACKETS else 1))
        if walk.left:
            walk.properties()


def check_properties(publish: bytes) -> None:
    """Raise `ProtocolViolation` if `publish`, one whole PUBLISH, has a malformed property."""
    _publish(_Walk(publish))


def _publish(walk: _Walk) -> None:
    walk.text()
    walk.skip(2 if walk.frame[0] & _QOS else 0)
    walk.properties()


def _connect(walk: _Walk) -> None:
    walk.text()
    walk.skip(1)
    flags = walk.byte()
    if flags & _RESERVED or (flags & _WILL_REST and not flags & _WILL):
        raise _malformed("a bit of the connect flags is set that must not be")
    walk.skip(2)
    walk.properties()
    walk.text()
    if flags & _WILL:
        walk.properties()
        walk.text()
        walk.binary()
    if flags & _USER_NAME:
        walk.text()
    if flags & _PASSWORD:
        walk.binary()
