"""Holds, windows, shadows, coupled slots, wishes at the device, limits of time: one case a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from agent.core.made import START, MadeBundle, make_order, simple_bundle, slot_order
from agent.core.simulation import World
from edgectl_agent.core import steps
from edgectl_agent.core.limits import Limits
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.orders import remember
from edgectl_agent.core.record import REJECTED_MAX, Record
from edgectl_agent.core.timing import Moment
from edgectl_agent.core.windows import closed, is_open, opens_at
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import CANDIDATES_MAX, SLOTS_MAX, Order, Reason, UpdatePolicy
from edgectl_protocol.names import digest_of
from edgectl_protocol.update import RESUMES_MAX, UpdateState
from edgectl_protocol.windows import format_windows, parse_windows

V1, V2, V3 = (simple_bundle(one, length=2_000) for one in "123")
G1, G2 = (simple_bundle(one, model="gearbox", length=2_000) for one in "12")
G2_EXACT = simple_bundle("2", model="gearbox", variant="fp32-exact", length=2_000)
PAIR = ("activity", "gearbox")
HELD = Reason(code="hold.asked", detail="the robot moves")
DIED = Reason(code="inference.died", detail="killed by SIGSEGV")
LONG = UpdatePolicy(observe_s=600, retry_delay_s_max=10)


def world_with(*orders: Order, coupled: tuple[str, ...] = ()) -> World:
    """A device that has done what `orders` say."""
    world = World(coupled=coupled)
    world.publish(V1, V2, V3, G1, G2, G2_EXACT)
    world.boot()
    for order in orders:
        world.deliver(order)
        world.settle()
    world.announced.clear()
    world.reasons.clear()
    return world


def both(counter: int, activity: MadeBundle, *gearbox: MadeBundle, **more: object) -> Order:
    slots = {"gearbox": slot_order(gearbox)}
    return make_order(counter, [activity], more=slots, coupled=[PAIR], **more)  # type: ignore[arg-type]


def state(world: World, slot: str = "activity") -> tuple[str, str]:
    """State and reason of a slot's update."""
    update = world.machine.record.updates[slot]
    return str(update.state), update.reason.code if update.reason else ""


# ---------------------------------------------------------------- holds


def test_a_hold_lets_everything_go_ahead_but_the_switch() -> None:
    world = world_with(make_order(1, [V1]))
    world.hold(HELD)
    world.deliver(make_order(2, [V2]))
    world.settle()
    assert state(world) == ("waiting", "update.held")
    assert world.trials[-1] == V2.digest
    assert world.running() == V1.digest
    world.boot()  # it stays held, and proved
    world.settle()
    assert state(world) == ("waiting", "update.held")
    tried = len(world.trials)
    world.hold(None)
    world.settle()
    assert (world.running(), len(world.trials)) == (V2.digest, tried)


def test_a_hold_stops_no_way_back() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    world.hold(HELD)
    world.deliver(make_order(3, [], withdrawn=["activity"]))
    world.settle()
    assert world.running() == V1.digest


def test_another_slot_has_its_turn_while_one_waits() -> None:
    world = world_with()
    world.hold(HELD)
    world.deliver(make_order(1, [V1], more={"gearbox": slot_order([G1])}))
    world.settle()
    assert state(world)[0] == state(world, "gearbox")[0] == "waiting"
    assert not world.machine.busy, "measurements may be made meanwhile"
    assert {V1.digest, G1.digest} == set(world.trials)


def test_what_failed_and_is_named_again_while_another_is_worked_on_is_the_newer_orders() -> None:
    world = world_with()
    world.metadata_failures = 1
    gearbox = {"gearbox": slot_order([G1])}
    world.deliver(make_order(1, [], more=gearbox))
    world.settle(idle=False)
    assert state(world, "gearbox")[0] == "failed"
    world.hold(HELD)
    world.deliver(make_order(2, [V1], more=gearbox))
    world.elapsed_s += 60  # it is tried again as soon as the other one waits
    world.settle()
    assert (state(world)[0], state(world, "gearbox")[0]) == ("waiting", "waiting")
    assert world.machine.record.updates["gearbox"].order == 2
    world.hold(None)
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V1.digest, G1.digest)


