"""What is shown of drift: where everything stands, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from edgectl_server.domain.drift import CLASSES, FLEET, Judged, Limits, Window, evaluate
from edgectl_server.domain.two_samples import compare
from edgectl_server.drift_history import Course, read_history
from edgectl_server.drift_lists import LEVEL_ORDER, group_of
from edgectl_server.drift_watch import DRIFTING, Stretch, read_windows
from edgectl_server.errors import NotFound
from edgectl_server.features import window_of
from edgectl_server.references import Known, References
from edgectl_server.schemas import (
    DriftDetail,
    DriftFeature,
    DriftHistory,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import DriftStateRow
from edgectl_server.usual_days import find_usual_days

__all__ = ["Asked", "DriftViews"]

GROUPS_SHOWN_MAX = 200


class Asked(NamedTuple):
    """Of which group something is asked; with neither site nor device of the fleet."""

    model: str
    manifest: str | None = None
    """None: of the bundle that was judged last."""
    site: str | None = None
    device: str | None = None


class DriftViews:
    """Reads. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        references: References,
        stretch: Stretch,
    ) -> None:
        self._database = database
        self._references = references
        self._stretch = stretch

    def detail(self, asked: Asked) -> DriftDetail:
        """Say why a group is in its state: its features with both histograms.

        Raises:
            NotFound: ``drift.unknown``: nothing was judged there.
        """
        site = asked.site if asked.device is None else None
        with self._database.read() as session:
            state, known = self._find(session, asked)
            level = state.level
            start = state.until - self._stretch.period
            rows = read_windows(session, state.manifest, start, state.until, device=asked.device)
            others = session.scalars(
                select(DriftStateRow)
                .where(
                    DriftStateRow.manifest == state.manifest,
                    DriftStateRow.level != "fleet",
                    DriftStateRow.state.in_(DRIFTING),
                )
                .order_by(LEVEL_ORDER, DriftStateRow.group)
                .limit(GROUPS_SHOWN_MAX)
            ).all()
            usual = find_usual_days(session, state.model)
        sites = {row.device: place for row, place in rows}
        windows = [window_of(row, place) for row, place in rows]
        if site is not None:
            windows = [one for one in windows if one.site == site]
        inside = {one.device for one in windows}
        return DriftDetail(
            group=group_of(state),
            start=start,
            reference_rows=known.reference.rows,
            windows=len(windows),
            skipped=sum(row.skipped for row, _ in rows if row.device in inside),
            features=_features(known, windows, state),
            sites=[group_of(one) for one in others if one.level == "site" and level == "fleet"],
            devices=[
                group_of(one)
                for one in others
                if one.level == "device"
                and level != "device"
                and (site is None or sites.get(one.group) == site)
            ],
            usual=usual,
        )

    def history(self, asked: Asked, *, since_s: int, features: Sequence[str] = ()) -> DriftHistory:
        """Return how far a group was from its reference, step by step.

        Args:
            asked: which group.
            since_s: how far back, from when it was judged last.
            features: their names; empty: those that were farthest.

        Raises:
            NotFound: ``drift.unknown``: nothing was judged there.
        """
        with self._database.read() as session:
            state, known = self._find(session, asked)
            course = Course(since_s=since_s, features=features, period=self._stretch.period)
            return read_history(session, state, known.reference, course)

    def _find(self, session: Session, asked: Asked) -> tuple[DriftStateRow, Known]:
        level, group = "fleet", FLEET
        if asked.device is not None:
            level, group = "device", asked.device
        elif asked.site is not None:
            level, group = "site", asked.site
        conditions: list[ColumnElement[bool]] = [
            DriftStateRow.model == asked.model,
            DriftStateRow.level == level,
            DriftStateRow.group == group,
        ]
        if asked.manifest is not None:
            conditions.append(DriftStateRow.manifest == asked.manifest)
        state = session.scalar(
            select(DriftStateRow)
            .where(*conditions)
            .order_by(DriftStateRow.until.desc(), DriftStateRow.rows.desc())
            .limit(1)
        )
        known = None if state is None else self._references.find(session, state.manifest)
        if state is None or known is None:
            raise NotFound(
                "drift.unknown",
                f"nothing was judged of {asked.model}, {level} {group}",
                hint="edgectl drift status lists what was; it takes a period and some rows",
            )
        return state, known


def _features(known: Known, windows: Sequence[Window], state: DriftStateRow) -> list[DriftFeature]:
    """Return all features of a group; those that moved first, then by how far they are apart."""
    if not windows:
        return []
    judged = next(
        one
        for one in evaluate(known.reference, windows, Limits(rows=1))
        if (one.level, one.group) == (state.level, state.group)
    )
    moved = {one["feature"] for one in state.findings}
    found = [_feature(known, judged, name, moved=name in moved) for name in judged.histograms]
    return sorted(found, key=lambda one: (one.moved, one.distance, one.spread), reverse=True)


def _feature(known: Known, judged: Judged, name: str, *, moved: bool) -> DriftFeature:
    feature = next((one for one in known.reference.features if one.name == name), None)
    reference = known.reference.classes if feature is None else feature.counts
    effect = judged.effects[name]
    comparison = compare(
        np.array(reference, np.float64),
        judged.histograms[name].astype(np.float64),
        reference_effect=1.0 if feature is None else feature.design_effect,
        effect=effect,
        ordered=name != CLASSES,
    )
    return DriftFeature(
        feature=name,
        edges=[] if feature is None else list(feature.edges),
        reference=list(reference),
        counts=judged.histograms[name].tolist(),
        labels=list(known.labels) if feature is None else [],
        moved=moved,
        distance=round(comparison.distance, 4),
        spread=round(comparison.spread, 4),
        shift=round(comparison.shift, 4),
        design_effect=round(effect, 2),
    )
