"""Our way into paho: pieces go past it, everything else through it, and it stays as we know it."""

from __future__ import annotations

import inspect
import threading
import time
from pathlib import Path

import mqtt5
import paho.mqtt.client as mqtt
import pytest
from mqtt5 import QoS
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from agent.core.control_plane import ControlPlane
from agent.core.test_bad_links_really import connected
from edgectl_agent.connection import HELP_S, Mailbox
from edgectl_agent.packet_client import PACKET_BYTES_MAX, PacketClient
from edgectl_protocol import topics
from waiting import wait_for

PIECES = "edgectl/v1/blob/"
DIGEST = "sha256:" + "ab" * 32
WAIT_S = 30


class Line:
    """A socket of which the other end is the test's."""

    def __init__(self) -> None:
        self.coming = bytearray()
        self.sent: list[bytes] = []
        self.is_over = False

    def recv_into(self, room: memoryview) -> int:
        if not self.coming and not self.is_over:
            raise BlockingIOError
        count = min(len(room), len(self.coming))
        room[:count] = self.coming[:count]
        del self.coming[:count]
        return count

    def send(self, content: bytes) -> int:
        self.sent.append(bytes(content))
        return len(content)

    def close(self) -> None:
        self.is_over = True


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def pieces() -> list[tuple[str, bytes]]:
    return []


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def client(line: Line, pieces: list[tuple[str, bytes]], messages: list[str]) -> PacketClient:
    made = PacketClient(
        CallbackAPIVersion.VERSION2,
        protocol=mqtt.MQTTv5,
        pieces=PIECES,
        on_piece=lambda topic, payload: pieces.append((topic, payload)),
    )
    made.on_message = lambda _client, _data, message: messages.append(message.topic)
    made.on_socket_register_write = lambda *_: None
    made._sock = line  # type: ignore[assignment]
    return made


def publish(topic: str, payload: bytes, identifier: int) -> bytes:
    return mqtt5.PublishPacket(
        topic, payload, qos=QoS.AT_LEAST_ONCE, packet_id=identifier, retain=True
    ).write()


def test_acknowledgements_go_together_and_in_order(
    client: PacketClient, line: Line, pieces: list[tuple[str, bytes]], messages: list[str]
) -> None:
    for number in range(3):
        line.coming += publish(topics.chunk(DIGEST, number), bytes(60_000), number + 1)
    line.coming += publish("edgectl/v1/d/pi-1/down/order", b"{}", 4)
    line.coming += publish(topics.chunk(DIGEST, 3), b"last", 5)
    assert client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
    assert [topic for topic, _ in pieces] == [topics.chunk(DIGEST, number) for number in range(4)]
    assert messages == ["edgectl/v1/d/pi-1/down/order"]
    assert b"".join(line.sent) == b"".join(b"\x40\x02\x00" + bytes([n]) for n in range(1, 6))
    assert len(line.sent) == 3


def test_paho_hears_that_the_connection_lives(client: PacketClient, line: Line) -> None:
    """Its own ping may be behind a megabyte of pieces."""
    client._ping_t = 1.0  # type: ignore[assignment] # it waits for an answer
    line.coming += publish(topics.chunk(DIGEST, 0), bytes(60_000), 1)[:20_000]
    client.loop_read()
    assert client._ping_t == 0


def test_a_farewell_is_heard_before_the_end(client: PacketClient, line: Line) -> None:
    said: list[str] = []
    client.on_disconnect = lambda *arguments: said.append(str(arguments[3]))
    line.coming += b"\xe0\x07\x8e\x05\x11\x00\x00\x00\x00"  # DISCONNECT: it was taken over
    line.is_over = True
    client.loop_read()
    assert said == ["Session taken over"]


@pytest.mark.parametrize("content", [b"\x32\xff\xff\xff\x7f", b"\x32\x81\x80\x09"])
def test_what_was_not_agreed_ends_the_connection(
    client: PacketClient, line: Line, content: bytes
) -> None:
    assert PACKET_BYTES_MAX == 9 * 128 * 128  # one more is announced in the second case
    line.coming += content + bytes(100)
    assert client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS
    assert line.is_over


def test_the_end_of_the_connection_is_seen(client: PacketClient, line: Line) -> None:
    line.is_over = True
    assert client.loop_read() == MQTTErrorCode.MQTT_ERR_CONN_LOST


def test_what_we_use_of_paho_is_as_it_was() -> None:
    """Names that paho does not promise; a version without them must not pass unseen."""
    expected = {
        "_sock_recv": ["self", "bufsize"],
        "_packet_queue": ["self", "command", "packet", "mid", "qos", "info"],
        "_mid_generate": ["self"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(mqtt.Client, name)).parameters) == parameters
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    assert client._sockpairW is None
    assert "self._sock_recv(1)" in inspect.getsource(mqtt.Client._packet_read)


def test_the_network_thread_goes_on_when_its_helper_does_not_come_back(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane", broker="embedded")
    topic = topics.chunk(DIGEST, 0)
    try:
        with connected(plane, tmp_path, plane.broker.port) as connection:
            mailbox = Mailbox(connection, once=True)
            mailbox.subscribe([topic])
            plane.publish(topic, b"piece")
            assert mailbox.receive(WAIT_S) == (topic, b"piece")
            # Nobody waits now, and what comes is brought all the same.
            came = threading.Event()
            other = topics.chunk(DIGEST, 1)
            connection.subscribe([other], lambda *_: came.set())
            plane.publish(other, b"another")
            assert came.wait(WAIT_S)
            began_s = time.monotonic()
            assert mailbox.receive(2 * HELP_S) is None
            assert time.monotonic() - began_s >= 2 * HELP_S
    finally:
        plane.close()


def test_a_helper_gets_what_another_connection_brings(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane", broker="embedded")
    topic = topics.chunk(DIGEST, 0)
    try:
        with connected(plane, tmp_path, plane.broker.port) as connection:
            mailbox = Mailbox(connection, once=True)
            mailbox.subscribe([topic])
            assert mailbox.receive(0.1) is None
            plane.broker.kick("pi-1")
            plane.publish(topic, b"piece")
            came = wait_for(lambda: mailbox.receive(0.05), "the piece")
            assert came == (topic, b"piece")
    finally:
        plane.close()
