"""Packets that are right but for one fault, against the whole broker but its sockets.

Whatever a client sends: no exception, its own connection is ended with a reason that MQTT 5 has for
it or goes on, nothing grows, and what others get of it can be read by two other parsers: the codec,
and paho's, in which a packet that it does not take ends the client.

With ``EDGECTL_FUZZ_EXAMPLES=20000``, and ``--timeout=0`` for pytest, it is a long run.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import queue

import mqtt5
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mqtt5 import DisconnectReasonCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.clients import Peer, Raw
from broker.grammar import connect, connect_3, packet, poisons, publish, streams, subscribe, text
from edgectl_broker import Broker, BrokerSettings
from edgectl_broker.connection import Connection
from edgectl_broker.errors import ProtocolViolation
from edgectl_broker.packets import PacketReader
from edgectl_server.distribution.link import BrokerLink
from waiting import wait_for

MALFORMED, PROTOCOL = DisconnectReasonCode.MALFORMED_PACKET, DisconnectReasonCode.PROTOCOL_ERROR
CONNECT = connect()
LEGACY_REFUSAL = b"\x20\x02\x00\x01"  # MQTT 3.1.1: unacceptable protocol version
EXAMPLES = int(os.environ.get("EDGECTL_FUZZ_EXAMPLES", "400"))


class Wire(asyncio.Transport):
    """The other end of a connection, in memory."""

    def __init__(self):
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data):
        assert not self.closed
        self.sent += data

    def close(self):
        self.closed = True

    abort = close

    def is_closing(self):
        return self.closed

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Bench:
    """A broker on a loop that runs while something is sent to it."""

    def __init__(self, state):
        self.runner = asyncio.Runner()
        self.failures = []
        self.runner.get_loop().set_exception_handler(lambda _, what: self.failures.append(what))
        self.broker = Broker(BrokerSettings(state=state, tls=None, port=0), lambda *_: True)
        self.runner.run(self.broker.start())

    def open(self):
        async def made():
            connection = Connection(self.broker)
            connection.connection_made(Wire())
            return connection

        return self.runner.run(made())

    def send(self, connection, *pieces):
        """Hand over bytes as they come from a socket; return what has been answered so far."""
        return self.runner.run(self._send(connection, pieces))

    async def _send(self, connection, pieces):
        for piece in pieces:
            if not connection._transport.closed:
                connection.data_received(piece)
            held = len(connection._reader._buffer)
            assert held <= connection._settings.packet_bytes_max + len(piece)
        await self._durable()
        await asyncio.sleep(0)  # the turn of the loop at whose end it is written
        return connection._transport.sent

    async def _durable(self):
        done = asyncio.get_running_loop().create_future()
        self.broker.exchange.state.when_durable(lambda: done.set_result(None))
        await done

    def lose(self, connection):
        async def lost():
            connection.connection_lost(None)
            await self._durable()

        self.runner.run(lost())

    def close(self):
        self.runner.run(self.broker.stop())
        self.runner.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("fuzz"))
    yield bench
    bench.close()


def packets_in(content):
    """Read all packets; fails when anything is left over."""
    found = []
    while content:
        one, used = mqtt5.read(memoryview(content))
        found.append((one, content[:used]))
        content = content[used:]
    return found


def paho_reads(frame):
    """Read a PUBLISH as paho does; raises what would end its thread."""
    at = next(index for index in range(1, 5) if frame[index] < 0x80) + 1
    size = int.from_bytes(frame[at : at + 2])
    frame[at + 2 : at + 2 + size].decode()
    at += 2 + size + (2 if frame[0] & 6 else 0)
    Properties(PacketTypes.PUBLISH).unpack(frame[at:])


def split(content, cuts):
    at = [0, *sorted({cut % (len(content) + 1) for cut in cuts}), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(at)]


CUTS = st.lists(st.integers(0, 400), max_size=4)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream=st.one_of(streams(), streams(), poisons()), cuts=CUTS)
def test_one_fault_ends_at_most_the_connection_that_made_it(bench, caplog, stream, cuts):
    caplog.clear()
    witness, client = bench.open(), bench.open()
    bench.send(witness, connect(client="witness"), subscribe(pattern="#", options=0))
    sent = bench.send(client, *split(stream.content, cuts))
    client_closed = client._transport.closed
    if sent == LEGACY_REFUSAL:  # the fault has made another version of it
        assert client_closed
    else:
        _check_answers(client, packets_in(sent))
    bench.lose(client)
    heard = packets_in(bench.send(witness, packet(0xC0, b"")))
    assert isinstance(heard[-1][0], mqtt5.PingRespPacket), "the witness is not served any more"
    for one, frame in heard:
        if isinstance(one, mqtt5.PublishPacket):
            paho_reads(frame)
    bench.lose(witness)
    assert not bench.failures
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    if stream.valid:
        assert not client_closed
    assert len(bench.broker.exchange.sessions) <= 20_000


def _check_answers(client, answered):
    """The first answer is a CONNACK; the last says why, if the connection was ended."""
    kinds = [one for one, _ in answered]
    if not client._transport.closed:
        assert all(isinstance(one, mqtt5.ConnAckPacket) for one in kinds[:1])
        return
    assert kinds, "ended without a word"
    last = kinds[-1]
    assert isinstance(last, mqtt5.ConnAckPacket | mqtt5.DisconnectPacket), last
    assert len(kinds) > 1 or isinstance(last, mqtt5.ConnAckPacket)
    assert int(last.reason_code) >= 0x80, "ended with a reason that is none"


@settings(max_examples=EXAMPLES, deadline=None)
@given(stream=streams(), cuts=CUTS)
def test_where_a_stream_is_cut_changes_nothing(stream, cuts):
    def read(pieces):
        reader, seen = PacketReader(4096), []
        try:
            for piece in pieces:
                for one in reader.feed(piece):
                    seen.append(repr(one))  # noqa: PERF401 - it may raise in the middle
        except ProtocolViolation as violation:
            seen.append((repr(violation.reason), str(violation)))
        return seen

    assert read(split(stream.content, cuts)) == read([stream.content])


@settings(max_examples=200, deadline=None)
@given(stream=streams(faulty=False))
def test_what_mqtt_allows_is_read(stream):
    """The other half: a reader that refuses everything would pass the tests above."""
    assert stream.valid
    reader = PacketReader(4096)
    assert isinstance(next(reader.feed(stream.content)), mqtt5.ConnectPacket)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["MQTT", "MQIsdp"]), level=st.sampled_from([3, 4]),
    tail=st.binary(max_size=30), cuts=CUTS,
)  # fmt: skip
def test_older_versions_get_one_answer_whatever_follows(bench, name, level, tail, cuts):
    client = bench.open()
    content = connect_3(name, level, tail)
    assert bench.send(client, *split(content, cuts)) == LEGACY_REFUSAL
    assert client._transport.closed
    bench.lose(client)


FORBIDDEN = [
    ("reserved connect flag", connect(flags=3), MALFORMED),
    ("will QoS without a will", connect(flags=0x0A), MALFORMED),
    ("will retain without a will", connect(flags=0x22), MALFORMED),
    ("will QoS 3", connect(flags=0x1E, tail=b"\0" + text("w") + text("x")), MALFORMED),
    ("receive maximum 0", connect(b"\x21\0\0"), MALFORMED),
    ("maximum packet size 0", connect(b"\x27\0\0\0\0"), MALFORMED),
    ("session expiry twice", connect(b"\x11\0\0\0\1" * 2), MALFORMED),
    ("authentication data alone", connect(b"\x16\0\1x"), PROTOCOL),
    ("property of another packet", connect(b"\1\1"), MALFORMED),
    ("U+0000 in a client id", connect(client="a\0b"), MALFORMED),
    ("U+0000 in a user name", connect(flags=0x82, tail=text("u\0")), MALFORMED),
    ("U+0000 in a will", connect(flags=6, tail=b"\0" + text("w\0") + text("x")), MALFORMED),
    ("bytes after a CONNECT's end", connect(tail=b"zzz"), MALFORMED),
    ("U+0000 in a property", CONNECT + publish(b"\x26" + text("a\0") + text("b")), MALFORMED),
    ("U+0000 in a content type", CONNECT + publish(b"\3" + text("x\0")), MALFORMED),
    ("payload format 2", CONNECT + publish(b"\1\2"), MALFORMED),
    ("content type twice", CONNECT + publish((b"\3" + text("x")) * 2), MALFORMED),
    ("empty response topic", CONNECT + publish(b"\x08\0\0"), MALFORMED),
    ("wildcard in a response topic", CONNECT + publish(b"\x08" + text("a/#")), MALFORMED),
    ("surrogate in a topic", CONNECT + publish(topic=b"\xed\xa0\x80"), MALFORMED),
    ("subscription identifier 0", CONNECT + subscribe(b"\x0b\0"), MALFORMED),
    ("two subscription identifiers", CONNECT + subscribe(b"\x0b\1\x0b\2"), MALFORMED),
    ("reserved subscription option", CONNECT + subscribe(options=0x81), MALFORMED),
    ("QoS 3 asked for", CONNECT + subscribe(options=3), MALFORMED),
    ("retain handling 3", CONNECT + subscribe(options=0x31), MALFORMED),
    ("U+0000 in a filter", CONNECT + subscribe(pattern="a\0"), MALFORMED),
    ("U+0000 in a filter to end", CONNECT + packet(0xA2, b"\0\1\0" + text("a\0")), MALFORMED),
    ("flags of a SUBSCRIBE", CONNECT + packet(0x80, b"\0\1\0" + text("t") + b"\1"), MALFORMED),
    ("PINGREQ with a body", CONNECT + packet(0xC0, b"x"), MALFORMED),
    ("unknown reason", CONNECT + packet(0xE0, b"\x55\0"), MALFORMED),
    ("server reference", CONNECT + packet(0xE0, b"\0\4\x1c" + text("x")), PROTOCOL),
    ("U+0000 in a reason", CONNECT + packet(0x40, b"\0\1\0\4\x1f" + text("\0")), MALFORMED),
    ("properties beyond the packet", CONNECT + packet(0x30, text("t") + b"\x7fx"), MALFORMED),
    ("overlong integer", CONNECT + packet(0x30, text("t") + b"\x80\0x"), MALFORMED),
    ("AUTH", CONNECT + packet(0xF0, b""), MALFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), [case[1:] for case in FORBIDDEN],
                         ids=[case[0] for case in FORBIDDEN])  # fmt: skip
def test_what_mqtt_5_forbids_is_refused(content, reason):
    with pytest.raises(ProtocolViolation) as caught:
        list(PacketReader(4096).feed(content))
    assert caught.value.reason == reason


@pytest.mark.parametrize("qos", [0, 1])
def test_a_publication_that_would_end_pahos_clients_reaches_none(plain, qos):
    """U+FEFF is allowed in MQTT 5, and an error to paho; refused, it harms nobody."""
    reader = Peer("reader", None)
    try:
        assert reader.connect(plain) == 0
        reader.subscribe("#")
        with Raw(plain) as client:
            client.connect("hostile")
            for fields in (
                {"user_properties": [("\ufeff", "x")]},
                {"content_type": "\ufeff"},
                {"response_topic": "\ufeff"},
            ):
                reason = client.publish("t", qos=qos, retain=True, **fields)
                assert reason == (0x83 if qos else None)
            client.publish("t", b"good")
        assert reader.next().payload == b"good"
        assert reader.messages.empty()
    finally:
        reader.close()


def test_a_will_that_would_end_pahos_clients_is_refused(plain):
    with Raw(plain) as client:
        will = mqtt5.Will("t", payload=b"", content_type="\ufeff")
        assert client.connect("hostile", will=will).reason_code == 0x83


def test_a_reason_in_words_is_left_out_where_the_client_takes_no_such_packet(plain):
    with Raw(plain) as client:
        client.connect("small", max_packet_size=20)
        client.send(mqtt5.ConnectPacket("small"))
        answer = client.receive()
        assert (answer.reason_code, answer.reason_str) == (PROTOCOL, None)
    with Raw(plain) as client:
        answer = client.connect("x" * 129, max_packet_size=20)
        assert (answer.reason_code, answer.reason_str) == (0x85, None)


@pytest.mark.parametrize("qos", [0, 1])
def test_no_device_shuts_the_server_out_with_what_paho_does_not_read(broker, authority, qos):
    """The embedded broker passes no such message on; Mosquitto does, and the link lives with it."""
    got = queue.Queue()

    def take(incoming):
        got.put(incoming.payload)
        incoming.done()

    link = BrokerLink(broker.host, broker.port, authority.issue("server"), on_message=take)
    link.start()
    try:
        assert link.wait_connected(15)
        with Raw(broker, files=authority.issue("alpha")) as alpha:
            assert alpha.connect("alpha").reason_code == 0
            event = "edgectl/v1/d/alpha/up/event"
            wait_for(lambda: alpha.publish(event, b"first") == 0, "the server subscribes")
            alpha.publish(event, b"poison", qos=qos, user_properties=[("\ufeff", "x")])
            assert alpha.publish(event, b"last") == 0
        payloads = set()
        while b"last" not in payloads:
            payloads.add(got.get(timeout=60))
        assert payloads == {b"first", b"last"}
        assert link.connected
    finally:
        link.close()
