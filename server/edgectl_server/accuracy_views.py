"""What is shown of estimated accuracy: where everything stands, from what, and how it has gone."""

from __future__ import annotations

from sqlalchemy import ColumnElement, case, select
from sqlalchemy.orm import Session

from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_server.accuracy_watch import LOW
from edgectl_server.domain.accuracy import calibration_of
from edgectl_server.domain.drift import FLEET
from edgectl_server.domain.true_accuracy import TrueAccuracy
from edgectl_server.drift_watch import Stretch
from edgectl_server.errors import NotFound
from edgectl_server.labelled_answers import read_true_accuracy
from edgectl_server.references import Known, References
from edgectl_server.schemas import (
    AccuracyBin,
    AccuracyDetail,
    AccuracyFound,
    AccuracyGroup,
    AccuracyPoint,
    Page,
    TrueAccuracyInfo,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import AccuracyPointRow, AccuracyStateRow

__all__ = ["AccuracyViews"]

POINTS_MAX = 500
GROUPS_SHOWN_MAX = 200
_LEVEL = case({"fleet": 0, "site": 1}, value=AccuracyStateRow.level, else_=2)
_SORT = {
    "state": AccuracyStateRow.state,
    "since": AccuracyStateRow.since,
    "rows": AccuracyStateRow.rows,
}
_URGENCY = case({"low": 0, "recovering": 1, "suspected": 2}, value=AccuracyStateRow.state)


class AccuracyViews:
    """Reads. Its methods may be called from any thread."""

    def __init__(self, *, database: Database, references: References, stretch: Stretch) -> None:
        self._database = database
        self._references = references
        self._stretch = stretch

    def page(
        self, paging: PageQuery, *, model: str | None, level: str | None, state: str | None
    ) -> Page[AccuracyGroup]:
        """Return one page of the groups: what is low first, fleets before sites before devices."""
        wanted = select(AccuracyStateRow)
        if paging.sort:
            by = order(paging.sort, _SORT, default="", last=AccuracyStateRow.group)
            wanted = wanted.order_by(*by, AccuracyStateRow.manifest)
        else:
            wanted = wanted.order_by(
                AccuracyStateRow.model,
                _LEVEL,
                _URGENCY.nulls_last(),
                AccuracyStateRow.group,
                AccuracyStateRow.manifest,
            )
        for column, value in (
            (AccuracyStateRow.model, model),
            (AccuracyStateRow.level, level),
            (AccuracyStateRow.state, state),
        ):
            if value is not None:
                wanted = wanted.where(column == value)
        if paging.q:
            wanted = wanted.where(
                match(paging.q, (AccuracyStateRow.group, AccuracyStateRow.version))
            )
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_group(row) for row in rows], total=total)

    def detail(
        self, model: str, *, manifest: str | None, site: str | None, device: str | None
    ) -> AccuracyDetail:
        """Say from what a group's accuracy was estimated.

        Args:
            model: its name.
            manifest: of which bundle; None: of the one that was judged last.
            site: None: not of a site.
            device: None: not of a device; with neither, of the fleet.

        Raises:
            NotFound: ``accuracy.unknown``: nothing was judged there.
        """
        level, group = "fleet", FLEET
        if device is not None:
            level, group = "device", device
        elif site is not None:
            level, group = "site", site
        conditions: list[ColumnElement[bool]] = [
            AccuracyStateRow.model == model,
            AccuracyStateRow.level == level,
            AccuracyStateRow.group == group,
        ]
        if manifest is not None:
            conditions.append(AccuracyStateRow.manifest == manifest)
        with self._database.read() as session:
            state = session.scalar(
                select(AccuracyStateRow)
                .where(*conditions)
                .order_by(AccuracyStateRow.until.desc(), AccuracyStateRow.rows.desc())
                .limit(1)
            )
            known = None if state is None else self._references.find(session, state.manifest)
            if state is None or known is None:
                raise NotFound(
                    "accuracy.unknown",
                    f"no accuracy of {model} was estimated, {level} {group}".rstrip(),
                    hint="edgectl accuracy status lists what was; it takes a model that was pushed "
                    "with labels, a period and some answers",
                )
            points = _points(session, state)
            true, stretches = read_true_accuracy(
                session,
                state.manifest,
                (level, group),
                [one.until for one in points],
                self._stretch.period,
            )
            return AccuracyDetail(
                group=_group(state),
                start=state.until - self._stretch.period,
                bins=_bins(known, state),
                true=_true(true),
                points=[
                    AccuracyPoint(
                        until=row.until,
                        rows=row.rows,
                        found=AccuracyFound.model_validate(row.found),
                        true=_true(one),
                    )
                    for row, one in zip(points, stretches, strict=True)
                ],
                low=_low(session, state) if level == "fleet" else [],
            )


def _bins(known: Known, state: AccuracyStateRow) -> list[AccuracyBin]:
    calibration = calibration_of(known.reference)
    counts = state.found["confidence"]
    if calibration is None:
        return []
    ends = (0.0, *CONFIDENCE_EDGES, 1.0)
    return [
        AccuracyBin(
            low=ends[place],
            high=ends[place + 1],
            reference_rows=int(calibration.seen[place]),
            right=int(calibration.right[place]),
            share=round(float(calibration.shares[place]), 4),
            rows=counts[place],
        )
        for place in range(len(counts))
        if calibration.seen[place] or counts[place]
    ]


def _true(found: TrueAccuracy) -> TrueAccuracyInfo:
    return TrueAccuracyInfo(
        rows=found.rows,
        right=found.right,
        accuracy=None if found.accuracy is None else round(found.accuracy, 4),
        low=round(found.low, 4),
        high=round(found.high, 4),
        chosen=found.chosen,
        chosen_right=found.chosen_right,
    )


def _points(session: Session, state: AccuracyStateRow) -> list[AccuracyPointRow]:
    rows = session.scalars(
        select(AccuracyPointRow)
        .where(
            AccuracyPointRow.manifest == state.manifest,
            AccuracyPointRow.level == state.level,
            AccuracyPointRow.group == state.group,
        )
        .order_by(AccuracyPointRow.until.desc())
        .limit(POINTS_MAX)
    ).all()
    return list(reversed(rows))


def _low(session: Session, state: AccuracyStateRow) -> list[AccuracyGroup]:
    rows = session.scalars(
        select(AccuracyStateRow)
        .where(
            AccuracyStateRow.manifest == state.manifest,
            AccuracyStateRow.level != "fleet",
            AccuracyStateRow.state.in_(LOW),
        )
        .order_by(_LEVEL, AccuracyStateRow.group)
        .limit(GROUPS_SHOWN_MAX)
    )
    return [_group(row) for row in rows]


def _group(row: AccuracyStateRow) -> AccuracyGroup:
    return AccuracyGroup(
        model=row.model,
        version=row.version,
        manifest=row.manifest,
        level=row.level,  # type: ignore[arg-type]  # pydantic checks it
        group=row.group,
        state=row.state,  # type: ignore[arg-type]
        since=row.since,
        until=row.until,
        rows=row.rows,
        found=AccuracyFound.model_validate(row.found),
    )
