"""The runs of loops as they are told: each step with its clock, and what came of it in figures.

Reads alone. Steps are those of the events that a run has left: a state begins with the first event
that names it and ends with the next state's, so that steps are what has happened and not what the
table of states would have; what else people and the loop have noted stands in the step it fell in.

Accuracies by labels count samples that were taken at random: those that the model was unsure of say
nothing of the rest. Where nobody has labelled such samples, the estimate without labels is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.domain.learning_loop import LoopState
from edgectl_server.errors import NotFound
from edgectl_server.loop_facts import labels_of, place_of, run_info
from edgectl_server.schemas import (
    LoopAccuracy,
    LoopEventInfo,
    LoopNews,
    LoopPolicySpec,
    LoopRunDetail,
    LoopRunInfo,
    LoopStep,
    LoopTransfer,
    Page,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match
from edgectl_server.storage.tables import (
    AccuracyStateRow,
    AnnotationRow,
    DriftEventRow,
    LoopEventRow,
    LoopPolicyRow,
    LoopRunRow,
    ModelVersion,
    RetrainingRow,
    RolloutDevice,
    SampleRow,
)

__all__ = ["LoopStories", "event_info"]

_EVENTS_MAX = 500
"""That are read of a run; its last ones."""
_ROWS_MAX = 2000
"""Labelled samples by which an accuracy is told; the newest."""
_DRIFTS_MAX = 1000
"""Beginnings of drift among which the one of a run is looked for; the newest."""
_BEFORE = timedelta(days=30)
_STATES = frozenset(LoopState)
_BEGINS = frozenset({"began", "run"})


class LoopStories:
    """What is told of runs. Its methods may be called from any thread."""

    def __init__(self, database: Database) -> None:
        """Take the database of the rows."""
        self._database = database

    def page(self, model: str, paging: PageQuery) -> Page[LoopRunInfo]:
        """Return one page of a model's runs, the newest first."""
        wanted = select(LoopRunRow).where(LoopRunRow.model == model)
        if paging.q:
            wanted = wanted.where(match(paging.q, (LoopRunRow.id, LoopRunRow.state)))
        newest = wanted.order_by(LoopRunRow.began_at.desc(), LoopRunRow.id.desc())
        with self._database.read() as session:
            rows, total = fetch_page(session, newest, paging)
        return Page(items=[run_info(row) for row in rows], total=total)

    def get(self, model: str, run: str) -> LoopRunDetail:
        """Return one run with its clock and figures; raise `NotFound` ``loop.run``."""
        with self._database.read() as session:
            row = session.get(LoopRunRow, run)
            if row is None or row.model != model:
                raise NotFound(
                    "loop.run",
                    f"the loop of {model} has no run {run[:40]}",
                    hint=f"`edgectl loop runs {model}` shows those that there are",
                )
            return _detail(session, row)

    def news(self) -> LoopNews:
        """Return what tells whether a loop has taken a step; asked each second."""
        with self._database.read() as session:
            event = session.scalar(select(func.max(LoopEventRow.id)))
            annotation = session.scalar(select(func.max(AnnotationRow.id)))
        return LoopNews(event=event or 0, annotation=annotation or 0)


def event_info(row: LoopEventRow) -> LoopEventInfo:
    """Return how an event is shown."""
    return LoopEventInfo(
        id=row.id, run=row.run, at=row.at, actor=row.actor, kind=row.kind, data=row.data
    )


def _detail(session: Session, run: LoopRunRow) -> LoopRunDetail:
    policy = session.get(LoopPolicyRow, run.model)
    spec = None if policy is None else LoopPolicySpec.model_validate(policy.document)
    newest = select(LoopEventRow).where(LoopEventRow.model == run.model, LoopEventRow.run == run.id)
    events = session.scalars(newest.order_by(LoopEventRow.id.desc()).limit(_EVENTS_MAX)).all()
    steps = _steps(run, events[::-1])
    collects = run.state == LoopState.COLLECTING
    since = run.began_at - timedelta(seconds=0 if spec is None else spec.look_back_s)
    until = next((one.ended_at for one in steps if one.state == "collecting"), None)
    span = [SampleRow.model == run.model, SampleRow.taken_at >= since]
    if until is not None:
        span.append(SampleRow.received_at <= until)
    retraining = session.get(RetrainingRow, run.facts.get("retraining") or "")
    parent = None if retraining is None else retraining.parent
    noticed_at = _noticed_at(session, run)
    return LoopRunDetail(
        **run_info(run).model_dump(),
        noticed_at=noticed_at,
        steps=steps,
        parent=parent,
        samples=int(session.scalar(select(func.count()).where(*span)) or 0),
        labelled=labels_of(session, run.model, since) if collects else run.facts.get("rows", 0),
        labels_min=None if spec is None else spec.labels_min,
        collect_until=run.since + timedelta(seconds=spec.collect_max_s)
        if spec is not None and collects
        else None,
        accuracies=_accuracies(session, run, steps, parent, noticed_at or run.began_at),
        transfer=_transfer(session, run.facts.get("rollout")),
    )


