"""Drift of the fleet: looked at in stretches of time, remembered as states, told as events.

Rules:

1. A stretch is as long as `drift_period_s` and ends at a whole multiple of it; it is judged once,
   `grace` after its end, so that what is on its way is in it. What a device sends later than that
   is kept and added up, and judged no more.
2. All of a manifest is judged together (`domain.drift`), because the budget of false alarms is for
   all questions of one evaluation. States and events are written in one transaction.
3. A group that sends nothing keeps its state and ages; after the retention it is forgotten. Where
   no device of it runs the bundle any more, drift and faults end with it, a stretch later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, delete, or_, select
from sqlalchemy.orm import Session

from edgectl_server.device_filter import site_column
from edgectl_server.domain.data_quality import ROWS_MIN, Fault, examine
from edgectl_server.domain.drift import (
    FLEET,
    DriftState,
    Finding,
    Judged,
    Limits,
    Window,
    evaluate,
    next_state,
)
from edgectl_server.features import window_of
from edgectl_server.references import References
from edgectl_server.rollout_sites import site_of
from edgectl_server.schemas import DataFault, DriftFinding
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    AccuracyStateRow,
    Device,
    DriftEventRow,
    DriftStateRow,
    FeatureWindowRow,
    ReportedSlot,
)
from edgectl_server.usual_days import read_usual

__all__ = ["DriftWatch", "Stretch", "is_served", "read_windows"]

logger = logging.getLogger(__name__)

WINDOWS_MAX = 50_000
"""Windows of one manifest that are judged together, the newest first."""
FINDINGS_MAX = 64
_ENDED_AT_ONCE = 500
_GRACE_MAX_S = 120.0
DRIFTING = frozenset({"drifting", "recovering"})
"""States between the event that drift has begun and the one that it has ended."""


class Stretch:
    """How long is judged at a time, and when.

    Args:
        period_s: seconds.
    """

    def __init__(self, period_s: float) -> None:
        self.period = timedelta(seconds=period_s)
        self._grace = timedelta(seconds=min(_GRACE_MAX_S, period_s / 2))

    def last_end(self, now: datetime) -> datetime:
        """Return the end of the newest stretch that may be judged."""
        seconds = (now - self._grace).timestamp()
        return datetime.fromtimestamp(seconds - seconds % self.period.total_seconds(), UTC)


class DriftWatch:
    """Judges. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        references: References,
        stretch: Stretch,
        retention_days: int,
        now: Callable[[], datetime],
        limits: Limits | None = None,
    ) -> None:
        self._database = database
        self._references = references
        self._stretch = stretch
        self._retention = timedelta(days=retention_days)
        self._now = now
        self._limits = limits or Limits()

    def look(self) -> int:
        """Judge what has become due; return how many manifests."""
        until = self._stretch.last_end(self._now())
        with self._database.read() as session:
            judged = select(DriftStateRow.manifest).where(
                DriftStateRow.level == "fleet", DriftStateRow.until >= until
            )
            due = session.scalars(
                select(FeatureWindowRow.manifest)
                .where(
                    FeatureWindowRow.end > until - self._stretch.period,
                    FeatureWindowRow.end <= until,
                    FeatureWindowRow.manifest.not_in(judged),
                )
                .distinct()
            ).all()
        for manifest in due:
            self._judge(manifest, until)
        self._end_unserved(until)
        return len(due)

    def _end_unserved(self, until: datetime) -> None:
        """End what nobody can see any more, because the bundle runs nowhere in the group."""
        unserved = (
            select(DriftStateRow)
            .where(
                DriftStateRow.until < until - self._stretch.period,  # it may still come back
                DriftStateRow.state.in_((*DRIFTING, "suspected"))
                | (cast(DriftStateRow.faults, String) != "[]"),
                ~is_served(DriftStateRow),
            )
            .limit(_ENDED_AT_ONCE)
        )
        with self._database.read() as session:  # most looks find none, and lock nothing
            if session.scalars(unserved.limit(1)).first() is None:
                return
        with self._database.write() as session:
            for state in session.scalars(unserved.with_for_update()):
                self._move(session, state, "unknown", [], self._now(), replaced=True)

    def delete_old(self) -> None:
        """Forget groups that were not heard of for long, and old events."""
        before = self._now() - self._retention
        with self._database.write() as session:
            session.execute(delete(DriftStateRow).where(DriftStateRow.until < before))
            session.execute(delete(DriftEventRow).where(DriftEventRow.at < before))

    def _judge(self, manifest: str, until: datetime) -> None:
        with self._database.read() as session:
            known = self._references.find(session, manifest)
            if known is None:  # it was deleted meanwhile
                return
            period = self._stretch.period
            rows = read_windows(session, manifest, until - period, until)
            usual = read_usual(session, self._references, known, until, period)
        windows = [window_of(row, site) for row, site in rows]
        judged = evaluate(known.reference, windows, self._limits, usual)
        by_device: dict[str, list[Window]] = {}
        for window in windows:
            by_device.setdefault(window.device, []).append(window)
        faults = {name: examine(known.reference, of) for name, of in by_device.items()}
        with self._database.write() as session:
            states = {
                (row.level, row.group): row
                for row in session.scalars(
                    select(DriftStateRow)
                    .where(DriftStateRow.manifest == manifest)
                    .with_for_update()
                )
            }
            fleet = states.get(("fleet", FLEET))
            if fleet is not None and fleet.until >= until:
                return  # another replica was first
            for one in judged:
                state = states.get((one.level, one.group))
                if state is None:
                    state = _new_state(manifest, known.model, known.version, one, until)
                    session.add(state)
                found = faults.get(one.group, ()) if one.level == "device" else ()
                self._take(session, state, one, found, until)

    def _take(
        self,
        session: Session,
        state: DriftStateRow,
        judged: Judged,
        faults: Sequence[Fault],
        until: datetime,
    ) -> None:
        """Move a group on by what was judged of it."""
        before: DriftState = state.state  # type: ignore[assignment]  # it was written from one
        after = next_state(before, judged.shifted)
        findings = [_finding(one) for one in judged.findings[:FINDINGS_MAX]]
        state.until, state.rows = until, judged.rows
        if judged.shifted is not None:
            state.findings = findings
        told = [_fault(one) for one in faults[:FINDINGS_MAX]]
        if judged.rows < ROWS_MIN and not told:  # which does not say that all is well again
            told = state.faults
        self._move(session, state, after, told, until)

    def _move(
        self,
        session: Session,
        state: DriftStateRow,
        after: DriftState,
        faults: list[dict[str, Any]],
        at: datetime,
        *,
        replaced: bool = False,
    ) -> None:
        """Write the state that a group is in from `at` on, and say what has begun or ended."""
        before, had_faults = state.state, bool(state.faults)
        state.state, state.faults = after, faults
        if after != before:
            state.since = at
        events = []
        if (after in DRIFTING) != (before in DRIFTING):
            events.append("drift.began" if after in DRIFTING else "drift.ended")
        if bool(state.faults) != had_faults:
            events.append("data.began" if state.faults else "data.ended")
        for kind in events:
            session.add(_event(kind, state, self._now(), replaced=replaced))
            where = f"{state.level} {state.group}".strip()
            how = ", as it was replaced" if replaced else ""
            logger.warning("%s: %s %s, %s%s", kind, state.model, state.version, where, how)


