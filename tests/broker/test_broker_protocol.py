"""MQTT 5, clause by clause, on the embedded broker: single packets over plain TCP."""

from __future__ import annotations

import mqtt5
import pytest
from mqtt5 import DisconnectReasonCode, QoS, RetainHandling, Will

from broker.clients import Raw
from waiting import wait_for

ONE = QoS.AT_LEAST_ONCE


# --- CONNECT -------------------------------------------------------------------------------------


def test_the_welcome_tells_the_limits(connect):
    welcome = connect("a", keep_alive=0, session_expiry_interval=0xFFFFFFFF).welcome
    assert welcome.max_qos == ONE
    assert welcome.receive_max == 64
    assert welcome.max_packet_size == 192 * 1024
    assert welcome.topic_alias_max == 0
    assert welcome.server_keep_alive == 300
    assert welcome.session_expiry_interval == 14 * 24 * 3600
    assert not welcome.session_present


def test_an_empty_client_id_is_given_one(connect):
    first, second = connect(""), connect("")
    assert len({first.welcome.assigned_client_id, second.welcome.assigned_client_id, None}) == 3


@pytest.mark.parametrize(
    "packet",
    [
        b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test",
        b"\x10\x12\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x04test",
    ],
    ids=["3.1.1", "3.1"],
)
def test_older_clients_see_unacceptable_protocol_version(plain, packet):
    with Raw(plain) as client:
        client.socket.sendall(packet)
        assert client.socket.recv(100) == b"\x20\x02\x00\x01"
        assert client.socket.recv(100) == b""


def test_paho_3_1_1_sees_unsupported_protocol_version(plain):
    import queue

    import paho.mqtt.client as paho

    reasons = queue.Queue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "old", protocol=paho.MQTTv311)
    client.on_connect = lambda _c, _u, _f, reason, _p: reasons.put(str(reason))
    client.connect(plain.host, plain.port)
    client.loop_start()
    try:
        assert reasons.get(timeout=60) == "Unsupported protocol version"
    finally:
        client.loop_stop()


def test_a_newer_version_is_refused_in_mqtt_5(plain):
    with Raw(plain) as client:
        client.send(b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x00")
        assert client.receive().reason_code == mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        assert client.receive() is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"client_id": "x" * 129}, 0x85),
        ({"will": Will("a\0b", payload=b"")}, 0x81),
        ({"will": Will("a", qos=QoS.EXACTLY_ONCE)}, 0x9B),
        ({"authentication_method": "SCRAM"}, 0x8C),
    ],
    ids=["client id", "will NUL", "will QoS 2", "authentication"],
)
def test_a_connect_that_is_refused(plain, fields, reason):
    with Raw(plain) as client:
        answer = client.connect(**{"client_id": "a"} | fields)
        assert answer.reason_code == reason
        assert client.receive() is None


def test_a_will_with_a_wildcard_is_refused(plain):
    with Raw(plain) as client:
        packet = mqtt5.ConnectPacket("a", clean_start=True, will=Will("a/?", payload=b""))
        client.send(packet.write().replace(b"a/?", b"a/#"))
        assert client.receive().reason_code == mqtt5.ConnAckReasonCode.TOPIC_NAME_INVALID


def test_a_second_connect_ends_the_connection(connect):
    client = connect("a")
    client.send(mqtt5.ConnectPacket("a"))
    assert client.receive().reason_code == DisconnectReasonCode.PROTOCOL_ERROR
    assert client.receive() is None


def test_silence_before_connect_ends_the_connection(open_plain):
    broker = open_plain(connect_timeout_s=0.1)
    with Raw(broker) as client:
        assert client.receive() is None


def test_silence_beyond_the_keep_alive_ends_the_connection(connect):
    watcher, client = (
        connect("watcher"),
        connect("a", keep_alive=1, will=Will("lost", payload=b"a")),
    )
    watcher.subscribe("lost")
    assert client.receive().reason_code == DisconnectReasonCode.KEEP_ALIVE_TIMEOUT
    assert client.receive() is None
    assert watcher.message().payload == b"a"


def test_take_over(connect):
    first = connect("a", session_expiry_interval=60)
    first.subscribe("t")
    second = connect("a", clean_start=False, session_expiry_interval=60)
    assert second.welcome.session_present
    assert first.receive().reason_code == DisconnectReasonCode.SESSION_TAKEN_OVER
    assert first.receive() is None
    connect("b").publish("t", b"for the second")
    assert second.message().payload == b"for the second"


