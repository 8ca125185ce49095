"""The broker's pure parts, and its files."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt5 import QoS

from broker.clients import Raw
from edgectl_broker import BrokerSettings, BrokerThread, CannotListen
from edgectl_broker.messages import Delivery, Message, SessionKey
from edgectl_broker.session import Session
from edgectl_broker.topics import FilterTree, TopicTree, check_filter, check_topic
from edgectl_protocol.topics import ACCESS, matches
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.mosquitto_files import (
    MosquittoLayout,
    access_rules,
    configuration,
)
from edgectl_server.errors import Unavailable
from waiting import wait_for

LEVEL = st.sampled_from(["a", "b", "", "$s"])
TOPICS = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw):
    levels = draw(st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4))
    if draw(st.booleans()):
        levels.append("#")
    return "/".join(levels)


@given(st.lists(filters().filter(bool), max_size=12, unique=True), st.lists(TOPICS, max_size=8))
def test_both_trees_match_as_the_protocol_says(patterns, topics):
    tree, known = FilterTree(), TopicTree()
    for pattern in patterns:
        tree.put(pattern, "key", pattern)
    for topic in topics:
        known.add(topic)
    for topic in topics:
        assert Counter(tree.match(topic)) == Counter(p for p in patterns if matches(p, topic))
    for pattern in patterns:
        expected = Counter({topic: 1 for topic in topics if matches(pattern, topic)})
        assert Counter(known.covered_by(pattern)) == expected
    for pattern in patterns:
        tree.drop(pattern, "key")
    for topic in topics:
        known.discard(topic)
    assert tree._root.children == {}
    assert list(known.covered_by("#")) == []


@given(filters().filter(bool))
def test_every_filter_is_accepted_and_only_names_are_topics(pattern):
    limits = BrokerSettings(state=None, tls=None)
    assert check_filter(pattern, limits) == ("", pattern)
    if set(pattern) & set("+#"):
        with pytest.raises(Exception, match="wildcard"):
            check_topic(pattern, limits)
    else:
        assert check_topic(pattern, limits) == pattern


def test_packet_identifiers_are_reused_but_never_while_in_use(tmp_path):
    session = Session(SessionKey("a", "a"), BrokerSettings(state=tmp_path, tls=None))
    message = Message(
        number=1, topic="t", payload=b"", qos=1, retain=False, publisher=SessionKey("b", "b")
    )

    def send(sequence):
        session.enqueue(
            Delivery(sequence=sequence, topic="t", message=message, qos=1, retain=False)
        )
        return session.take()[0].packet_id

    kept = send(0)
    seen = set()
    for sequence in range(1, 70_000):
        packet_id = send(sequence)
        assert packet_id != kept
        assert 1 <= packet_id <= 65535
        seen.add(packet_id)
        assert session.acknowledge(packet_id) is not None
        assert session.acknowledge(packet_id) is None
    assert len(seen) == 65534


def rows(broker):
    broker.thread.stop()
    connection = sqlite3.connect(broker.thread._settings.state / "broker.sqlite3")
    tables = ("retained", "session", "message", "delivery")
    counts = {
        table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables
    }
    connection.close()
    return counts


def test_a_message_for_many_is_stored_once_and_goes_with_the_last(open_plain):
    broker = open_plain()
    names = [f"c{number}" for number in range(5)]
    for name in names:
        with Raw(broker) as client:
            client.connect(name, session_expiry_interval=600)
            client.subscribe("t")
    with Raw(broker) as server:
        server.connect("server", username="server")
        server.publish("t", b"x" * 60000)
    connection_state = broker.thread._settings.state
    assert rows(broker) == {"retained": 0, "session": 5, "message": 1, "delivery": 5}
    broker = open_plain(state=connection_state)
    for name in names:
        with Raw(broker) as client:
            client.connect(name, clean_start=False, session_expiry_interval=600)
            assert client.message().payload == b"x" * 60000
            client.ping()
            client.disconnect(session_expiry_interval=0)
    wait_for(lambda: not broker.thread._broker.exchange.sessions, "the sessions have ended")
    assert rows(broker) == dict.fromkeys(("retained", "session", "message", "delivery"), 0)


def test_cleared_messages_give_the_disk_back(open_plain):
    broker = open_plain()
    with Raw(broker) as server:
        server.connect("server", username="server")
        for number in range(100):
            server.publish(f"b/{number}", bytes(65536), retain=True)
        for number in range(100):
            server.publish(f"b/{number}", b"", retain=True)
        server.publish("small", b"x", retain=True)
    assert rows(broker)["retained"] == 1
    size = (broker.thread._settings.state / "broker.sqlite3").stat().st_size
    assert size < 2 * 1024 * 1024


def test_a_session_without_expiry_leaves_nothing(open_plain):
    broker = open_plain()
    with Raw(broker) as client:
        client.connect("a")
        client.subscribe("t")
        client.publish("else")
    assert rows(broker) == dict.fromkeys(("retained", "session", "message", "delivery"), 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "example.org", "::"])
def test_without_tls_only_on_loopback(tmp_path, host):
    settings = BrokerSettings(state=tmp_path / "state", tls=None, host=host, port=0)
    with pytest.raises(CannotListen, match="loopback"):
        BrokerThread(settings, lambda *_: True).start()


def test_a_refused_client_that_reads_all_that_was_written_is_not_cut_afterwards(open_plain, caplog):
    """What is closed with a full buffer is lost when that has drained; cutting it then is an error.

    It was one in the event loop, seen in its log alone.
    """
    broker = open_plain(close_timeout_s=0.2)
    with Raw(broker, receive_buffer=4096) as client:
        client.connect("a")
        for number in range(40):
            client.send(
                mqtt5.PublishPacket(
                    f"big/{number}", bytes(60_000), retain=True, qos=QoS.AT_MOST_ONCE
                )
            )
        client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("big/#")]))
        client.send(b"\xf0\x00" * 8)  # malformed: refused while much is on its way
        with contextlib.suppress(OSError):
            while client.socket.recv(65536):
                pass
    loop = broker.thread._loop
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.6), loop).result(30)  # past every timer
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_stopping_says_goodbye_and_keeps_wills_for_the_next_start(open_plain):
    broker = open_plain()
    with Raw(broker) as client:
        client.connect("a", session_expiry_interval=60, will=mqtt5.Will("w", payload=b"x"))
        broker.thread.stop()
        broker.thread.stop()
        reason = client.receive().reason_code
        assert reason == mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN
        assert client.receive() is None
    assert rows(broker)["session"] == 1


def test_the_access_rules_are_the_protocols():
    text = access_rules()
    device = [line for line in text.splitlines() if line.startswith("pattern")]
    assert len(device) == sum(rule.who == "device" for rule in ACCESS)
    for rule in ACCESS:
        verb = {"publish": "write", "subscribe": "read"}[rule.action]
        kind = "pattern" if rule.who == "device" else "topic"
        assert f"{kind} {verb} {rule.pattern}\n" in text


@pytest.mark.parametrize("host", ["127.0.0.1\nallow_anonymous true", "127.0.0.1 x"])
def test_no_value_breaks_out_of_the_configuration(tmp_path, host):
    layout = MosquittoLayout(
        host=host, port=1, directory=tmp_path, certificate=tmp_path, key=tmp_path,
        authority=tmp_path, state=tmp_path, log="stderr",
    )  # fmt: skip
    with pytest.raises(Unavailable):
        configuration(layout, BrokerBounds())
    layout = replace(layout, host="127.0.0.1", directory=Path("/x\nallow_anonymous true"))
    with pytest.raises(Unavailable):
        configuration(layout, BrokerBounds())