@pytest.mark.parametrize("order", [make_order(2, [V1]), make_order(2, [V3])])
def test_what_waits_is_taken_back_by_a_newer_order(order: Order) -> None:
    world = world_with(make_order(1, [V1]))
    world.hold(HELD)
    world.deliver(make_order(2, [V2]))
    world.settle()
    world.deliver(make_order(3, [V3] if order.slots["activity"].version == "3" else [V1]))
    world.settle()
    assert V2.digest not in world.machine.record.rejected
    world.hold(None)
    world.settle()
    assert world.running() in {V1.digest, V3.digest}


def test_an_order_that_expires_while_it_waits_is_not_obeyed_any_more() -> None:
    world = world_with(make_order(1, [V1]))
    world.hold(HELD)
    world.deliver(make_order(2, [V2], valid=timedelta(hours=1)))
    world.settle()
    world.elapsed_s += 7200
    world.hold(None)
    world.settle()
    assert state(world) == ("failed", "order.expired")
    assert world.running() == V1.digest


# ---------------------------------------------------------------- maintenance windows

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at", "offset_h", "expected"),
    [
        ("", "mon 12:00", 0, True),
        ("02:00-04:00", "mon 02:00", 0, True),
        ("02:00-04:00", "mon 03:59", 0, True),
        ("02:00-04:00", "mon 04:00", 0, False),
        ("02:00-04:00", "mon 01:00", 1, True),
        ("02:00-04:00 utc", "mon 01:00", 1, False),
        ("mon-fri 02:00-04:00", "sat 03:00", 0, False),
        ("sat 22:00-02:00", "sun 01:00", 0, True),
        ("sat 22:00-02:00", "mon 01:00", 0, False),
        ("sat 22:00-24:00", "sun 00:00", 0, False),
        ("fri-mon 00:00-24:00", "sun 13:00", 0, True),
        ("fri-mon 00:00-24:00", "tue 00:00", 0, False),
        ("mon+wed 10:00-11:00, tue 09:00-10:00", "tue 09:30", 0, True),
        ("00:00-00:00", "thu 17:00", 0, True),
    ],
)
def test_windows(text: str, at: str, offset_h: int, expected: bool) -> None:
    day, clock = at.split()
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun").index(day)
    hours, minutes = map(int, clock.split(":"))
    wall = MONDAY + timedelta(days=days, hours=hours, minutes=minutes)
    windows = parse_windows(text)
    moment = Moment(wall, 0.0, offset_h * 3600.0)
    assert is_open(windows, moment) is expected
    assert parse_windows(format_windows(windows)) == windows
    if expected:
        assert opens_at([windows], moment) == wall
    else:
        opens = opens_at([windows], moment)
        assert opens is not None
        assert is_open(windows, moment._replace(wall=opens))
        assert not is_open(windows, moment._replace(wall=opens - timedelta(seconds=1)))


@pytest.mark.parametrize(
    "text",
    ["mon", "24:00-02:00", "25:00-26:00", "02:60-03:00", "2:00-4:00", "mun 02:00-04:00",
     "\u0660\u0662:00-04:00", "mon-tue-wed 02:00-04:00", "02:00-04:00 cet", "," * 20,
     "02:00-04:00," * 15, "x" * 2000, "mon 02:00-04:00;tue 02:00-04:00"],
)  # fmt: skip
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_windows(text)


def test_windows_of_order_and_device_must_both_be_open() -> None:
    night, sunday = parse_windows("02:00-04:00"), parse_windows("sun 03:00-05:00")
    moment = Moment(MONDAY + timedelta(hours=2), 0.0)
    assert closed([night], moment) is None
    assert closed([night, ()], moment) is None
    assert opens_at([night, sunday], moment) == MONDAY + timedelta(days=6, hours=3)
    reason = closed([night, parse_windows("12:00-13:00")], moment)
    assert reason is not None
    assert "never open together" in reason.detail


def test_a_clock_that_is_certainly_wrong_opens_nothing() -> None:
    night = parse_windows("02:00-04:00")
    moment = Moment(MONDAY + timedelta(hours=3), 0.0)
    reason = closed([night], moment, issued_at=MONDAY + timedelta(hours=12))
    assert reason is not None
    assert reason.code == "update.window"
    assert closed([], moment, issued_at=MONDAY + timedelta(hours=12)) is None


def test_an_update_waits_for_its_window_and_goes_ahead_by_itself() -> None:
    world = world_with(make_order(1, [V1]))
    policy = UpdatePolicy(observe_s=1, windows=parse_windows("02:00-04:00 utc"))
    world.deliver(make_order(2, [V2], policy=policy))
    world.settle(idle=False)
    assert state(world) == ("waiting", "update.window")
    assert not world.machine.idle
    world.settle()
    assert world.running() == V2.digest
    assert (START + timedelta(seconds=world.elapsed_s)).hour == 2