def test_two_names_never_share_a_session(connect):
    first = connect("a", username="one", session_expiry_interval=60)
    first.subscribe("t")
    second = connect("a", username="two", clean_start=False)
    assert not second.welcome.session_present
    assert first.ping() == []


# --- PUBLISH, SUBSCRIBE --------------------------------------------------------------------------


def test_wildcards_and_hidden_topics(connect):
    client, other = connect("a"), connect("b")
    assert client.subscribe("#", "+/x", "$hidden/#") == [1, 1, 1]
    other.publish("one", b"1")
    other.publish("a/x", b"2")
    assert other.publish("$hidden/y", b"no") == 0x87
    received = [client.message().payload for _ in range(2)]
    assert received == [b"1", b"2"]  # one copy, though two filters cover the second
    assert client.ping() == []


def test_properties_travel(connect):
    client, other = connect("a"), connect("b")
    client.subscribe("t", identifier=7)
    other.publish(
        "t",
        b"\x00payload",
        content_type="type",
        response_topic="answer",
        correlation_data=b"\x01",
        payload_format_indicator=0,
        message_expiry_interval=100,
        user_properties=[("a", "1"), ("a", "2")],
    )
    message = client.message()
    assert message.payload == b"\x00payload"
    assert (message.content_type, message.response_topic) == ("type", "answer")
    assert message.correlation_data == b"\x01"
    assert message.user_properties == [("a", "1"), ("a", "2")]
    assert message.subscription_ids == [7]
    assert 98 <= message.message_expiry_interval <= 100


def test_the_quality_is_the_lower_of_both(connect):
    client, other = connect("a"), connect("b")
    assert client.subscribe("zero", max_qos=QoS.AT_MOST_ONCE) == [0]
    assert client.subscribe("one", max_qos=QoS.EXACTLY_ONCE) == [1]
    other.publish("zero")
    other.publish("one", qos=0)
    other.publish("one")
    assert [int(client.message().qos) for _ in range(3)] == [0, 0, 1]


def test_no_local(connect):
    client = connect("a")
    client.subscribe("mine", no_local=True)
    client.subscribe("ours")
    assert client.publish("mine") == 0x10
    client.publish("mine", retain=True)
    client.send(mqtt5.PublishPacket("ours", b"", qos=ONE, packet_id=99))
    assert {type(client.receive()).__name__ for _ in range(2)} == {"PubAckPacket", "PublishPacket"}


def test_retained_messages(connect):
    client, other = connect("a"), connect("b")
    other.publish("r/1", b"1", retain=True)
    other.publish("r/2", b"2", retain=True)
    other.publish("r/2", b"3", retain=True)
    other.publish("r/3", b"gone", retain=True)
    other.publish("r/3", b"", retain=True)
    client.subscribe("r/+")
    messages = [client.message() for _ in range(2)]
    assert sorted((one.topic, one.payload, one.retain) for one in messages) == [
        ("r/1", b"1", True),
        ("r/2", b"3", True),
    ]
    assert client.ping() == []


def test_the_retain_flag_of_what_comes_later(connect):
    """§3.3.1.3: only with retain-as-published."""
    plain, marked, other = connect("a"), connect("b"), connect("c")
    plain.subscribe("t", retain_as_published=False)
    marked.subscribe("t", retain_as_published=True)
    other.publish("t", retain=True)
    assert not plain.message().retain
    assert marked.message().retain


def test_retain_handling(connect):
    client = connect("a")
    client.publish("t", b"kept", retain=True)
    client.subscribe("t", retain_handling=RetainHandling.SEND_NEVER)
    assert client.ping() == []
    client.subscribe("t", retain_handling=RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS)
    assert client.ping() == []
    client.subscribe("t", retain_handling=RetainHandling.SEND_ALWAYS)
    assert client.message().payload == b"kept"
    client.send(mqtt5.UnsubscribePacket(90, ["t", "never"]))
    assert client.receive().reason_codes == [0, 17]
    client.subscribe("t", retain_handling=RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS)
    assert client.message().payload == b"kept"


