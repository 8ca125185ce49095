"""Who may do what: one matrix, the same on the embedded broker and on Mosquitto."""

from __future__ import annotations

import itertools

import pytest

from edgectl_protocol.topics import allowed

NOT_AUTHORIZED = 0x87
BLOB = "edgectl/v1/blob/" + "ab" * 32

# who, topic, allowed
PUBLISH = [
    ("alpha", "edgectl/v1/d/alpha/up/state", True),
    ("alpha", "edgectl/v1/d/alpha/up/telemetry", True),
    ("alpha", "edgectl/v1/d/alpha/up/event", True),
    ("alpha", "edgectl/v1/d/alpha/up/seed", True),
    ("alpha", "edgectl/v1/d/alpha/up", False),
    ("alpha", "edgectl/v1/d/alpha/up/filling-1", False),
    ("alpha", "edgectl/v1/d/alpha/up/state/filling-1", False),
    ("alpha", "edgectl/v1/d/beta/up/state", False),
    ("alpha", "edgectl/v1/d/alpha/down/order", False),
    ("alpha", "edgectl/v1/d/beta/down/order", False),
    ("alpha", "edgectl/v1/d/alpha/down/cmd", False),
    ("alpha", "edgectl/v1/d/server/up/state", False),
    ("alpha", "edgectl/v1/meta/head", False),
    ("alpha", f"{BLOB}/0", False),
    ("alpha", "edgectl/v1/d/alpha", False),
    ("alpha", "edgectl/v1/d//up/state", False),
    ("alpha", "edgectl/v1/d/ALPHA/up/state", False),
    ("alpha", "other/topic", False),
    ("alpha", "$SYS/broker/clients", False),
    ("alp", "edgectl/v1/d/alpha/up/state", False),
    ("server", "edgectl/v1/d/alpha/down/order", True),
    ("server", "edgectl/v1/d/alpha/down/ack", True),
    ("server", "edgectl/v1/d/alpha/down/cmd", True),
    ("server", "edgectl/v1/meta/head", True),
    ("server", f"{BLOB}/0", True),
    ("server", "edgectl/v1/d/alpha/up/state", False),
    ("server", "edgectl/v1/d/server/up/state", False),
    ("server", "edgectl/v1", False),
    ("server", "other/topic", False),
]

# who, filter, topic that the server publishes to, received
SUBSCRIBE = [
    ("alpha", "edgectl/v1/d/alpha/down/order", "edgectl/v1/d/alpha/down/order", True),
    ("alpha", "edgectl/v1/d/alpha/down/+", "edgectl/v1/d/alpha/down/order", True),
    ("alpha", "edgectl/v1/d/beta/down/order", "edgectl/v1/d/beta/down/order", False),
    ("alpha", "edgectl/v1/d/+/down/order", "edgectl/v1/d/beta/down/order", False),
    ("alpha", "edgectl/v1/#", "edgectl/v1/d/beta/down/order", False),
    ("alpha", "#", "edgectl/v1/d/beta/down/order", False),
    ("alpha", "+/v1/d/beta/down/order", "edgectl/v1/d/beta/down/order", False),
    ("alpha", "$share/g/edgectl/v1/d/beta/down/#", "edgectl/v1/d/beta/down/order", False),
    ("alpha", "edgectl/v1/meta/head", "edgectl/v1/meta/head", True),
    ("alpha", "edgectl/v1/meta/#", "edgectl/v1/meta/timestamp", True),
    ("alpha", f"{BLOB}/3", f"{BLOB}/3", True),
    ("server", "edgectl/v1/#", "edgectl/v1/d/beta/down/order", True),
    ("server", "edgectl/v1/meta/+", "edgectl/v1/meta/head", True),
]


def same_as_table(who, action, topic, expected):
    assert allowed(who, action, topic) is expected


@pytest.mark.parametrize(("who", "topic", "expected"), PUBLISH)
def test_publish(peer, who, topic, expected):
    same_as_table(who, "publish", topic, expected)
    client = peer(who)
    reason = client.publish(topic, b"")
    assert (reason < 0x80) is expected, hex(reason)
    assert expected or reason == NOT_AUTHORIZED


@pytest.mark.parametrize("retained", [False, True], ids=["live", "retained"])
@pytest.mark.parametrize(("who", "pattern", "topic", "expected"), SUBSCRIBE)
def test_subscribe(  # noqa: PLR0917 - the columns of the matrix
    peer, broker_kind, who, pattern, topic, expected, retained
):
    plain_pattern = pattern.removeprefix("$share/g/")
    if expected:
        same_as_table(who, "subscribe", plain_pattern, expected)
    server = peer("server")
    client = server if who == "server" else peer(who)
    end = "edgectl/v1/meta/end"
    assert client.subscribe(end) == 1
    if retained:
        assert server.publish(topic, b"payload", retain=True) < 0x80
    reason = client.subscribe(pattern)
    if broker_kind == "embedded":  # Mosquitto grants, and filters when it delivers
        assert reason == (1 if allowed(who, "subscribe", plain_pattern) else NOT_AUTHORIZED)
    if not retained:
        assert server.publish(topic, b"payload") < 0x80
    assert server.publish(end) < 0x80
    received = [(message.topic, message.payload) for message in client.until(end)]
    assert received == ([(topic, b"payload")] if expected else [])
    if retained:
        server.publish(topic, b"", retain=True)


def test_a_forged_message_reaches_nobody(peer):
    server, alpha, beta = peer("server"), peer("alpha"), peer("beta")
    assert server.subscribe("edgectl/v1/d/+/up/event") == 1
    assert alpha.publish("edgectl/v1/d/beta/up/event", b"forged") == NOT_AUTHORIZED
    assert beta.publish("edgectl/v1/d/beta/up/event", b"true") == 0
    assert server.next().payload == b"true"


def test_a_forbidden_retained_message_is_not_kept(peer):
    alpha, beta, server = peer("alpha"), peer("beta"), peer("server")
    topic = "edgectl/v1/d/beta/down/order"
    assert alpha.publish(topic, b"forged", retain=True) == NOT_AUTHORIZED
    beta.subscribe("edgectl/v1/d/beta/down/+")
    server.publish("edgectl/v1/d/beta/down/ack", b"end")
    assert beta.until("edgectl/v1/d/beta/down/ack") == []


def test_the_certificate_names_the_client_whatever_it_says(peer):
    """Else any device could evict any other, and take its session."""
    beta = peer("beta", expiry_s=60)
    assert beta.subscribe("edgectl/v1/d/beta/down/#") == 1
    impostor = peer("alpha", client_id="beta", clean_start=False)
    server = peer("server")
    server.publish("edgectl/v1/d/beta/down/ack", b"for beta")
    assert beta.next().payload == b"for beta"
    assert impostor.messages.empty()
    assert beta.disconnects.empty()


def test_names_that_are_patterns_get_nothing():
    from edgectl_server.distribution.embedded import authorize

    for name, action in itertools.product(
        ["+", "#", "", "a/b", "operator"], ["publish", "subscribe"]
    ):
        for topic in [
            "edgectl/v1/d/beta/up/state",
            "edgectl/v1/d/+/down/#",
            "edgectl/v1/meta/head",
        ]:
            assert not authorize(name, action, topic)