def test_the_devices_own_window_counts_without_any_in_the_order() -> None:
    world = world_with()
    machine = Machine("pi-1", maintenance=parse_windows("02:00-04:00 utc"))
    world.machine = world.engine.machine = machine
    world.deliver(make_order(1, [V1]))
    world.settle(idle=False)
    assert state(world) == ("waiting", "update.window")


# ---------------------------------------------------------------- shadows

SHADOW = UpdatePolicy(observe_s=1, shadow_s=3600, retry_delay_s_max=10)


def test_a_shadow_that_agrees_is_activated_and_reported() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    assert world.machine.shadowed == {"activity": V2.digest}
    assert world.inference.companions["activity"].manifest == V2.digest
    world.settle()
    assert world.running() == V2.digest
    update = world.machine.record.updates["activity"]
    assert update.shadow is not None
    assert (update.shadow.mirrored, update.shadow.agreed) == (50, 50)
    assert update.observation is not None
    assert world.inference.companions == {}, "memory is returned"


@pytest.mark.parametrize("fault", ["differing", "erring", "unloadable"])
def test_a_shadow_that_is_worse_is_rejected_with_numbers(fault: str) -> None:
    world = world_with(make_order(1, [V1]))
    setattr(world, fault, {V2.digest})
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle()
    assert state(world)[0] == "rejected"
    assert world.running() == V1.digest
    assert world.machine.record.rejected == (V2.digest,)
    assert "activating" not in world.states()
    assert world.inference.companions == {}


def test_without_memory_or_anything_to_compare_with_there_is_no_shadow() -> None:
    world = world_with()
    world.deliver(make_order(1, [V1], policy=SHADOW))
    world.settle()
    assert "shadowing" not in world.states()
    world.roomy = False
    world.differing = {V2.digest}
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    assert (world.machine.shadowed, state(world)[0]) == ({}, "observing"), "nothing is waited for"
    world.settle()
    assert world.running() == V2.digest, "not enough data is no judgement"


@pytest.mark.parametrize(
    ("suspects", "ends"),
    [((V2.digest,), "rejected"), ((), "rejected"), ((V1.digest,), "committed")],
)
def test_who_was_computing_when_a_shadowed_process_died(
    suspects: tuple[str, ...], ends: str
) -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    world.inference.die()
    world.feed(steps.InferenceDied(reason=DIED, suspects=suspects))
    for change in world.serving.restore(fresh=True, leave=world.machine.unsettled):
        world.feed(change)
    world.settle()
    assert state(world)[0] == ends


def test_a_shadow_is_freed_when_it_is_taken_back() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=SHADOW))
    world.settle(idle=False)
    world.deliver(make_order(3, [V1]))
    world.settle()
    assert world.inference.companions == {}
    assert state(world)[0] == "idle"


# ---------------------------------------------------------------- coupled slots


def test_coupled_slots_are_switched_in_one_step_and_one_record() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.deliver(both(2, V2, G2))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)
    switched = [slot for slot, _, after, _ in world.announced if after is UpdateState.ACTIVATING]
    assert switched == list(PAIR)
    assert world.states("activity")[-4:-2] == ["waiting", "activating"]


def test_the_guilty_one_is_blamed_and_both_go_back() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.erring = {G2.digest}
    world.deliver(both(2, V2, G2))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V1.digest, G1.digest)
    assert world.machine.record.rejected == (G2.digest,)
    assert state(world) == ("rolled-back", "update.partner")
    assert state(world, "gearbox") == ("rolled-back", "observe.error_rate")


def test_a_rejected_partner_ends_the_others_without_blame() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.failing_trial = {G2.digest}
    world.deliver(both(2, V2, G2))
    world.settle()
    assert state(world) == ("rejected", "update.partner_rejected")
    assert world.machine.record.rejected == (G2.digest,)
    fetched = len(world.trials)
    world.deliver(both(3, V2, G2))  # the same once more is known to be in vain
    world.settle()
    assert len(world.trials) == fetched
    world.failing_trial = set()
    world.deliver(both(4, V2, G2, forgive=[G2.digest]))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)


