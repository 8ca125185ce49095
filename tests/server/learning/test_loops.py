"""Loops on both databases: each step once, whoever else ticks, and whatever was killed before."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from edgectl_protocol.names import digest_of
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.job_rows import end_job, new_job
from edgectl_server.loop_story import LoopStories
from edgectl_server.loops import Loops
from edgectl_server.sample_policies import SamplePolicies
from edgectl_server.schemas import (
    LoopAction,
    LoopInfo,
    LoopPolicySpec,
    LoopSampling,
    LoopTriggers,
    SamplePolicyChange,
    Selector,
)
from edgectl_server.storage.tables import (
    AccuracyStateRow,
    Device,
    DriftEventRow,
    DriftStateRow,
    Job,
    Model,
    ModelVersion,
    ReportedSlot,
    RetrainingRow,
    Rollout,
)
from server.fleet.fleet_helpers import PAGE_ALL
from server.learning.store import Store, device_row

DAY = 86400.0
SPEC = LoopPolicySpec(
    labels_min=30, look_back_s=365 * DAY, cool_down_s=60, sampling=LoopSampling(bytes_per_day=5000)
)


class World:
    """Real rows, samples and datasets; trainings and rollouts are noted, and end as told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done: list[str] = []
        self.asked: list[Any] = []
        """Of trainings."""
        self.policies = SamplePolicies(store.database, lambda: store.now)
        self.loops = self.replica()
        with store.database.write() as session:
            session.add(Model(name="har", created_at=store.now, created_by="anna"))
        self.version("1")

    def act(self, action: str, user: str, reason: str) -> LoopInfo:
        """As a person who looks at the loop: an approval is of what waits by then."""
        asked = {"reason": reason}
        seen = self.loops.get("har")
        if action == "approve" and seen.run is not None and seen.approval is not None:
            asked |= {"run": seen.run.id, "approval": seen.approval}
        return self.loops.act("har", action, user, LoopAction.model_validate(asked))

    def version(self, name: str) -> None:
        with self.store.database.write() as session:
            session.add(
                ModelVersion(
                    model="har", version=name, state="ready", content=name, source="",
                    source_size=1, source_name="", calibration=None, evaluation=None,
                    own_metric=None, options={}, report=None, parent=None, job=None, problem=None,
                    imported=None, created_at=self.store.now, created_by="anna",
                )
            )  # fmt: skip

    def run(self, version: str, *devices: str) -> None:
        """Devices tell that they run a version."""
        with self.store.database.write() as session:
            for name in devices:
                if session.get(Device, name) is None:
                    session.add(device_row(name, "porto", self.store.now))
                    session.flush()
                manifest = self.store.manifest if version == "1" else digest_of(version.encode())
                session.merge(
                    ReportedSlot(device=name, slot="har", version=version, manifest=manifest)
                )

    def replica(self) -> Loops:
        trainings: Any = SimpleNamespace(add=self._train, notify=lambda: None)
        rollouts: Any = SimpleNamespace(apply=self._roll, abort=self._abort)
        return Loops(
            database=self.store.database,
            datasets=self.store.datasets,
            retrainings=trainings,
            rollouts=rollouts,
            sample_policies=self.policies,
            period_s=1.0,
            now=lambda: self.store.now,
        )

    def tick(self) -> str:
        self.store.now += timedelta(seconds=2)
        self.loops.tick()
        return self.loops.get("har").state

    @property
    def steps(self) -> list[str]:
        return [one.kind for one in reversed(self.loops.events("har", PAGE_ALL).items)]

    def drift(self) -> None:
        at = self.store.now + timedelta(seconds=1)
        self.run("1", "pi-0")
        with self.store.database.write() as session:
            session.merge(
                DriftStateRow(
                    manifest=self.store.manifest, level="fleet", group="", model="har",
                    version="1", state="drifting", since=at, until=at, rows=500,
                    findings=[{"feature": "input.x"}], faults=[],
                )
            )  # fmt: skip

    def end_training(self, state: str = "succeeded") -> None:
        with self.store.database.write() as session:
            row = session.scalars(select(RetrainingRow)).one()
            row.version = "1"
            end_job(session.get_one(Job, row.id), state, self.store.now)

    def end_rollout(self, state: str) -> None:
        with self.store.database.write() as session:
            session.get_one(Rollout, "r1").state = state

    def _train(self, session: Any, model: str, request: Any, dataset: str, **_: Any) -> Any:
        self.done.append("train")
        self.asked.append(request)
        job = new_job("retrain", {}, "loop", self.store.now)
        session.add(job)
        row = RetrainingRow(
            id=job.id, model=model, parent="1", dataset=dataset, trainer=request.trainer,
            request={}, metrics=None, accuracies=None, verdicts=None, candidate=None,
            calibration=None, evaluation=None, version=None, log="",
            created_at=self.store.now, created_by="loop",
        )  # fmt: skip
        session.add(row)
        session.flush()
        return row

    def _roll(self, request: Any, actor: str, *, dry_run: bool) -> Any:
        self.done.append("roll")
        with self.store.database.write() as session:
            version = session.scalars(select(ModelVersion.id)).first()
            if session.get(Rollout, "r1") is None:
                session.add(
                    Rollout(
                        id="r1", model="har", version_id=version, state="running", selector={},
                        policy={}, revision=0, failures_acknowledged=0, note="", due_at=None,
                        created_at=self.store.now, created_by=actor, finished_at=None, priority=0,
                    )
                )  # fmt: skip
        return SimpleNamespace(rollout=SimpleNamespace(id="r1"))

    def _abort(self, rollout: str, actor: str, reason: str, *, revert: bool) -> None:
        self.done.append(f"abort {rollout} {revert}")


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


