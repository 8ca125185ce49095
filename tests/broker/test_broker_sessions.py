"""What a client that was away finds: on both brokers, with paho as our agents use it."""

from __future__ import annotations

from broker.clients import Peer
from broker.conftest import start_broker

HOUR_S = 3600


def ack(name):
    return f"edgectl/v1/d/{name}/down/ack"


def state(name):
    return f"edgectl/v1/d/{name}/up/state"


def payloads(messages):
    return [message.payload for message in messages]


def numbers(start, stop):
    return [b"%d" % number for number in range(start, stop)]


def test_what_was_not_acknowledged_comes_again(peer):
    device = peer("resumes", manual_ack=True, expiry_s=HOUR_S)
    server = peer("server")
    assert device.subscribe(ack("resumes")) == 1
    for payload in numbers(0, 30):
        server.publish(ack("resumes"), payload)
    first = [device.next() for _ in range(20)]  # as many as may be in flight
    assert payloads(first) == numbers(0, 20)
    for message in first[:5]:
        device.client.ack(message.mid, message.qos)
    assert payloads(device.next() for _ in range(5)) == numbers(20, 25)
    device.die()

    again = peer("resumes", clean_start=False, expiry_s=HOUR_S)
    assert again.session_present
    received = [again.next() for _ in range(25)]
    assert payloads(received) == numbers(5, 30)
    assert all(message.dup for message in received[:20])


def test_messages_wait_for_a_session_that_is_away(peer):
    device = peer("waits", expiry_s=HOUR_S)
    server = peer("server")
    assert device.subscribe(ack("waits")) == 1
    device.close()
    for payload in numbers(0, 50):
        server.publish(ack("waits"), payload)
    again = peer("waits", clean_start=False, expiry_s=HOUR_S)
    assert again.session_present
    assert payloads(again.next() for _ in range(50)) == numbers(0, 50)


def test_a_clean_start_forgets(peer):
    device = peer("forgets", expiry_s=HOUR_S)
    server = peer("server")
    assert device.subscribe(ack("forgets")) == 1
    device.close()
    server.publish(ack("forgets"), b"old")
    again = peer("forgets", clean_start=True, expiry_s=HOUR_S)
    assert not again.session_present
    assert again.subscribe(ack("forgets")) == 1
    server.publish(ack("forgets"), b"new")
    assert again.next().payload == b"new"


def test_the_last_will_of_a_lost_device(peer, broker, authority):
    server = peer("server")
    assert server.subscribe(state("dies")) == 1
    device = Peer("dies", authority.issue("dies"))
    device.client.will_set(state("dies"), b"offline", qos=1, retain=True)
    assert device.connect(broker) == 0
    device.die()
    assert server.next().payload == b"offline"
    late = peer("server", client_id="server")
    late.subscribe(state("dies"))
    message = late.next()
    assert (message.payload, message.retain) == (b"offline", True)


def test_no_will_after_a_goodbye(peer, broker, authority):
    server = peer("server")
    server.subscribe("edgectl/v1/d/leaves/up/#")
    device = Peer("leaves", authority.issue("leaves"))
    device.client.will_set(state("leaves"), b"offline", qos=1)
    assert device.connect(broker) == 0
    device.publish("edgectl/v1/d/leaves/up/event", b"goodbye")
    device.close()
    again = peer("leaves")
    again.publish("edgectl/v1/d/leaves/up/event", b"again")
    assert payloads(server.next() for _ in range(2)) == [b"goodbye", b"again"]


def test_a_second_connection_takes_over(peer):
    first = peer("moves", expiry_s=HOUR_S)
    assert first.subscribe(ack("moves")) == 1
    second = peer("moves", clean_start=False, expiry_s=HOUR_S)
    assert second.session_present
    assert first.disconnects.get(timeout=60) != 0
    peer("server").publish(ack("moves"), b"for the second")
    assert second.next().payload == b"for the second"
    assert first.messages.empty()


def test_retained_chunks_by_exact_topics_in_a_window(peer):
    """As the agent downloads: subscribe to a window, unsubscribe what has come."""
    server, device = peer("server"), peer("loads", expiry_s=HOUR_S)
    topics = [f"edgectl/v1/blob/{'cd' * 32}/{number}" for number in range(40)]
    chunks = {topic: topic.encode() * 700 for topic in topics}
    for topic, chunk in chunks.items():
        assert server.publish(topic, chunk, retain=True) < 0x80
    received = {}
    for start in range(0, len(topics), 8):
        window = topics[start : start + 8]
        for topic in window:
            assert device.subscribe(topic) == 1
        for message in [device.next() for _ in window]:
            assert message.retain
            received[message.topic] = message.payload
        for topic in window:
            assert device.unsubscribe(topic) == 0
    assert received == chunks
    for topic in topics:
        server.publish(topic, b"", retain=True)
    assert device.subscribe(topics[0]) == 1
    server.publish(topics[0], b"live")
    assert device.next().payload == b"live"


def test_a_stop_keeps_everything(broker_kind, authority, tmp_path):
    def connected(running, name, **options):
        one = Peer(name, authority.issue(name))
        assert one.connect(running, expiry_s=HOUR_S, **options) == 0
        return one

    running = start_broker(broker_kind, authority, tmp_path / "state")
    # Mosquitto 2.0 stores only sessions that were not begun with a clean start.
    device = connected(running, "alpha", clean_start=False)
    server = connected(running, "server")
    assert device.subscribe(ack("alpha")) == 1
    assert server.publish("edgectl/v1/meta/head", b"retained", retain=True) < 0x80
    device.close()
    server.publish(ack("alpha"), b"waiting")
    server.close()
    running.stop()
    running.stop()
    assert not running.alive

    running = start_broker(broker_kind, authority, tmp_path / "state", port=running.port)
    device = connected(running, "alpha", clean_start=False)
    try:
        assert device.session_present
        assert device.next().payload == b"waiting"
        assert device.subscribe("edgectl/v1/meta/head") == 1
        assert device.next().payload == b"retained"
    finally:
        device.close()
        running.stop()
