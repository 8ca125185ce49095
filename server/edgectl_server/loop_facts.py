"""What is so of a loop: its run, what would set one off, and how far what it has begun is.

Reads alone; `edgectl_server.loops` acts on it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.domain.learning_loop import LoopPolicy, LoopState, Observed, Trigger
from edgectl_server.drift_watch import DRIFTING, is_served
from edgectl_server.schemas import LoopInfo, LoopPolicySpec, LoopRunInfo
from edgectl_server.storage.tables import (
    AccuracyStateRow,
    DriftStateRow,
    Job,
    LoopEventRow,
    LoopPolicyRow,
    LoopRunRow,
    ModelVersion,
    Rollout,
    RolloutDevice,
    SampleRow,
)

__all__ = [
    "FAILED",
    "Claimed",
    "approval_of",
    "claimed_of",
    "current_run",
    "labels_of",
    "last_run",
    "loop_info",
    "observe",
    "place_of",
    "policy_of",
    "run_info",
]

_TRIGGERS_MAX = 8
FAILED = "waits"
"""Kind of an event: an action was refused, and is tried again."""
BY_PEOPLE = ("policy", "run", "pause", "resume", "approve")
"""Kinds of events that change nothing of what has failed."""


class Claimed(NamedTuple):
    """A policy as it was claimed, and its run."""

    model: str
    spec: LoopPolicySpec
    paused: bool
    changed_at: datetime
    run: LoopRunRow | None
    """That is under way."""


def policy_of(spec: LoopPolicySpec) -> LoopPolicy:
    """Return a policy as decisions take it."""
    return LoopPolicy(
        cool_down=timedelta(seconds=spec.cool_down_s),
        runs_max=spec.runs_max,
        runs_within=timedelta(seconds=spec.runs_within_s),
        labels_min=spec.labels_min,
        collect_max=timedelta(seconds=spec.collect_max_s),
        approvals=frozenset(spec.approvals),
    )


def claimed_of(row: LoopPolicyRow, run: LoopRunRow | None) -> Claimed:
    """Return what a tick works on."""
    spec = LoopPolicySpec.model_validate(row.document)
    return Claimed(row.model, spec, row.paused, row.changed_at, run)


def observe(session: Session, claimed: Claimed, now: datetime) -> Observed:
    """Return what is so of a loop."""
    run, spec = claimed.run, claimed.spec
    if run is None:
        last = last_run(session, claimed.model)
        after = now - timedelta(seconds=spec.runs_within_s)
        lately = select(func.count()).where(
            LoopRunRow.model == claimed.model, LoopRunRow.began_at > after
        )
        return Observed(
            paused=claimed.paused,
            triggers=_triggers(session, claimed, last, now),
            last_ended=None if last is None else last.ended_at,
            runs_lately=int(session.scalar(lately) or 0),
        )
    facts = run.facts
    since = run.began_at - timedelta(seconds=spec.look_back_s)
    return Observed(
        state=LoopState(run.state),
        since=run.since,
        paused=claimed.paused,
        collecting="sampling" in facts,
        labels=labels_of(session, run.model, since),
        refused=_trouble_of(session, run),
        approved=run.approved == run.state,
        **_training_of(session, facts.get("retraining")),
        **_version_of(session, run.model, facts.get("version")),
        **_rollout_of(session, facts.get("rollout")),
    )


def _triggers(
    session: Session, claimed: Claimed, last: LoopRunRow | None, now: datetime
) -> list[Trigger]:
    wanted = claimed.spec.triggers
    ended = claimed.changed_at if last is None else last.ended_at or last.began_at
    found = _drifting(session, claimed.model, wanted.drift, after=ended)
    if wanted.estimate:
        found += _estimated_low(session, claimed.model, after=ended)
    if wanted.accuracy_below is not None:
        right, rows = _accuracy(session, claimed.model, ended, wanted.accuracy_rows_min)
        if rows >= wanted.accuracy_rows_min and right / rows < wanted.accuracy_below:
            detail = f"{right} of {rows} labelled samples right, below {wanted.accuracy_below}"
            found.append(Trigger("accuracy", detail))
    if wanted.every_s is not None and now >= ended + timedelta(seconds=wanted.every_s):
        found.append(Trigger("schedule", f"{wanted.every_s:g} s since the last run"))
    if wanted.labels_new is not None:
        begun = claimed.changed_at if last is None else last.began_at
        labels = labels_of(session, claimed.model, begun)
        if labels >= wanted.labels_new:
            found.append(Trigger("labels", f"{labels} new labels"))
    return found


def _drifting(session: Session, model: str, levels: list[Any], *, after: datetime) -> list[Trigger]:
    """Return what drifts by what was judged after the last run."""
    states = session.scalars(
        select(DriftStateRow)
        .where(
            DriftStateRow.model == model,
            DriftStateRow.level.in_(levels),
            DriftStateRow.state.in_(DRIFTING),
            DriftStateRow.until > after,
            is_served(DriftStateRow),  # the last run may just have replaced it
        )
        .order_by(DriftStateRow.level, DriftStateRow.group)
        .limit(_TRIGGERS_MAX)
    )
    found = []
    for state in states:
        features = ", ".join(str(one["feature"]) for one in state.findings[:3])
        place = place_of(model, state.version, state.level, state.group)
        found.append(Trigger("drift", f"{place}: {features}"))
    return found


def place_of(model: str, version: str, level: str, group: str) -> str:
    """Return what drifts, as triggers tell it."""
    return f"{model}@{version}, " + f"{level} {group}".strip()


def _estimated_low(session: Session, model: str, *, after: datetime) -> list[Trigger]:
    """Return where the model is estimated to be right less often, judged after the last run."""
    states = session.scalars(
        select(AccuracyStateRow)
        .where(
            AccuracyStateRow.model == model,
            AccuracyStateRow.level.in_(("fleet", "site")),
            AccuracyStateRow.state.in_(("low", "recovering")),
            AccuracyStateRow.until > after,
            is_served(AccuracyStateRow),
        )
        .order_by(AccuracyStateRow.level, AccuracyStateRow.group)
        .limit(_TRIGGERS_MAX)
    )
    return [
        Trigger(
            "accuracy",
            f"{model}@{one.version}, {one.level} {one.group}".strip() + ": the estimate fell",
        )
        for one in states
    ]


def labels_of(session: Session, model: str, since: datetime) -> int:
    """Return how many samples taken since then are labelled, and may be learned from here."""
    wanted = select(func.count()).where(
        SampleRow.model == model,
        SampleRow.label_number >= 0,
        SampleRow.taken_at >= since,
        ~SampleRow.sealed,  # no dataset has them
    )
    return int(session.scalar(wanted) or 0)


def _accuracy(session: Session, model: str, after: datetime, rows: int) -> tuple[int, int]:
    """Return how many of the newest labelled samples were answered rightly, and of how many."""
    newest = session.execute(
        select(SampleRow.answer, SampleRow.label_number)
        .where(
            SampleRow.model == model,
            SampleRow.label_number >= 0,
            SampleRow.answer >= 0,
            SampleRow.reason == "random",  # what the model is unsure of says nothing of the rest
            SampleRow.taken_at > after,
        )
        .order_by(SampleRow.taken_at.desc())
        .limit(rows)
    ).all()
    return sum(answer == label for answer, label in newest), len(newest)


def _training_of(session: Session, retraining: str | None) -> dict[str, Any]:
    job = None if retraining is None else session.get(Job, retraining)
    if job is None:
        return {}
    error = job.error or {}
    problem = f"{error.get('code')}: {error.get('detail')}" if error else ""
    return {"training": job.state, "training_problem": problem}


def _version_of(session: Session, model: str, version: str | None) -> dict[str, Any]:
    row = session.scalars(
        select(ModelVersion).where(ModelVersion.model == model, ModelVersion.version == version)
    ).first()
    if row is None:
        return {}
    job = None if row.job is None else session.get(Job, row.job)
    error = (job.error if job is not None else None) or row.problem or {}
    problem = f"{error.get('code')}: {error.get('detail')}" if error else ""
    return {"version": row.state, "version_problem": problem}


def _rollout_of(session: Session, rollout: str | None) -> dict[str, Any]:
    row = None if rollout is None else session.get(Rollout, rollout)
    if row is None:
        return {}
    committed = select(func.count()).where(
        RolloutDevice.rollout == row.id, RolloutDevice.state == "committed"
    )
    return {
        "rollout": row.state,
        "first_phase": not row.phase,
        "committed": int(session.scalar(committed) or 0),
        "rollout_note": row.note,
    }


def current_run(session: Session, model: str, *, lock: bool = False) -> LoopRunRow | None:
    """Return the run of a model that is under way."""
    wanted = select(LoopRunRow).where(LoopRunRow.model == model, LoopRunRow.ended_at.is_(None))
    return session.scalars(wanted.with_for_update() if lock else wanted).first()


def last_run(session: Session, model: str) -> LoopRunRow | None:
    """Return the newest run of a model."""
    wanted = select(LoopRunRow).where(LoopRunRow.model == model)
    return session.scalars(wanted.order_by(LoopRunRow.began_at.desc()).limit(1)).first()


def _trouble_of(session: Session, run: LoopRunRow) -> str:
    """Return why what a run has tried last has failed; empty where it has not."""
    newest = select(LoopEventRow).where(
        LoopEventRow.model == run.model, LoopEventRow.kind.not_in(BY_PEOPLE)
    )
    event = session.scalars(newest.order_by(LoopEventRow.id.desc()).limit(1)).first()
    failed = event is not None and event.run == run.id and event.kind == FAILED
    return run.note if failed and event is not None and event.data.get("why") == run.note else ""


def loop_info(
    model: str,
    row: LoopPolicyRow | None,
    run: LoopRunRow | None,
    why: str,
    *,
    trouble: str = "",
    active: bool = False,
) -> LoopInfo:
    """Return how a loop is shown; `active`: the run is under way, otherwise it is the last."""
    policy = None if row is None else LoopPolicySpec.model_validate(row.document)
    return LoopInfo(
        model=model,
        policy=policy,
        paused=row is not None and row.paused,
        state=run.state if run is not None and active else "watching",  # type: ignore[arg-type]
        why=why,
        trouble=trouble,
        approval=approval_of(policy, run) if active else None,
        run=None if run is None else run_info(run),
        revision=0 if row is None else row.revision,
        changed_at=None if row is None else row.changed_at,
        changed_by="" if row is None else row.changed_by,
    )


def approval_of(
    policy: LoopPolicySpec | None, run: LoopRunRow | None
) -> Literal["training", "rollout"] | None:
    """Return before what a run waits for a person, if it does."""
    if policy is None or run is None or run.approved == run.state:
        return None
    if run.state == LoopState.DATASET and "training" in policy.approvals:
        return "training"
    # Until its version is ready it does not wait for the person alone, who may say so already.
    if run.state == LoopState.GATED and "rollout" in policy.approvals:
        return "rollout"
    return None


def run_info(run: LoopRunRow) -> LoopRunInfo:
    """Return how a run is shown."""
    facts = run.facts
    return LoopRunInfo(
        id=run.id,
        model=run.model,
        state=run.state,  # type: ignore[arg-type]  # it was written from one
        since=run.since,
        trigger=run.trigger,
        note=run.note,
        dataset=facts.get("dataset"),
        retraining=facts.get("retraining"),
        version=facts.get("version"),
        rollout=facts.get("rollout"),
        labels=facts.get("rows", 0),
        began_at=run.began_at,
        ended_at=run.ended_at,
    )