@pytest.fixture
def small_world(small: Store) -> World:
    return World(small)


def test_once_round(world: World) -> None:
    before = SamplePolicyChange(bytes_per_day=100, reasons=["random"], random_share=1.0)
    world.policies.put("har", before, "anna")
    world.loops.put("har", SPEC, "anna")
    assert world.tick() == "watching"
    assert "no trigger" in world.loops.get("har").why
    world.drift()
    assert world.tick() == "collecting"
    assert "drift" in world.loops.get("har").run.trigger["kind"]  # type: ignore[union-attr]
    world.tick()
    assert world.policies.get("har").bytes_per_day == 5000
    world.store.fill()
    assert world.tick() == "training", "the dataset is made, and the training begun, in one beat"
    assert world.policies.get("har").bytes_per_day == 100, "as before"
    world.tick()
    assert world.done == ["train"]
    world.end_training()
    assert world.tick() == "canary", "the version is ready already"
    world.tick()
    assert world.done == ["train", "roll"]
    world.end_rollout("aborted")
    assert world.tick() == "watching"
    run = world.loops.get("har").run
    assert run is not None
    assert (run.state, run.rollout, run.version) == ("rolled-back", "r1", "1")
    assert run.dataset == world.store.datasets.page(PAGE_ALL, "har").items[0].id
    assert world.steps == [
        "policy", "began", "collecting", "dataset", "training", "gated", "canary", "rolled-back",
    ]  # fmt: skip
    world.drift()
    assert world.tick() == "watching"
    assert "cools down" in world.loops.get("har").why
    assert world.act("run", "ben", "now").state == "collecting"


def test_an_estimate_that_fell_sets_off_a_run_where_the_policy_says_so(small_world: World) -> None:
    world = small_world
    at = world.store.now + timedelta(seconds=1)
    world.run("1", "pi-0")
    with world.store.database.write() as session:
        session.add(
            AccuracyStateRow(
                manifest=world.store.manifest, level="site", group="porto", model="har",
                version="1", state="low", since=at, until=at, rows=500, found={},
            )
        )  # fmt: skip
    world.loops.put("har", SPEC, "anna")
    assert world.tick() == "watching"
    triggers = LoopTriggers(drift=[], estimate=True)
    world.loops.put("har", SPEC.model_copy(update={"triggers": triggers}), "anna")
    with world.store.database.write() as session:  # judged once more, after the policy has changed
        session.scalars(select(AccuracyStateRow)).one().until += timedelta(minutes=1)
    assert world.tick() == "collecting"
    run = world.loops.get("har").run
    assert run is not None
    assert "site porto: the estimate fell" in run.trigger["detail"]