def test_the_next_candidate_of_a_partner_is_waited_for() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.failing_trial = {G2.digest}
    world.deliver(both(2, V2, G2, G2_EXACT))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2_EXACT.digest)


def test_a_partner_that_fails_for_good_fails_the_others() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    for topic in G2.retained:
        del world.broker.retained[topic]
    world.deliver(both(2, V2, G2))
    world.settle()
    assert state(world) == ("failed", "update.partner_failed")
    assert state(world, "gearbox") == ("failed", "transfer.stalled")
    world.publish(G2)
    world.deliver(both(3, V2, G2))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)


def test_a_partner_that_runs_already_what_is_wanted_keeps_nobody_back() -> None:
    world = world_with(make_order(1, [V1], more={"gearbox": slot_order([G2])}))
    world.deliver(both(2, V2, G2))
    world.settle()
    assert world.running() == V2.digest
    assert world.states("gearbox") == []


@pytest.mark.parametrize(
    "groups",
    [[PAIR, ("gearbox", "other")], [PAIR, PAIR], [("activity", "activity")]],
)
def test_an_order_that_couples_a_slot_twice_is_refused(groups: list[tuple[str, ...]]) -> None:
    world = world_with()
    world.deliver(make_order(1, [V1], coupled=groups))
    world.settle()
    assert world.refusal == ("order.coupled", 1)
    assert world.machine.record.counter == 0


def test_nobody_is_blamed_when_one_of_several_has_killed_the_process() -> None:
    world = world_with(both(1, V1, G1), coupled=PAIR)
    world.deliver(both(2, V2, G2, policy=LONG))
    world.settle(idle=False)
    assert set(world.machine.observed) == set(PAIR)
    world.inference.die()
    world.feed(steps.InferenceDied(reason=DIED))
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V1.digest, G1.digest)
    assert world.machine.record.rejected == ()


def test_damage_takes_what_was_switched_together_back_together() -> None:
    world = world_with(both(1, V1, G1), both(2, V2, G2), coupled=PAIR)
    blob = next(iter(set(G2.blobs) - set(G1.blobs))).removeprefix("sha256:")
    world.disk.flip(f"blobs/sha256/{blob}")
    world.broker.up = False
    world.boot()
    assert {one.version for one in world.inference.serving.values()} == {"1"}
    world.broker.up = True
    world.settle()
    assert (world.running(), world.running("gearbox")) == (V2.digest, G2.digest)


def test_damage_that_took_one_back_alone_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl_agent.serving._partners", lambda slot, _: (slot,))
    world = world_with(both(1, V1, G1), both(2, V2, G2), coupled=PAIR)
    blob = next(iter(set(G2.blobs) - set(G1.blobs))).removeprefix("sha256:")
    world.disk.flip(f"blobs/sha256/{blob}")
    with pytest.raises(AssertionError, match="two halves"):
        world.boot()


# ---------------------------------------------------------------- wishes at the device


def ask_rollback(world: World, slot: str = "activity") -> str:
    world.feed(steps.RollbackAsked(slot=slot, request="1"))
    world.settle()
    answer = world.answers[-1]
    return answer.code if answer else ""


def ask_install(world: World, *bundles: MadeBundle) -> str:
    wanted = slot_order(bundles)
    world.feed(steps.InstallAsked(slot=bundles[0].config.model, wanted=wanted, request="2"))
    answer = world.answers[-1]
    return answer.code if answer else ""


def test_a_rollback_by_hand_is_remembered() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    assert ask_rollback(world) == ""
    assert world.running() == V1.digest
    assert state(world) == ("rolled-back", "update.unwanted")
    world.boot()
    world.deliver(make_order(3, [V2]))  # the server has not heard of it
    world.settle()
    assert world.running() == V1.digest
    assert ask_rollback(world) == "rollback.nothing"


def test_a_rollback_by_hand_goes_before_what_is_fetched() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    world.deliver(make_order(3, [V3], more={"gearbox": slot_order([G1])}))
    assert state(world)[0] == "refreshing"
    world.feed(steps.RollbackAsked(slot="activity", request="1"))
    assert state(world)[0] == "rolling-back"
    world.settle()
    assert "rolled-back" in world.states()
    assert V2.digest in world.machine.record.rejected
    assert (world.running(), world.running("gearbox")) == (V3.digest, G1.digest)


