"""The whole of it, on a real broker of each kind: devices enrol, hear, obey, report and leave."""

import os
import signal
from datetime import timedelta

import pytest

from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, parse_index
from edgectl_protocol.manifest import MODEL_FILES, decode_manifest, layer_by_file
from edgectl_protocol.messages import (
    Ack,
    DeviceEvent,
    InferenceWindow,
    MetadataHead,
    SeedRequest,
    SystemSample,
    TelemetryBatch,
    decode,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.update import UpdateEvent, UpdateState
from edgectl_server import flapping
from edgectl_server.clock import now
from edgectl_server.schemas import RolloutPolicy, RolloutRequest, Selector
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import Device
from server.fleet.conftest import Site
from server.fleet.fleet_helpers import Pi
from waiting import wait_for

PAGE = PageQuery(q="", sort="", offset=0, limit=100)


def start(site: Site, version: str = "1", **policy: float) -> str:
    request = RolloutRequest(
        model="har",
        version=version,
        selector=Selector(all=True),
        policy=RolloutPolicy(**policy),
    )
    return site.plane.rollouts.start(request, "anna").id


def state_of(site: Site, rollout: str) -> str:
    return site.plane.rollouts.rollout(rollout).state


def test_from_enrolment_to_committed(site: Site) -> None:
    manifests = site.version()
    pis = [site.pi(f"pi-{number}") for number in range(3)]
    wait_for(lambda: site.plane.fleet.summary().online == 3)

    rollout = start(site, observe_s=3.5)
    for pi in pis:
        order = pi.order(1)
        assert order.slots["har"].version == "1"
        assert order.slots["har"].rollout == rollout
        assert [one.manifest for one in order.slots["har"].candidates] == [
            manifests["int8"],
            manifests["fp32"],
        ]
        assert order.policy.observe_s == 3.5
        assert timedelta(days=29) < order.expires_at - now() < timedelta(days=31)

    content = pis[0].fetch(manifests["int8"], 1)
    assert digest_of(content) == manifests["int8"]
    model = layer_by_file(decode_manifest(content), MODEL_FILES["onnx"])
    assert model.size == 150_000
    assert model.chunk_index is not None
    assert digest_of(pis[1].fetch(model.digest, model.size)) == model.digest
    pis[2].subscribe(topics.chunk_index(model.digest))
    index = wait_for(lambda: pis[2].got.get(topics.chunk_index(model.digest)))[-1]
    assert len(parse_index(index, digest=model.chunk_index, length=model.size)) == 3

    for pi in pis:
        pi.run(pi.order(1))
    wait_for(lambda: state_of(site, rollout) == "completed")
    info = site.plane.rollouts.rollout(rollout)
    assert info.counts.committed == info.counts.total == 3
    assert info.finished_at is not None
    assert [one.devices for one in site.plane.fleet.summary().versions] == [3]
    kinds = [event.kind for event in site.plane.rollouts.events(rollout, PAGE).items]
    assert sorted(kinds) == sorted(
        ["started", *["device_ordered"] * 3, *["device_committed"] * 3, "completed"]
    )
    # What nobody needs any more leaves the broker.
    wait_for(lambda: not retained_chunks(site, pis[0], model.digest))


def retained_chunks(site: Site, pi: Pi, digest: str) -> list[bytes]:
    """Ask the broker anew what it holds of a blob's first chunk."""
    name = topics.chunk(digest, 0)
    pi.client.unsubscribe(name)
    pi.got.pop(name, None)
    marker = topics.order(pi.name)
    before = len(pi.got.get(marker, []))
    pi.subscribe(name)
    pi.client.unsubscribe(marker)
    pi.subscribe(marker)  # its retained answer comes after the chunk's
    wait_for(lambda: len(pi.got.get(marker, [])) > before)
    return [payload for payload in pi.got.get(name, []) if payload]


def test_metadata_is_on_the_broker_and_moves_on(site: Site) -> None:
    pi = site.pi("pi-1")
    pi.subscribe(topics.head(), topics.metadata("timestamp", None), topics.metadata("root", 1))
    wait_for(lambda: len(pi.got.keys() & {topics.head(), topics.metadata("root", 1)}) == 2)
    assert decode(MetadataHead, pi.got[topics.head()][-1]).root == 1
    assert pi.got[topics.metadata("root", 1)][-1] == site.plane.repository.first_root

    for number in range(4):
        site.version(str(number))
        assert site.plane.publisher.publish_metadata()
    wait_for(
        lambda: (
            pi.got[topics.metadata("timestamp", None)][-1]
            == site.plane.repository.metadata()[-1][2]
        )
    )
    files = {(role, number) for role, number, _ in site.plane.repository.metadata()}
    newest = max(number for role, number in files if role == "snapshot")
    pi.subscribe(topics.metadata("snapshot", newest), topics.metadata("snapshot", 1))
    wait_for(lambda: topics.metadata("snapshot", newest) in pi.got)
    assert topics.metadata("snapshot", 1) not in pi.got


def test_events_and_telemetry_are_stored_once_and_acknowledged_each_time(site: Site) -> None:
    pi = site.pi("pi-1")
    with site.database.write() as session:
        site.plane.ordering.issue(session, "pi-1")
    event = DeviceEvent(
        device="pi-1",
        boot=1,
        seq=10,
        at=now(),
        slot="har",
        order=1,
        nonce=pi.order(1).nonce,
        version="1",
        variant="int8",
        manifest=digest_of(b"m"),
        before=UpdateState.IDLE,
        event=UpdateEvent.ORDERED,
        after=UpdateState.REFRESHING,
    )
    batch = TelemetryBatch(
        device="pi-1",
        boot=1,
        seq=11,
        windows=(
            InferenceWindow(
                slot="har",
                version="1",
                manifest=digest_of(b"m"),
                start=now() - timedelta(seconds=10),
                end=now(),
                requests=7,
                classes=(3, 4),
            ),
        ),
        system=SystemSample(at=now(), load_1min=0.5),
    )
    for _ in range(2):
        pi.publish(topics.event("pi-1"), event)
        pi.publish(topics.telemetry("pi-1"), batch)
    acks = wait_for(lambda: len(found := pi.got.get(topics.ack("pi-1"), [])) == 4 and found)
    assert sorted(decode(Ack, payload).seq for payload in acks) == [10, 10, 11, 11]
    assert site.plane.fleet.events("pi-1", PAGE).total == 1
    (summary,) = site.plane.telemetry.summary(model="har", since_s=60)
    assert (summary.requests, summary.windows, summary.classes) == (7, 1, [3, 4])
    assert site.plane.fleet.device("pi-1").system["load_1min"] == 0.5


def test_a_broken_connection_is_seen_and_a_return_too(site: Site) -> None:
    pi = site.pi("pi-1")
    wait_for(lambda: site.plane.fleet.device("pi-1").online)
    pi.kill()
    wait_for(lambda: not site.plane.fleet.device("pi-1").online)
    pi.connect()
    pi.report()
    wait_for(lambda: site.plane.fleet.device("pi-1").online)


def breaks_of(site: Site, name: str) -> int:
    with site.database.read() as session:
        return len(session.get_one(Device, name).disconnects)


def break_off(site: Site, pi: Pi) -> None:
    """Let the connection of an online device break, and wait until that is known."""
    wait_for(lambda: site.plane.fleet.device(pi.name).online)
    pi.kill()
    wait_for(lambda: not site.plane.fleet.device(pi.name).online)


def test_a_device_that_flaps_is_found_and_one_that_went_down_with_the_broker_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flapping, "SETTLE_S", 1.0)
    flaps, steady = site.pi("flaps"), site.pi("steady")
    wait_for(lambda: site.plane.link.age_s > flapping.SETTLE_S)
    for number in range(flapping.BREAKS_MAX):
        break_off(site, flaps)
        assert breaks_of(site, "flaps") == number + 1
        flaps.connect()
        flaps.report()
    with site.database.read() as session:
        assert flapping.is_flapping(session.get_one(Device, "flaps"), now())
    wait_for(lambda: site.plane.fleet.summary().online == 2)

    monkeypatch.setattr(flapping, "SETTLE_S", 30.0)
    for _ in range(2):
        # What the server has not read yet waits for it, before the will of the broken connection.
        site.plane.link.close()
        steady.report()
        site.stop()
        wait_for(lambda: not steady.connected.is_set())
        site.start()
        wait_for(steady.connected.is_set)
        steady.report()
        wait_for(lambda: site.plane.fleet.device("steady").online)
    assert breaks_of(site, "steady") == 0