def test_what_was_judged_of_a_version_that_nobody_runs_any_more_sets_nothing_off(
    small_world: World,
) -> None:
    world = small_world
    world.loops.put("har", SPEC, "anna")
    world.drift()
    world.version("2")
    world.run("2", "pi-0")
    assert world.tick() == "watching", "the last stretch of what has just been replaced"
    world.run("1", "pi-1")
    assert world.tick() == "collecting"


def test_an_action_that_was_done_before_the_kill_is_harmless(small_world: World) -> None:
    world = small_world
    world.store.fill()
    world.loops.put("har", SPEC, "anna")
    world.act("run", "anna", "")
    killed = world.replica()
    killed._write = lambda *_: (_ for _ in ()).throw(RuntimeError)  # type: ignore[method-assign]
    world.store.now += timedelta(seconds=2)
    with pytest.raises(RuntimeError):
        killed.tick()
    assert len(world.store.datasets.page(PAGE_ALL, "har").items) == 1
    assert world.tick() == "collecting", "claimed by the one that was killed"
    world.store.now += timedelta(seconds=61)
    assert world.tick() == "training"
    assert len(world.store.datasets.page(PAGE_ALL, "har").items) == 1
    assert world.done == ["train"]


def test_who_comes_second_writes_nothing(small_world: World) -> None:
    world = small_world
    world.store.fill()
    world.loops.put("har", SPEC, "anna")
    world.act("run", "anna", "")
    claimed = world.loops._claim()
    assert claimed is not None
    assert world.replica()._claim() is None, "one at a time"
    assert world.loops._move(claimed)
    assert not world.replica()._move(claimed), "it has seen a state that is over"
    assert world.steps.count("dataset") == 1


def test_what_people_may_ask_for(small_world: World) -> None:
    world = small_world
    for action in ("run", "pause", "stop"):
        with pytest.raises(NotFound) as missing:
            world.act(action, "anna", "")
        assert missing.value.code == "loop.unknown"
    info = world.loops.put("har", SPEC.model_copy(update={"approvals": ["training"]}), "anna")
    with pytest.raises(Conflict):
        world.loops.put("har", SPEC.model_copy(update={"revision": info.revision - 1}), "ben")
    for action in ("approve", "stop"):
        with pytest.raises(Conflict) as wrong:
            world.act(action, "anna", "")
        assert wrong.value.code == "loop.state"
    world.store.fill()
    world.act("run", "anna", "")
    with pytest.raises(Conflict):
        world.act("run", "anna", "")
    world.act("pause", "anna", "lunch")
    assert world.tick() == "collecting"
    world.act("resume", "anna", "")
    assert world.tick() == "dataset"
    assert "approve" in world.loops.get("har").why
    world.act("approve", "ben", "looks good")
    assert world.tick() == "training"
    assert world.act("stop", "anna", "enough").state == "watching"
    run = world.loops.get("har").run
    assert run is not None
    assert (run.state, run.note) == ("rejected", "stopped by anna: enough")


def test_a_candidate_is_measured_by_what_serves_and_not_by_the_newest(world: World) -> None:
    world.store.fill()
    for name in ("2", "3"):
        world.version(name)  # the one rolled back at last, the other let out to nobody
    world.run("1", "pi-0", "pi-1")
    world.run("2", "pi-2", "pi-3", "pi-4")
    with world.store.database.write() as session:
        session.get_one(Device, "pi-4").state = "decommissioned"
        session.get_one(Device, "pi-3").group = "laboratory"
        for name in ("pi-0", "pi-1", "pi-2"):
            session.get_one(Device, name).group = "field"
    spec = SPEC.model_copy(update={"selector": Selector(group="field")})
    for selector in (spec.selector, Selector(devices=["pi-3"]), Selector(group="nobody")):
        world.loops.put("har", spec.model_copy(update={"selector": selector}), "anna")
        world.act("run", "anna", "")
        assert world.tick() == "training"
        world.act("stop", "anna", "")
    assert [one.parent for one in world.asked] == ["1", "2", "3"]


