"""A broker that lies about a device, between real processes: the rollout does not believe it.

Whoever may publish on a device's topics stands for the broker: it comes with the device's
certificate, and signs with whatever key it has. The order's counter and nonce are no secret to it.
"""

import json
import os
import ssl
import subprocess
import sys

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgectl_protocol import topics
from edgectl_protocol.messages import (
    Installed,
    Order,
    ReportedState,
    SlotReport,
    UpdateReport,
    decode,
    encode,
)
from edgectl_protocol.update import UpdateState
from edgectl_server.clock import now
from signed import key_id, payload_of, seal
from waiting import wait_for

pytestmark = pytest.mark.e2e

HEAVY = {"precisions": ["fp32"]}


class Insider:
    """A client of the broker with somebody's certificate."""

    def __init__(self, server, name, certificate, key, authority):
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(str(certificate), str(key))
        client.tls_set_context(context)
        self.got = {}
        client.on_message = lambda _c, _d, message: self.got.setdefault(message.topic, []).append(
            bytes(message.payload)
        )
        client.connect("127.0.0.1", int(server.broker_port))
        client.loop_start()
        wait_for(client.is_connected)
        self.client = client

    def say(self, topic, payload):
        self.client.publish(topic, payload, qos=1, retain=True).wait_for_publish(10)

    def hear(self, topic):
        self.client.subscribe(topic, qos=1)
        return wait_for(lambda: [one for one in self.got.get(topic, []) if one])[-1]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def in_the_place_of(agent, server):
    identity = agent.state / "identity"
    return Insider(
        server,
        agent.device,
        identity / "certificate.pem",
        identity / "key.pem",
        identity / "authority.pem",
    )


def key_of(agent):
    return load_pem_private_key((agent.state / "identity" / "key.pem").read_bytes(), None)


def success(order, boot):
    """What the device would say after it had obeyed the order."""
    wanted = order.slots["har"]
    chosen = wanted.candidates[0]
    named = {"version": wanted.version, "variant": chosen.variant, "manifest": chosen.manifest}
    update = UpdateReport(
        order=order.counter, state=UpdateState.COMMITTED, rollout=wanted.rollout, **named
    )
    return ReportedState(
        device=order.device,
        boot=boot,
        seq=1,
        online=True,
        sent_at=now(),
        order_counter=order.counter,
        order_nonce=order.nonce,
        slots={"har": SlotReport(running=Installed(since=now(), **named), update=update)},
    )


def test_success_cannot_be_forged(start, pushed, activity, broker):
    models = dict.fromkeys(("1", "2"), activity["model"])
    server = start.server(data=pushed("har", models, **HEAVY), broker=broker)
    agent, other = start.agent(server, "pi-1"), start.agent(server, "pi-2")
    server.wait_rollout(server.roll_out("har", "1", "pi-1", observe_s=0.2))
    agent.stop()
    wait_for(lambda: not server.client.device("pi-1").online)

    rollout = server.roll_out("har", "2", "pi-1", observe_s=0.2)
    wait_for(lambda: server.client.rollout(rollout).counts.in_progress == 1, "the order")
    liar = in_the_place_of(agent, server)
    order = decode(Order, payload_of(liar.hear(topics.order("pi-1"))))
    assert order.slots["har"].version == "2"
    forged = success(order, boot=9)
    stranger = ec.generate_private_key(ec.SECP256R1())
    before = success(order, boot=1)  # of the device itself, from before its newest report
    topic = topics.state("pi-1")
    for lie in (
        encode(forged),
        seal(key_of(other), forged),
        seal(stranger, forged, keyid=key_id(key_of(agent))),
        seal(key_of(agent), before),
    ):
        liar.say(topic, lie)

    def told():
        return {one.code: one for one in server.client.security_events("pi-1").items}

    expected = {"report.unsigned", "report.key", "report.signature"}
    wait_for(lambda: set(told()) >= expected, "the security events")
    assert {one.source for one in told().values()} == {"server"}
    shown = server.client.rollout(rollout)
    assert (shown.state, shown.counts.committed) == ("running", 0)
    assert agent.running("har").version == "1"
    assert server.client.fleet().security == 1
    liar.close()

    environment = {**os.environ, "EDGECTL_URL": server.url}
    environment["EDGECTL_TOKEN"] = server.client.login(
        "admin", (server.data / "admin-password").read_text().strip(), name="cli"
    ).token
    command = [sys.executable, "-m", "edgectl", "devices", "security", "pi-1", "--json"]
    printed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert {one["code"] for one in json.loads(printed.stdout)} >= expected

    agent.token = ""
    agent.start()
    assert server.wait_rollout(rollout).counts.committed == 1
    assert agent.running("har").version == "2"
