"""Rollouts, orders and their outbox on both databases, with devices that report by hand."""

import json
import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from sqlalchemy import func, select

from edgectl_protocol.messages import (
    Capabilities,
)
from edgectl_protocol.update import UpdateState
from edgectl_protocol.windows import format_windows
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.ordering import LIFETIME
from edgectl_server.schemas import RolloutPolicy, RolloutRequest, Selector
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Device,
    ModelVersion,
    Outbox,
    RolloutDevice,
    Webhook,
    WebhookDelivery,
)
from server.fleet.fleet_by_hand import PAGE, Fleet
from server.fleet.fleet_helpers import add_version

U = UpdateState


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    return fleet


def test_a_rollout_goes_in_steps_and_leaves_a_trace(fleet: Fleet) -> None:
    fleet.add("a", "b", "c")
    rollout = fleet.start(max_in_progress=2)
    assert fleet.states(rollout) == {"a": "pending", "b": "pending", "c": "pending"}
    assert fleet.rollouts.tick() == 1
    assert fleet.states(rollout) == {"a": "in_progress", "b": "in_progress", "c": "pending"}
    assert fleet.rollouts.tick() == 0  # not due again
    fleet.report("a", U.DOWNLOADING)
    assert fleet.rollouts.tick() == 0  # looked at, and nothing to do
    fleet.report("a", U.COMMITTED)
    assert fleet.rollouts.tick() == 1
    assert fleet.states(rollout) == {"a": "committed", "b": "in_progress", "c": "in_progress"}
    for name in ("b", "c"):
        fleet.report(name, U.COMMITTED)
    fleet.rollouts.tick()
    info = fleet.show(rollout)
    assert (info.state, info.counts.committed, info.note) == ("completed", 3, "")
    events = fleet.rollouts.events(rollout, PAGE).items
    assert [event.revision for event in events] == list(range(info.revision, 0, -1))
    assert events[-1].actor == "anna"
    assert {event.actor for event in events[:-1]} == {"server"}


@pytest.mark.parametrize(
    ("state", "shown"), [(U.DOWNLOADING, 0), (U.TRIAL, 150_000), (U.COMMITTED, 150_000)]
)
def test_what_has_been_downloaded_is_shown_when_the_device_no_longer_counts(
    fleet: Fleet, state: UpdateState, shown: int
) -> None:
    fleet.add("pi-1", "pi-2")
    rollout = fleet.start(max_in_progress=1)
    fleet.rollouts.tick()
    fleet.report("pi-1", state)
    first, second = fleet.rollouts.devices(rollout, PAGE).items
    assert (first.step, first.bytes_done, first.bytes_total) == (state.value, shown, shown)
    assert (second.step, second.bytes_done, second.bytes_total) == ("", 0, 0)


@pytest.mark.parametrize(
    ("counter", "accepted", "shown"),
    [
        (1, 0, True),  # ours
        (None, 0, True),  # one without a good signature: perhaps ours
        (2, 0, True),  # a newer one, and ours never came
        (1, 9, False),  # ours has a number that was used: it is numbered anew, see the nonces
        (None, 1, False),  # ours was accepted, a stranger's was not
        (2, 1, False),
        (0, 0, False),  # an older one: ours may still come
    ],
)
def test_a_refused_order_is_shown_while_the_device_is_in_progress(
    fleet: Fleet, counter: int | None, accepted: int, *, shown: bool
) -> None:
    fleet.add("a")
    rollout = fleet.start()
    fleet.rollouts.tick()
    assert fleet.order("a").counter == 1
    assert fleet.reason(rollout, "a") is None
    fleet.refuse("a", counter, accepted=accepted)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress"}
    assert fleet.reason(rollout, "a") == ("order.clock" if shown else None)
    assert ("refused" in fleet.show(rollout).note) is shown
    fleet.report("a", U.DOWNLOADING)
    fleet.rollouts.tick()
    assert fleet.show(rollout).note == ""


def test_a_failed_attempt_is_shown_while_the_device_tries_again(fleet: Fleet) -> None:
    fleet.add("a")
    rollout = fleet.start()
    fleet.rollouts.tick()
    fleet.report("a", U.FAILED, attempt=2)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress"}
    assert fleet.reason(rollout, "a") == "trial.latency"