def test_a_training_that_is_refused_ends_the_run(small_world: World) -> None:
    world = small_world
    world.store.fill()
    world.loops.put("har", SPEC, "anna")
    world.act("run", "anna", "")
    world.tick()
    world.end_training("failed")
    assert world.tick() == "watching"
    run = world.loops.get("har").run
    assert run is not None
    assert run.state == "rejected"
    assert world.done == ["train"]


def test_who_waits_for_a_person_leaves_no_events_meanwhile(small_world: World) -> None:
    world = small_world
    world.store.fill()
    world.loops.put("har", SPEC.model_copy(update={"approvals": ["rollout"]}), "anna")
    world.act("run", "anna", "")
    world.tick()
    world.end_training()
    for _ in range(4):
        assert world.tick() == "gated"
    assert world.steps.count("gated") == 1
    assert world.loops.get("har").approval == "rollout"
    world.act("approve", "anna", "")
    assert world.tick() == "canary"


def test_labels_of_samples_sealed_to_somebody_else_are_not_waited_with(small_world: World) -> None:
    world = small_world
    world.loops.put("har", SPEC.model_copy(update={"labels_min": 20}), "anna")
    for minute in range(20):
        world.store.labelled("pi-1", "walk", minute=minute, came="closed")
    world.act("run", "anna", "")
    assert world.tick() == "collecting"
    told = world.loops.get("har")
    assert (told.trouble, told.why) == ("", "waits for labels: 0 of 20 labels")
    world.store.now += timedelta(seconds=SPEC.collect_max_s)
    assert world.tick() == "watching"
    run = world.loops.get("har").run
    assert run is not None
    assert (run.state, run.note) == ("rejected", "0 of 20 labels within the time")


def test_an_approval_said_twice_is_not_of_the_next_stage(small_world: World) -> None:
    world = small_world
    world.store.fill()
    both = SPEC.model_copy(update={"approvals": ["training", "rollout"]})
    world.loops.put("har", both, "anna")
    world.act("run", "anna", "")
    assert world.tick() == "dataset"
    run = world.loops.get("har").run
    assert run is not None

    def approve(approval: str | None, of: str | None = run.id) -> None:
        asked = LoopAction.model_validate({"run": of, "approval": approval})
        world.loops.act("har", "approve", "anna", asked)

    def is_refused(approval: str | None, of: str | None = run.id) -> bool:
        with pytest.raises(Conflict) as refused:
            approve(approval, of)
        return refused.value.code == "loop.approval"

    assert is_refused("rollout"), "which does not wait yet"
    assert is_refused("training", "0" * 16), "of another run"
    assert is_refused(None, None), "of nothing"
    approve("training")
    assert is_refused("training")
    assert world.tick() == "training"
    world.end_training()
    assert world.tick() == "gated"
    assert is_refused("training")
    assert world.tick() == "gated", "nobody has looked at the candidate"
    approve("rollout")
    assert world.tick() == "canary"


def test_what_is_refused_is_told_until_it_goes_on(small_world: World) -> None:
    world = small_world
    world.store.fill()
    world.loops.put("har", SPEC.model_copy(update={"approvals": ["training"]}), "anna")
    world.act("run", "anna", "")
    assert world.tick() == "dataset"
    train = world.loops._retrainings.add

    def refuse(*_: Any, **__: Any) -> None:
        raise Refused("training.trainer", "there is no trainer x")

    world.loops._retrainings.add = refuse  # type: ignore[method-assign,assignment]
    world.act("approve", "anna", "")
    assert world.tick() == "dataset"
    told = world.loops.get("har")
    assert told.trouble == "training.trainer: there is no trainer x"
    world.act("pause", "anna", "")
    assert world.loops.get("har").trouble == told.trouble
    world.loops._retrainings.add = train  # type: ignore[method-assign]
    world.act("resume", "anna", "")
    assert world.tick() == "training"
    assert world.loops.get("har").trouble == ""


