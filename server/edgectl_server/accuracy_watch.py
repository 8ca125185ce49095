"""The accuracy of the fleet without labels: estimated in stretches of time, told as events.

Rules:

1. Stretches are those of drift (`drift_watch.Stretch`), judged once and `grace` after their end.
2. What is counted is telemetry's counts of all answers, not only of those that are described for
   drift: sureness and class. Of more windows than can be read at a time every n-th is taken, by its
   number, so that all devices and times stay represented.
3. Windows of another model's shape, or with more answers than a device can give, are left out.
4. Without labels at push there is one row that says so, for the fleet. States and events are
   written in one transaction; two replicas do it once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_protocol.watching import Reference
from edgectl_server.domain.accuracy import (
    AccuracyJudged,
    AccuracyLimits,
    AccuracyState,
    calibration_of,
    judge_accuracy,
    next_accuracy_state,
)
from edgectl_server.domain.drift import FLEET, Window
from edgectl_server.drift_watch import Stretch, is_served
from edgectl_server.references import Known, References
from edgectl_server.rollout_sites import site_of
from edgectl_server.schemas import AccuracyFound
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import insert_new
from edgectl_server.storage.tables import (
    AccuracyPointRow,
    AccuracyStateRow,
    AnsweredHour,
    Device,
    DriftEventRow,
    TelemetryWindow,
)

__all__ = ["LOW", "AccuracyWatch"]

logger = logging.getLogger(__name__)

WINDOWS_MAX = 100_000
"""Windows of one manifest that are read for one stretch."""
WINDOW_ROWS_MAX = 10_000_000
"""Answers of one window that are believed; sums of them stay exact."""
PARTS = 6
"""Into so many parts the stretch of each device is divided: how much they differ tells how much
neighbouring rows resemble one another."""
_BINS = len(CONFIDENCE_EDGES) + 1
_READ_AT_ONCE = 1000
_NAMES_AT_ONCE = 500
_ENDED_AT_ONCE = 500
LOW = frozenset({"low", "recovering"})
"""States between the event that the accuracy fell and the one that it has recovered."""


@dataclass
class _Part:
    """Counts of one device in a part of the stretch."""

    confidence: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]


class AccuracyWatch:
    """Judges. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        references: References,
        stretch: Stretch,
        retention_days: int,
        now: Callable[[], datetime],
        limits: AccuracyLimits | None = None,
    ) -> None:
        self._database = database
        self._references = references
        self._stretch = stretch
        self._retention = timedelta(days=retention_days)
        self._now = now
        self._limits = limits or AccuracyLimits()

    def look(self) -> int:
        """Judge what has become due; return how many manifests."""
        until = self._stretch.last_end(self._now())
        after = until - self._stretch.period
        with self._database.read() as session:
            judged = select(AccuracyStateRow.manifest).where(
                AccuracyStateRow.level == "fleet", AccuracyStateRow.until >= until
            )
            due = session.execute(
                select(AnsweredHour.manifest, AnsweredHour.slot)
                .where(
                    AnsweredHour.hour > after - timedelta(hours=1),
                    AnsweredHour.hour <= until,
                    AnsweredHour.last > after,
                    AnsweredHour.manifest.not_in(judged),
                )
                .distinct()
            ).all()
        judged_now = sum(self._judge(manifest, slot, until) for manifest, slot in due)
        self._end_unserved(until)
        return judged_now

    def _end_unserved(self, until: datetime) -> None:
        """End what is low where no device of the group runs the bundle any more, as drift is."""
        unserved = (
            select(AccuracyStateRow)
            .where(
                AccuracyStateRow.until < until - self._stretch.period,
                AccuracyStateRow.state.in_((*LOW, "suspected")),
                ~is_served(AccuracyStateRow),
            )
            .limit(_ENDED_AT_ONCE)
        )
        with self._database.read() as session:
            if session.scalars(unserved.limit(1)).first() is None:
                return
        with self._database.write() as session:
            for state in session.scalars(unserved.with_for_update()):
                self._move(session, state, "unknown", self._now(), replaced=True)

    def delete_old(self) -> None:
        """Forget what was not heard of for long."""
        before = self._now() - self._retention
        with self._database.write() as session:
            for table in (AccuracyStateRow, AccuracyPointRow):
                session.execute(delete(table).where(table.until < before))

    def _judge(self, manifest: str, slot: str, until: datetime) -> bool:
        with self._database.read() as session:
            known = self._references.find(session, manifest)
            if known is None:  # not ours, or without a reference
                return False
            ends = (until - self._stretch.period, until)
            windows = _read(session, manifest, slot, ends, known.reference)
        if not windows:
            return False
        judged = judge_accuracy(known.reference, windows, self._limits)
        if judged[0].unknown == "labels":
            judged = judged[:1]
        with self._database.write() as session:
            states = {
                (row.level, row.group): row
                for row in session.scalars(
                    select(AccuracyStateRow)
                    .where(AccuracyStateRow.manifest == manifest)
                    .with_for_update()
                )
            }
            fleet = states.get(("fleet", FLEET))
            if fleet is not None and fleet.until >= until:
                return False  # another replica was first
            points = []
            for one in judged:
                state = states.get((one.level, one.group))
                if state is None:
                    state = _new_state(manifest, known, one, until)
                    session.add(state)
                self._take(session, state, one, known.reference, until)
                if one.level != "device":
                    points.append(_point(state))
            insert_new(session, AccuracyPointRow, points)
        return True

    def _take(
        self,
        session: Session,
        state: AccuracyStateRow,
        judged: AccuracyJudged,
        reference: Reference,
        until: datetime,
    ) -> None:
        """Move a group on by what was judged of it."""
        before: AccuracyState = state.state  # type: ignore[assignment]  # it was written from one
        after = next_accuracy_state(before, fallen=judged.fallen)
        state.until, state.rows = until, judged.rows
        state.found = _found(judged, reference)
        self._move(session, state, after, until)

    def _move(
        self,
        session: Session,
        state: AccuracyStateRow,
        after: AccuracyState,
        at: datetime,
        *,
        replaced: bool = False,
    ) -> None:
        """Write the state that a group is in from `at` on, and say what has begun or ended.

        Where the bundle was replaced in the group, nothing has recovered: there is nobody to tell.
        """
        before, state.state = state.state, after
        if after != before:
            state.since = at
        if (after in LOW) == (before in LOW):
            return
        kind = "accuracy.fell" if after in LOW else "accuracy.recovered"
        session.add(_event(kind, state, self._now(), replaced=replaced))
        where = f"{state.level} {state.group}".strip()
        how = ", as it was replaced" if replaced else ""
        logger.warning("%s: %s %s, %s%s", kind, state.model, state.version, where, how)