def _steps(run: LoopRunRow, events: Sequence[LoopEventRow]) -> list[LoopStep]:
    steps: list[LoopStep] = []
    for event in events:
        state = _state_of(event)
        if state is None or (steps and steps[-1].state == state):
            if steps:
                steps[-1].notes.append(event_info(event))
            continue
        if steps:
            steps[-1].ended_at = event.at
        why = event.data.get("why") or event.data.get("reason") or ""
        steps.append(
            LoopStep(
                state=state.value,
                began_at=event.at,
                ended_at=run.ended_at,  # of the last one; others are corrected by the next
                why=str(why),
                actor=event.actor,
                notes=[],
            )
        )
    return steps


def _state_of(event: LoopEventRow) -> LoopState | None:
    """Return the state that an event names, if any."""
    if event.kind in _BEGINS:
        return LoopState.COLLECTING
    if event.kind == "stop":
        return LoopState.REJECTED
    return LoopState(event.kind) if event.kind in _STATES else None


def _noticed_at(session: Session, run: LoopRunRow) -> datetime | None:
    if run.trigger.get("kind") != "drift":
        return None
    row = DriftEventRow
    began = select(row.at, row.version, row.level, row.group).where(
        DriftEventRow.model == run.model,
        DriftEventRow.kind == "drift.began",
        DriftEventRow.at <= run.began_at,
    )
    newest = session.execute(began.order_by(DriftEventRow.id.desc()).limit(_DRIFTS_MAX))
    told = run.trigger.get("detail", "")  # by then others may drift too
    for at, *of in newest:
        if told.startswith(place_of(run.model, *of) + ": "):
            return at
    return None


class _Stretch(NamedTuple):
    """A time of a run, and the version that answered then."""

    when: Literal["before", "during", "after"]
    version: str
    since: datetime
    until: datetime | None


def _accuracies(
    session: Session,
    run: LoopRunRow,
    steps: Sequence[LoopStep],
    parent: str | None,
    noticed_at: datetime,
) -> list[LoopAccuracy]:
    if parent is None:
        return []
    candidate: str | None = run.facts.get("version")
    over = next((one.began_at for one in steps if one.state == "canary"), None)
    stretches = [
        _Stretch("before", parent, noticed_at - _BEFORE, noticed_at),
        _Stretch("during", parent, noticed_at, run.ended_at),
    ]
    if candidate is not None and over is not None:
        stretches.append(_Stretch("after", candidate, over, None))
    found = []
    for one in stretches:
        right, rows = _by_labels(session, run.model, one)
        estimate = _estimate(session, run.model, one)
        if rows or estimate is not None:
            found.append(
                LoopAccuracy(
                    when=one.when, version=one.version, right=right, rows=rows, estimate=estimate
                )
            )
    return found


def _by_labels(session: Session, model: str, one: _Stretch) -> tuple[int, int]:
    wanted = select(SampleRow.answer, SampleRow.label_number).where(
        SampleRow.model == model,
        SampleRow.version == one.version,
        SampleRow.label_number >= 0,
        SampleRow.answer >= 0,
        SampleRow.reason == "random",
        SampleRow.taken_at > one.since,
    )
    if one.until is not None:
        wanted = wanted.where(SampleRow.taken_at <= one.until)
    rows = session.execute(wanted.order_by(SampleRow.taken_at.desc()).limit(_ROWS_MAX)).all()
    return sum(answer == label for answer, label in rows), len(rows)


def _estimate(session: Session, model: str, one: _Stretch) -> float | None:
    """Return what was measured at the push, or is estimated of the fleet."""
    if one.when == "before":
        named = (ModelVersion.model == model, ModelVersion.version == one.version)
        report = session.scalar(select(ModelVersion.report).where(*named)) or {}
        value = report.get("reference")
    else:
        fleet = select(AccuracyStateRow.found).where(
            AccuracyStateRow.model == model,
            AccuracyStateRow.version == one.version,
            AccuracyStateRow.level == "fleet",
        )
        found = session.scalar(fleet.order_by(AccuracyStateRow.until.desc()).limit(1)) or {}
        value = found.get("accuracy")
    return value if isinstance(value, float) else None


def _transfer(session: Session, rollout: str | None) -> LoopTransfer | None:
    if rollout is None:
        return None
    count, fetched, whole = session.execute(
        select(
            func.count(), func.sum(RolloutDevice.fetched_bytes), func.sum(RolloutDevice.whole_bytes)
        ).where(RolloutDevice.rollout == rollout, RolloutDevice.fetched_bytes.is_not(None))
    ).one()
    if not count:
        return None
    return LoopTransfer(devices=count, fetched_bytes=int(fetched or 0), whole_bytes=int(whole or 0))
