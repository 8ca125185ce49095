"""MQTT packets as their grammar has them, and the faults that a hostile client puts into them.

A packet is a list of fields; each writes its own bytes and knows how it can be wrong: text with
other bytes in it or with another length, numbers and flags of any value, properties that are
unknown, misplaced, doubled, or longer than they say. So a faulty packet is wrong in one place and
right in all others, and gets as far into the broker as it can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

__all__ = [
    "Stream",
    "connect",
    "connect_3",
    "poisons",
    "properties",
    "publish",
    "streams",
    "subscribe",
    "text",
]

PROPERTIES_OF = {  # §2.2.2.2: what a client may send
    "connect": (0x11, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27),
    "will": (0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26),
    "publish": (0x01, 0x02, 0x03, 0x08, 0x09, 0x26),
    "subscribe": (0x0B, 0x26),
    "unsubscribe": (0x26,),
    "puback": (0x1F, 0x26),
    "disconnect": (0x11, 0x1F, 0x26),
}
REPEATED = frozenset({0x26})
NOT_TEXT = (
    b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82", b"\x00",
    b"\xef\xbb\xbf",
)  # fmt: skip


def variable(value: int) -> bytes:
    """Write a variable byte integer (§1.5.5)."""
    content = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        content.append(low | (0x80 if value else 0))
        if not value:
            return bytes(content)


def text(content: str | bytes) -> bytes:
    """Write a string or binary data, with its length before it."""
    raw = content if isinstance(content, bytes) else content.encode()
    return len(raw).to_bytes(2) + raw


def properties(content: bytes = b"") -> bytes:
    """Write properties, with their length before them."""
    return variable(len(content)) + content


def packet(head: int, body: bytes) -> bytes:
    """Write a packet: type and flags, remaining length, the rest."""
    return bytes([head]) + variable(len(body)) + body


def connect(
    extra: bytes = b"", *, flags: int = 2, tail: bytes = b"", client: str | bytes = "a"
) -> bytes:
    """Write a CONNECT of MQTT 5."""
    start = text("MQTT") + b"\5" + bytes([flags]) + b"\0\x3c"
    return packet(0x10, start + properties(extra) + text(client) + tail)


def connect_3(name: str = "MQTT", level: int = 4, tail: bytes = b"\2\0\x3c\0\4test") -> bytes:
    """Write a CONNECT of MQTT 3.1 or 3.1.1."""
    return packet(0x10, text(name) + bytes([level]) + tail)


def publish(extra: bytes = b"", *, head: int = 0x30, topic: str | bytes = "t") -> bytes:
    """Write a PUBLISH; with QoS 1 its number is 1."""
    number = b"\0\1" if head & 6 else b""
    return packet(head, text(topic) + number + properties(extra) + b"payload")


def subscribe(extra: bytes = b"", *, pattern: str | bytes = "t", options: int = 1) -> bytes:
    """Write a SUBSCRIBE with one filter."""
    return packet(0x82, b"\0\1" + properties(extra) + text(pattern) + bytes([options]))


@dataclass(frozen=True)
class Stream:
    """What a client sends: its bytes, and whether all of them are as MQTT 5 has them."""

    content: bytes
    valid: bool


class _Writer:
    """Writes fields, and puts a fault into one that is drawn."""

    def __init__(self, draw: Callable[[Any], Any], *, faulty: bool) -> None:
        self._draw = draw
        self._left = draw(st.integers(0, 12)) if faulty else None
        self.wrong = False

    def _hit(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        if self._left >= 0:
            return False
        self._left = None
        self.wrong = True
        return True

    def number(self, size: int, value: int) -> bytes:
        if self._hit():
            value = self._draw(st.integers(0, 256**size - 1))
        return value.to_bytes(size)

    def variable(self, value: int) -> bytes:
        if self._hit():
            other = st.one_of(
                st.integers(0, 2**28 - 1).map(variable),
                st.sampled_from(
                    [b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\x7f", b"\x80\x00", b"\x80"]
                ),
            )
            wrong: bytes = self._draw(other)
            return wrong
        return variable(value)

    def text(self, value: str | bytes) -> bytes:
        whole = text(value)
        if not self._hit():
            return whole
        if self._draw(st.booleans()):
            length = self._draw(st.sampled_from([0, 1, len(whole) - 3, len(whole) - 1, 0xFFFF]))
            return max(0, length).to_bytes(2) + whole[2:]
        return text(whole[2:] + self._draw(st.sampled_from(NOT_TEXT)))

    def properties(self, of: str) -> bytes:
        names = self._draw(st.lists(st.sampled_from(PROPERTIES_OF[of]), max_size=3, unique=True))

        if self._hit():
            names += self._draw(st.lists(st.integers(0, 0x2B), min_size=1, max_size=2))
            if self._draw(st.booleans()):
                names += names[:1]
        content = b"".join(bytes([name]) + self._value(name) for name in names)
        return self.variable(len(content)) + content

    def _value(self, name: int) -> bytes:
        size = {0x13: 2, 0x21: 2, 0x22: 2, 0x23: 2, 0x02: 4, 0x11: 4, 0x18: 4, 0x27: 4}.get(name, 1)
        match name:
            case 0x0B:
                return self.variable(7)
            case 0x26:
                return self.text("näme") + self.text("välue")
            case 0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F:
                return self.text("some text")
            case _:
                return self.number(size, {1: 1, 2: 9, 4: 5000}[size])

    def packet(self, head: int, *fields: bytes) -> bytes:
        body = b"".join(fields)
        first = self.number(1, head)
        if self._hit():
            body = body[: self._draw(st.integers(0, len(body)))]
        return first + self.variable(len(body)) + body


def _connect(write: _Writer, draw: Callable[[Any], Any]) -> bytes:
    will, user, password = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    flags = 2 | (0x0C if will else 0) | (0x80 if user else 0) | (0x40 if password else 0)
    fields = [
        write.text("MQTT"), write.number(1, 5), write.number(1, flags), write.number(2, 60),
        write.properties("connect"), write.text("hostile"),
    ]  # fmt: skip
    if will:
        fields += [write.properties("will"), write.text("will/of"), write.text(b"\0gone")]
    fields += [write.text("user")] * user + [write.text(b"\0secret")] * password
    return write.packet(0x10, *fields)


def _publish(write: _Writer, draw: Callable[[Any], Any]) -> bytes:
    qos, retain = draw(st.sampled_from([0, 2])), draw(st.booleans())
    topic = draw(st.sampled_from(["a", "a/b", "ä/ö", "/", "hostile/up/state"]))
    payload = draw(st.binary(max_size=40))
    number = [write.number(2, draw(st.integers(1, 0xFFFF)))] if qos else []
    return write.packet(
        0x30 | qos | retain, write.text(topic), *number, write.properties("publish"), payload
    )


def _subscribe(write: _Writer, draw: Callable[[Any], Any]) -> bytes:
    patterns = draw(
        st.lists(st.sampled_from(["#", "+/b", "ä/#", "$share/g/a", "/"]), min_size=1, max_size=3)
    )
    options = [0x2E if not one.startswith("$") else 0x01 for one in patterns]
    filters = [
        write.text(one) + write.number(1, option)
        for one, option in zip(patterns, options, strict=True)
    ]
    return write.packet(0x82, write.number(2, 3), write.properties("subscribe"), *filters)


def _unsubscribe(write: _Writer, draw: Callable[[Any], Any]) -> bytes:
    patterns = draw(st.lists(st.sampled_from(["#", "+/b", "never"]), min_size=1, max_size=3))
    filters = [write.text(one) for one in patterns]
    return write.packet(0xA2, write.number(2, 4), write.properties("unsubscribe"), *filters)


def _puback(write: _Writer, draw: Callable[[Any], Any]) -> bytes:
    number = write.number(2, draw(st.integers(1, 40)))
    if draw(st.booleans()):
        return write.packet(0x40, number)
    return write.packet(0x40, number, write.number(1, 0), write.properties("puback"))


def _ping(write: _Writer, _draw: Callable[[Any], Any]) -> bytes:
    return write.packet(0xC0)


_LATER = (_publish, _publish, _subscribe, _unsubscribe, _puback, _ping)


@st.composite
def streams(draw: Callable[[Any], Any], *, faulty: bool = True) -> Stream:
    """A CONNECT and some packets; with `faulty`, usually a fault in one of them."""
    later = draw(st.lists(st.sampled_from(_LATER), max_size=5))
    where = draw(st.integers(0, len(later))) if faulty else -1
    content, wrong = b"", False
    for position, make in enumerate((_connect, *later)):
        write = _Writer(draw, faulty=position == where)
        content += make(write, draw)
        wrong = wrong or write.wrong
    if faulty and draw(st.integers(0, 9)) == 0:
        content, wrong = content[: draw(st.integers(0, len(content)))], True
    return Stream(content, not wrong)


@st.composite
def poisons(draw: Callable[[Any], Any]) -> Stream:
    """A CONNECT and publications, some as its will, whose properties others should not get."""
    word = st.sampled_from([b"word", *NOT_TEXT]).map(text)
    one = st.one_of(
        st.integers(0, 3).map(lambda value: bytes([0x01, value])),
        st.sampled_from([0x03, 0x08]).flatmap(lambda name: word.map(lambda w: bytes([name]) + w)),
        st.tuples(word, word).map(lambda pair: b"\x26" + b"".join(pair)),
    )
    several = st.lists(one, min_size=1, max_size=2).map(b"".join)
    heads = st.sampled_from([0x30, 0x31, 0x32, 0x33])
    content = b""
    for _ in range(draw(st.integers(1, 2))):
        content += publish(draw(several), head=draw(heads))
    if draw(st.booleans()):
        will = properties(draw(several)) + text("t") + text("gone")
        return Stream(connect(flags=0x06, tail=will, client="hostile") + content, valid=False)
    return Stream(connect(client="hostile") + content, valid=False)
