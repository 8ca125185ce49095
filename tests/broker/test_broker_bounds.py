"""The bounds: the same numbers on both brokers, in the documentation, and in what they do."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import mqtt5
import pytest

from broker.clients import Peer, Raw
from broker.conftest import start_broker
from edgectl_broker import BrokerSettings
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.mosquitto_files import MosquittoLayout, configuration
from waiting import wait_for

BOUNDS = BrokerBounds()
DOCUMENT = Path(__file__).parents[2] / "docs" / "brokers.md"


def lines_of_mosquitto(bounds):
    here = Path("/x")
    layout = MosquittoLayout(
        host="127.0.0.1", port=1, directory=here, certificate=here, key=here, authority=here,
        state=here, log="stderr",
    )  # fmt: skip
    return dict(line.split(" ", 1) for line in configuration(layout, bounds).splitlines() if line)


def test_both_brokers_are_given_the_numbers_that_the_page_shows():
    row = r"^\| `(\w+)` \| `(\w+)` \| ([0-9 ]+).*? \|"
    rows = re.findall(row, DOCUMENT.read_text(), re.MULTILINE)
    assert {ours for ours, *_ in rows} == set(asdict(BOUNDS))
    mosquitto = lines_of_mosquitto(BOUNDS)
    embedded = BrokerSettings(state=Path("/x"), tls=None, **BOUNDS.broker_settings())
    for ours, theirs, shown in rows:
        number = int(shown.replace(" ", ""))
        assert getattr(BOUNDS, ours) == number, ours
        assert int(mosquitto[theirs].rstrip("d")) == number, theirs
        if ours == "session_days_max":
            assert embedded.session_expiry_s_max == number * 86400
        else:
            assert getattr(embedded, ours) == number, ours


def test_a_queue_holds_the_state_of_every_device():
    """Beyond it, Mosquitto drops without a word what the server is to learn when it connects."""
    for connections in (10, 1000, 5000):
        bounds = BrokerBounds.for_connections(connections)
        assert bounds.connections_max == connections
        assert bounds.queue_messages_max > 15 * connections
        assert bounds.queue_bytes_max >= 2048 * bounds.queue_messages_max or connections == 10


@pytest.fixture
def own_broker(broker_kind, authority, tmp_path):
    """A broker with bounds as given."""
    started = []

    def start(**bounds):
        running = start_broker(
            broker_kind, authority, tmp_path / "state", bounds=BrokerBounds(**bounds)
        )
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()


def open_raw(broker, authority, name, **fields):
    one = Raw(broker, files=authority.issue(name))
    return one, one.connect(name, **fields)


@pytest.mark.parametrize("keep_alive", [0, 3600], ids=["none", "an hour"])
def test_clients_are_told_the_bounds(broker, authority, keep_alive):
    one, answer = open_raw(broker, authority, "alpha", keep_alive=keep_alive)
    one.socket.close()
    assert answer.server_keep_alive == BOUNDS.keep_alive_s_max
    assert answer.max_packet_size == BOUNDS.packet_bytes_max
    assert answer.max_qos == mqtt5.QoS.AT_LEAST_ONCE
    assert answer.topic_alias_max == 0


@pytest.mark.parametrize("excess", [0, 10])  # Mosquitto does not count the first five bytes
def test_the_longest_packet(broker, authority, peer, excess):
    server = peer("server")
    server.subscribe("edgectl/v1/d/alpha/up/event")
    alpha, answer = open_raw(broker, authority, "alpha")
    assert answer.reason_code == 0
    topic = "edgectl/v1/d/alpha/up/event"
    around = len(mqtt5.PublishPacket(topic, b"", qos=mqtt5.QoS(1), packet_id=1).write()) + 2
    packet = mqtt5.PublishPacket(
        topic,
        b"x" * (BOUNDS.packet_bytes_max - around + excess),
        qos=mqtt5.QoS(1),
        packet_id=1,
    ).write()
    assert len(packet) == BOUNDS.packet_bytes_max + excess
    with alpha.socket:
        try:
            alpha.send(packet)
            answer = alpha.receive()
        except OSError:  # hung up on before it had sent all
            answer = None
    if excess:
        assert answer is None or answer.reason_code == mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE
        assert server.publish("edgectl/v1/meta/end") < 0x80
        assert server.messages.empty()
    else:
        assert isinstance(answer, mqtt5.PubAckPacket)
        assert len(server.next().payload) > BOUNDS.packet_bytes_max - 100


def test_publications_in_flight(broker, authority, peer):
    server = peer("server")
    alpha, _ = open_raw(broker, authority, "alpha", receive_max=65535)
    alpha.subscribe("edgectl/v1/d/alpha/down/#")
    for _ in range(BOUNDS.in_flight_max + 10):
        server.publish("edgectl/v1/d/alpha/down/ack")
    got = [alpha.message(acknowledge=False) for _ in range(BOUNDS.in_flight_max)]
    assert alpha.ping() == []
    alpha.send(mqtt5.PubAckPacket(got[0].packet_id))
    assert isinstance(alpha.receive(), mqtt5.PublishPacket)
    alpha.socket.close()


def test_what_waits_for_a_client_that_is_away(own_broker, authority):
    running = own_broker(queue_messages_max=50)
    alpha, _ = open_raw(running, authority, "alpha", session_expiry_interval=600)
    alpha.subscribe("edgectl/v1/d/alpha/down/#")
    alpha.disconnect()
    server = Peer("server", authority.issue("server"))
    assert server.connect(running) == 0
    for number in range(200):
        server.publish("edgectl/v1/d/alpha/down/ack", b"%d" % number)
    alpha, answer = open_raw(running, authority, "alpha", clean_start=False)
    assert answer.session_present
    server.publish("edgectl/v1/d/alpha/down/ack", b"end")
    got = [alpha.message().payload]
    while got[-1] != b"end":
        got.append(alpha.message().payload)
    server.close()
    alpha.socket.close()
    assert 50 <= len(got) - 1 <= 50 + BOUNDS.in_flight_max


def test_connections(own_broker, authority):
    running = own_broker(connections_max=12)
    names = [f"device-{number}" for number in range(12)]
    opened = [open_raw(running, authority, name) for name in names]
    assert all(answer.reason_code == 0 for _, answer in opened)

    def enters():
        try:
            one, answer = open_raw(running, authority, "one-more")
        except (OSError, TypeError):  # the handshake is cut
            return False
        one.socket.close()
        return answer is not None and answer.reason_code == 0

    assert not enters()
    opened.pop()[0].socket.close()
    wait_for(enters, "a place becomes free")
    for one, _ in opened:
        assert one.ping() == []  # nobody who was there was put out for it
        one.socket.close()
