"""Rollouts as files say: started once, changed where that may be, else refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl_server.errors import Conflict, Refused
from edgectl_server.labels import Labels
from edgectl_server.schemas import RolloutApplied, RolloutPolicy, RolloutRequest, Selector
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Rollout
from server.fleet.fleet_by_hand import PAGE, Fleet, U


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    fleet.add("a", "b", "c")
    return fleet


def apply(
    fleet: Fleet, *, dry_run: bool = False, where: str = "device=*", **policy: object
) -> RolloutApplied:
    asked = RolloutRequest(
        model="har", version="1", selector=Selector(where=where), policy=RolloutPolicy(**policy)
    )
    return fleet.rollouts.apply(asked, "anna", dry_run=dry_run)


def events(fleet: Fleet, rollout: str) -> list[str]:
    return [one.kind for one in fleet.rollouts.events(rollout, PAGE).items]


PHASES = [{"name": "canary", "devices": 1}]


def test_the_same_file_twice_does_nothing(fleet: Fleet) -> None:
    assert (said := apply(fleet, dry_run=True, phases=PHASES)).action == "start"
    assert said.rollout is None
    assert fleet.rollouts.rollouts(PAGE).total == 0
    first = apply(fleet, phases=PHASES)
    assert first.rollout is not None
    assert (first.action, first.rollout.counts.total) == ("start", 3)
    for _ in range(2):
        again = apply(fleet, phases=PHASES)
        assert again.rollout is not None
        assert (again.action, again.rollout.id, again.changed) == ("nothing", first.rollout.id, {})
    assert events(fleet, first.rollout.id) == ["started"]


def test_what_may_change_is_changed_and_what_may_not_is_refused(fleet: Fleet) -> None:
    first = apply(fleet, max_in_progress=1).rollout
    assert first is not None
    fleet.rollouts.tick()
    assert list(fleet.states(first.id).values()).count("in_progress") == 1
    assert apply(fleet, max_in_progress=3, dry_run=True).changed == {"max_in_progress": 3}
    assert fleet.show(first.id).policy.max_in_progress == 1
    changed = apply(fleet, max_in_progress=3, priority=5)
    assert (changed.action, changed.changed) == ("change", {"max_in_progress": 3, "priority": 5})
    fleet.rollouts.tick()
    assert list(fleet.states(first.id).values()).count("in_progress") == 3
    assert events(fleet, first.id).count("changed") == 1
    for fixed in ({"observe_s": 99.0}, {"phases": PHASES}):
        with pytest.raises(Conflict) as caught:
            apply(fleet, max_in_progress=3, priority=5, **fixed)
        assert caught.value.code == "rollout.unchangeable"
        assert caught.value.data["fields"] == list(fixed)
    assert fleet.show(first.id).policy.observe_s == 10.0


def test_a_file_starts_nothing_that_was_aborted_or_has_ended(fleet: Fleet) -> None:
    first = apply(fleet).rollout
    assert first is not None
    fleet.rollouts.tick()
    for name in ("a", "b", "c"):
        fleet.report(name, U.COMMITTED)
    fleet.rollouts.tick()
    ended = apply(fleet, max_in_progress=7)
    assert ended.rollout is not None
    assert (ended.action, ended.rollout.state) == ("nothing", "completed")
    other = apply(fleet, where="device=a").rollout  # another selector is another rollout
    assert other is not None
    assert other.id != first.id
    fleet.rollouts.abort(other.id, "anna", "")
    with pytest.raises(Conflict) as caught:
        apply(fleet, where="device=a")
    assert caught.value.code == "rollout.ended"


def test_a_file_means_what_its_saved_selectors_mean(fleet: Fleet) -> None:
    labels = Labels(database=fleet.database, now=fleet.clock)
    labels.save("some", "device in (a, b)", "anna")
    first = apply(fleet, where="@some").rollout
    again = apply(fleet, where="device in (a, b)")
    assert first is not None
    assert again.rollout is not None
    assert (again.action, again.rollout.id) == ("nothing", first.id)
    labels.save("some", "device in (a, c)", "anna")
    with pytest.raises(Conflict) as caught:  # the first one still has a
        apply(fleet, where="@some", dry_run=True)
    assert caught.value.code == "rollout.conflict"
    with pytest.raises(Refused):
        apply(fleet, where="site=")


def test_a_selector_that_is_long_once_written_out_is_read_at_each_tick(fleet: Fleet) -> None:
    """Saved ones stand for what they mean; the others do not wait for one that cannot be read."""
    labels = Labels(database=fleet.database, now=fleet.clock)
    for name in ("x", "y"):
        values = ",".join(f"{name}-{number:08}" for number in range(80))
        labels.save(name, f"site in ({values})", "anna")
    long = apply(fleet, where="not not not not not not not not not device!=a or @x or @y").rollout
    assert long is not None
    assert len(long.selector.where) > 1024
    fleet.rollouts.tick()
    assert fleet.states(long.id) == {"a": "in_progress"}
    assert apply(fleet, where=long.selector.where).action == "nothing"
    with pytest.raises(Refused, match="too large"):
        apply(fleet, where="not " * 20 + "device=b")


def test_a_rollout_that_cannot_be_moved_on_keeps_no_other_from_its_turn(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    broken = apply(fleet, where="device=a").rollout
    good = apply(fleet, where="device=b").rollout
    assert broken is not None
    assert good is not None
    with fleet.database.write() as session:
        row = session.get_one(Rollout, broken.id)
        row.selector = {**row.selector, "where": "device="}
    fleet.rollouts.tick()
    assert fleet.states(good.id) == {"b": "in_progress"}
    assert fleet.states(broken.id) == {"a": "pending"}
    assert broken.id in caplog.text
    with fleet.database.write() as session:
        row = session.get_one(Rollout, broken.id)
        row.selector = {**row.selector, "where": "device=a"}
    fleet.clock.advance(seconds=30)
    fleet.rollouts.tick()
    assert fleet.states(broken.id) == {"a": "in_progress"}


def test_a_phase_by_a_saved_selector_is_the_same_the_second_time(fleet: Fleet) -> None:
    Labels(database=fleet.database, now=fleet.clock).save("first", "device=a", "anna")
    phases = [{"name": "canary", "where": "@first"}]
    assert apply(fleet, phases=phases).action == "start"
    assert apply(fleet, phases=phases).action == "nothing"
