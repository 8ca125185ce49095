"""Cutting what a broker sends into packets, and telling pieces of blobs from everything else."""

from __future__ import annotations

import random

import mqtt5
import pytest
from mqtt5 import QoS, RetainHandling

from edgectl_agent.core.packets import (
    PacketBuffer,
    PacketTooLong,
    Piece,
    Retained,
    read_piece,
    subscribe_packet,
    unsubscribe_packet,
)

PREFIX = b"edgectl/v1/blob/"
TOPIC = "edgectl/v1/blob/" + "ab" * 32 + "/17"
BYTES_MAX = 100_000


def publish(payload: bytes, topic: str = TOPIC, *, qos: QoS = QoS.AT_LEAST_ONCE) -> bytes:
    identifier = None if qos == QoS.AT_MOST_ONCE else 7
    return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=identifier, retain=True).write()


def feed(buffer: PacketBuffer, content: bytes) -> list[tuple[bytes, int]]:
    """Put all of it into the buffer, as it has room, and return what is whole."""
    found = []
    while content:
        room = buffer.room()
        size = min(len(room), len(content))
        room[:size], content = content[:size], content[size:]
        buffer.came(size)
        while (taken := buffer.take()) is not None:
            found.append((bytes(taken[0]), taken[1]))
    return found


def test_packets_come_out_as_they_went_in_however_they_are_split() -> None:
    draw = random.Random(4)
    sent = [publish(draw.randbytes(draw.choice((0, 1, 200, 20_000, 65_536)))) for _ in range(60)]
    stream, buffer, found = b"".join(sent), PacketBuffer(BYTES_MAX, long_bytes=4096), []
    while stream:
        size = draw.choice((1, 3, 1_000, 16_384, 70_000))
        found += feed(buffer, stream[:size])
        stream = stream[size:]
    assert [packet for packet, _ in found] == sent


def test_bytes_of_long_packets_are_counted_before_they_are_whole() -> None:
    buffer, long = PacketBuffer(BYTES_MAX, long_bytes=4096), publish(bytes(50_000))
    feed(buffer, publish(bytes(100)) + long[:20_000])
    assert buffer.long_bytes_in == 20_000
    feed(buffer, long[20_000:] + publish(bytes(100)))
    assert buffer.long_bytes_in == len(long)


@pytest.mark.parametrize(
    "start", [b"\x32\xff\xff\xff\x7f", b"\x32\xff\xff\xff\xff\x7f", b"\x32\xa1\x8d\x06"]
)
def test_a_length_that_was_not_agreed_is_refused_at_once(start: bytes) -> None:
    with pytest.raises(PacketTooLong):
        feed(PacketBuffer(BYTES_MAX, long_bytes=4096), start)


def test_the_longest_packet_fits_behind_the_end_of_another() -> None:
    longest = b"\x32\xa0\x8d\x06" + bytes(BYTES_MAX)
    buffer = PacketBuffer(BYTES_MAX, long_bytes=4096)
    assert [one for one, _ in feed(buffer, 3 * (publish(b"x") + longest))][1::2] == 3 * [longest]


def piece_of(packet: bytes) -> Piece | None:
    ((whole, content),) = feed(PacketBuffer(BYTES_MAX, long_bytes=4096), packet)
    return read_piece(memoryview(whole), content, PREFIX)


def test_a_piece_is_read_with_its_topic_and_identifier() -> None:
    assert piece_of(publish(b"content")) == Piece(TOPIC, b"\x00\x07", b"content")
    assert piece_of(publish(b"")) == Piece(TOPIC, b"\x00\x07", b"")


NO_PIECES = {
    "QoS 0": publish(b"content", qos=QoS.AT_MOST_ONCE),
    "another topic": publish(b"content", "edgectl/v1/d/pi-1/down/order"),
    "identifier 0": publish(b"content").replace(b"\x00\x07", b"\x00\x00"),
    "topic beyond the end": b"\x32\x04\xff\xff\x00\x01",
    "nothing in it": b"\x32\x00",
    "topic alone": b"\x32" + bytes([2 + len(TOPIC)]) + b"\x00" + bytes([len(TOPIC)]) + b"e" * 83,
    "properties beyond the end": publish(b"").replace(b"\x00\x07\x00", b"\x00\x07\x05"),
    "not ASCII": publish(b"content").replace(b"/17", b"/\xc3\xa4"),
    "no PUBLISH": b"\xd0\x00",
}


@pytest.mark.parametrize("packet", NO_PIECES.values(), ids=NO_PIECES.keys())
def test_what_is_no_piece_is_left_to_the_library(packet: bytes) -> None:
    assert piece_of(packet[: 2 + packet[1]]) is None


def test_whatever_comes_is_a_piece_or_none() -> None:
    draw = random.Random(5)
    right = publish(b"content")
    for _ in range(5_000):
        wrong = bytearray(right)
        for _ in range(draw.randrange(1, 6)):
            wrong[draw.randrange(len(wrong))] = draw.randrange(256)
        found = read_piece(memoryview(bytes(wrong[: draw.randrange(4, len(wrong))])), 2, PREFIX)
        assert found is None or found.topic.startswith(PREFIX.decode())


@pytest.mark.parametrize("count", [1, 8])
def test_subscriptions_are_as_another_codec_reads_them(count: int) -> None:
    topics = [f"{TOPIC}{number}" for number in range(count)]
    packet, _ = mqtt5.read(memoryview(subscribe_packet(513, topics, Retained.WHERE_NEW)))
    assert isinstance(packet, mqtt5.SubscribePacket)
    assert packet.packet_id == 513
    assert [one.pattern for one in packet.topic_filters] == topics
    assert all(one.max_qos == QoS.AT_LEAST_ONCE for one in packet.topic_filters)
    where_new = RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
    assert all(one.retain_handling == where_new for one in packet.topic_filters)
    content = unsubscribe_packet(514, topics)
    packet, used = mqtt5.read(memoryview(content))
    assert isinstance(packet, mqtt5.UnsubscribePacket)
    assert (packet.packet_id, list(packet.patterns), used) == (514, topics, len(content))