def test_it_pauses_by_itself_goes_on_and_ends(fleet: Fleet) -> None:
    fleet.add("a", "b", "c")
    rollout = fleet.start(max_in_progress=1, failures_max=1)
    fleet.rollouts.tick()
    fleet.report("a", U.ROLLED_BACK)
    fleet.rollouts.tick()
    info = fleet.show(rollout)
    assert (info.state, info.counts.rolled_back, info.counts.pending) == ("paused", 1, 2)
    assert "1 rolled back" in info.note
    (row,) = fleet.rollouts.devices(rollout, PAGE, state="rolled_back").items
    assert row.reason.code == "trial.latency"

    assert fleet.rollouts.resume(rollout, "anna", "known").state == "running"
    fleet.rollouts.tick()
    assert fleet.show(rollout).state == "running"  # what is known does not pause it again
    fleet.report("b", U.REJECTED)
    fleet.rollouts.tick()
    assert fleet.show(rollout).state == "paused"
    fleet.rollouts.resume(rollout, "anna", "")
    fleet.rollouts.tick()
    fleet.report("c", U.FAILED, attempt=1)
    fleet.rollouts.tick()
    assert fleet.states(rollout)["c"] == "in_progress"
    fleet.report("c", U.FAILED, attempt=5)
    fleet.rollouts.tick()
    info = fleet.show(rollout)
    assert (info.state, info.note) == ("completed", "1 failed, 1 rejected, 1 rolled back")


def test_a_failure_that_was_acknowledged_and_made_good_is_no_credit(fleet: Fleet) -> None:
    fleet.add("a", "b", "c")
    rollout = fleet.start(max_in_progress=1, failures_max=1)
    fleet.rollouts.tick()
    fleet.report("a", U.FAILED, attempt=5)
    fleet.rollouts.tick()
    fleet.rollouts.resume(rollout, "anna", "")
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "committed", "b": "in_progress", "c": "pending"}
    fleet.report("b", U.ROLLED_BACK)
    fleet.rollouts.tick()
    assert fleet.show(rollout).state == "paused"


def test_abort_takes_back_and_orders_nobody(fleet: Fleet) -> None:
    fleet.add("a", "b")
    first = fleet.start(devices=["a"])
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    fleet.rollouts.tick()
    assert fleet.show(first).state == "completed"

    fleet.version("2")
    rollout = fleet.start("2")
    fleet.rollouts.tick()
    assert {name: fleet.order(name).slots["har"].version for name in "ab"} == {"a": "2", "b": "2"}
    info = fleet.rollouts.abort(rollout, "anna", "no")
    assert info.note == "aborted by anna: no"
    fleet.rollouts.tick()
    assert fleet.show(rollout).note == "aborted by anna: no", "the reason stays"
    assert fleet.states(rollout) == {"a": "cancelled", "b": "cancelled"}
    assert fleet.order("a").slots["har"].version == "1"
    assert fleet.order("b").slots == {}  # it had nothing before: the update is taken back
    assert fleet.order("b").counter == 2
    assert fleet.show(rollout).finished_at is not None
    fleet.clock.advance(days=1)
    assert fleet.rollouts.tick() == 0
    for act in (fleet.rollouts.pause, fleet.rollouts.resume, fleet.rollouts.abort):
        with pytest.raises(Conflict) as caught:
            act(rollout, "anna", "")
        assert caught.value.code == "rollout.state"


def test_what_is_taken_back_without_a_version_before_stays_said(fleet: Fleet) -> None:
    fleet.add("a", "b")
    rollout = fleet.start()
    fleet.rollouts.tick()
    fleet.report("b", U.COMMITTED)
    fleet.rollouts.tick()
    # "a" commits too, but nobody has heard of it when the abort is carried out.
    fleet.rollouts.abort(rollout, "anna", "")
    fleet.rollouts.tick()
    order = fleet.order("a")
    assert (order.counter, order.slots, order.withdrawn) == (2, {}, ("har",))
    assert fleet.order("b").withdrawn == ()
    # Another order of the device must say it too: the broker keeps only the newest.
    with fleet.database.write() as session:
        fleet.ordering.issue(session, "a")
    assert fleet.order("a").withdrawn == ("har",)
    fleet.start(devices=["a"])
    fleet.rollouts.tick()
    order = fleet.order("a")
    assert (list(order.slots), order.withdrawn) == (["har"], ())


def test_what_may_not_be_started(fleet: Fleet) -> None:
    with pytest.raises(Conflict, match="no device has enrolled"):
        fleet.start()
    fleet.add("a", "b")
    for selector in (Selector(), Selector(all=True, devices=["a"]), Selector(devices=["a", "x"])):
        request = RolloutRequest(model="har", version="1", selector=selector)
        with pytest.raises(Refused) as refused:
            fleet.rollouts.start(request, "anna")
        assert refused.value.code == "rollout.selector"
    with pytest.raises(NotFound):
        fleet.start("9")
    fleet.version("8", state="processing")
    with pytest.raises(Conflict) as caught:
        fleet.start("8")
    assert caught.value.code == "rollout.not_ready"

    running = fleet.start(devices=["a"])
    with pytest.raises(Conflict) as caught:
        fleet.start()
    assert (caught.value.code, caught.value.data["rollout"]) == ("rollout.conflict", running)
    fleet.start(devices=["b"])  # nobody in common
    fleet.rollouts.abort(running, "anna", "")
    with pytest.raises(Conflict):
        fleet.start(devices=["a"])  # its devices are still to be restored
    fleet.rollouts.tick()
    fleet.start(devices=["a"])