@pytest.mark.mosquitto
@pytest.mark.parametrize("broker", ["mosquitto"])
def test_a_broker_that_stops_tells_that_all_have_broken_and_that_is_taken_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flapping, "SETTLE_S", 0.0)
    pi = site.pi("pi-1")
    wait_for(lambda: site.plane.fleet.device("pi-1").online)
    os.kill(site.plane.broker.pid, signal.SIGTERM)
    wait_for(lambda: breaks_of(site, "pi-1"))  # its will came while we were connected
    monkeypatch.setattr(flapping, "SETTLE_S", 60.0)
    wait_for(lambda: not breaks_of(site, "pi-1"))
    wait_for(pi.connected.is_set)
    pi.report()
    wait_for(lambda: site.plane.fleet.device("pi-1").online)
    assert breaks_of(site, "pi-1") == 0


def test_a_decommissioned_device_is_out(site: Site) -> None:
    pi, other = site.pi("pi-1"), site.pi("pi-2")
    wait_for(lambda: site.plane.fleet.summary().online == 2)
    site.version()
    start(site)
    pi.order(1)

    shown = site.plane.fleet.decommission("pi-1")
    assert shown.state == "decommissioned"
    wait_for(lambda: not pi.connected.is_set())
    pi.disconnect()
    pi.connect(wait=False)
    assert not pi.connected.wait(1.5)
    other.order(1)  # the others are not disturbed
    assert other.connected.is_set()
    site.plane.fleet.decommission("pi-1")  # again, which changes nothing


