"""Who has the broker: its certificate, its state, no rules. Server and devices are real ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attacks.scene import (
    PLAIN,
    Client,
    Site,
    StolenBroker,
    before,
    newer,
    order_of,
    send_order,
    sign_order,
    with_the_servers_certificate,
)
from edgectl.types import BenchmarkStart
from edgectl_protocol import topics
from edgectl_protocol.messages import BenchmarkRequest, decode
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner
from signed import payload_of, seal
from waiting import wait_for

pytestmark = pytest.mark.e2e
ATTACKER = "the broker"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[StolenBroker]:
    running = StolenBroker(tmp_path_factory.mktemp("broker"), prepared / "pki")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def site(open_site: Callable[..., Site], broker: StolenBroker) -> Site:
    site = open_site(broker=f"mqtts://127.0.0.1:{broker.port}")
    site.start("pi-1", "pi-2")
    return site


@pytest.fixture(scope="module")
def thief(site: Site) -> Iterator[Client]:
    client = with_the_servers_certificate(site)
    client.listen("edgectl/v1/#")
    yield client
    client.close()


@pytest.fixture(autouse=True)
def at_version_1(site: Site, thief: Client) -> None:
    site.settle("1")


def wanting(site: Site, thief: Client, device: str, version: str) -> bytes:
    """Return a good order for a version, which the device has obeyed since."""
    site.settle(version, device)
    envelope = thief.newest(topics.order(device))
    assert order_of(envelope).slots["har"].version == version
    return envelope


def test_forging_an_order_with_a_key_of_ones_own(site: Site, thief: Client, tmp_path: Path) -> None:
    genuine = thief.newest(topics.order("pi-1"))
    order = newer(order_of(genuine), slots={}, withdrawn=("har",))
    forged = json.loads(sign_order(order, tmp_path / "keys"))
    forged["signatures"][0]["keyid"] = json.loads(genuine)["signatures"][0]["keyid"]
    send_order(thief, "pi-1", json.dumps(forged).encode())
    site.wait_told("pi-1", "order.signature")
    send_order(thief, "pi-1", genuine)
    assert site.agents["pi-1"].served("har") == "1"


def test_changing_what_a_signed_order_says(site: Site, thief: Client) -> None:
    genuine = thief.newest(topics.order("pi-2"))
    envelope = json.loads(genuine)
    order = newer(order_of(genuine), withdrawn=("har",), slots={})
    envelope["payload"] = base64.b64encode(msgspec.json.encode(order)).decode()
    send_order(thief, "pi-2", json.dumps(envelope).encode())
    site.wait_told("pi-2", "order.signature")
    send_order(thief, "pi-2", genuine)
    assert site.agents["pi-2"].served("har") == "1"


def test_replaying_an_older_order(site: Site, thief: Client) -> None:
    old = thief.newest(topics.order("pi-1"))
    assert order_of(old).slots["har"].version == "1"
    wanting(site, thief, "pi-1", "2")
    send_order(thief, "pi-1", old)
    site.wait_refused("pi-1", "order.replayed", order_of(old).counter)
    assert site.agents["pi-1"].served("har") == "2"


def test_redirecting_an_order_to_another_device(site: Site, thief: Client) -> None:
    other = wanting(site, thief, "pi-1", "2")
    send_order(thief, "pi-2", other)
    site.wait_told("pi-2", "order.device")
    assert site.agents["pi-2"].served("har") == "1"


def test_having_devices_measure(site: Site, thief: Client, tmp_path: Path) -> None:
    """A request is taken once, by its device; neither changed nor made up is it taken at all."""
    job = site.client.start_benchmark("har", "1", BenchmarkStart("pi-1", runs=1)).id
    assert site.client.wait_job(job).state == "succeeded"
    measured = site.client.measurements("har", "1").total
    genuine = thief.newest(topics.command("pi-1"))
    request = decode(BenchmarkRequest, payload_of(genuine))
    newer_request = msgspec.structs.replace(request, counter=request.counter + 1, runs=10_000)
    changed = json.loads(genuine)
    changed["payload"] = base64.b64encode(msgspec.json.encode(newer_request)).decode()
    forged = json.loads(OrderSigner(Keys.open(tmp_path / "keys")).sign(newer_request))
    forged["signatures"][0]["keyid"] = changed["signatures"][0]["keyid"]
    for device, payload, code in (
        ("pi-1", genuine, "request.replayed"),
        ("pi-2", genuine, "request.device"),
        ("pi-1", json.dumps(changed).encode(), "request.signature"),
        ("pi-2", json.dumps(forged).encode(), "request.signature"),
        ("pi-1", thief.newest(topics.order("pi-1")), "request.malformed"),
    ):
        thief.say(topics.command(device), payload, retain=False)
        site.wait_told(device, code)
    assert site.client.measurements("har", "1").total == measured
    assert {agent.served("har") for agent in site.agents.values()} == {"1"}


@pytest.mark.admitted("nothing new arrives for as long as they like; the operator sees it waiting")
def test_withholding_an_order(site: Site, broker: StolenBroker) -> None:
    with broker.withholding(lambda topic: topic == topics.order("pi-1")):
        rollout = site.order("2", "pi-1")
        wait_for(lambda: site.client.rollout(rollout).counts.in_progress == 1, "the order")
        site.settle("2", "pi-2")  # meanwhile others are served
        shown = site.client.rollout(rollout)
        assert (shown.state, shown.counts.committed) == ("running", 0)
        assert site.agents["pi-1"].served("har") == "1"
        site.client.rollout_action(rollout, "abort", reason="nothing arrives")


def test_claiming_success_for_a_device_that_never_got_the_order(
    site: Site, thief: Client, broker: StolenBroker
) -> None:
    topic = topics.state("pi-1")
    kind = json.loads(thief.newest(topic))["payloadType"]
    claim = msgspec.json.encode({"device": "pi-1", "boot": 9, "seq": 1, "online": True})
    with broker.withholding(lambda topic: topic == topics.order("pi-1")):
        rollout = site.order("2", "pi-1")
        wait_for(lambda: site.client.rollout(rollout).counts.in_progress == 1, "the order")
        thief.say(topic, claim)
        thief.say(topic, seal(ec.generate_private_key(ec.SECP256R1()), claim, kind))
        thief.say(topic, thief.newest(topics.state("pi-2")))
        for code in ("report.unsigned", "report.key"):
            site.wait_told("pi-1", code)
        shown = site.client.rollout(rollout)
        assert (shown.state, shown.counts.committed) == ("running", 0)
        site.client.rollout_action(rollout, "abort", reason="nothing arrives")


@pytest.mark.admitted("all that devices say, and chunks of models that are not encrypted")
def test_reading_along(thief: Client) -> None:
    assert [topic for topic in thief.got if topic.startswith("edgectl/v1/blob/")]
    assert thief.newest(topics.state("pi-1"))


def test_serving_metadata_from_before(
    site: Site, thief: Client, broker: StolenBroker, prepared: Path
) -> None:
    topic = topics.metadata("timestamp", None)
    newest, older = thief.newest(topic), before(prepared).read_bytes()
    assert newest != older
    thief.say(topic, older)
    with broker.withholding(lambda topic: "/meta/" in topic):
        rollout = site.order("2", "pi-1")
        site.wait_told("pi-1", "trust.rollback")
        assert site.agents["pi-1"].served("har") == "1"
    thief.say(topic, newest)
    site.server.wait_rollout(rollout)


def test_freezing_the_metadata_under_a_new_version(
    site: Site, broker: StolenBroker, activity: dict[str, Path]
) -> None:
    with broker.withholding(lambda topic: "/meta/" in topic):
        pushed = site.server.push("har", activity["model"], "3", **PLAIN)
        assert pushed.state == "succeeded"
        rollout = site.order("3", "pi-1")
        site.wait_told("pi-1", "trust.target")
        assert site.agents["pi-1"].served("har") == "1"
        site.client.rollout_action(rollout, "abort", reason="frozen")


def test_putting_other_chunks_in_place(
    site: Site, thief: Client, activity: dict[str, Path]
) -> None:
    agent = site.agents["pi-2"]
    assert site.server.push("har", activity["model"], "4", **PLAIN).state == "succeeded"
    agent.stop()
    rollout = site.order("4", "pi-2")

    def ordered() -> str:
        """Return what the device fetches first: a delta to the manifest, or the manifest."""
        order = order_of(thief.newest(topics.order("pi-2")))
        slot = order.slots.get("har")
        if slot is None or slot.version != "4":
            return ""
        manifest = slot.candidates[0].manifest
        return order.rests[manifest].delta if manifest in order.rests else manifest

    topic = topics.chunk(wait_for(ordered, "the order"), 0)
    other = thief.newest(topic)
    thief.say(topic, bytes([*other[:-1], other[-1] ^ 1]))
    agent.token = ""
    agent.start()
    site.wait_told("pi-2", "transfer.chunk_altered")
    site.server.wait_rollout(rollout)  # the device asks the server for the true one
    assert agent.served("har") == "4"


def test_withholding_every_chunk(
    site: Site, broker: StolenBroker, activity: dict[str, Path]
) -> None:
    """The broker carries orders and metadata, and not one byte of the model: the server does."""
    with broker.withholding(lambda topic: "/blob/" in topic):
        assert site.server.push("har", activity["model"], "5", **PLAIN).state == "succeeded"
        rollout = site.order("5", "pi-1")
        site.server.wait_rollout(rollout)
    assert site.agents["pi-1"].served("har") == "5"
    pulled = {one.puller: one.bytes_sent for one in site.client.pulls()}
    assert pulled["device/pi-1"] > 0