def test_expired_messages_are_not_delivered(connect):
    client, other = connect("a", session_expiry_interval=60), connect("b")
    client.subscribe("t")
    client.disconnect()
    other.publish("t", b"old", message_expiry_interval=1)
    other.publish("t", b"new", message_expiry_interval=100)
    other.publish("kept", b"old", retain=True, message_expiry_interval=1)
    late = connect("late")

    def expired():
        late.subscribe("kept", max_qos=QoS.AT_MOST_ONCE)
        return late.ping() == []

    wait_for(expired, "the retained message expires")
    again = connect("a", clean_start=False)
    assert again.message().payload == b"new"
    assert again.ping() == []


@pytest.mark.parametrize(
    "pattern",
    ["a/#/b", "a#", "a+/b", "", "$share/g", "$share//t", "$share/+/t", "x" * 513, "/" * 17],
)
def test_filters_that_are_none(connect, pattern):
    client = connect("a")
    items = [mqtt5.TopicFilter(one, max_qos=ONE) for one in ("good", "x" * len(pattern))]
    packet = mqtt5.SubscribePacket(1, items).write()
    # the codec writes no wrong filter: it is put in by hand
    client.send(packet.replace(b"x" * len(pattern), pattern.encode(), 1) if pattern else packet)
    assert client.receive().reason_codes == [1, 0x8F]
    assert client.ping() == []


def test_too_many_subscriptions(connect):
    client = connect("a")
    for start in range(0, 64, 8):
        assert client.subscribe(*(f"t/{start + n}" for n in range(8))) == [1] * 8
    assert client.subscribe("one/more", "t/0") == [0x97, 1]


# --- shared subscriptions ------------------------------------------------------------------------


def test_shared_subscriptions_take_turns(connect):
    workers, watcher, other = [connect("a"), connect("b")], connect("c"), connect("d")
    for worker in workers:
        assert worker.subscribe("$share/group/jobs/#") == [1]
    watcher.subscribe("jobs/#")
    for number in range(10):
        assert other.publish(f"jobs/{number}", b"%d" % number) == 0
    counts = [len(worker.ping()) for worker in workers]
    assert counts == [5, 5]
    assert len(watcher.ping()) == 10


def test_shared_work_of_a_vanished_worker_goes_to_another(connect):
    leaver, stayer, other = connect("a"), connect("b"), connect("c")
    leaver.subscribe("$share/group/jobs")
    stayer.subscribe("$share/group/jobs")
    for number in range(10):
        other.publish("jobs", b"%d" % number)
    assert len(leaver.ping()) == 5  # not acknowledged
    leaver.die()
    received = {stayer.message().payload for _ in range(10)}
    assert received == {b"%d" % number for number in range(10)}


def test_retained_messages_are_not_shared(connect):
    client = connect("a")
    client.publish("t", retain=True)
    client.subscribe("$share/g/t")
    assert client.ping() == []


def test_a_shared_subscription_cannot_be_no_local(connect):
    client = connect("a")
    client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("$share/g/t", no_local=True)]))
    assert client.receive().reason_code == DisconnectReasonCode.PROTOCOL_ERROR


# --- flow control --------------------------------------------------------------------------------


def test_the_client_limits_what_is_in_flight(connect):
    client, other = connect("a", receive_max=2), connect("b")
    client.subscribe("t")
    for number in range(5):
        other.publish("t", b"%d" % number)
    first = client.ping()
    assert [one.payload for one in first] == [b"0", b"1"]
    client.send(mqtt5.PubAckPacket(first[0].packet_id))
    assert [one.payload for one in client.ping()] == [b"2"]


def test_a_window_that_shrinks_on_reconnect(connect):
    client, other = connect("a", session_expiry_interval=60), connect("b")
    client.subscribe("t")
    for number in range(6):
        other.publish("t", b"%d" % number)
    ids = [one.packet_id for one in client.ping()]
    assert len(ids) == 6
    client.die()
    again = connect("a", clean_start=False, session_expiry_interval=60, receive_max=2)
    received = []
    for expected in ids:
        message = again.message()
        assert (message.duplicate, message.packet_id) == (True, expected)
        received.append(message.payload)
    assert received == [b"%d" % number for number in range(6)]


def test_packets_that_the_client_would_not_take_are_left_out(connect):
    client, other = connect("a", max_packet_size=100), connect("b")
    client.subscribe("t")
    other.publish("t", b"x" * 200)
    other.publish("t", b"small")
    assert client.message().payload == b"small"


