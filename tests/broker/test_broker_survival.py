"""What is left after kill -9: everything that the broker has acknowledged."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import mqtt5
import pytest
from mqtt5 import QoS, Will

from broker.clients import Peer, Raw
from broker.conftest import start_broker
from edgectl_broker import BrokerSettings, BrokerThread, StateUnusable
from waiting import wait_for

_clients = []


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    while _clients:
        _clients.pop().die()


def connected(broker, client_id, **fields):
    client = Raw(broker)
    _clients.append(client)
    client.welcome = client.connect(client_id, **fields)
    assert client.welcome.reason_code == 0
    return client


def test_retained_messages_and_sessions(killable):
    broker = killable()
    device = connected(broker, "device", session_expiry_interval=600)
    server = connected(broker, "server", username="server")
    device.subscribe("down/#")
    for number in range(30):
        server.publish("down/x", b"%d" % number)
    in_flight = [device.message(acknowledge=False) for _ in range(20)]
    for message in in_flight[:5]:
        device.send(mqtt5.PubAckPacket(message.packet_id))
    more = [device.message(acknowledge=False) for _ in range(5)]
    for number in range(100):
        server.publish(f"blob/{number}", b"%d" % number * 30000, retain=True)
    server.publish("blob/0", b"", retain=True)
    broker.kill()

    broker = killable()
    with connected(broker, "device", clean_start=False, session_expiry_interval=600) as device:
        assert device.welcome.session_present
        again = [device.message() for _ in range(25)]
        assert [one.payload for one in again] == [b"%d" % number for number in range(5, 30)]
        ids = [one.packet_id for one in [*in_flight[5:], *more]]
        assert [one.packet_id for one in again[:20]] == ids
        assert all(one.duplicate for one in again[:20])
        assert device.ping() == []
    with connected(broker, "other") as other:
        other.subscribe("blob/#")
        blobs = {one.topic: one.payload for one in (other.message() for _ in range(99))}
        assert blobs == {f"blob/{n}": b"%d" % n * 30000 for n in range(1, 100)}
        assert other.ping() == []


def test_what_was_acknowledged_is_there_wherever_the_kill_comes(killable):
    """Publish without pause, kill in the middle: every acknowledged message is delivered."""
    for kill_after in (3, 40, 150):
        broker = killable()
        device = connected(broker, "device", session_expiry_interval=600)
        device.subscribe(f"{kill_after}/#")
        device.die()
        publisher = connected(broker, "server", username="server")
        sent = acknowledged = 0
        while acknowledged < kill_after:
            while sent - acknowledged < 20:
                sent += 1
                packet = mqtt5.PublishPacket(
                    f"{kill_after}/{sent}",
                    b"x" * 2000,
                    qos=QoS.AT_LEAST_ONCE,
                    packet_id=sent,
                    retain=True,
                )
                publisher.send(packet)
            answer = publisher.receive()
            acknowledged += 1
            assert answer.packet_id == acknowledged
        broker.kill()
        broker = killable()
        with connected(broker, "device", clean_start=False, session_expiry_interval=600) as device:
            received = [device.message().topic for _ in range(acknowledged)]
            assert received == [f"{kill_after}/{number}" for number in range(1, acknowledged + 1)]
        with connected(broker, "late") as late:
            late.subscribe(f"{kill_after}/+")
            topics = {late.message().topic for _ in range(acknowledged)}
            assert len(topics) == acknowledged
        with connected(broker, "device", clean_start=True):
            pass
        broker.kill()


def test_retained_messages_on_their_way(killable):
    """What a subscription was promised comes after the kill, from the retained store."""
    broker = killable()
    server = connected(broker, "server", username="server")
    for number in range(40):
        server.publish(f"r/{number:02}", b"%d" % number, retain=True)
    device = connected(broker, "device", session_expiry_interval=600)
    device.subscribe("r/+")
    got = {device.message(acknowledge=False).topic for _ in range(20)}
    device.send(mqtt5.UnsubscribePacket(99, ["r/+"]))
    while not isinstance(device.receive(), mqtt5.UnsubAckPacket):
        pass
    broker.kill()
    broker = killable()
    with connected(broker, "device", clean_start=False) as device:
        again = [device.message() for _ in range(40)]
        assert {one.topic for one in again} == {f"r/{number:02}" for number in range(40)}
        assert {one.topic for one in again if one.duplicate} == got


def test_the_will_of_a_client_that_does_not_return(killable):
    broker = killable()
    will = Will("will", payload=b"gone", qos=QoS.AT_LEAST_ONCE, retain=True)
    dead = connected(broker, "dead", will=will, session_expiry_interval=600)
    dead.subscribe("x")
    broker.kill()
    broker = killable()
    with connected(broker, "watcher") as watcher:
        watcher.subscribe("will")
        assert watcher.message().payload == b"gone"


def test_one_state_serves_one_broker(plain, tmp_path):
    settings = plain.thread._settings
    second = BrokerThread(BrokerSettings(state=settings.state, tls=None, port=0), lambda *_: True)
    with pytest.raises(StateUnusable, match="any other broker"):
        second.start()


def test_a_state_of_another_version_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "broker.sqlite3")
    connection.execute("PRAGMA user_version=77")
    connection.close()
    thread = BrokerThread(BrokerSettings(state=tmp_path, tls=None, port=0), lambda *_: True)
    with pytest.raises(StateUnusable, match="version 77"):
        thread.start()


@pytest.mark.parametrize(
    "content", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_state_is_refused(tmp_path, content):
    (tmp_path / "broker.sqlite3").write_bytes(content)
    thread = BrokerThread(BrokerSettings(state=tmp_path, tls=None, port=0), lambda *_: True)
    with pytest.raises(StateUnusable, match="move it away"):
        thread.start()


def test_a_damaged_row_is_refused(plain, tmp_path):
    with connected(plain, "a", username="server") as client:
        client.publish("t", retain=True)
    plain.thread.stop()
    state = plain.thread._settings.state
    connection = sqlite3.connect(state / "broker.sqlite3")
    connection.execute("UPDATE retained SET content = x'c1'")
    connection.commit()
    connection.close()
    thread = BrokerThread(BrokerSettings(state=state, tls=None, port=0), lambda *_: True)
    with pytest.raises(StateUnusable, match="damaged"):
        thread.start()


def test_the_state_is_for_its_owner_only(plain):
    state = plain.thread._settings.state
    assert state.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.iterdir())


def test_a_full_disk_delays_acknowledgements_and_loses_nothing(plain, caplog):
    state = plain.thread._broker.exchange.state
    state._connection.execute("PRAGMA max_page_count=1")
    with connected(plain, "a", username="server") as client:
        client.publish("t", b"x" * 60000, retain=True, acknowledged=False)
        wait_for(lambda: "cannot be written" in caplog.text, "the disk is full")
        assert client.ping() == []
        state._connection.execute("PRAGMA max_page_count=1000000")
        assert isinstance(client.receive(), mqtt5.PubAckPacket)


@pytest.mark.mosquitto
def test_mosquitto_is_started_again_when_it_dies(authority, tmp_path):
    running = start_broker("mosquitto", authority, tmp_path)
    try:
        first = running.pid
        running._signal(signal.SIGKILL)
        wait_for(lambda: running.alive and running.pid != first, "a new process")
        peer = Peer("alpha", authority.issue("alpha"))

        def connects():
            try:
                return peer.connect(running) == 0
            except OSError:
                return False

        wait_for(connects, "the new process listens")
        peer.close()
    finally:
        running.stop()
    assert not running.alive


@pytest.mark.mosquitto
def test_mosquitto_dies_with_us(tmp_path):
    program = """
import sys, pathlib, threading
sys.path.insert(0, sys.argv[2])
from broker.conftest import TestAuthority, start_broker
folder = pathlib.Path(sys.argv[1])
running = start_broker("mosquitto", TestAuthority(folder / "pki"), folder / "state")
print(running.pid, flush=True)
threading.Event().wait()
"""
    tests = str(Path(__file__).parent.parent)
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), tests], stdout=subprocess.PIPE
    )
    try:
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
        parent.wait(60)
        wait_for(lambda: not _runs(pid), "mosquitto has ended")
    finally:
        parent.kill()
        parent.wait(60)
        parent.stdout.close()


def _runs(pid):
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