def test_a_run_whose_dataset_is_always_refused_ends_with_its_time(small_world: World) -> None:
    world = small_world
    world.store.fill()
    world.loops.put("har", SPEC, "anna")
    world.act("run", "anna", "")

    def refuse(*_: Any, **__: Any) -> None:
        raise Refused("dataset.large", "more than fits")

    world.loops._datasets.create = refuse  # type: ignore[method-assign,assignment]
    assert world.tick() == "collecting"
    assert world.loops.get("har").trouble == "dataset.large: more than fits"
    world.store.now += timedelta(seconds=SPEC.collect_max_s)
    assert world.tick() == "watching"
    run = world.loops.get("har").run
    assert run is not None
    assert run.state == "rejected"
    assert run.note == "no dataset within the time: dataset.large: more than fits"


def test_a_run_is_told_with_its_clock_and_figures(small_world: World) -> None:
    world = small_world
    stories = LoopStories(world.store.database)
    assert stories.page("har", PAGE_ALL).items == []
    world.loops.put("har", SPEC.model_copy(update={"approvals": ["training"]}), "anna")
    world.drift()
    assert world.tick() == "collecting"
    run = world.loops.get("har").run
    assert run is not None
    told = stories.get("har", run.id)
    assert [one.state for one in told.steps] == ["collecting"]
    assert told.steps[0].ended_at is None
    assert told.noticed_at is None, "the event is gone"
    noticed = {name: run.began_at - timedelta(seconds=s) for name, s in (("site", 1), ("fleet", 2))}
    with world.store.database.write() as session:
        for level, at in reversed(noticed.items()):
            session.add(
                DriftEventRow(
                    at=at, kind="drift.began", model="har", version="1", level=level, detail={},
                    manifest=world.store.manifest, group="faro" if level == "site" else "",
                )
            )  # fmt: skip
    assert stories.get("har", run.id).noticed_at == noticed["fleet"], "which set it off"
    assert told.collect_until == run.since + timedelta(seconds=SPEC.collect_max_s)
    assert (told.labelled, told.labels_min) == (0, SPEC.labels_min)
    assert told.accuracies == []
    world.tick()
    world.store.fill()
    asked = stories.get("har", run.id)
    assert asked.labelled > 0
    assert asked.samples >= asked.labelled
    assert world.tick() == "dataset"
    assert world.loops.get("har").approval == "training"
    news = stories.news()
    assert world.act("approve", "ben", "good").approval is None
    assert stories.news().event > news.event
    world.tick()
    world.end_training()
    world.tick()
    world.end_rollout("aborted")
    world.tick()
    told = stories.get("har", run.id)
    assert [one.state for one in told.steps] == [
        "collecting", "dataset", "training", "gated", "canary", "rolled-back",
    ]  # fmt: skip
    began = [one.began_at for one in told.steps]
    assert [one.ended_at for one in told.steps[:-1]] == began[1:]
    assert told.steps[-1].ended_at == told.ended_at
    (approved,) = told.steps[1].notes
    assert (approved.kind, approved.actor) == ("approve", "ben")
    assert told.labelled == told.samples == 36
    (before,) = told.accuracies
    assert (before.when, before.version, before.right, before.rows) == ("before", "1", 12, 36)
    assert [one.id for one in stories.page("har", PAGE_ALL).items] == [run.id]
    for model, wrong in (("har", "0" * 16), ("kws", run.id)):
        with pytest.raises(NotFound) as missing:
            stories.get(model, wrong)
        assert missing.value.code == "loop.run"
