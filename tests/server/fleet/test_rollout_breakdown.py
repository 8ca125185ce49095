"""What a rollout has come to: devices by phase, by reason, and the new version in service."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from edgectl_protocol.histograms import LATENCY_EDGES_US
from edgectl_protocol.update import UpdateState
from edgectl_server.errors import NotFound
from edgectl_server.rollout_breakdown import RolloutBreakdown
from edgectl_server.rollout_comparison import RolloutComparison
from edgectl_server.schemas import PhaseInfo, PhaseSpec
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import TelemetryWindow
from server.fleet.fleet_by_hand import PAGE, Fleet

U = UpdateState
OLD = "sha256:" + "0" * 64
UNKNOWN = "f" * 16


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    fleet.add("a", "b", "c", "d", "e")
    return fleet


def settle(fleet: Fleet) -> None:
    """Until nothing changes any more at this moment."""
    for _ in range(5):
        fleet.rollouts.tick()


def phases(fleet: Fleet, rollout: str) -> list[tuple[str, dict[str, int]]]:
    """Standing, and how many devices are in which state, of each phase."""
    found = RolloutBreakdown(fleet.database).phases(rollout)
    assert all(one.counts.total == sum(_states(one).values()) for one in found)
    return [(one.standing, _states(one)) for one in found]


def _states(phase: PhaseInfo) -> dict[str, int]:
    counts = phase.counts.model_dump()
    return {name: count for name, count in counts.items() if count and name != "total"}


def in_phase(fleet: Fleet, rollout: str, phase: int) -> list[str]:
    return [one.device for one in fleet.rollouts.devices(rollout, PAGE, phase=phase).items]


def test_devices_are_counted_in_the_phase_in_which_they_had_their_turn(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[PhaseSpec(devices=1), PhaseSpec(devices=3)], failures_max=9)
    assert phases(fleet, rollout) == [
        ("current", {"pending": 1}), ("next", {"pending": 2}), ("next", {"pending": 2}),
    ]  # fmt: skip
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    settle(fleet)
    assert phases(fleet, rollout) == [
        ("past", {"committed": 1}), ("current", {"in_progress": 2}), ("next", {"pending": 2}),
    ]  # fmt: skip
    assert [in_phase(fleet, rollout, number) for number in (1, 2, 3)] == [["a"], ["b", "c"], []]
    fleet.report("b", U.ROLLED_BACK)
    fleet.report("c", U.COMMITTED)
    settle(fleet)
    assert phases(fleet, rollout)[1:] == [
        ("past", {"committed": 1, "rolled_back": 1}), ("current", {"in_progress": 2}),
    ]  # fmt: skip
    first, second, last = RolloutBreakdown(fleet.database).phases(rollout)
    assert (first.ended_at, second.ended_at) == (second.began_at, last.began_at)
    assert last.ended_at is None

    fleet.rollouts.abort(rollout, "anna", "enough", revert=True)
    settle(fleet)
    assert phases(fleet, rollout) == [
        ("past", {"reverted": 1}),
        ("past", {"reverted": 1, "rolled_back": 1}),
        ("past", {"cancelled": 2}),
    ]
    assert in_phase(fleet, rollout, 3) == ["d", "e"]


def test_canary_firstthat_an_aborted_rollout_never_came_to_have_nobody(fleet: Fleet) -> None:
    rollout = fleet.start(phases=[PhaseSpec(devices=1)])
    fleet.rollouts.tick()
    fleet.rollouts.abort(rollout, "anna", "")
    settle(fleet)
    assert phases(fleet, rollout) == [("past", {"cancelled": 5}), ("next", {})]
    assert RolloutBreakdown(fleet.database).phases(rollout)[1].began_at is None


def test_a_rollout_without_canary_firsthas_one_of_all_devices(fleet: Fleet) -> None:
    rollout = fleet.start()
    fleet.rollouts.tick()
    fleet.report("a", U.COMMITTED)
    fleet.rollouts.tick()
    assert phases(fleet, rollout) == [("current", {"committed": 1, "in_progress": 4})]
    assert in_phase(fleet, rollout, 1) == ["a", "b", "c", "d", "e"]
    assert in_phase(fleet, rollout, 2) == []


def test_a_phase_by_selector_has_places_for_those_that_it_means(fleet: Fleet) -> None:
    canary_first = [PhaseSpec(name="canary", where="device in (d, e)"), PhaseSpec()]
    rollout = fleet.start(phases=canary_first)
    assert phases(fleet, rollout) == [("current", {"pending": 2}), ("next", {"pending": 3})]
    fleet.rollouts.tick()
    assert phases(fleet, rollout) == [("current", {"in_progress": 2}), ("next", {"pending": 3})]
    assert in_phase(fleet, rollout, 1) == ["d", "e"]


def test_reasons_are_counted_and_lead_to_their_devices(fleet: Fleet) -> None:
    rollout = fleet.start(failures_max=9)
    fleet.rollouts.tick()
    for name, state in {"a": U.ROLLED_BACK, "b": U.ROLLED_BACK, "c": U.REJECTED}.items():
        fleet.report(name, state)
    settle(fleet)
    groups = RolloutBreakdown(fleet.database).reasons(rollout)
    assert sorted((one.state, one.devices) for one in groups) == [
        ("rejected", 1), ("rolled_back", 2),
    ]  # fmt: skip
    assert groups[0].devices == 2
    assert groups[0].example
    for group in groups:
        page = fleet.rollouts.devices(rollout, PAGE, state=group.state, reason=group.code)
        assert page.total == group.devices
    assert fleet.rollouts.devices(rollout, PAGE, reason="nothing.such").total == 0


def histogram(bucket: int) -> list[int]:
    return [100 if at == bucket else 0 for at in range(len(LATENCY_EDGES_US) + 1)]


def window(fleet: Fleet, device: str, number: int, **counts: object) -> TelemetryWindow:
    given = {
        "device": device, "boot": 1, "seq": number, "number": 0, "slot": "har", "version": "1",
        "manifest": fleet.manifests["1"]["int8"], "start": fleet.clock(), "end": fleet.clock(),
        "requests": 100, "errors": 1, "non_finite": 2, "refused": 0, "latency": histogram(10),
        "confidence": [], "classes": [], "received_at": fleet.clock(),
    }  # fmt: skip
    return TelemetryWindow(**(given | counts))


def test_the_new_version_in_service_is_compared_with_the_others(fleet: Fleet) -> None:
    compare = RolloutComparison(fleet.database, fleet.clock).compare
    rollout = fleet.start()
    began = fleet.clock()
    assert (compare(rollout).points, compare(rollout).new.latency_p95_us) == ([], None)
    later = began + timedelta(minutes=2, seconds=1)
    with fleet.database.write() as session:
        session.add_all(
            [
                window(fleet, "a", 1, received_at=began - timedelta(seconds=1)),
                window(fleet, "a", 2),
                window(fleet, "b", 1, received_at=later),
                window(fleet, "c", 1, manifest=OLD, latency=histogram(20), received_at=later),
                window(fleet, "c", 2, slot="other"),
            ]
        )
    fleet.clock.advance(seconds=600)
    found = compare(rollout)
    assert (found.new.devices, found.new.requests, found.new.errors) == (2, 200, 6)
    assert (found.others.devices, found.others.requests) == (1, 100)
    assert found.new.latency_p50_us == LATENCY_EDGES_US[10]
    assert found.others.latency_p99_us == LATENCY_EDGES_US[20]
    assert sum(found.new.latency) == 200
    assert [(one.at - began).total_seconds() for one in found.points] == [0, 120]
    assert (found.points[0].new_requests, found.points[0].other_p95_us) == (100, None)
    assert found.points[1].other_p95_us == LATENCY_EDGES_US[20]
    assert found.complete


def test_what_came_after_a_rollout_had_ended_is_not_of_it(fleet: Fleet) -> None:
    rollout = fleet.start()
    fleet.rollouts.abort(rollout, "anna", "")
    settle(fleet)
    fleet.clock.advance(seconds=3600)
    with fleet.database.write() as session:
        session.add(window(fleet, "a", 1))
    assert RolloutComparison(fleet.database, fleet.clock).compare(rollout).points == []


def test_a_rollout_that_is_not_there_is_said(fleet: Fleet) -> None:
    breakdown = RolloutBreakdown(fleet.database)
    for ask in (
        breakdown.phases,
        breakdown.reasons,
        RolloutComparison(fleet.database, fleet.clock).compare,
    ):
        with pytest.raises(NotFound) as caught:
            ask(UNKNOWN)
        assert caught.value.code == "rollout.unknown"