def is_served(state: type[DriftStateRow | AccuracyStateRow]) -> ColumnElement[bool]:
    """Return the condition that an enrolled device of a group runs the bundle of its state."""
    here = or_(
        state.level == "fleet",
        and_(state.level == "site", site_column() == state.group),
        and_(state.level == "device", Device.id == state.group),
    )
    runs = (
        select(ReportedSlot.device)
        .join(Device, Device.id == ReportedSlot.device)
        .where(
            ReportedSlot.slot == state.model,
            ReportedSlot.manifest == state.manifest,
            Device.state == "enrolled",
            here,
        )
    )
    return runs.exists()


def read_windows(
    session: Session, manifest: str, after: datetime, until: datetime, *, device: str | None = None
) -> list[tuple[FeatureWindowRow, str]]:
    """Return the windows that end in (`after`, `until`], each with the site of its device."""
    wanted = (
        select(FeatureWindowRow, Device)
        .join(Device, Device.id == FeatureWindowRow.device)
        .where(
            FeatureWindowRow.manifest == manifest,
            FeatureWindowRow.end > after,
            FeatureWindowRow.end <= until,
            Device.state == "enrolled",
        )
        .order_by(FeatureWindowRow.end.desc(), FeatureWindowRow.device)
        .limit(WINDOWS_MAX)
    )
    if device is not None:
        wanted = wanted.where(FeatureWindowRow.device == device)
    return [(row, site_of(owner)) for row, owner in session.execute(wanted)]


def _new_state(
    manifest: str, model: str, version: str, judged: Judged, until: datetime
) -> DriftStateRow:
    return DriftStateRow(
        manifest=manifest,
        level=judged.level,
        group=judged.group,
        model=model,
        version=version,
        state="unknown",
        since=until,
        until=until,
        rows=0,
        findings=[],
        faults=[],
    )


def _event(kind: str, state: DriftStateRow, at: datetime, *, replaced: bool) -> DriftEventRow:
    return DriftEventRow(
        at=at,
        kind=kind,
        model=state.model,
        version=state.version,
        manifest=state.manifest,
        level=state.level,
        group=state.group,
        detail={"findings": state.findings, "faults": state.faults, "replaced": replaced},
    )


def _finding(one: Finding) -> dict[str, Any]:
    comparison = one.comparison
    return DriftFinding(
        feature=one.feature,
        p_value=one.p_value,
        distance=round(comparison.distance, 4),
        spread=round(comparison.spread, 4),
        shift=round(comparison.shift, 4),
    ).model_dump()


def _fault(one: Fault) -> dict[str, Any]:
    return DataFault(kind=one.kind, feature=one.feature, share=round(one.share, 4)).model_dump()
