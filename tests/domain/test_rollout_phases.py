"""Phases, their gates, deadlines, site budgets and proved digests, each on given facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edgectl_protocol.messages import Installed, SlotReport
from edgectl_server.domain.phase_gates import PhaseFacts, judge
from edgectl_server.domain.phases import targets
from edgectl_server.domain.rollouts import (
    Arm,
    DeviceState,
    Experiment,
    Gates,
    ObservedDevice,
    ObservedRollout,
    Phase,
    Plan,
    RolloutPolicy,
    RolloutState,
    Signals,
    Site,
    Standing,
    plan,
)
from edgectl_server.domain.sites import must_stay

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
INT8, FP32 = ("sha256:" + 64 * digit for digit in "ab")
D, S = DeviceState, RolloutState
CANARY = (Phase("canary", devices=2, soak_s=60), Phase("half", percent=50), Phase("all"))


def device(name: str, state: DeviceState = D.PENDING, **facts: object) -> ObservedDevice:
    given: dict[str, object] = {"online": True, "candidates": (INT8, FP32)}
    if state is not D.PENDING:
        given |= {"order_counter": 5, "desired_here": True, "since": NOW - timedelta(hours=1)}
    if state is D.COMMITTED:
        given |= {"committed": INT8}
    return ObservedDevice(device=name, state=state, **(given | facts))  # type: ignore[arg-type]


def fleet(**counts: int) -> list[ObservedDevice]:
    return [
        device(f"{state}-{number:02}", D(state))
        for state, count in counts.items()
        for number in range(count)
    ]


def planned(devices: list[ObservedDevice], standing: Standing, **given: object) -> Plan:
    facts = {
        name: given.pop(name) for name in ("sites", "signals", "state", "lot") if name in given
    }
    observed = ObservedRollout(
        **({"state": S.RUNNING, "devices": devices, "standing": standing} | facts)  # type: ignore[arg-type]
    )
    return plan(RolloutPolicy(**({"phases": CANARY} | given)), observed, NOW)  # type: ignore[arg-type]


def at(phase: int = 0, *, began: float = 10, settled: float | None = None) -> Standing:
    """A phase that began, and has settled, so many seconds ago."""
    ago = None if settled is None else NOW - timedelta(seconds=settled)
    return Standing(phase=phase, since=NOW - timedelta(seconds=began), settled_at=ago)


@pytest.mark.parametrize(
    ("total", "expected"), [(0, (0, 0, 0)), (1, (1, 1, 1)), (3, (2, 2, 3)), (41, (2, 21, 41))]
)
def test_targets_count_from_the_beginning_and_never_fall(
    total: int, expected: tuple[int, ...]
) -> None:
    assert targets(CANARY, total) == expected


def test_a_phase_admits_no_more_than_its_target() -> None:
    made = planned(fleet(pending=10), Standing())
    assert made.orders == ("pending-00", "pending-01")
    assert made.standing == Standing(phase=0, since=NOW)
    assert planned(fleet(pending=9, in_progress=1), at()).orders == ("pending-00",)
    assert planned(fleet(pending=8, in_progress=2), at()).orders == ()
    # Whoever has gone wrong has had a place too; who was cancelled has not.
    assert planned(fleet(pending=8, committed=1, failed=1), at(), failures_max=9).orders == ()
    assert len(planned(fleet(pending=8, cancelled=2), at()).orders) == 2


def test_a_settled_phase_soaks_and_orders_nobody() -> None:
    made = planned(fleet(pending=8, committed=2), at())
    assert (made.standing.phase, made.standing.settled_at, made.orders) == (0, NOW, ())
    assert made.note == "phase canary soaks until 2031-05-06 07:09:09 UTC"
    soaking = planned(fleet(pending=8, committed=2), at(settled=59))
    assert (soaking.standing.phase, soaking.orders) == (0, ())
    over = planned(fleet(pending=8, committed=2), at(settled=60))
    assert (over.standing.phase, over.standing.since, len(over.orders)) == (1, NOW, 3)
    assert over.look_again_at == NOW


def test_late_joiners_obey_phase_and_rate() -> None:
    # Ninety come while the canaries soak: none is ordered, and the soak goes on.
    made = planned(fleet(pending=98, committed=2), at(settled=30))
    assert (made.orders, made.standing.settled_at) == ((), NOW - timedelta(seconds=30))
    # In the phase of a half they raise what a half is, and keep to the rate.
    assert len(planned(fleet(pending=98, committed=2), at(1)).orders) == 48
    assert len(planned(fleet(pending=98, committed=2), at(1), max_in_progress=5).orders) == 5
    # The last phase is open as long as the rollout is.
    late = planned([*fleet(committed=9), device("late")], at(2))
    assert (late.orders, late.state) == (("late",), S.RUNNING)


def test_a_phase_with_a_selector_is_for_those_that_it_means() -> None:
    phases = (Phase("canary", where="tag=canary"), Phase("tenth", percent=10), Phase("all"))
    meant = [device("m-0"), device("m-1")]
    others = [device(f"a-{number:02}", from_phase=1) for number in range(28)]
    made = planned([*others, *meant], Standing(), phases=phases)
    assert made.orders == ("m-0", "m-1")
    done = [replace(one, state=D.COMMITTED, committed=INT8, order_counter=5) for one in meant]
    made = planned([*others, *done], at(settled=0), phases=phases)
    assert (made.standing.phase, made.orders) == (1, ("a-00",)), "two of thirty had their turn"
    late = device("m-2")
    assert planned([*others, *done, late], at(0), phases=phases).orders == ("m-2",)
    # Where nobody whom it is for is left to wait for, it is over.
    gone = [replace(one, state=D.OVERDUE, online=False) for one in meant[:1]]
    assert planned([*others, *gone, done[1]], at(0), phases=phases).standing.phase == 1


def test_challengers_are_drawn_by_lot() -> None:
    phases = (Phase("canary", devices=5, experiment=Experiment()), Phase("all"))
    devices = fleet(pending=20)
    by_name = planned(devices, Standing(), phases=(replace(phases[0], experiment=None), phases[1]))
    first, again, second = (
        planned(devices, Standing(), phases=phases, lot=lot).orders for lot in ("a", "a", "b")
    )
    assert first == again
    assert len({by_name.orders, first, second}) == 3
    assert len(first) == 5


def test_an_experiment_that_fails_pauses_in_the_middle_of_a_soak() -> None:
    phases = (Phase("canary", devices=2, soak_s=3600, experiment=Experiment()), Phase("all"))
    arms = {"challenger": Arm(((900, 9000),) * 9), "champion": Arm(((9, 9000),) * 9)}
    devices = fleet(pending=8, committed=2)
    made = planned(devices, at(settled=60), phases=phases, signals=Signals(**arms))
    assert made.state is S.PAUSED
    assert [(one.gate, one.verdict) for one in made.standing.verdicts] == [("experiment", "failed")]
    assert made.note is not None
    assert "phase canary failed its gates: experiment: error_rate +0.0990" in made.note
    let_pass = replace(made.standing, approved=0, settled_at=NOW - timedelta(hours=1))
    made = planned(devices, let_pass, phases=phases)
    assert made.standing.phase == 1


def test_without_phases_nothing_but_the_rate_counts() -> None:
    made = planned(fleet(pending=9), Standing(), phases=(), max_in_progress=4)
    assert (len(made.orders), made.offers) == (4, {})


# ---------------------------------------------------------------- deadlines


def test_an_offline_device_blocks_a_phase_until_the_deadline_only() -> None:
    offline = device("gone", D.IN_PROGRESS, online=False, since=NOW - timedelta(seconds=59))
    devices = [offline, *fleet(committed=1), device("other", online=False)]
    assert planned(devices, at(), deadline_s=60).marks == ()
    devices[0] = replace(offline, since=NOW - timedelta(seconds=60))
    made = planned(devices, at(began=60), deadline_s=60)
    assert [(one.device, one.state) for one in made.marks] == [("gone", D.OVERDUE)]
    assert made.restores == ("gone",), "it must not come back and update at its own time"
    assert made.standing.settled_at == NOW, "who is left cannot be ordered"
    assert planned(devices, at(), deadline_s=None).marks == ()
    failed = planned(devices, at(), deadline_s=60, on_deadline="fail")
    assert [(one.state, one.reason and one.reason.code) for one in failed.marks] == [
        (D.FAILED, "rollout.deadline")
    ]
    assert failed.state is S.PAUSED


@pytest.mark.parametrize("state", [D.IN_PROGRESS, D.PENDING])
@pytest.mark.parametrize("on_deadline", ["leave", "fail"])
def test_who_is_there_for_hours_and_lost_for_a_moment_is_not_late(
    state: DeviceState, on_deadline: str
) -> None:
    """It waits for a window, or for its turn; then it loses its connection, or all do."""
    lost = device("lost", state, online=False, heard_at=NOW - timedelta(seconds=59))
    policy = {"deadline_s": 60, "on_deadline": on_deadline, "max_in_progress": 1}
    made = planned([lost, *fleet(committed=9)], at(2, began=3600), **policy)
    assert (made.marks, made.state) == ((), S.RUNNING)
    gone = replace(lost, heard_at=NOW - timedelta(seconds=60))
    made = planned([gone, *fleet(committed=9)], at(2, began=3600), **policy)
    assert [one.device for one in made.marks] == ["lost"]


def test_a_phase_does_not_end_because_all_are_lost_for_a_moment() -> None:
    """As when the server restarts: whoever waits will be there again."""
    lost = [device(f"pi-{n}", online=False, heard_at=NOW - timedelta(seconds=5)) for n in range(6)]
    made = planned([*lost, *fleet(committed=1)], at(began=3600), deadline_s=60)
    assert made.standing.settled_at is None
    gone = [replace(one, heard_at=NOW - timedelta(seconds=60)) for one in lost]
    assert planned([*gone, *fleet(committed=1)], at(began=3600), deadline_s=60).standing.settled_at


def test_another_takes_the_place_of_who_is_overdue() -> None:
    overdue = device("gone", D.OVERDUE, online=False, desired_here=False)
    made = planned([overdue, *fleet(pending=5, committed=1)], at(), deadline_s=60)
    assert made.orders == ("pending-00",)


def test_an_order_that_was_accepted_is_not_taken_back() -> None:
    working = device("gone", D.IN_PROGRESS, online=False, accepted_counter=5)
    made = planned([working, *fleet(pending=3)], at(), deadline_s=60)
    assert [one.state for one in made.marks] == [D.OVERDUE]
    assert made.restores == ()


def test_who_is_back_has_its_turn_or_goes_on() -> None:
    back = device("back", D.OVERDUE, desired_here=False, accepted_counter=0)
    made = planned([back, *fleet(committed=1)], at(), deadline_s=60)
    assert made.orders == ("back",)
    at_work = replace(back, desired_here=True, accepted_counter=5)
    made = planned([at_work, *fleet(committed=1)], at(), deadline_s=60)
    assert [(one.device, one.state) for one in made.marks] == [("back", D.IN_PROGRESS)]
    assert made.orders == ()
    running = Installed(version="1", variant="v", manifest=FP32, since=NOW)
    done = replace(at_work, report=SlotReport(running=running))
    made = planned([done, *fleet(committed=1, pending=3)], at(), deadline_s=60)
    assert [(one.state, one.manifest) for one in made.marks] == [(D.COMMITTED, FP32)]


def test_the_end_does_not_wait_for_who_is_overdue() -> None:
    pending = device("off", online=False)
    assert planned([*fleet(committed=9), pending], at(2, began=59), deadline_s=60).marks == ()
    made = planned([*fleet(committed=9), pending], at(2, began=60), deadline_s=60)
    assert (made.state, made.note) == (S.COMPLETED, "1 overdue")
    # While phases are left, it may still come back to one.
    made = planned([*fleet(committed=2), device("off", D.OVERDUE, online=False)], at(1))
    assert made.state is S.RUNNING


def test_nobody_is_overdue_while_people_hold_the_rollout() -> None:
    offline = device("gone", D.IN_PROGRESS, online=False)
    assert planned([offline], at(), deadline_s=1, state=S.PAUSED).marks == ()


# ---------------------------------------------------------------- gates


FACTS = PhaseFacts(total=100, admitted=10, in_progress=0, committed=8, bad=2, reachable=90)


@pytest.mark.parametrize(
    ("gates", "signals", "expected"),
    [
        (Gates(), Signals(), {"committed": "passed"}),
        (Gates(committed_min=9), Signals(), {"committed": "not_enough_data"}),
        (Gates(success_min=0.8), Signals(), {"committed": "passed", "success": "passed"}),
        (Gates(success_min=0.81), Signals(), {"committed": "passed", "success": "failed"}),
        (Gates(error_rate_max=0.01), Signals(99, 0), {"error_rate": "not_enough_data"}),
        (Gates(error_rate_max=0.01), Signals(100, 1), {"error_rate": "passed"}),
        (Gates(error_rate_max=0.01), Signals(100, 2), {"error_rate": "failed"}),
        (Gates(error_rate_max=0.0, requests_min=0), Signals(), {"error_rate": "not_enough_data"}),
        (Gates(latency_p95_us_max=9), Signals(100), {"latency_p95": "not_enough_data"}),
        (Gates(latency_p95_us_max=9), Signals(100, 0, 9.0), {"latency_p95": "passed"}),
        (Gates(latency_p95_us_max=9), Signals(100, 0, 9.1), {"latency_p95": "failed"}),
        (
            Gates(latency_ratio_max=2),
            Signals(100, 0, 9.0, 99, 1.0),
            {"latency_ratio": "not_enough_data"},
        ),
        (
            Gates(latency_ratio_max=2),
            Signals(100, 0, 9.0, 100, None),
            {"latency_ratio": "not_enough_data"},
        ),
        (Gates(latency_ratio_max=2), Signals(100, 0, 9.0, 100, 4.5), {"latency_ratio": "passed"}),
        (Gates(latency_ratio_max=2), Signals(100, 0, 9.0, 100, 4.0), {"latency_ratio": "failed"}),
    ],
)
def test_what_a_gate_says(gates: Gates, signals: Signals, expected: dict[str, str]) -> None:
    found = {one.gate: one.verdict for one in judge(gates, replace(FACTS, signals=signals))}
    assert {"committed": "passed", **expected} == found


def test_not_enough_data_is_waited_for_and_a_person_may_let_it_pass() -> None:
    gates = Gates(error_rate_max=0.1)
    devices = fleet(pending=8, committed=2)
    made = planned(devices, at(settled=99), gates=gates, signals=Signals(7, 0))
    assert (made.state, made.standing.phase, made.orders) == (S.RUNNING, 0, ())
    assert made.note == ("phase canary has not enough data: error_rate: 7 of at least 100 requests")
    approved = replace(at(settled=99), approved=0)
    assert planned(devices, approved, gates=gates).standing.phase == 1


def test_a_failed_gate_pauses_and_a_person_may_let_it_pass() -> None:
    gates = Gates(error_rate_max=0.1)
    devices = fleet(pending=8, committed=2)
    bad = Signals(100, 50)
    made = planned(devices, at(settled=99), gates=gates, signals=bad)
    assert (made.state, made.orders) == (S.PAUSED, ())
    assert made.note is not None
    assert "error_rate: 50 of 100 requests, at most 0.1" in made.note
    resumed = replace(made.standing, approved=0)
    assert planned(devices, resumed, gates=gates, signals=bad).standing.phase == 1


@pytest.mark.parametrize("soak_s", [0, 3600])
def test_a_gate_that_fails_after_the_approval_takes_it_back(soak_s: int) -> None:
    """Whoever approves a phase that soaks has not seen what its gates say at the end."""
    phases = (replace(CANARY[0], approval=True, soak_s=soak_s), *CANARY[1:])
    gates = Gates(error_rate_max=0.1, latency_p95_us_max=9)
    devices = fleet(pending=8, committed=2)
    approved = replace(at(settled=soak_s), approved=0)
    wrong = Signals(100, 50, 9.0)
    made = planned(devices, approved, phases=phases, gates=gates, signals=wrong)
    assert (made.state, made.standing.phase, made.standing.approved) == (S.PAUSED, 0, -1)
    resumed = replace(made.standing, approved=0)
    worse = replace(wrong, latency_p95_us=9.1)
    made = planned(devices, resumed, phases=phases, gates=gates, signals=worse)
    assert (made.state, made.standing.approved) == (S.PAUSED, -1), "nobody has seen the latency"
    resumed = replace(made.standing, approved=0)
    made = planned(devices, resumed, phases=phases, gates=gates, signals=worse)
    assert made.standing.phase == 1


def test_a_phase_may_ask_for_something_of_its_own() -> None:
    """Half of the canaries may fail where nine of ten must hold later."""
    own = replace(CANARY[0], gates=Gates(success_min=0.5, committed_min=3))
    phases, strict = (own, *CANARY[1:]), Gates(success_min=0.9)
    some = [*fleet(pending=8, committed=2), *fleet(rolled_back=1)]
    made = planned(some, at(settled=99), phases=phases, gates=strict, failures_max=9)
    verdicts = {one.gate: one.verdict for one in made.standing.verdicts}
    assert verdicts == {"committed": "not_enough_data", "success": "passed"}
    more = [*fleet(pending=8, committed=3), *fleet(rolled_back=1)]
    assert planned(more, at(settled=99), phases=phases, gates=strict, failures_max=9).standing.phase
    made = planned(more, at(settled=99), gates=strict, failures_max=9)
    assert made.state is S.PAUSED, "without gates of its own, those for all"


def test_a_canary_that_never_committed_is_no_pass() -> None:
    devices = [*fleet(pending=8), *fleet(rolled_back=2)]
    made = planned(devices, at(settled=99), failures_max=9)
    assert made.standing.phase == 0
    assert made.note == "phase canary has not enough data: committed: 0 of at least 1"


def test_approval_is_asked_for_when_the_gates_have_passed() -> None:
    phases = (replace(CANARY[0], approval=True), *CANARY[1:])
    made = planned(fleet(pending=8, committed=2), at(settled=99), phases=phases)
    assert (made.standing.phase, made.note) == (0, "phase canary waits for approval")
    approved = replace(at(settled=99), approved=0)
    made = planned(fleet(pending=8, committed=2), approved, phases=phases)
    assert made.standing.phase == 1


# ---------------------------------------------------------------- proved digests


def test_the_first_phase_takes_devices_that_would_run_different_manifests() -> None:
    devices = [
        *(device(f"a-{number}") for number in range(5)),
        device("z", candidates=(FP32,)),
    ]
    assert planned(devices, Standing()).orders == ("a-0", "z")


def test_later_phases_offer_what_has_committed_here_and_nothing_else() -> None:
    made = planned([*fleet(committed=2), device("p"), device("q")], at(2))
    assert made.offers == {"p": (INT8,), "q": (INT8,)}


def test_what_nobody_has_proved_goes_to_one_device_at_a_time() -> None:
    others = [device(name, candidates=(FP32,)) for name in ("x", "y", "z")]
    made = planned([*fleet(committed=2), *others], at(2))
    assert (made.orders, made.offers) == (("x",), {"x": (FP32,)})
    others[0] = device("x", D.IN_PROGRESS, candidates=(FP32,))
    assert planned([*fleet(committed=2), *others], at(2)).orders == ()
    others[0] = device("x", D.COMMITTED, committed=FP32)
    assert planned([*fleet(committed=2), *others], at(2)).orders == ("y", "z")


# ---------------------------------------------------------------- sites


@pytest.mark.parametrize(
    ("policy", "total", "expected"),
    [
        (RolloutPolicy(), 5, 0),
        (RolloutPolicy(available_min=2), 5, 2),
        (RolloutPolicy(available_percent=50), 5, 3),
        (RolloutPolicy(available_min=4, available_percent=50), 5, 4),
    ],
)
def test_what_must_stay_at_a_site(policy: RolloutPolicy, total: int, expected: int) -> None:
    assert must_stay(policy, total) == expected


def test_a_site_keeps_what_its_budget_says() -> None:
    devices = [
        *(device(f"p-{number}", site="porto") for number in range(3)),
        *(device(f"l-{number}", site="lisboa") for number in range(3)),
        device("f", site="faro"),
    ]
    sites = {"porto": Site(3, 3), "lisboa": Site(3, 2), "faro": Site(1, 1)}
    made = planned(devices, at(2), phases=(), sites=sites, available_min=2)
    assert made.orders == ("p-0",)
    assert made.note == "waiting for 6 devices whose site has too few others available"
    # Who is offline is not available already: its order takes nothing away.
    devices[3] = replace(devices[3], online=False)
    made = planned(devices, at(2), phases=(), sites=sites, available_min=2)
    assert made.orders == ("p-0", "l-0")


def test_who_is_held_or_flaps_waits() -> None:
    devices = [device("held", held=True), device("flaps", flapping=True), device("free")]
    made = planned(devices, at(2), phases=())
    assert made.orders == ("free",)
    assert made.note == (
        "waiting for 1 device in another rollout and 1 device whose connection comes and goes"
    )


# ---------------------------------------------------------------- abort


@pytest.mark.parametrize("revert", [False, True])
def test_an_abort_reaches_devices_in_progress_and_with_revert_the_others(*, revert: bool) -> None:
    devices = fleet(pending=1, in_progress=2, committed=2, overdue=1, rolled_back=1)
    observed = ObservedRollout(S.ABORTED, devices, standing=at(1), revert=revert)
    made = plan(RolloutPolicy(phases=CANARY), observed, NOW)
    undone = {"in_progress-00", "in_progress-01", "overdue-00", "rolled_back-00"}
    committed = {"committed-00", "committed-01"}
    assert set(made.restores) == (undone | committed if revert else undone)
    states = {one.device: one.state for one in made.marks}
    assert states.pop("pending-00") is D.CANCELLED
    assert {states.pop(name) for name in undone if name in states} == {D.CANCELLED}
    assert states == (dict.fromkeys(committed, D.REVERTED) if revert else {})
    assert (made.orders, made.look_again_at) == ((), None)
