"""What is proved waits: for the end of a hold, for maintenance windows; one case a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agent.core.made import START, make_order, slot_order
from agent.core.two_slots import (
    G1,
    HELD,
    V1,
    V2,
    V3,
    state,
    world_with,
)
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.timing import Moment
from edgectl_agent.core.windows import closed, is_open, opens_at
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import Order, UpdatePolicy
from edgectl_protocol.windows import format_windows, parse_windows

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
