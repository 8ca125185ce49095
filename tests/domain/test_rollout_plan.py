"""The planner on given facts: each rule of its docstring, each reading of a device's report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgectl_protocol.messages import Installed, Reason, SlotReport, UpdateReport
from edgectl_protocol.update import UpdateState
from edgectl_server.domain.rollouts import (
    CHANGES_MAX,
    DeviceState,
    ObservedDevice,
    ObservedRollout,
    Plan,
    RolloutPolicy,
    RolloutState,
    plan,
)

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
INT8, FP32, OLD = ("sha256:" + 64 * digit for digit in "abc")
WHY = Reason(code="update.example", detail="because")
D, S, U = DeviceState, RolloutState, UpdateState


def running(manifest: str) -> Installed:
    return Installed(version="1", variant="v", manifest=manifest, since=NOW)


def report(
    state: UpdateState | None = None,
    manifest: str = INT8,
    *,
    runs: str | None = OLD,
    order: int = 5,
    attempt: int = 1,
) -> SlotReport:
    update = state and UpdateReport(
        order=order,
        version="1",
        variant="v",
        manifest=manifest,
        state=state,
        attempt=attempt,
        reason=WHY,
    )
    return SlotReport(running=runs and running(runs), update=update)


def device(name: str = "pi-1", state: DeviceState = D.PENDING, **facts: object) -> ObservedDevice:
    given: dict[str, object] = {"online": True, "candidates": (INT8, FP32)}
    if state is not D.PENDING:
        given |= {"order_counter": 5, "accepted_counter": 5, "desired_here": True}
    return ObservedDevice(device=name, state=state, **(given | facts))  # type: ignore[arg-type]


def planned(
    *devices: ObservedDevice,
    state: RolloutState = S.RUNNING,
    acknowledged: int = 0,
    **policy: int,
) -> Plan:
    observed = ObservedRollout(state, devices, acknowledged)
    return plan(RolloutPolicy(**policy), observed, NOW)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({"report": None}, None, id="nothing reported"),
        pytest.param({"report": report()}, None, id="not begun"),
        *(
            pytest.param({"report": report(state, runs=runs)}, None, id=f"{state} is under way")
            for state in U
            for runs in (OLD, INT8)
            if state
            in {
                U.REFRESHING, U.DOWNLOADING, U.VERIFYING, U.TRIAL, U.ACTIVATING, U.OBSERVING,
                U.ROLLING_BACK,
            }
        ),
        pytest.param({"report": report(U.COMMITTED, runs=INT8)}, D.COMMITTED, id="committed"),
        pytest.param(
            {"report": report(U.COMMITTED, FP32, runs=FP32)}, D.COMMITTED, id="second candidate"
        ),
        pytest.param({"report": report(U.COMMITTED, runs=OLD)}, None, id="says so, runs another"),
        pytest.param(
            {"report": report(U.COMMITTED, OLD, runs=OLD, order=4)}, None, id="an older update"
        ),
        pytest.param({"report": report(None, runs=INT8)}, D.COMMITTED, id="it ran it before"),
        pytest.param(
            {"report": report(U.REJECTED, OLD, runs=FP32, order=4)},
            D.COMMITTED,
            id="it ran it before, and another update ended badly",
        ),
        pytest.param(
            {"report": report(U.COMMITTED, runs=INT8), "accepted_counter": 4},
            None,
            id="an answer to an older order",
        ),
        pytest.param({"report": report(U.FAILED)}, None, id="failed, will try again"),
        pytest.param({"report": report(U.FAILED, attempt=5)}, D.FAILED, id="gave up"),
        pytest.param(
            {"report": report(U.FAILED, attempt=5, order=4)}, None, id="gave up another order"
        ),
        pytest.param(
            {"report": report(U.FAILED, OLD, attempt=9)}, None, id="gave up another version"
        ),
        pytest.param({"report": report(U.REJECTED)}, None, id="rejected, another is left"),
        pytest.param({"report": report(U.REJECTED, FP32)}, D.REJECTED, id="the last is rejected"),
        pytest.param(
            {"report": report(U.REJECTED), "rejected": frozenset({FP32, INT8})},
            D.REJECTED,
            id="all are rejected",
        ),
        pytest.param(
            {"report": report(None), "rejected": frozenset({FP32, INT8})},
            D.REJECTED,
            id="rejected before it was asked",
        ),
        pytest.param(
            {"report": report(None), "rejected": frozenset({FP32})}, None, id="one is left"
        ),
        pytest.param({"report": report(U.ROLLED_BACK)}, D.ROLLED_BACK, id="rolled back"),
        pytest.param({"report": report(U.IDLE)}, None, id="idle"),
        pytest.param({"enrolled": False}, D.CANCELLED, id="decommissioned"),
    ],
)  # fmt: skip
def test_what_a_report_means(facts: dict[str, object], expected: DeviceState | None) -> None:
    marks = planned(device(state=D.IN_PROGRESS, **facts), device("pi-2")).marks
    assert [(mark.device, mark.state) for mark in marks] == (
        [] if expected is None else [("pi-1", expected)]
    )
    if expected in {D.FAILED, D.ROLLED_BACK}:
        assert marks[0].reason == WHY


@pytest.mark.parametrize("state", [D.FAILED, D.REJECTED, D.ROLLED_BACK])
def test_facts_win_over_what_was_written_off(state: DeviceState) -> None:
    late = device(state=state, report=report(U.COMMITTED, runs=INT8))
    made = planned(late, device("pi-2"), acknowledged=1)
    assert [mark.state for mark in made.marks] == [D.COMMITTED]


def test_who_recovers_leaves_no_failure_that_is_free() -> None:
    """Two failures were acknowledged, and both devices commit after all: the next one counts."""
    late = [device(f"late-{n}", D.FAILED, report=report(U.COMMITTED, runs=INT8)) for n in range(2)]
    made = planned(*late, device("pi-2"), acknowledged=2)
    assert (made.state, made.recovered) == (S.RUNNING, 2)
    bad = device("bad", D.IN_PROGRESS, report=report(U.ROLLED_BACK))
    assert planned(*late, bad, device("pi-2"), acknowledged=2).state is S.PAUSED


@pytest.mark.parametrize("state", [D.COMMITTED, D.CANCELLED])
def test_the_good_end_is_the_end(state: DeviceState) -> None:
    assert planned(device(state=state, report=report(U.ROLLED_BACK)), device("pi-2")).marks == ()


def test_orders_keep_to_the_limit_and_prefer_who_is_there() -> None:
    devices = [device(f"pi-{n}", online=n % 2 == 0) for n in range(8)]
    made = planned(*devices, device("busy", D.IN_PROGRESS), max_in_progress=3)
    assert made.orders == ("pi-0", "pi-2")
    assert planned(*devices, max_in_progress=1).orders == ("pi-0",)


def test_offline_devices_are_ordered_only_where_everybody_has_a_place() -> None:
    offline = [device(f"pi-{n}", online=False) for n in range(3)]
    assert planned(*offline, max_in_progress=2).orders == ()
    everybody = planned(*offline, max_in_progress=3)
    assert everybody.orders == ("pi-0", "pi-1", "pi-2")
    assert everybody.note == "waiting for 3 offline devices"


def test_a_device_that_has_not_said_what_it_is_waits() -> None:
    made = planned(device(candidates=None))
    assert made.orders == ()
    assert made.note == "waiting for the first report of 1 device"


REFUSAL = Reason(code="order.clock", detail="the device's clock says 1970")


def test_a_refused_order_is_waited_for_and_said() -> None:
    one = device(state=D.IN_PROGRESS, accepted_counter=4, refusal=REFUSAL)
    made = planned(one, device("pi-2", D.IN_PROGRESS, online=False))
    assert (made.marks, made.state) == ((), S.RUNNING)
    assert made.note == (
        "waiting for 1 device to take an order that was refused and 1 offline device"
    )


@pytest.mark.parametrize(
    ("policy", "since_s", "facts", "expected"),
    [
        ({}, 599, {}, None),
        ({}, 600, {}, D.OVERDUE),
        ({"deadline_s": 60.0}, 59, {}, None),
        ({"deadline_s": 60.0}, 60, {}, D.OVERDUE),
        ({"deadline_s": 60.0, "on_deadline": "fail"}, 60, {}, D.FAILED),
        ({"deadline_s": 6000.0}, 600, {}, D.OVERDUE),
        ({}, 600, {"overtaken": True}, None),  # it is ordered anew
    ],
)
def test_who_goes_on_refusing_its_order_is_waited_for_no_longer(
    policy: dict[str, Any], since_s: float, facts: dict[str, Any], expected: DeviceState | None
) -> None:
    since = NOW - timedelta(seconds=since_s)
    given = {"accepted_counter": 4, "refusal": REFUSAL, "refused_since": since} | facts
    made = planned(device(state=D.IN_PROGRESS, **given), **policy)
    assert [one.state for one in made.marks] == ([] if expected is None else [expected])
    if expected is not None:
        assert made.marks[0].reason == REFUSAL
        assert made.restores == (made.marks[0].device,), "what it has not accepted is taken back"
    waits = device(state=D.OVERDUE, desired_here=False, **given)
    assert planned(waits, device("other"), **policy).orders == ("other",)


def test_who_takes_our_order_for_a_replay_is_ordered_anew_in_the_same_place() -> None:
    behind = device("a", D.IN_PROGRESS, overtaken=True, accepted_counter=0)
    assert planned(behind, device("b"), max_in_progress=1).orders == ("a",)
    assert planned(behind, device("b"), max_in_progress=2).orders == ("a", "b")
    assert planned(behind, state=S.PAUSED).orders == ()
    other = replace(behind, desired_here=False)  # another rollout has the slot now
    assert planned(other, max_in_progress=1).orders == ()


def test_a_device_that_can_run_no_variant_has_failed() -> None:
    made = planned(device(candidates=()), device("pi-2", D.IN_PROGRESS), failures_max=2)
    assert [(mark.device, mark.state) for mark in made.marks] == [("pi-1", D.FAILED)]
    assert made.marks[0].reason is not None
    assert made.marks[0].reason.code == "rollout.no_variant"


def test_it_pauses_at_the_limit_in_the_same_plan_and_orders_nobody() -> None:
    bad = device(state=D.IN_PROGRESS, report=report(U.ROLLED_BACK))
    made = planned(bad, device("pi-2"), failures_max=1)
    assert made.state is S.PAUSED
    assert made.orders == ()
    assert made.note is not None
    assert "1 rolled back" in made.note
    assert planned(bad, device("pi-2"), failures_max=2).state is S.RUNNING
    assert planned(bad, device("pi-2"), failures_max=1, acknowledged=1).state is S.RUNNING


def test_it_does_not_pause_when_nobody_is_left() -> None:
    made = planned(device(state=D.IN_PROGRESS, report=report(U.ROLLED_BACK)))
    assert made.state is S.COMPLETED
    assert made.look_again_at is None
    assert made.note == "1 rolled back"


def test_paused_notes_facts_and_orders_nobody() -> None:
    done = device(state=D.IN_PROGRESS, report=report(U.COMMITTED, runs=INT8))
    made = planned(done, device("pi-2"), state=S.PAUSED)
    assert [mark.state for mark in made.marks] == [D.COMMITTED]
    assert made.orders == ()
    assert made.state is S.PAUSED
    assert made.note is None  # the reason that was given stays


def test_abort_takes_back_what_is_not_committed() -> None:
    made = planned(
        device("a-pending"),
        device("b-busy", D.IN_PROGRESS),
        device("c-done", D.COMMITTED),
        device("d-bad", D.ROLLED_BACK),
        device("e-bad-and-restored", D.FAILED, desired_here=False),
        device("f-gone", D.IN_PROGRESS, enrolled=False),
        state=S.ABORTED,
    )
    assert {mark.device: mark.state for mark in made.marks} == {
        "a-pending": D.CANCELLED,
        "b-busy": D.CANCELLED,
        "f-gone": D.CANCELLED,
    }
    assert made.restores == ("b-busy", "d-bad")
    assert made.orders == ()
    assert made.look_again_at is None


def test_complete_is_left_alone() -> None:
    assert planned(device(state=D.COMMITTED), state=S.COMPLETED) == Plan(state=S.COMPLETED)


@pytest.mark.parametrize("state", [S.RUNNING, S.ABORTED])
def test_a_plan_is_bounded_and_says_that_there_is_more(state: RolloutState) -> None:
    devices = [device(f"pi-{n:04}", D.IN_PROGRESS, enrolled=False) for n in range(CHANGES_MAX + 7)]
    made = planned(*devices, device("z"), state=state)
    assert len(made.marks) == CHANGES_MAX
    assert made.look_again_at == NOW
    rest = [
        replace(one, state=D.CANCELLED) if n < CHANGES_MAX else one for n, one in enumerate(devices)
    ]
    left = planned(*rest, device("z"), state=state)
    assert len(left.marks) == 7 + (state is S.ABORTED)
    expected = None if state is S.ABORTED else NOW + timedelta(seconds=5)
    assert left.look_again_at == expected
