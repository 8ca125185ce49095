"""Phases, deadlines and aborts of rollouts on both databases, with devices that report by hand."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgectl_protocol.histograms import LATENCY_EDGES_US
from edgectl_protocol.update import UpdateState
from edgectl_server.errors import Conflict, Refused
from edgectl_server.flapping import note_disconnect
from edgectl_server.rollout_forecast import NAMES_MAX
from edgectl_server.schemas import (
    GatePolicy,
    PhaseSpec,
    RolloutPolicy,
    RolloutRequest,
    Selector,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, RolloutDevice, TelemetryWindow
from server.fleet.fleet_by_hand import PAGE, Fleet
from server.fleet.fleet_helpers import add_version

U = UpdateState
CANARY = [PhaseSpec(name="canary", devices=1, soak_s=60), PhaseSpec(percent=50, approval=True)]


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    fleet.add("a", "b", "c", "d")
    return fleet


def kinds(fleet: Fleet, rollout: str) -> list[str]:
    """What has happened, oldest first, without what happened to single devices."""
    events = reversed(fleet.rollouts.events(rollout, PAGE).items)
    return [one.kind for one in events if not one.kind.startswith("device_")]


def disconnect(fleet: Fleet, name: str, *, online: bool = False) -> None:
    with fleet.database.write() as session:
        session.get_one(Device, name).online = online
    fleet.rollouts.touch([name])


def settle(fleet: Fleet) -> None:
    """Until nothing changes any more at this moment."""
    for _ in range(5):
        fleet.rollouts.tick()


def test_a_rollout_goes_through_its_phases(fleet: Fleet) -> None:
    rollout = fleet.start(phases=CANARY)
    assert [one.name for one in fleet.show(rollout).policy.phases] == ["canary", "2", "3"]
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {
        "a": "in_progress", "b": "pending", "c": "pending", "d": "pending",
    }  # fmt: skip
    assert fleet.show(rollout).phase.step == "ordering"
    with pytest.raises(Conflict) as caught:
        fleet.rollouts.approve(rollout, "anna", "early")
    assert caught.value.code == "rollout.no_approval"

    fleet.report("a", U.COMMITTED)
    settle(fleet)
    phase = fleet.show(rollout).phase
    assert (phase.number, phase.phases, phase.name, phase.step) == (1, 3, "canary", "soaking")
    assert (phase.soaks_until - phase.settled_at).total_seconds() == 60
    fleet.clock.advance(seconds=59)
    settle(fleet)
    assert fleet.show(rollout).phase.number == 1
    fleet.clock.advance(seconds=6)
    settle(fleet)
    phase = fleet.show(rollout).phase
    assert (phase.number, phase.target, phase.admitted) == (2, 2, 2)
    assert fleet.states(rollout)["b"] == "in_progress"

    fleet.report("b", U.COMMITTED)
    settle(fleet)
    phase = fleet.show(rollout).phase
    assert (phase.step, [one.verdict for one in phase.verdicts]) == ("approval", ["passed"])
    fleet.clock.advance(days=1)
    settle(fleet)
    assert fleet.states(rollout)["c"] == "pending"
    fleet.rollouts.approve(rollout, "anna", "looks good")
    settle(fleet)
    for name in ("c", "d"):
        fleet.report(name, U.COMMITTED)
    settle(fleet)
    assert fleet.show(rollout).state == "completed"
    assert kinds(fleet, rollout) == [
        "started", "phase_settled", "gates", "phase_began",
        "phase_settled", "gates", "approved", "phase_began", "completed",
    ]  # fmt: skip


def test_later_phases_are_ordered_the_digest_that_was_canaried(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[PhaseSpec(devices=1)])
    fleet.rollouts.tick()
    offered = [one.variant for one in fleet.order("a").slots["har"].candidates]
    assert len(offered) > 1, "the canary may fall back"
    fleet.report("a", U.COMMITTED)
    settle(fleet)
    assert [one.variant for one in fleet.order("b").slots["har"].candidates] == offered[:1]
    with fleet.database.read() as session:
        row = session.get_one(RolloutDevice, (rollout, "a"))
        assert row.manifest == fleet.order("b").slots["har"].candidates[0].manifest


def test_a_failed_gate_pauses_and_resuming_lets_the_phase_pass(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[PhaseSpec(devices=2)], failures_max=4, gates={"success_min": 0.9})
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    fleet.report("b", U.ROLLED_BACK)
    settle(fleet)
    info = fleet.show(rollout)
    assert (info.state, [one.verdict for one in info.phase.verdicts]) == (
        "paused", ["passed", "failed"],
    )  # fmt: skip
    assert "success: 1 of 2 ended devices, at least 0.9" in info.note
    fleet.rollouts.resume(rollout, "anna", "b was broken before")
    settle(fleet)
    assert fleet.states(rollout)["c"] == "in_progress"


def test_each_phase_is_judged_by_its_own_gates(fleet: Fleet) -> None:
    gentle = GatePolicy(success_min=0.5)
    phases = [PhaseSpec(devices=2, gates=gentle), PhaseSpec(devices=3)]
    rollout = fleet.start(phases=phases, failures_max=4, gates={"success_min": 0.9})
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    fleet.report("b", U.ROLLED_BACK)
    settle(fleet)
    assert fleet.states(rollout)["c"] == "in_progress", "one of two is enough for the first"
    fleet.report("c", U.COMMITTED)
    settle(fleet)
    assert fleet.show(rollout).state == "paused"
    assert "success: 2 of 3 ended devices, at least 0.9" in fleet.show(rollout).note


def test_an_offline_device_blocks_until_the_deadline_and_has_its_turn_when_it_is_back(
    fleet: Fleet,
) -> None:
    rollout = fleet.start(phases=[PhaseSpec(devices=2)], deadline_s=600)
    fleet.rollouts.tick()
    fleet.report("b", U.COMMITTED)
    disconnect(fleet, "a")
    for name in ("c", "d"):
        disconnect(fleet, name)
    settle(fleet)
    assert fleet.show(rollout).phase.step == "ordering"
    assert fleet.order("a").slots != {}
    fleet.clock.advance(seconds=600)
    settle(fleet)
    assert fleet.states(rollout)["a"] == "overdue"
    assert fleet.order("a").slots == {}, "taken back: it must not update at its own time"
    assert fleet.show(rollout).phase.number == 2, "it blocks the phase no longer"
    disconnect(fleet, "a", online=True)
    fleet.clock.advance(seconds=10)
    settle(fleet)
    assert fleet.states(rollout)["a"] == "in_progress"
    fleet.report("a", U.COMMITTED)
    fleet.clock.advance(seconds=600)
    settle(fleet)
    info = fleet.show(rollout)
    assert (info.state, info.counts.committed, info.counts.overdue) == ("completed", 2, 2)
    assert info.note == "2 overdue"


def test_late_joiners_obey_phase_and_rate(fleet: Fleet) -> None:
    rollout = fleet.start(phases=CANARY)
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    settle(fleet)
    assert fleet.show(rollout).phase.step == "soaking"
    fleet.add(*(f"late-{number}" for number in range(4)))
    fleet.clock.advance(seconds=30)
    settle(fleet)
    info = fleet.show(rollout)
    assert (info.counts.total, info.counts.pending, info.phase.step) == (8, 7, "soaking")
    fleet.clock.advance(seconds=30)
    settle(fleet)
    phase = fleet.show(rollout).phase
    assert (phase.number, phase.target, phase.admitted) == (2, 4, 4)
    fleet.rollouts.pause(rollout, "anna", "")
    fleet.add("later")
    fleet.clock.advance(seconds=30)
    settle(fleet)
    assert "later" not in fleet.states(rollout)


def test_nobody_joins_who_was_not_named_or_is_in_another_rollout(fleet: Fleet) -> None:
    named = fleet.start(devices=["a"])
    fleet.version("2")
    with fleet.database.write() as session:
        for name in ("b", "c"):
            session.get_one(Device, name).group = "night"
    group = fleet.start("2", group="night")
    fleet.add("e")
    with fleet.database.write() as session:
        session.get_one(Device, "a").group = "night"
        session.get_one(Device, "e").group = "night"
    settle(fleet)
    assert set(fleet.states(named)) == {"a"}
    assert set(fleet.states(group)) == {"b", "c", "e"}
    fleet.report("a", U.COMMITTED)
    settle(fleet)
    fleet.clock.advance(seconds=10)
    settle(fleet)
    assert set(fleet.states(group)) == {"a", "b", "c", "e"}, "the other one has ended"


def window(fleet: Fleet, device: str, number: int, **counts: object) -> TelemetryWindow:
    given = {
        "device": device, "boot": 1, "seq": number, "number": 0, "slot": "har", "version": "1",
        "manifest": fleet.manifests["1"]["int8"], "start": fleet.clock(), "end": fleet.clock(),
        "requests": 100, "errors": 0, "non_finite": 0, "refused": 0, "latency": [],
        "confidence": [], "classes": [], "received_at": fleet.clock(),
    }  # fmt: skip
    return TelemetryWindow(**(given | counts))


@pytest.mark.parametrize(
    ("windows", "state", "said"),
    [
        ([], "running", "not_enough_data: 0 of at least 100 requests"),
        ([("a", {"requests": 99})], "running", "not_enough_data: 99 of at least 100 requests"),
        ([("a", {"errors": 9})], "running", "passed: 9 of 100 requests, at most 0.1"),
        ([("a", {"errors": 6, "non_finite": 5})], "paused", "failed: 11 of 100 requests"),
        # What is not of this version, or not of this rollout, says nothing about it.
        ([("a", {"manifest": "sha256:" + "0" * 64})], "running", "not_enough_data: 0 of"),
        ([("x", {})], "running", "not_enough_data: 0 of"),
        # One that claims a million good answers does not drown what two others see.
        (
            [("a", {"requests": 10**6}), ("b", {"errors": 90}), ("c", {"errors": 90})],
            "paused",
            "failed: 180 of 1200 requests",
        ),
    ],
)
def test_what_the_model_does_in_service_decides_a_phase(
    fleet: Fleet, windows: list[tuple[str, dict[str, object]]], state: str, said: str
) -> None:
    gates = {"error_rate_max": 0.1}
    phases = [PhaseSpec(devices=3, approval=True)]
    rollout = fleet.start(phases=phases, gates=gates, devices=["a", "b", "c", "d"])
    fleet.rollouts.tick()
    for name in ("a", "b", "c"):
        fleet.report(name, U.COMMITTED)
    with fleet.database.write() as session:
        session.add(window(fleet, "a", 99, received_at=fleet.clock() - timedelta(hours=1)))
        session.add_all(
            window(fleet, name, number, **counts) for number, (name, counts) in enumerate(windows)
        )
    settle(fleet)
    fleet.clock.advance(seconds=5)
    settle(fleet)
    info = fleet.show(rollout)
    verdict = info.phase.verdicts[1]
    assert (info.state, f"{verdict.verdict}: {verdict.detail}"[: len(said)]) == (state, said)


def test_latency_is_compared_with_what_others_run_meanwhile(fleet: Fleet) -> None:
    def histogram(bucket: int) -> list[int]:
        return [100 if at == bucket else 0 for at in range(len(LATENCY_EDGES_US) + 1)]

    rollout = fleet.start(phases=[PhaseSpec(devices=1)], gates={"latency_ratio_max": 1.5})
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    old = "sha256:" + "0" * 64
    with fleet.database.write() as session:
        session.add(window(fleet, "a", 1, latency=histogram(20)))
        session.add(window(fleet, "x", 1, latency=histogram(10), manifest=old))
    settle(fleet)
    fleet.clock.advance(seconds=5)
    settle(fleet)
    info = fleet.show(rollout)
    assert info.state == "paused"
    assert "latency_ratio: " in info.note


# ---------------------------------------------------------------- sites, priority, forecast


def test_a_site_keeps_its_budget_over_all_rollouts(fleet: Fleet) -> None:
    with fleet.database.write() as session:
        for name, group in (("a", "porto"), ("b", "porto"), ("c", "porto"), ("d", "faro")):
            session.get_one(Device, name).group = group
    rollout = fleet.start(available_min=1)
    settle(fleet)
    assert fleet.states(rollout) == {
        "a": "in_progress", "b": "in_progress", "c": "pending", "d": "pending",
    }  # fmt: skip
    assert fleet.show(rollout).note == (
        "waiting for 2 devices whose site has too few others available"
    )
    fleet.report("a", U.COMMITTED)
    settle(fleet)
    fleet.clock.advance(seconds=5)  # what has just ended is available for the next plan
    settle(fleet)
    assert fleet.states(rollout)["c"] == "in_progress"
    disconnect(fleet, "a")  # the site has nobody left who could step in for others
    fleet.report("b", U.ROLLED_BACK)
    settle(fleet)
    assert fleet.states(rollout)["d"] == "pending", "a site of one is never touched"


def test_the_higher_priority_comes_first_on_a_device(fleet: Fleet) -> None:
    add_version(fleet.database, fleet.blobs, fleet.repository, version="1", model="detector")
    asked = RolloutRequest(
        model="detector",
        version="1",
        selector=Selector(devices=["a", "b"]),
        policy=RolloutPolicy(priority=5, max_in_progress=1),
    )
    high = fleet.rollouts.start(asked, "anna").id
    low = fleet.start()
    settle(fleet)
    assert fleet.states(high) == {"a": "in_progress", "b": "pending"}
    assert fleet.states(low) == {
        "a": "pending", "b": "pending", "c": "in_progress", "d": "in_progress",
    }  # fmt: skip
    assert fleet.show(low).note == "waiting for 2 devices in another rollout"
    fleet.rollouts.pause(high, "anna", "")
    fleet.clock.advance(seconds=5)
    settle(fleet)
    assert set(fleet.states(low).values()) == {"in_progress"}


def test_a_device_whose_connection_comes_and_goes_waits_until_it_holds(fleet: Fleet) -> None:
    def breaks(name: str) -> None:
        with fleet.database.write() as session:
            note_disconnect(session.get_one(Device, name), fleet.clock())

    for _ in range(4):
        breaks("a")
        fleet.clock.advance(seconds=150)
    for _ in range(3):
        breaks("b")
    for _ in range(5):  # as often, but not so close together
        breaks("c")
        fleet.clock.advance(seconds=201)
    for _ in range(4):
        breaks("a")
    rollout = fleet.start()
    settle(fleet)
    states = fleet.states(rollout)
    assert (states["a"], states["b"], states["c"]) == ("pending", "in_progress", "in_progress")
    assert fleet.show(rollout).note == "waiting for 1 device whose connection comes and goes"
    fleet.clock.advance(seconds=599)
    settle(fleet)
    assert fleet.states(rollout)["a"] == "pending"
    fleet.clock.advance(seconds=5)
    settle(fleet)
    assert fleet.states(rollout)["a"] == "in_progress"


def test_a_plan_says_what_a_rollout_would_do_and_starts_nothing(fleet: Fleet) -> None:
    asked = RolloutRequest(
        model="har",
        version="1",
        selector=Selector(all=True),
        policy=RolloutPolicy(phases=CANARY, observe_s=10),
    )
    found = fleet.rollouts.forecast(asked)
    assert [(one.name, one.devices, one.waves) for one in found.phases] == [
        ("canary", 1, 1), ("2", 1, 1), ("3", 2, 1),
    ]  # fmt: skip
    assert found.fetches_bytes == 4 * 150_000
    assert found.phases[0].variants == {"int8": 1}
    assert (found.phases[0].least_s, found.phases[0].likely_s) == (70, None)
    assert (found.pace.samples, found.overlaps, found.sites[0].blind_s) == (0, [], None)
    assert fleet.rollouts.rollouts(PAGE).total == 0
    assert fleet.order("a") is None


def test_a_plan_names_some_of_those_that_cannot_take_part_and_counts_all(fleet: Fleet) -> None:
    fleet.add(*(f"silent-{number:03}" for number in range(NAMES_MAX + 20)), capabilities=None)
    asked = RolloutRequest(model="har", version="1", selector=Selector(all=True))
    found = fleet.rollouts.forecast(asked)
    assert (len(found.unknown), found.unknown_devices) == (NAMES_MAX, NAMES_MAX + 20)
    assert (found.unfit, found.unfit_devices) == ([], 0)
    with fleet.database.write() as session:
        session.get_one(Device, "silent-000").online = False
    found = fleet.rollouts.forecast(asked)
    assert (found.offline_devices, sum(one.offline for one in found.phases)) == (1, 0)

    rollout = fleet.start(observe_s=10, devices=["a", "b", "c"])
    settle(fleet)
    for name, seconds in (("a", 30), ("b", 10)):
        fleet.clock.advance(seconds=seconds)
        fleet.report(name, U.COMMITTED)
        settle(fleet)
    found = fleet.rollouts.forecast(asked)
    assert (found.pace.samples, found.pace.median_s) == (2, 25.0)
    assert [(one.rollout, one.devices) for one in found.overlaps] == [(rollout, 3)]
    with pytest.raises(Refused):
        fleet.rollouts.forecast(asked.model_copy(update={"selector": Selector()}))


@pytest.mark.parametrize("revert", [False, True])
def test_an_abort_reaches_who_is_in_progress_and_takes_back_what_it_is_told_to(
    fleet: Fleet, *, revert: bool
) -> None:
    first = fleet.start(devices=["a", "b"])
    fleet.rollouts.tick()
    for name in ("a", "b"):
        fleet.report(name, U.COMMITTED)
    settle(fleet)
    assert fleet.show(first).state == "completed"
    fleet.version("2")
    rollout = fleet.start("2")
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    settle(fleet)
    fleet.rollouts.abort(rollout, "anna", "", revert=revert)
    settle(fleet)
    assert fleet.order("b").slots["har"].version == "1", "it was in progress"
    assert (fleet.order("c").slots, fleet.order("c").withdrawn) == ({}, ("har",))
    assert fleet.order("a").slots["har"].version == ("1" if revert else "2")
    assert fleet.states(rollout) == {
        "a": "reverted" if revert else "committed",
        "b": "cancelled", "c": "cancelled", "d": "cancelled",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([{"devices": 1, "percent": 5}], "give one of"),
        ([{"devices": 1, "where": "tag=canary"}], "give one of"),
        ([{"devices": 1}, {"where": "tag=canary"}], "come before those that count"),
        ([{"devices": 1}, {"experiment": {}}], "the last phase can be no experiment"),
        ([{"percent": 50}, {"percent": 10}], "must grow"),
        ([{"devices": 5}, {"devices": 5}], "must grow"),
        ([{"name": "x", "devices": 1}, {"name": "x", "percent": 5}], "same name"),
        ([{}, {"devices": 5}], "only the last phase"),
        ([{"devices": number} for number in range(1, 12)], "at most 10"),
    ],
)
def test_phases_that_make_no_sense_are_refused(phases: list[dict], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RolloutPolicy(phases=phases)


@pytest.mark.parametrize(
    "said",
    [
        '{"gates": {"latency_p95_us_max": 1e400}}',
        '{"gates": {"latency_p95_us_max": Infinity}}',
        '{"gates": {"latency_p95_us_max": NaN}}',
        '{"gates": {"committed_min": 10000000000}}',
        '{"gates": {"requests_min": 10000000000}}',
        '{"max_in_progress": 1%s}' % ("0" * 400),
        '{"failures_max": 10000000000}',
        '{"available_min": 10000000000}',
    ],
)
def test_a_number_that_no_database_keeps_is_refused(said: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        RolloutPolicy.model_validate_json(said)


def test_phases_are_completed_once() -> None:
    policy = RolloutPolicy(phases=[{"devices": 1}])
    assert [(one.name, one.devices) for one in policy.phases] == [("1", 1), ("2", None)]
    again = RolloutPolicy.model_validate(policy.model_dump(mode="json"))
    assert again == policy