def test_a_rollback_by_hand_of_what_is_observed_and_not_of_another_slot_meanwhile() -> None:
    world = world_with(make_order(1, [V1], more={"gearbox": slot_order([G1])}))
    slots = {"gearbox": slot_order([G2])}
    world.deliver(make_order(2, [V1], more=slots, policy=LONG))
    world.settle(idle=False)
    world.feed(steps.RollbackAsked(slot="activity", request="1"))
    assert world.answers[-1] is not None
    assert world.answers[-1].code == "rollback.busy"
    assert ask_rollback(world, "gearbox") == ""
    assert world.running("gearbox") == G1.digest
    assert world.machine.record.rejected == (G2.digest,)


def test_coupled_slots_are_rolled_back_by_hand_together() -> None:
    world = world_with(both(1, V1, G1), both(2, V2, G2), coupled=PAIR)
    assert ask_rollback(world) == ""
    assert (world.running(), world.running("gearbox")) == (V1.digest, G1.digest)
    assert world.machine.record.rejected == (V2.digest,)


def test_an_installation_by_hand_needs_no_order_and_waits_for_no_window() -> None:
    world = world_with()
    assert ask_install(world, V1) == ""
    world.boot()  # it is remembered
    world.settle()
    assert world.running() == V1.digest
    update = world.machine.record.updates["activity"]
    assert (update.order, update.wish) == (0, 1)
    policy = UpdatePolicy(observe_s=1, windows=parse_windows("02:00-04:00 utc"), shadow_s=60)
    world.deliver(make_order(1, [V1], policy=policy))
    world.settle()
    assert ask_install(world, V2) == ""
    world.settle()
    assert world.running() == V2.digest
    assert "shadowing" not in world.states()


def test_an_installation_by_hand_counts_until_a_newer_order_comes() -> None:
    world = world_with(make_order(1, [V1]))
    ask_install(world, V2)
    world.settle()
    assert world.machine.record.order is not None
    world.deliver(world.machine.record.order)  # the same once more
    world.settle()
    assert world.running() == V2.digest
    world.deliver(make_order(2, [V3]))
    world.settle()
    assert world.running() == V3.digest
    assert world.machine.record.local == {}


def test_what_was_found_bad_is_not_installed_by_hand() -> None:
    world = world_with(make_order(1, [V1]))
    world.failing_trial = {V2.digest}
    assert ask_install(world, V2) == ""
    world.settle()
    assert state(world)[0] == "rejected"
    assert ask_install(world, V2) == "update.remembered"
    assert world.running() == V1.digest


def test_an_installation_that_failed_can_be_asked_for_again() -> None:
    world = world_with(make_order(1, [V1], policy=UpdatePolicy(attempts_max=1, observe_s=1)))
    world.broker.up = False
    world.metadata_failures = 1
    ask_install(world, V2)
    world.settle()
    assert state(world)[0] == "failed"
    world.broker.up = True
    assert ask_install(world, V2) == ""
    world.settle()
    assert world.running() == V2.digest


def test_a_hold_stops_an_installation_by_hand() -> None:
    world = world_with(make_order(1, [V1]))
    world.hold(HELD)
    ask_install(world, V2)
    world.settle()
    assert state(world) == ("waiting", "update.held")


# ---------------------------------------------------------------- limits


def started(limits: Limits) -> tuple[Machine, list[steps.Action]]:
    machine = Machine("pi-1", limits=limits)
    machine.start(moment(0), 0.5)
    return machine, machine.handle(steps.OrderArrived(order=make_order(1, [V1])), moment(0), 0.5)


def moment(elapsed_s: float) -> Moment:
    return Moment(START + timedelta(seconds=elapsed_s), elapsed_s)


def kinds(actions: list[steps.Action]) -> set[str]:
    return {type(one).__name__ for one in actions}


def test_a_step_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    machine, actions = started(Limits(refresh_s=100, cancel_s=10))
    step = next(one for one in actions if isinstance(one, steps.Refresh))
    assert machine.due_s == 100
    assert "Cancel" not in kinds(machine.handle(steps.Ticked(), moment(99), 0.5))
    actions = machine.handle(steps.Ticked(), moment(100), 0.5)
    assert "Cancel" in kinds(actions)
    update = machine.record.updates["activity"]
    assert update.reason is not None
    assert (str(update.state), update.reason.code) == ("failed", "update.timeout")
    reason = Reason(code="update.cancelled", detail="at last")
    machine.handle(steps.StepFailed(step=step.step, slot="", reason=reason), moment(101), 0.5)
    assert "Refresh" in kinds(machine.handle(steps.Ticked(), moment(105), 0.5))
    assert machine.due_s == 205