def _read(
    session: Session,
    manifest: str,
    slot: str,
    ends: tuple[datetime, datetime],
    reference: Reference,
) -> list[Window]:
    """Return the counts of each enrolled device, in parts of the stretch between two ends."""
    after, until = ends
    wanted: list[ColumnElement[bool]] = [
        TelemetryWindow.slot == slot,
        TelemetryWindow.manifest == manifest,
        TelemetryWindow.end > after,
        TelemetryWindow.end <= until,
    ]
    count = session.scalar(select(func.count()).select_from(TelemetryWindow).where(*wanted)) or 0
    if count > WINDOWS_MAX:
        wanted.append(TelemetryWindow.seq % -(-count // WINDOWS_MAX) == 0)
    rows = session.execute(
        select(
            TelemetryWindow.device,
            TelemetryWindow.end,
            TelemetryWindow.confidence,
            TelemetryWindow.classes,
        )
        .where(*wanted)
        .limit(2 * WINDOWS_MAX)
        .execution_options(yield_per=_READ_AT_ONCE)
    )
    part_s = (until - after).total_seconds() / PARTS
    parts: dict[tuple[str, int], _Part] = {}
    classes_max = len(reference.classes)
    for device, end, confidence, classes in rows:
        rows_of = sum(confidence)
        if len(confidence) != _BINS or not 0 < rows_of <= WINDOW_ROWS_MAX:
            continue
        if len(classes) > classes_max or sum(classes) > rows_of:
            continue  # of another model
        key = (device, int((end - after).total_seconds() / part_s))
        if key not in parts:
            parts[key] = _Part(np.zeros(_BINS, np.int64), np.zeros(classes_max, np.int64))
        parts[key].confidence += np.array(confidence, np.int64)
        parts[key].classes[: len(classes)] += np.array(classes, np.int64)
    sites = _sites(session, {device for device, _ in parts})
    return list(_windows(parts, sites))


def _windows(parts: dict[tuple[str, int], _Part], sites: dict[str, str]) -> Iterator[Window]:
    for (device, _), part in sorted(parts.items(), key=lambda one: one[0]):
        if device in sites:
            yield Window(
                device=device,
                site=sites[device],
                rows=int(part.confidence.sum()),
                histograms=(part.confidence.tolist(),),
                classes=part.classes.tolist(),
            )


def _sites(session: Session, names: Iterable[str]) -> dict[str, str]:
    """Return the site of each enrolled device of these names."""
    found: dict[str, str] = {}
    wanted = sorted(names)
    for first in range(0, len(wanted), _NAMES_AT_ONCE):
        some = wanted[first : first + _NAMES_AT_ONCE]
        enrolled = select(Device).where(Device.id.in_(some), Device.state == "enrolled")
        found.update({one.id: site_of(one) for one in session.scalars(enrolled)})
    return found


def _new_state(
    manifest: str, known: Known, judged: AccuracyJudged, until: datetime
) -> AccuracyStateRow:
    return AccuracyStateRow(
        manifest=manifest,
        level=judged.level,
        group=judged.group,
        model=known.model,
        version=known.version,
        state="unknown",
        since=until,
        until=until,
        rows=0,
        found={},
    )


def _found(judged: AccuracyJudged, reference: Reference) -> dict[str, object]:
    calibration, estimate = calibration_of(reference), judged.estimate
    return AccuracyFound(
        reference=None if calibration is None else round(calibration.accuracy, 4),
        reference_rows=0 if calibration is None else int(calibration.seen.sum()),
        accuracy=None if estimate is None else round(estimate.accuracy, 4),
        low=None if estimate is None else round(estimate.low, 4),
        high=None if estimate is None else round(estimate.high, 4),
        by_classes=None if estimate is None else round(estimate.by_classes, 4),
        unseen=0.0 if estimate is None else round(estimate.unseen, 4),
        unknown=judged.unknown,
        cause=judged.cause,
        confidence=list(judged.confidence),
    ).model_dump()


def _point(state: AccuracyStateRow) -> dict[str, object]:
    return {
        "manifest": state.manifest,
        "level": state.level,
        "group": state.group,
        "until": state.until,
        "rows": state.rows,
        "found": state.found,
    }


def _event(kind: str, state: AccuracyStateRow, at: datetime, *, replaced: bool) -> DriftEventRow:
    return DriftEventRow(
        at=at,
        kind=kind,
        model=state.model,
        version=state.version,
        manifest=state.manifest,
        level=state.level,
        group=state.group,
        detail={"findings": [], "faults": [], "accuracy": state.found, "replaced": replaced},
    )
