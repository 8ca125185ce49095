"""Gates on what a model answers, experiments, selected phases, refusals: on both databases."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgectl_protocol.messages import ObservationReport, ReportedState
from edgectl_protocol.update import UpdateState
from edgectl_server import rollout_signals
from edgectl_server.errors import Conflict, Refused
from edgectl_server.schemas import (
    ExperimentSpec,
    PhaseSpec,
    RolloutInfo,
    RolloutPolicy,
    RolloutRequest,
    Selector,
    VerdictInfo,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, RolloutDevice, TelemetryWindow
from server.fleet.fleet_by_hand import Fleet

U = UpdateState
OLD = "sha256:" + "0" * 64
CHALLENGERS = [f"a{number}" for number in range(6)]
CHAMPIONS = [f"b{number}" for number in range(6)]


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    fleet.add(*CHALLENGERS, *CHAMPIONS)
    return fleet


def settle(fleet: Fleet) -> None:
    for _ in range(5):
        fleet.rollouts.tick()


def later(fleet: Fleet, seconds: float) -> None:
    fleet.clock.advance(seconds=seconds)
    settle(fleet)


def label(fleet: Fleet, *names: str, **labels: str) -> None:
    with fleet.database.write() as session:
        for name in names:
            session.get_one(Device, name).labels = labels


def answer(fleet: Fleet, names: list[str], manifest: str, **counts: object) -> None:
    """Each of them sends a window now."""
    with fleet.database.write() as session:
        for name in names:
            given = {
                "device": name, "boot": 1, "seq": fleet.clock().timestamp() * 10, "number": 0,
                "slot": "har", "version": "1", "manifest": manifest, "start": fleet.clock(),
                "end": fleet.clock(), "requests": 1000, "errors": 0, "non_finite": 0,
                "refused": 0, "latency": [], "confidence": [], "classes": [],
                "received_at": fleet.clock(),
            }  # fmt: skip
            session.add(TelemetryWindow(**(given | counts)))


def canary(fleet: Fleet, **gates: float) -> str:
    """The first six have it, and their phase has settled."""
    rollout = fleet.start(phases=[PhaseSpec(name="canary", devices=6, approval=True)], gates=gates)
    settle(fleet)
    for name in CHALLENGERS:
        fleet.report(name, U.COMMITTED)
    settle(fleet)
    return rollout


def verdict(info: RolloutInfo) -> VerdictInfo:
    assert info.phase is not None
    return info.phase.verdicts[-1]


CONFIDENT = [0] * 15 + [10, 20, 70, 300, 600]
DOUBTFUL = [0] * 9 + [300, 200, 100, 100, 50, 50, 40, 40, 20, 50, 50]


@pytest.mark.parametrize(
    ("gate", "old", "new", "expected"),
    [
        ("class_mix", [900, 100], [880, 120], ("passed", "running")),
        ("class_mix", [900, 100], [400, 600], ("failed", "paused")),
        ("class_mix", [900, 100], [9, 1], ("not_enough_data", "running")),
        ("class_mix", [900, 100], [], ("not_enough_data", "running")),
        ("confidence", CONFIDENT, CONFIDENT, ("passed", "running")),
        ("confidence", CONFIDENT, DOUBTFUL, ("failed", "paused")),
    ],
)
def test_a_shift_against_the_fleet_in_the_same_time_fails(
    fleet: Fleet,
    gate: str,
    old: list[int],
    new: list[int],
    expected: tuple[str, str],
) -> None:
    rollout = canary(fleet, **{f"{gate}_max": 0.1})
    field = "classes" if gate == "class_mix" else gate
    answer(fleet, CHALLENGERS, fleet.manifests["1"]["int8"], **{field: new})
    answer(fleet, CHAMPIONS, OLD, **{field: old})
    later(fleet, 5)
    info = fleet.show(rollout)
    said = verdict(info)
    assert (said.gate, said.verdict, info.state) == (gate, *expected)
    assert (said.requests, said.reference_requests) == (6 * sum(new), 6 * sum(old))
    assert said.limit == 0.1
    if said.verdict != "not_enough_data":
        assert (said.devices, said.reference_devices) == (6, 6)
        assert f"{said.value:.3f} away, at most 0.1" in said.detail


def test_an_approval_during_the_soak_passes_no_gate_that_fails_at_its_end(fleet: Fleet) -> None:
    phase = PhaseSpec(name="canary", devices=6, soak_s=3600, approval=True)
    rollout = fleet.start(phases=[phase], gates={"error_rate_max": 0.01})
    settle(fleet)
    for name in CHALLENGERS:
        fleet.report(name, U.COMMITTED)
    settle(fleet)
    fleet.rollouts.approve(rollout, "ana", "looks good so far")
    answer(fleet, CHALLENGERS, fleet.manifests["1"]["int8"], errors=500)
    later(fleet, 3600)
    info = fleet.show(rollout)
    assert (info.state, verdict(info).verdict) == ("paused", "failed")
    assert info.phase is not None
    assert info.phase.number == 1
    fleet.rollouts.resume(rollout, "ana", "the cameras were covered")
    settle(fleet)
    info = fleet.show(rollout)
    assert info.phase is not None
    assert (info.state, info.phase.number) == ("running", 2)


def test_a_canary_is_heard_however_much_the_others_say(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_signals, "WINDOWS_MAX", 6)
    rollout = canary(fleet, error_rate_max=0.01)
    answer(fleet, CHALLENGERS, fleet.manifests["1"]["int8"], errors=500)
    for _ in range(3):
        fleet.clock.advance(seconds=1)
        answer(fleet, CHAMPIONS, OLD)
    later(fleet, 5)
    info = fleet.show(rollout)
    assert (info.state, verdict(info).requests) == ("paused", 6000)


def test_a_liar_does_not_shift_the_mixture(fleet: Fleet) -> None:
    rollout = canary(fleet, class_mix_max=0.1)
    answer(fleet, CHALLENGERS[1:], fleet.manifests["1"]["int8"], classes=[900, 100])
    answer(fleet, CHALLENGERS[:1], fleet.manifests["1"]["int8"], classes=[0, 10**15])
    answer(fleet, CHAMPIONS, OLD, classes=[900, 100])
    later(fleet, 5)
    info = fleet.show(rollout)
    assert info.state == "running", "one device that differs is how devices differ"
    assert verdict(info).requests == 5 * 1000 + 10 * 1000


@pytest.mark.parametrize(
    ("agreed", "expected"),
    [(99, "passed"), (97, "failed"), (None, "not_enough_data")],
)
def test_disagreement_is_of_the_copies_that_devices_report(
    fleet: Fleet, agreed: int | None, expected: str
) -> None:
    rollout = canary(fleet, disagreement_max=0.02)
    for name in CHALLENGERS:
        with fleet.database.write() as session:
            device = session.get_one(Device, name)
            state = msgspec.convert(device.reported, ReportedState)
            update = state.slots["har"].update
            assert update is not None
            seen = None if agreed is None else ObservationReport(mirrored=100, agreed=agreed)
            slot = msgspec.structs.replace(
                state.slots["har"],
                update=msgspec.structs.replace(update, shadow=seen, rollout=rollout),
            )
            state = msgspec.structs.replace(state, slots={"har": slot})
            device.reported = msgspec.to_builtins(state)
    later(fleet, 5)
    said = verdict(fleet.show(rollout))
    assert (said.gate, said.verdict) == ("disagreement", expected)
    if agreed is not None:
        assert said.detail == f"{6 * (100 - agreed)} of 600 copied requests, at most 0.02"


# ---------------------------------------------------------------- experiments


def experiment(**settings: object) -> PhaseSpec:
    tested = ExperimentSpec(**({"margin": 0.02, "limit_s": 3600} | settings))
    return PhaseSpec(name="canary", devices=6, soak_s=60, experiment=tested)


def cohort(fleet: Fleet, rollout: str) -> tuple[list[str], list[str]]:
    """Devices of the first phase are drawn by lot: let them commit."""
    settle(fleet)
    states = fleet.states(rollout)
    drawn = [name for name, state in states.items() if state == "in_progress"]
    for name in drawn:
        fleet.report(name, U.COMMITTED)
    settle(fleet)
    return drawn, [name for name in states if name not in drawn]


def test_an_experiment_lets_a_version_pass_that_is_not_worse(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[experiment()])
    challengers, champions = cohort(fleet, rollout)
    assert (len(challengers), len(champions)) == (6, 6)
    answer(fleet, [*challengers, *champions], OLD, errors=900)  # of before it began
    fleet.clock.advance(seconds=1)
    answer(fleet, champions, OLD, errors=5)
    answer(fleet, challengers, fleet.manifests["1"]["int8"], errors=3, non_finite=2)
    later(fleet, 6)
    info = fleet.show(rollout)
    said = verdict(info)
    assert info.phase is not None
    assert (said.gate, said.verdict, said.final, info.phase.step) == (
        "experiment", "passed", True, "soaking",
    )  # fmt: skip
    assert (said.devices, said.requests, said.reference_devices, said.reference_requests) == (
        6, 6000, 6, 6000,
    )  # fmt: skip
    later(fleet, 60)
    assert fleet.show(rollout).phase.number == 2


def test_an_experiment_stops_a_version_that_is_worse_before_the_soak_ends(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[experiment()])
    challengers, champions = cohort(fleet, rollout)
    for _ in range(4):
        fleet.clock.advance(seconds=6)
        answer(fleet, champions, OLD, errors=5)
        answer(fleet, challengers, fleet.manifests["1"]["int8"], errors=200)
        settle(fleet)
    later(fleet, 6)
    info = fleet.show(rollout)
    assert (info.state, verdict(info).verdict) == ("paused", "failed")
    assert "error_rate +0.1950, surely between" in info.note
    with fleet.database.read() as session:
        row = session.get_one(RolloutDevice, (rollout, challengers[0]))
        assert (row.tested_requests, row.tested_wrong) == (4000, 800), "each window once"


def test_an_experiment_without_an_answer_ends_and_waits_for_a_person(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[experiment(rate="low_confidence", limit_s=600)])
    challengers, champions = cohort(fleet, rollout)
    fleet.clock.advance(seconds=1)
    answer(fleet, champions, OLD, requests=100, confidence=[1] + [5] * 19)
    answer(fleet, challengers, fleet.manifests["1"]["int8"], confidence=[2] + [5] * 19)
    later(fleet, 300)
    assert (verdict(fleet.show(rollout)).verdict, fleet.show(rollout).phase.step) == (
        "not_enough_data", "gates",
    )  # fmt: skip
    later(fleet, 301)
    info = fleet.show(rollout)
    assert verdict(info).final
    assert "experiment: no answer after 600 s: low_confidence" in info.note
    assert verdict(info).requests == 6 * 97
    answer(fleet, champions, OLD, confidence=[0] + [5000] * 19)
    later(fleet, 3600)
    assert verdict(fleet.show(rollout)) == verdict(info), "nothing is asked after the end"
    fleet.rollouts.approve(rollout, "anna", "looked at it")
    settle(fleet)
    assert fleet.show(rollout).phase.number == 2


def test_a_claim_of_everything_there_is_does_no_harm(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[experiment()])
    challengers, champions = cohort(fleet, rollout)
    most = 2**63 - 1
    for _ in range(3):
        fleet.clock.advance(seconds=6)
        answer(fleet, champions, OLD, errors=5)
        answer(fleet, challengers[1:], fleet.manifests["1"]["int8"], errors=200)
        answer(
            fleet,
            challengers[:1],
            fleet.manifests["1"]["int8"],
            requests=most,
            classes=[most],
            confidence=[most] * 20,
        )
        settle(fleet)
    later(fleet, 6)
    said = verdict(fleet.show(rollout))
    assert said.verdict == "not_enough_data", "five of six are much worse: no pass"


def test_sites_are_the_units_where_devices_belong_together(fleet: Fleet) -> None:
    label(fleet, *CHALLENGERS[:3], *CHAMPIONS[:3], site="porto")
    label(fleet, *CHALLENGERS[3:], *CHAMPIONS[3:], site="faro")
    rollout = fleet.start(phases=[experiment(unit="site")])
    challengers, champions = cohort(fleet, rollout)
    fleet.clock.advance(seconds=1)
    answer(fleet, champions, OLD)
    answer(fleet, challengers, fleet.manifests["1"]["int8"])
    later(fleet, 6)
    said = verdict(fleet.show(rollout))
    assert said.verdict == "not_enough_data"
    assert said.detail.startswith("2 sites against 2, of at least 5 each")


# ---------------------------------------------------------------- phases by selector


def test_a_phase_by_selector_goes_to_those_that_it_means(fleet: Fleet) -> None:
    label(fleet, "b2", "b4", tag="canary")
    rollout = fleet.start(
        phases=[PhaseSpec(name="canary", where="tag=canary"), PhaseSpec(percent=50)]
    )
    settle(fleet)
    states = fleet.states(rollout)
    assert [name for name, state in states.items() if state == "in_progress"] == ["b2", "b4"]
    phase = fleet.show(rollout).phase
    assert (phase.name, phase.target, phase.admitted) == ("canary", 2, 2)
    label(fleet, "b5", tag="canary")  # while it runs, one more is meant
    later(fleet, 6)
    assert fleet.states(rollout)["b5"] == "in_progress"
    for name in ("b2", "b4", "b5"):
        fleet.report(name, U.COMMITTED)
    settle(fleet)
    phase = fleet.show(rollout).phase
    assert (phase.number, phase.target, phase.admitted) == (2, 6, 6), "counted from the beginning"
    assert sorted(fleet.states(rollout).items())[:3] == [
        ("a0", "in_progress"), ("a1", "in_progress"), ("a2", "in_progress"),
    ]  # fmt: skip


def test_a_plan_says_whom_a_phase_by_selector_is_for(fleet: Fleet) -> None:
    label(fleet, "b2", "b4", tag="canary")
    phases = [PhaseSpec(name="canary", where="tag=canary"), PhaseSpec(percent=50)]
    asked = RolloutRequest(
        model="har", version="1", selector=Selector(all=True), policy=RolloutPolicy(phases=phases)
    )
    found = fleet.rollouts.forecast(asked)
    assert [(one.name, one.devices) for one in found.phases] == [("canary", 2), ("2", 4), ("3", 6)]


def test_selectors_of_phases_are_checked_when_it_starts(fleet: Fleet) -> None:
    for where, code in (
        ("tag=canary", "rollout.no_devices"),
        ("tag==", "selector.syntax"),
        ("@nobody", "selector.unknown"),
        ("online=true", "rollout.selector"),
    ):
        with pytest.raises((Conflict, Refused)) as caught:
            fleet.start(phases=[PhaseSpec(where=where)])
        assert caught.value.code == code


# ---------------------------------------------------------------- refusals


def test_a_device_with_a_wrong_clock_is_overdue_with_its_reason(fleet: Fleet) -> None:
    rollout = fleet.start(devices=["a0", "a1"])
    settle(fleet)
    fleet.report("a1", U.COMMITTED)
    later(fleet, 3600)  # off, or busy with something else
    assert fleet.states(rollout)["a0"] == "in_progress"
    fleet.refuse("a0", fleet.order("a0").counter)
    settle(fleet)
    later(fleet, 599)
    assert fleet.states(rollout)["a0"] == "in_progress"
    later(fleet, 6)
    assert (fleet.states(rollout)["a0"], fleet.reason(rollout, "a0")) == ("overdue", "order.clock")
    assert fleet.order("a0").slots == {}, "taken back: it must not update at its own time"
    info = fleet.show(rollout)
    assert (info.state, info.note) == ("completed", "1 overdue")


def test_when_its_clock_is_right_again_it_has_its_turn(fleet: Fleet) -> None:
    rollout = fleet.start(devices=["a0", "a1"], deadline_s=60)  # the other is still at work
    settle(fleet)
    fleet.refuse("a0", fleet.order("a0").counter)
    settle(fleet)
    later(fleet, 66)
    assert fleet.states(rollout)["a0"] == "overdue"
    fleet.refuse("a0", fleet.order("a0").counter)  # so is the order that takes it back
    later(fleet, 6)
    assert fleet.states(rollout)["a0"] == "overdue"
    counter = fleet.order("a0").counter
    with fleet.database.read() as session:
        nonce = session.get_one(Device, "a0").order_nonces[str(counter)]
    fleet.amend("a0", refusal=None, refused_counter=None, order_counter=counter, order_nonce=nonce)
    later(fleet, 6)
    assert fleet.states(rollout)["a0"] == "in_progress"