def test_a_step_that_does_not_come_back_ends_the_agent() -> None:
    machine, _ = started(Limits(refresh_s=100, cancel_s=10))
    machine.handle(steps.Ticked(), moment(100), 0.5)
    machine.handle(steps.Ticked(), moment(105), 0.5)  # the next one waits behind it
    actions = machine.handle(steps.Ticked(), moment(110), 0.5)
    assert "GiveUp" in kinds(actions)


def test_a_rollback_that_cannot_load_is_over_once_the_pointer_is_back() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    world.unloadable = {V1.digest}  # memory is short
    world.deliver(make_order(3, [], withdrawn=["activity"]))
    world.roomy = False
    world.inference.companions.clear()
    for _ in range(400):
        if not world.turn():
            break
    assert state(world)[0] == "rolled-back"
    assert world.running() == V1.digest
    assert world.machine.idle
    assert "activity" in world.serving.silent, "the keeper tries it again"
    world.unloadable = set()
    world.serving.restore(fresh=False)
    assert world.inference.serving["activity"].manifest == V1.digest


def test_a_rollback_that_kills_the_agent_is_over_once_the_pointer_is_back() -> None:
    world = world_with(make_order(1, [V1]), make_order(2, [V2]))
    world.deliver(make_order(3, [], withdrawn=["activity"]))
    assert state(world)[0] == "rolling-back"
    world._run_job()
    record = world.machine.record  # as if every load had killed it
    assert record.updates["activity"].state is UpdateState.ROLLED_BACK
    machine = Machine("pi-1", world.machine.record, world.machine.pointers)
    update = record.updates["activity"]
    back = structs.replace(update, state=UpdateState.ROLLING_BACK, resumes=RESUMES_MAX)
    machine.record = structs.replace(record, updates={"activity": back})
    machine.start(moment(0), 0.5)
    assert machine.record.updates["activity"].state is UpdateState.ROLLED_BACK


def test_what_failed_in_the_switch_is_switched_back_and_tried_again() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2]))
    while not isinstance(world.jobs[0], steps.Activate):
        world._run_job()
    step = world.jobs.popleft()
    assert isinstance(step, steps.Activate)
    down = Reason(code="inference.down", detail="it is being started")
    world.feed(steps.StepFailed(step=step.step, slot="", reason=down))
    world.settle()
    states = world.states()
    at = states.index("rolling-back")
    assert states[at : at + 3] == ["rolling-back", "failed", "refreshing"]
    assert world.running() == V2.digest
    assert world.machine.record.rejected == ()


def test_files_that_are_damaged_while_they_are_observed_are_fetched_again() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=LONG))
    world.settle(idle=False)
    blob = next(iter(set(V2.blobs) - set(V1.blobs))).removeprefix("sha256:")
    world.disk.flip(f"blobs/sha256/{blob}")
    world.boot()
    assert state(world) == ("rolling-back", "store.damaged")
    world.settle()
    assert world.running() == V2.digest
    assert world.machine.record.rejected == ()


def test_what_rolls_back_to_be_tried_again_is_not_once_it_is_taken_back() -> None:
    world = world_with(make_order(1, [V1]))
    world.deliver(make_order(2, [V2], policy=LONG))
    while not isinstance(world.jobs[0], steps.Activate):
        world._run_job()
    step = world.jobs.popleft()
    assert isinstance(step, steps.Activate)
    down = Reason(code="inference.down", detail="it is being started")
    world.feed(steps.StepFailed(step=step.step, slot="", reason=down))
    assert state(world)[0] == "rolling-back"
    world.deliver(make_order(3, [V1]))
    world.settle()
    assert state(world)[0] == "rolled-back"
    assert world.running() == V1.digest


def test_bad_digests_that_are_wanted_are_not_forgotten() -> None:
    """A device that forgot one would try it again, and again."""
    order = make_order(1, [V1, V2])
    record = Record(order=order, rejected=(V1.digest,))
    for number in range(2 * REJECTED_MAX):
        record = Record(order=order, rejected=remember(record, digest_of(b"%d" % number)))
    assert V1.digest in record.rejected
    assert len(record.rejected) == REJECTED_MAX
    assert REJECTED_MAX > SLOTS_MAX * CANDIDATES_MAX