def test_more_in_flight_than_allowed_ends_the_connection(open_plain, connect):
    """Acknowledgements wait for the disk, which is made to wait here."""
    broker = open_plain(receive_max=4)
    client = connect("a", broker)
    state = broker.thread._broker.exchange.state
    content = b"".join(
        mqtt5.PublishPacket("t", b"x", qos=ONE, retain=True, packet_id=number).write()
        for number in range(1, 6)
    )
    commit = state._commit
    state._commit = lambda _changes: False
    client.send(content)
    assert client.receive().reason_code == DisconnectReasonCode.RECEIVE_MAX_EXCEEDED
    state._commit = commit


# --- wills ---------------------------------------------------------------------------------------


@pytest.fixture
def watcher(connect):
    client = connect("watcher")
    client.subscribe("will/#")
    return client


def test_a_will_with_goodbye_and_reason_4(connect, watcher):
    connect("a", will=Will("will/a", payload=b"silent")).disconnect()
    connect("b", will=Will("will/b", payload=b"said")).disconnect(
        reason_code=DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE
    )
    assert watcher.message().payload == b"said"


def test_a_will_after_a_violation(connect, watcher):
    client = connect("a", will=Will("will/a", payload=b"broken"))
    client.send(b"\x00\x00")
    assert watcher.message().payload == b"broken"


def test_a_delayed_will_is_withdrawn_when_the_client_returns(connect, watcher):
    will = Will("will/a", payload=b"late", will_delay_interval=1)
    connect("a", will=will, session_expiry_interval=60).die()
    back = connect("a", clean_start=False, session_expiry_interval=60)
    connect("b", will=Will("will/b", payload=b"late", will_delay_interval=1),
            session_expiry_interval=60).die()  # fmt: skip
    assert watcher.message().topic == "will/b"
    assert watcher.ping() == []
    assert back.ping() == []


def test_a_delayed_will_comes_at_once_when_the_session_ends(connect, watcher):
    will = Will("will/a", payload=b"now", will_delay_interval=1000)
    connect("a", will=will).die()
    assert watcher.message().payload == b"now"
    connect("b", will=will, session_expiry_interval=60).die()
    connect("b", clean_start=True)
    assert watcher.message().payload == b"now"


def test_take_over_publishes_the_will(connect, watcher):
    connect("a", will=Will("will/a", payload=b"taken over"))
    connect("a")
    assert watcher.message().payload == b"taken over"


def test_sessions_expire(connect):
    client, other = connect("a", session_expiry_interval=1), connect("b")
    client.subscribe("t")
    client.disconnect()
    wait_for(lambda: other.publish("t") == 0x10, "nobody subscribes any more")
    again = connect("a", clean_start=False)
    assert not again.welcome.session_present


def test_a_disconnect_may_shorten_the_session_but_not_found_one(connect):
    client = connect("a", session_expiry_interval=60)
    client.subscribe("t")
    client.disconnect(session_expiry_interval=0)
    assert not connect("a", clean_start=False).welcome.session_present
    client = connect("b")
    client.send(mqtt5.DisconnectPacket(session_expiry_interval=60))
    assert client.receive().reason_code == DisconnectReasonCode.PROTOCOL_ERROR


# --- rules checked again -------------------------------------------------------------------------


def test_rules_are_asked_again_when_a_session_resumes(open_plain, connect):
    forbidden = set()
    broker = open_plain(lambda _name, _action, topic: topic not in forbidden)
    client = connect("a", broker, session_expiry_interval=60)
    other = connect("b", broker)
    client.subscribe("one", "two")
    client.disconnect()
    other.publish("one", b"1")
    other.publish("two", b"2")
    forbidden.add("one")
    again = connect("a", broker, clean_start=False, session_expiry_interval=60)
    assert again.message().payload == b"2"
    forbidden.clear()
    assert other.publish("one", b"no") == 0x10  # the subscription is gone too
    assert again.ping() == []


def test_a_will_on_a_forbidden_topic_is_refused(open_plain):
    broker = open_plain(lambda _name, action, topic: (action, topic) != ("publish", "t"))
    with Raw(broker) as client:
        answer = client.connect("a", will=Will("t", payload=b""))
        assert answer.reason_code == mqtt5.ConnAckReasonCode.NOT_AUTHORIZED
