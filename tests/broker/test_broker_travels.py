"""What reaches whom, and with what: the cases of paho.mqtt.testing, packet by packet.

`interoperability.py` runs that suite from a checkout; these say the same of the embedded broker
without one, and more exactly: which fields, how often, in which order.
"""

from __future__ import annotations

import time

import mqtt5
import pytest
from mqtt5 import QoS, Will

from waiting import wait_for

ZERO, ONE = QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE


def unsubscribe(client, *patterns):
    client.send(mqtt5.UnsubscribePacket(client.packet_id(), list(patterns)))
    return client.receive().reason_codes


@pytest.mark.parametrize("clean_start", [True, False])
def test_without_a_client_id_a_session_begins(connect, clean_start):
    client = connect("", clean_start=clean_start)
    assert client.welcome.assigned_client_id
    assert not client.welcome.session_present


def test_overlapping_subscriptions_are_one_copy_with_every_identifier(connect):
    client, other = connect("a"), connect("b")
    client.subscribe("t/#", identifier=2, max_qos=ZERO)
    client.subscribe("t/+", identifier=3)
    client.subscribe("t/x")  # without an identifier
    other.publish("t/x", b"once")
    message = client.message()
    assert (message.payload, message.qos) == (b"once", ONE)
    assert sorted(message.subscription_ids) == [2, 3]
    assert client.ping() == []


def test_the_largest_identifier_travels_and_the_newest_counts(connect):
    client, other = connect("a"), connect("b")
    other.publish("t", b"kept", retain=True)
    client.subscribe("t", identifier=1)
    assert client.message().subscription_ids == [1]
    client.subscribe("t", identifier=268_435_455)
    assert client.message().subscription_ids == [268_435_455]
    other.publish("t")
    assert client.message().subscription_ids == [268_435_455]
    client.subscribe("t")
    assert client.message().subscription_ids == []


def test_an_ended_subscription_brings_nothing_and_the_others_go_on(connect):
    client, other = connect("a"), connect("b")
    client.subscribe("a", "a/b", "c")
    assert unsubscribe(client, "a", "never") == [0, 0x11]
    for topic in ("a", "a/b", "c"):
        other.publish(topic, topic.encode())
    assert [client.message().payload for _ in range(2)] == [b"a/b", b"c"]
    assert client.ping() == []


def test_what_is_on_its_way_still_comes_after_the_subscription_has_ended(connect):
    client, other = connect("a", receive_max=1), connect("b")
    client.subscribe("t")
    for payload in (b"1", b"2"):
        other.publish("t", payload)
    first = client.message(acknowledge=False)
    assert unsubscribe(client, "t") == [0]
    client.send(mqtt5.PubAckPacket(first.packet_id))
    assert client.message().payload == b"2"
    assert client.ping() == []


@pytest.mark.parametrize("retain", [False, True])
def test_every_property_of_a_publication_travels(connect, retain):
    client, other = connect("a"), connect("b")
    if not retain:
        client.subscribe("t")
    other.publish(
        "t",
        "ä".encode(),
        retain=retain,
        payload_format_indicator=1,
        content_type="My name",
        response_topic="answer/to/b",
        correlation_data=b"334\x00",
        user_properties=[("a", "2"), ("c", "3"), ("a", "1")],
    )
    if retain:
        client.subscribe("t")
    message = client.message()
    assert message.payload_format_indicator == 1
    assert message.content_type == "My name"
    assert message.user_properties == [("a", "2"), ("c", "3"), ("a", "1")]
    other.subscribe("answer/to/b")
    client.publish(message.response_topic, b"answer", correlation_data=message.correlation_data)
    assert other.message().correlation_data == b"334\x00"


def test_every_property_of_a_will_travels(connect):
    will = Will(
        "will",
        payload=b"gone",
        qos=ONE,
        retain=True,
        payload_format_indicator=1,
        content_type="text",
        response_topic="answer",
        correlation_data=b"1",
        message_expiry_interval=100,
        user_properties=[("a", "2"), ("c", "3")],
    )
    connect("a", will=will).die()
    late = connect("late")

    def retained():
        late.subscribe("will", max_qos=ZERO)
        return late.ping()

    wait_for(retained, "the will is published")
    late.subscribe("will")
    message = late.message()
    assert (message.payload, message.qos, message.retain) == (b"gone", ONE, True)
    assert message.payload_format_indicator == 1
    assert (message.content_type, message.response_topic) == ("text", "answer")
    assert message.correlation_data == b"1"
    assert message.user_properties == [("a", "2"), ("c", "3")]
    assert 98 <= message.message_expiry_interval <= 100


def test_a_will_comes_when_its_delay_or_its_session_has_ended(connect):
    """§3.1.3.2.2: whichever is first."""
    watcher = connect("watcher")
    watcher.subscribe("will/+")
    for name, delay, expiry in (("delay", 1, 60), ("expiry", 60, 1)):
        will = Will(f"will/{name}", payload=b"gone", will_delay_interval=delay)
        client = connect(name, will=will, session_expiry_interval=expiry)
        began = time.monotonic()
        client.die()
        assert watcher.message().topic == f"will/{name}"
        assert 0.9 < time.monotonic() - began < 10


def test_a_disconnect_may_prolong_a_session_that_was_to_outlive_its_connection(connect):
    client = connect("a", session_expiry_interval=1)
    client.subscribe("t")
    client.disconnect(session_expiry_interval=60)
    other = connect("b")
    began = time.monotonic()

    def later():
        assert other.publish("t") == 0, "the session has ended"
        return time.monotonic() - began > 1.5

    wait_for(later)
    assert connect("a", clean_start=False).welcome.session_present


def test_qos_0_needs_no_place_in_the_window_and_keeps_its_order(connect):
    client, other = connect("a", receive_max=1), connect("b")
    client.subscribe("t")
    other.publish("t", b"1")
    first = client.message(acknowledge=False)
    other.publish("t", b"zero", qos=0)
    assert client.message().payload == b"zero"
    other.publish("t", b"2")
    assert client.ping() == []
    client.send(mqtt5.PubAckPacket(first.packet_id))
    assert client.message().payload == b"2"


def test_an_acknowledgement_of_nothing_ends_nothing(connect):
    client, other = connect("a"), connect("b")
    client.subscribe("t")
    for number in (1, 77, 65535):
        client.send(mqtt5.PubAckPacket(number))
    other.publish("t", b"good")
    message = client.message()
    client.send(mqtt5.PubAckPacket(message.packet_id))  # a second time
    assert client.ping() == []


def test_a_refusal_by_the_client_is_an_acknowledgement(connect):
    """§4.4: the message is not sent again."""
    client, other = connect("a", session_expiry_interval=60), connect("b")
    client.subscribe("t")
    other.publish("t")
    message = client.message(acknowledge=False)
    client.send(
        mqtt5.PubAckPacket(message.packet_id, reason_code=mqtt5.PubAckReasonCode.NOT_AUTHORIZED)
    )
    client.ping()
    client.die()
    again = connect("a", clean_start=False, session_expiry_interval=60)
    assert again.welcome.session_present
    assert again.ping() == []


def test_a_longer_keep_alive_than_ours_is_answered_with_ours(open_plain, connect):
    broker = open_plain(keep_alive_s_max=60)
    assert connect("a", broker, keep_alive=120).welcome.server_keep_alive == 60
    assert connect("b", broker, keep_alive=0).welcome.server_keep_alive == 60
    assert connect("c", broker, keep_alive=30).welcome.server_keep_alive is None