def test_a_late_device_gets_what_it_lacks(site: Site) -> None:
    manifests = site.version()
    early, late = site.pi("early"), site.pi("late")
    wait_for(lambda: site.plane.fleet.summary().online == 2)
    rollout = start(site)
    for pi in (early, late):
        pi.run(pi.order(1))
    wait_for(lambda: state_of(site, rollout) == "completed")
    digest = manifests["int8"]
    wait_for(lambda: not retained_chunks(site, early, digest))

    late.got.clear()
    late.subscribe(topics.chunk(digest, 0))
    foreign = SeedRequest(device="late", blob=digest_of(b"not yours"), chunks=(0,))
    late.publish(topics.seed("late"), foreign)
    late.publish(topics.seed("late"), SeedRequest(device="late", blob=digest, chunks=(0,)))
    payload = wait_for(lambda: late.got.get(topics.chunk(digest, 0)))[-1]
    assert digest_of(payload) == digest


def test_missing_chunks_are_published_again_while_a_rollout_runs(site: Site) -> None:
    manifests = site.version()
    pi = site.pi("pi-1")
    wait_for(lambda: site.plane.fleet.summary().online == 1)
    start(site)
    pi.order(1)
    model = layer_by_file(decode_manifest(pi.fetch(manifests["fp32"], 1)), MODEL_FILES["onnx"])
    content = pi.fetch(model.digest, model.size)

    pi.got.clear()
    names = [topics.chunk(model.digest, 2), topics.chunk_index(model.digest)]
    pi.subscribe(*names)
    wait_for(lambda: all(pi.got.get(name) for name in names))
    request = SeedRequest(device="pi-1", blob=model.digest, chunks=(2, -1, 999), refused=(2,))
    pi.publish(topics.seed("pi-1"), request)
    wait_for(lambda: all(len(pi.got[name]) == 2 for name in names))
    assert pi.got[names[0]][-1] == content[2 * CHUNK_BYTES : 3 * CHUNK_BYTES]
    assert digest_of(pi.got[names[1]][-1]) == model.chunk_index