def test_two_who_start_at_once(fleet: Fleet) -> None:
    fleet.add("a")
    outcomes = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        try:
            outcomes.append(fleet.start())
        except Conflict as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes)[1:] == ["rollout.conflict"] * 3


def test_ticks_at_once_order_each_device_once(fleet: Fleet) -> None:
    names = [f"pi-{number:02}" for number in range(20)]
    fleet.add(*names)
    rollout = fleet.start(max_in_progress=7)
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        for _ in range(3):
            fleet.rollouts.touch(names)
            fleet.rollouts.tick()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    states = list(fleet.states(rollout).values())
    assert states.count("in_progress") == 7
    kinds = [event.kind for event in fleet.rollouts.events(rollout, PAGE).items]
    assert kinds.count("device_ordered") == 7
    with fleet.database.read() as session:
        assert session.scalar(select(func.sum(Device.order_counter))) == 7


def test_a_device_that_cannot_run_it_and_one_that_says_nothing(fleet: Fleet) -> None:
    fleet.add("tflite", capabilities=Capabilities(machine="armv7l", runtimes={"tflite": "2.14"}))
    fleet.add("silent", capabilities=None)
    rollout = fleet.start(failures_max=5)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"silent": "pending", "tflite": "failed"}
    assert fleet.show(rollout).note == "waiting for the first report of 1 device"
    assert fleet.order("tflite") is None


def test_a_decommissioned_device_does_not_hold_a_rollout_up(fleet: Fleet) -> None:
    fleet.add("a", "b")
    rollout = fleet.start()
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    with fleet.database.write() as session:
        session.get_one(Device, "b").state = "decommissioned"
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "committed", "b": "cancelled"}
    assert fleet.show(rollout).state == "completed"


# ---------------------------------------------------------------- orders


