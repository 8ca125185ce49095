"""Clients that send rubbish, too much, or do not read: only their own connection suffers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from types import SimpleNamespace

import mqtt5
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mqtt5 import DisconnectReasonCode, QoS

from broker.clients import Raw, client_context
from broker.conftest import start_broker
from edgectl_broker import BrokerSettings, BrokerThread, TlsFiles
from edgectl_broker.errors import ProtocolViolation
from edgectl_broker.packets import PacketReader
from waiting import wait_for

ONE = QoS.AT_LEAST_ONCE
CONNECT = mqtt5.ConnectPacket(
    "fuzz",
    clean_start=True,
    username="u",
    password=b"p",
    will=mqtt5.Will("w", payload=b"x", user_properties=[("a", "b")]),
    session_expiry_interval=5,
    user_properties=[("k", "v")],
).write()
PACKETS = [
    mqtt5.PublishPacket(
        "a/b", b"x" * 20, qos=ONE, packet_id=5, response_topic="r", user_properties=[("a", "b")]
    ).write(),
    mqtt5.SubscribePacket(3, [mqtt5.TopicFilter("a/#"), mqtt5.TopicFilter("$share/g/b")]).write(),
    mqtt5.UnsubscribePacket(3, ["a/#", "b"]).write(),
    mqtt5.PubAckPacket(3, reason_code=mqtt5.PubAckReasonCode.NOT_AUTHORIZED).write(),
    mqtt5.PingReqPacket().write(),
    mqtt5.DisconnectPacket(reason_str="bye", session_expiry_interval=3).write(),
    mqtt5.AuthPacket(authentication_method="x").write(),
    mqtt5.PubRelPacket(5).write(),
]


@pytest.fixture
def alive(plain):
    """After the test, the broker still serves another client."""
    witness = Raw(plain)
    witness.connect("witness")
    witness.subscribe("alive")
    yield plain
    witness.ping()
    with Raw(plain) as other:
        other.connect("other")
        assert other.publish("alive") == 0
    assert witness.message().topic == "alive"
    witness.die()


def mangled(packets):
    """Concatenations of valid packets with some bytes changed, dropped or put in."""

    @st.composite
    def build(draw):
        content = bytearray(CONNECT) if draw(st.booleans()) else bytearray()
        for packet in draw(st.lists(st.sampled_from(packets), max_size=4)):
            content += packet
        for _ in range(draw(st.integers(0, 4))):
            if not content:
                break
            position = draw(st.integers(0, len(content) - 1))
            match draw(st.sampled_from(["change", "drop", "insert"])):
                case "change":
                    content[position] = draw(st.integers(0, 255))
                case "drop":
                    del content[position]
                case "insert":
                    content.insert(position, draw(st.integers(0, 255)))
        return bytes(content)

    return build()


@settings(max_examples=600, deadline=None)
@given(content=st.one_of(mangled(PACKETS), st.binary(max_size=64)), cut=st.integers(1, 40))
def test_the_reader_accepts_or_refuses_and_never_minds_the_cuts(content, cut):
    def read(pieces):
        reader, packets = PacketReader(4096), []
        try:
            for piece in pieces:
                for packet in reader.feed(piece):
                    packets.append(repr(packet))  # noqa: PERF401 - it may raise in the middle
        except ProtocolViolation as violation:
            packets.append(str(violation.reason))
        return packets

    whole = read([content])
    pieces = read([content[start : start + cut] for start in range(0, len(content), cut)])
    assert pieces == whole


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=2)


@settings(max_examples=200, deadline=None)
@given(text=TEXT, more=TEXT, pairs=PAIRS, content=st.binary(max_size=200))
def test_valid_packets_in_any_script_are_read_as_they_were(text, more, pairs, content):
    packets = [
        mqtt5.ConnectPacket(
            text,
            username=more,
            password=content,
            will=mqtt5.Will(
                more, payload=content, content_type=text, correlation_data=content,
                message_expiry_interval=7, will_delay_interval=9, user_properties=pairs,
            ),
            receive_max=300, max_packet_size=400, session_expiry_interval=2**32 - 1,
            user_properties=pairs,
        ),
        mqtt5.PublishPacket(
            text, content, qos=ONE, packet_id=0xFFFF, content_type=more, response_topic=more,
            correlation_data=content, user_properties=pairs, message_expiry_interval=2**31,
        ),
        mqtt5.SubscribePacket(
            0x8000, [mqtt5.TopicFilter(text), mqtt5.TopicFilter(more)],
            subscription_id=200_000, user_properties=pairs,
        ),
        mqtt5.UnsubscribePacket(0x8000, [text, more], user_properties=pairs),
        mqtt5.PubAckPacket(0x8000, reason_str=text, user_properties=pairs),
        mqtt5.DisconnectPacket(
            reason_code=DisconnectReasonCode.UNSPECIFIED_ERROR, reason_str=text,
            session_expiry_interval=2**32 - 1, user_properties=pairs,
        ),
    ]  # fmt: skip
    reader = PacketReader(1_000_000)
    read = list(reader.feed(b"".join(packet.write() for packet in packets)))
    assert [repr(packet) for packet in read] == [repr(packet) for packet in packets]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.one_of(mangled(PACKETS), st.binary(max_size=64)), greeted=st.booleans())
def test_rubbish_ends_only_its_own_connection(alive, content, greeted):
    with Raw(alive) as client:
        if greeted:
            assert client.connect("fuzz").reason_code == 0
        client.send(content)
        client.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while client.socket.recv(65536):  # not parsed: it may be an answer of MQTT 3.1.1
                pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x30\x05\x00\x02\xff\xfe\x00", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x30\x06\x00\x03a/#\x00", DisconnectReasonCode.TOPIC_NAME_INVALID),
        (b"\x30\x06\x00\x03a\x00b\x00", DisconnectReasonCode.TOPIC_NAME_INVALID),
        (b"\x36\x06\x00\x01a\x00\x01\x00", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x34\x06\x00\x01a\x00\x01\x00", DisconnectReasonCode.QOS_NOT_SUPPORTED),
        (b"\x32\x06\x00\x01a\x00\x00\x00", DisconnectReasonCode.PROTOCOL_ERROR),
        (b"\x38\x04\x00\x01a\x00", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x30\x07\x00\x01a\x03\x23\x00\x01", DisconnectReasonCode.TOPIC_ALIAS_INVALID),
        (b"\x30\x06\x00\x01a\x02\x0b\x01", DisconnectReasonCode.PROTOCOL_ERROR),
        (b"\x30\x02\x00\x05", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x30\xff\xff\xff\xff\x01", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x82\x03\x00\x01\x00", DisconnectReasonCode.PROTOCOL_ERROR),
        (b"\x82\x07\x00\x00\x00\x00\x01a\x00", DisconnectReasonCode.PROTOCOL_ERROR),
        (b"\xa2\x03\x00\x01\x00", DisconnectReasonCode.PROTOCOL_ERROR),
        (b"\x80\x07\x00\x01\x00\x00\x01a\x00", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x20\x03\x00\x00\x00", DisconnectReasonCode.PROTOCOL_ERROR),
        (b"\x62\x02\x00\x01", DisconnectReasonCode.PROTOCOL_ERROR),
        (b"\x00\x00", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x30\x80\x80\x0c", DisconnectReasonCode.PACKET_TOO_LARGE),  # 192 KiB and its header
        (b"\x30\xff\xff\xff\x7f", DisconnectReasonCode.PACKET_TOO_LARGE),
        (
            mqtt5.PublishPacket("x" * 513, b"").write(),
            DisconnectReasonCode.TOPIC_NAME_INVALID,
        ),
        (mqtt5.PublishPacket("/" * 16, b"").write(), DisconnectReasonCode.TOPIC_NAME_INVALID),
    ],
)
def test_what_is_wrong_is_named(alive, content, reason):
    with Raw(alive) as client:
        client.connect("a")
        client.send(content)
        assert client.receive().reason_code == reason
        assert client.receive() is None


def test_the_largest_packet(alive):
    with Raw(alive) as client:
        client.connect("a", username="server")
        client.subscribe("t")
        overhead = len(mqtt5.PublishPacket("t", b"x" * 100_000, qos=ONE, packet_id=1).write())
        payload = b"x" * (192 * 1024 - (overhead - 100_000))
        assert client.publish("t", payload, acknowledged=False) is None
        got = {type(packet).__name__: packet for packet in (client.receive(), client.receive())}
        assert got["PublishPacket"].payload == payload
        client.publish("t", payload + b"x", acknowledged=False)
        assert client.receive().reason_code == DisconnectReasonCode.PACKET_TOO_LARGE


def test_too_many_filters_in_one_packet(alive):
    with Raw(alive) as client:
        client.connect("a")
        client.send(mqtt5.UnsubscribePacket(1, ["x"] * 129))
        assert client.receive().reason_code == DisconnectReasonCode.QUOTA_EXCEEDED


def test_before_connect_only_connect(alive):
    with Raw(alive) as client:
        client.send(mqtt5.PingReqPacket())
        assert client.receive().reason_code == mqtt5.ConnAckReasonCode.PROTOCOL_ERROR
        assert client.receive() is None


def test_a_slow_reader_is_bounded_and_cut(open_plain):
    """It stops reading; what the broker holds for it has an end, and others are served."""
    broker = open_plain(queue_bytes_max=2 * 1024 * 1024, queue_messages_max=100)
    exchange = broker.thread._broker.exchange
    slow, other, quick = Raw(broker, receive_buffer=4096), Raw(broker), Raw(broker)
    slow.connect("slow", session_expiry_interval=60)
    slow.subscribe("t")
    quick.connect("quick")
    quick.subscribe("t")
    other.connect("other", username="server")
    (session,) = (one for one in exchange.sessions.values() if one.key.client == "slow")
    before = psutil.Process().memory_info().rss
    for number in range(200):
        other.publish("t", number.to_bytes(2) * 32768)
        assert quick.message().payload == number.to_bytes(2) * 32768
        assert session.queued <= 100 + 20
        assert session.queued_bytes <= 2 * 1024 * 1024 + 20 * 66_000
    wait_for(lambda: session.link is None, "the slow reader is cut")
    assert session.dropped > 0
    grown = psutil.Process().memory_info().rss - before
    assert grown < 64 * 1024 * 1024, f"{grown} bytes for one slow reader"
    for client in (slow, other, quick):
        client.die()


def test_a_slow_reader_with_qos_0_loses_messages_and_stays(open_plain):
    broker = open_plain(queue_bytes_max=1024 * 1024)
    exchange = broker.thread._broker.exchange
    with Raw(broker, receive_buffer=4096) as slow, Raw(broker) as other:
        slow.connect("slow")
        slow.subscribe("t", max_qos=QoS.AT_MOST_ONCE)
        other.connect("other", username="server")
        (session,) = (one for one in exchange.sessions.values() if one.key.client == "slow")
        sent = 0
        while not session.dropped:
            other.publish("t", b"x" * 60000)
            assert session.queued_bytes <= 1024 * 1024
            sent += 1
            assert sent < 2000
        slow.send(mqtt5.PingReqPacket())
        received = 0
        while received < sent - session.dropped:
            received += isinstance(slow.receive(), mqtt5.PublishPacket)
        other.publish("t", b"end")
        assert slow.message().payload == b"end"


def test_a_client_that_never_reads_its_answers_is_cut(open_plain):
    broker = open_plain(write_buffer_bytes=32_000, write_buffer_bytes_max=100_000)
    with Raw(broker, receive_buffer=4096) as client:
        client.connect("a")
        many = mqtt5.UnsubscribePacket(1, ["x"] * 128).write() * 100

        def send_and_never_read():
            for _ in range(1000):
                client.socket.sendall(many)

        with pytest.raises(ConnectionError):
            send_and_never_read()


def test_one_device_cannot_fill_the_retained_store(plain):
    with Raw(plain) as device, Raw(plain) as server:
        device.connect("device", username="device")
        server.connect("server", username="server")
        reasons = [device.publish(f"d/{number}", retain=True) for number in range(70)]
        assert reasons == [0x10] * 64 + [0x97] * 6
        assert device.publish("d/0", b"replaced", retain=True) == 0x10
        assert device.publish("d/1", b"", retain=True) == 0x10
        assert device.publish("d/65", retain=True) == 0x10
        assert server.publish("meta", retain=True) == 0x10


def test_the_retained_store_is_bounded(open_plain):
    broker = open_plain(retained_bytes_max=500_000, retained_messages_max=20)
    with Raw(broker) as server:
        server.connect("server", username="server")
        large = [server.publish(f"l/{n}", b"x" * 100_000, retain=True) for n in range(6)]
        assert large == [0x10] * 4 + [0x97] * 2
        small = [server.publish(f"s/{n}", b"x", retain=True) for n in range(20)]
        assert small == [0x10] * 16 + [0x97] * 4


def test_too_many_connections_are_refused(open_plain):
    broker = open_plain(connections_max=5)
    clients = [Raw(broker) for _ in range(5)]
    for number, client in enumerate(clients):
        assert client.connect(f"c{number}").reason_code == 0
    with Raw(broker) as one_more, contextlib.suppress(ConnectionError):
        assert one_more.connect("more") is None
    clients.pop().die()

    def room():
        with Raw(broker) as again:
            try:
                return again.connect("again") is not None
            except ConnectionError:
                return False

    wait_for(room, "there is room again")
    for client in clients:
        client.die()


def test_too_many_sessions_are_refused(open_plain):
    broker = open_plain(sessions_max=3)
    for number in range(3):
        with Raw(broker) as client:
            assert client.connect(f"c{number}", session_expiry_interval=60).reason_code == 0
    with Raw(broker) as client:
        assert client.connect("more", session_expiry_interval=60).reason_code == 0x97


def test_one_certificate_has_few_connections(authority, tmp_path):
    """Connections that never send CONNECT are counted too."""
    running = start_broker("embedded", authority, tmp_path)
    context = client_context(authority.issue("alpha"))
    opened = []
    try:
        for _ in range(9):
            raw = socket.create_connection((running.host, running.port), timeout=60)
            opened.append(context.wrap_socket(raw, server_hostname="127.0.0.1"))
        for one in opened:
            one.settimeout(10)
        try:
            content = opened[-1].recv(1)
        except (ConnectionError, ssl.SSLError):
            content = b""
        assert content == b""
        opened[0].sendall(mqtt5.ConnectPacket("alpha", clean_start=True).write())
        assert mqtt5.read(memoryview(opened[0].recv(100)))[0].reason_code == 0
    finally:
        for one in opened:
            one.close()
        running.stop()


def test_a_boot_storm(broker, authority):
    """A hundred devices at once: all are connected, subscribed and served."""
    names = [f"storm-{number}" for number in range(100)]
    # one key for all would be refused by nobody, but each has its own, as devices have
    contexts = [client_context(authority.issue(name)) for name in names]
    sockets, failures = [], []
    barrier = threading.Barrier(10)

    def boot(part):
        barrier.wait()
        try:
            for number in part:
                raw = socket.create_connection((broker.host, broker.port), timeout=30)
                one = contexts[number].wrap_socket(raw, server_hostname="127.0.0.1")
                sockets.append(one)
                topic = f"edgectl/v1/d/{names[number]}/down/#"
                one.sendall(
                    mqtt5.ConnectPacket(names[number], clean_start=True, keep_alive=60).write()
                    + mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(topic, max_qos=ONE)]).write()
                )
                kinds = read_kinds(one, 2)
                assert kinds == ["ConnAckPacket", "SubAckPacket"]
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=boot, args=(range(start, 100, 10),)) for start in range(10)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"100 devices in {time.monotonic() - began:.2f} s")
    for one in sockets:
        one.close()
    assert not failures
    assert len(sockets) == 100


def read_kinds(connection, count):
    buffer, kinds = b"", []
    while len(kinds) < count:
        content = connection.recv(4096)
        assert content
        buffer += content
        while buffer and len(kinds) < count:
            packet, used = mqtt5.read(memoryview(buffer))
            kinds.append(type(packet).__name__)
            buffer = buffer[used:]
    return kinds


def test_connections_without_a_certificate_do_not_use_up_the_open_files(authority, tmp_path):
    """They wait in the kernel; the few that were taken are cut, and devices get their turn."""
    thread = BrokerThread(
        BrokerSettings(
            state=tmp_path / "state",
            tls=TlsFiles(*authority.issue("broker")[:3]),
            port=0,
            handshakes_max=8,
            connect_timeout_s=1.0,
        ),
        lambda *_: True,
    )
    thread.start()
    broker = SimpleNamespace(host="127.0.0.1", port=thread.port)
    before = psutil.Process().num_fds()
    silent = [socket.create_connection((broker.host, broker.port), 10) for _ in range(60)]
    try:
        with Raw(broker, files=authority.issue("alpha")) as alpha:
            assert alpha.connect("alpha").reason_code == 0
            taken = psutil.Process().num_fds() - before - len(silent) - 1
            assert taken <= 8 + 1
            assert alpha.ping() == []
    finally:
        for one in silent:
            one.close()
        thread.stop()