def test_a_restart_loses_nothing_and_repeats_nothing(site: Site) -> None:
    """Orders, states and chunks survive; counters do not move without a reason."""
    manifests = site.version()
    pi = site.pi("pi-1")
    wait_for(lambda: site.plane.fleet.summary().online == 1)
    rollout = start(site)
    first = pi.order(1)
    pi.disconnect()
    site.stop()
    site.start()

    assert not site.plane.fleet.device("pi-1").online
    pi.connect()
    assert pi.order(1) == first
    assert digest_of(pi.fetch(manifests["int8"], 1)) == manifests["int8"]
    pi.run(pi.order(1))
    wait_for(lambda: state_of(site, rollout) == "completed")
    assert site.plane.fleet.device("pi-1").order_counter == first.counter


def test_an_abort_reaches_the_devices(site: Site) -> None:
    site.version("1")
    done, busy = site.pi("done"), site.pi("busy")
    wait_for(lambda: site.plane.fleet.summary().online == 2)
    rollout = start(site)
    for pi in (done, busy):
        pi.run(pi.order(1))
    wait_for(lambda: state_of(site, rollout) == "completed")

    site.version("2")
    second = start(site, "2")
    done.run(done.order(2))
    wait_for(lambda: site.plane.rollouts.rollout(second).counts.committed == 1)
    assert busy.order(2).slots["har"].version == "2"
    site.plane.rollouts.abort(second, "anna", "it is too warm")
    back = busy.order(3)
    assert back.slots["har"].version == "1"
    assert back.slots["har"].rollout is None
    info = wait_for(
        lambda: (one := site.plane.rollouts.rollout(second)).finished_at is not None and one
    )
    assert (info.state, info.counts.committed, info.counts.cancelled) == ("aborted", 1, 1)
    assert site.plane.fleet.device("done").slots[0].desired_version == "2"
    assert done.order(2).counter == 2


def test_hostile_messages_are_dropped_and_the_rest_goes_on(site: Site) -> None:
    pi = site.pi("pi-1")
    wait_for(lambda: site.plane.fleet.device("pi-1").online)
    dropped = site.plane.intake.dropped
    for payload in (
        b"x",
        b"{}",
        b"[" * 50_000,
        b'{"device":"pi-2","boot":9,"seq":9,"online":true}',
    ):
        for topic in (topics.state("pi-1"), topics.event("pi-1"), topics.telemetry("pi-1")):
            pi.publish(topic, payload)
    wait_for(lambda: dropped["report.unsigned"] == 12)
    assert sum(dropped.values()) == 12
    pi.report()
    wait_for(lambda: site.plane.fleet.device("pi-1").boot == 1)
    assert pi.connected.is_set()


def test_a_burst_is_taken_in_without_loss(site: Site) -> None:
    """More at once than the broker may send unacknowledged."""
    pi = site.pi("pi-1")
    count = 1500
    for seq in range(count):
        batch = TelemetryBatch(device="pi-1", boot=1, seq=seq, system=SystemSample(at=now()))
        pi.publish(topics.telemetry("pi-1"), batch)
    acks = topics.ack("pi-1")
    wait_for(lambda: len(pi.got.get(acks, [])) >= count, bound_s=40)
    assert {decode(Ack, payload).seq for payload in pi.got[acks]} == set(range(count))
    assert not site.plane.intake.dropped