class Wire:
    """A broker that takes everything, or nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.up = True

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        assert retain
        self.sent.append((topic, payload))

    def flush(self, timeout_s: float) -> bool:
        return self.up


def test_an_order_is_published_until_the_broker_has_it_and_the_newest_wins(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.start()
    fleet.rollouts.tick()
    wire = Wire()
    wire.up = False
    assert fleet.ordering.drain(wire) == 0  # not acknowledged: it stays
    with fleet.database.write() as session:
        fleet.ordering.issue(session, "a")
    wire.up = True
    assert fleet.ordering.drain(wire) == 1
    assert fleet.ordering.drain(wire) == 0
    topic, payload = wire.sent[-1]
    assert topic == "edgectl/v1/d/a/down/order"
    assert Envelope.from_dict(json.loads(payload)).payload == msgspec.json.encode(fleet.order("a"))
    assert fleet.order("a").counter == 2
    with fleet.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Outbox)) == 0


def test_publishing_again_changes_nothing_and_renewal_comes_in_time(fleet: Fleet) -> None:
    fleet.add("a", "b")
    fleet.start(devices=["a"])
    fleet.rollouts.tick()
    before = fleet.order("a")
    wire = Wire()
    fleet.ordering.publish_all(wire)
    fleet.ordering.publish_all(wire)
    assert [topic for topic, _ in wire.sent] == ["edgectl/v1/d/a/down/order"] * 2
    assert wire.sent[0] == wire.sent[1]
    assert fleet.ordering.renew() == 0
    fleet.clock.advance(days=21)
    assert fleet.ordering.renew() == 1
    after = fleet.order("a")
    assert (after.counter, after.slots) == (before.counter + 1, before.slots)
    assert after.expires_at == fleet.clock() + LIFETIME
    assert fleet.ordering.renew() == 0


def test_one_order_names_all_slots_of_a_device(fleet: Fleet) -> None:
    add_version(fleet.database, fleet.blobs, fleet.repository, model="kws", version="5")
    fleet.add("a")
    fleet.start(observe_s=1)
    fleet.rollouts.tick()
    with fleet.database.write() as session:
        version = session.scalars(select(ModelVersion).where(ModelVersion.model == "kws")).one()
        fleet.ordering.desire(session, "a", "kws", version.id, rollout=None)
    order = fleet.order("a")
    assert {slot: wanted.version for slot, wanted in order.slots.items()} == {
        "har": "1",
        "kws": "5",
    }
    assert order.policy.observe_s == 1
    assert order.expires_at - order.issued_at == timedelta(days=30)


def test_the_order_of_another_slot_does_not_end_a_rollout_wrongly(fleet: Fleet) -> None:
    """A device that has taken a newer order, for another slot, has still answered this one."""
    add_version(fleet.database, fleet.blobs, fleet.repository, model="kws", version="5")
    fleet.add("a")
    rollout = fleet.start()
    fleet.rollouts.tick()
    with fleet.database.write() as session:
        version = session.scalars(select(ModelVersion).where(ModelVersion.model == "kws")).one()
        fleet.ordering.desire(session, "a", "kws", version.id, rollout=None)
    fleet.report("a", U.COMMITTED)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "committed"}
    with fleet.database.read() as session:
        assert session.get_one(RolloutDevice, (rollout, "a")).order_counter == 1


def test_what_a_rollout_says_of_safety_reaches_the_device(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.start(observe_s=1, shadow_s=600, windows="mon-fri 02:00-04:00", latency_ratio_max=None)
    fleet.rollouts.tick()
    policy = fleet.order("a").policy
    assert (policy.shadow_s, policy.latency_ratio_max) == (600, None)
    assert format_windows(policy.windows) == "mon+tue+wed+thu+fri 02:00-04:00"
    with pytest.raises(ValidationError):
        RolloutPolicy(windows="some time at night")
    with pytest.raises(ValidationError):
        RolloutPolicy(goes_with=["classifier"])


def test_what_a_device_remembers_as_bad_is_forgiven_once(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.start("1")
    fleet.rollouts.tick()
    fleet.report("a", U.REJECTED)
    fleet.rollouts.tick()
    (bad,) = {one.manifest for one in fleet.order("a").slots["har"].candidates[-1:]}
    fleet.amend("a", rejected=(bad,))
    assert fleet.order("a").forgive == (), "nobody has said so"
    fleet.rollouts.tick()
    fleet.start("1", forgive=True)
    fleet.rollouts.tick()
    order = fleet.order("a")
    assert order.forgive == (bad,)
    fleet.amend("a", rollout=order.slots["har"].rollout)  # it has heard, and finds it bad again
    with fleet.database.write() as session:
        fleet.ordering.issue(session, "a")
    assert fleet.order("a").counter > order.counter
    assert fleet.order("a").forgive == ()


def test_versions_that_go_together_are_ordered_together(fleet: Fleet) -> None:
    fleet.version("2")
    for version in ("4", "5"):
        add_version(fleet.database, fleet.blobs, fleet.repository, model="kws", version=version)
    fleet.add("a")
    first = fleet.start("1")
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    fleet.rollouts.tick()
    assert fleet.states(first) == {"a": "committed"}
    fleet.start("2", goes_with=["kws@5"])
    fleet.rollouts.tick()
    assert fleet.order("a").slots == {}, "not before the other one comes"
    request = RolloutRequest(
        model="kws",
        version="5",
        selector=Selector(all=True),
        policy=RolloutPolicy(goes_with=["har@2"]),
    )
    fleet.rollouts.start(request, "anna")
    fleet.rollouts.tick()
    order = fleet.order("a")
    assert {slot: wanted.version for slot, wanted in order.slots.items()} == {
        "har": "2",
        "kws": "5",
    }
    assert order.coupled == (("har", "kws"),)


def told(fleet: Fleet) -> list[tuple[str, dict]]:
    """What the one webhook is to be told."""
    with fleet.database.read() as session:
        rows = session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at))
        return [(row.event, row.data) for row in rows]


def test_webhooks_are_told_in_the_transaction_that_makes_it_happen(fleet: Fleet) -> None:
    with fleet.database.write() as session:
        hook = dict.fromkeys(("url", "secret", "note"), "") | {"format": "edgectl"}
        times = dict.fromkeys(("created_at", "changed_at"), fleet.clock())
        events = ["rollout.started", "rollout.paused", "rollout.aborted", "device.rejected"]
        session.add(
            Webhook(id="1", name="x", events=events, enabled=True, created_by="", **hook, **times)
        )
    fleet.add("a", "b")
    with pytest.raises(NotFound):  # and nobody is told of what was refused
        fleet.start(devices=["a", "b"], version="2")
    rollout = fleet.start(max_in_progress=2, failures_max=1)
    fleet.rollouts.tick()
    fleet.report("a", U.REJECTED)
    fleet.rollouts.tick()
    fleet.rollouts.abort(rollout, "anna", "enough")
    seen = told(fleet)
    assert {event for event, _ in seen} == set(events)
    by_event = dict(seen)
    common = {"rollout": rollout, "model": "har", "version": "1"}
    assert all(common.items() <= data.items() for _, data in seen)
    assert by_event["rollout.aborted"]["by"] == "anna"
    assert by_event["device.rejected"]["device"] == "a"
    assert by_event["device.rejected"]["reason"]["code"] == "trial.latency"
