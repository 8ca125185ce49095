"""Lists of drift: where fleets, sites and devices stand, and what has begun and ended.

What is counted is listed by the same conditions, so that a number cannot differ from its list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, String, and_, case, cast, func, or_, select
from sqlalchemy.orm import Session

from edgectl_server.device_filter import site_column
from edgectl_server.domain.drift import LEVELS, Limits
from edgectl_server.schemas import (
    AccuracyFound,
    DataFault,
    DriftCounts,
    DriftEventInfo,
    DriftFinding,
    DriftGroup,
    DriftNews,
    DriftSummary,
    Page,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import Device, DriftEventRow, DriftStateRow

__all__ = ["LEVEL_ORDER", "DriftFilter", "DriftLists", "group_of"]

LEVEL_ORDER = case({"fleet": 0, "site": 1}, value=DriftStateRow.level, else_=2)
_STATES = {"state": DriftStateRow.state, "since": DriftStateRow.since, "rows": DriftStateRow.rows}
_LIMITS = Limits()
_URGENCY = case({"drifting": 0, "recovering": 1, "suspected": 2}, value=DriftStateRow.state)
_FAULTY = cast(DriftStateRow.faults, String) != "[]"


class DriftFilter(NamedTuple):
    """What is asked of groups; None: nothing."""

    model: str | None = None
    manifest: str | None = None
    level: str | None = None
    state: str | None = None
    site: str | None = None
    """The site itself, and its devices."""
    device: str | None = None
    faulty: bool | None = None
    """With faults of their data."""


class DriftLists:
    """Reads. Its methods may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, paging: PageQuery, asked: DriftFilter) -> Page[DriftGroup]:
        """Return one page of the groups: what drifts first, fleets before sites before devices."""
        wanted = select(DriftStateRow).where(*_conditions(asked))
        if paging.sort:
            by = order(paging.sort, _STATES, default="", last=DriftStateRow.group)
            wanted = wanted.order_by(*by, DriftStateRow.manifest)
        else:
            wanted = wanted.order_by(
                DriftStateRow.model,
                LEVEL_ORDER,
                _URGENCY.nulls_last(),
                DriftStateRow.group,
                DriftStateRow.manifest,
            )
        if paging.q:
            wanted = wanted.where(match(paging.q, (DriftStateRow.group, DriftStateRow.version)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[group_of(row) for row in rows], total=total)

    def summary(self, paging: PageQuery, *, model: str | None) -> Page[DriftSummary]:
        """Return one page of bundles with the counts of their groups; what drifts first."""
        wanted = select(DriftStateRow).where(*_conditions(DriftFilter(model, level="fleet")))
        wanted = wanted.order_by(
            _URGENCY.nulls_last(), DriftStateRow.until.desc(), DriftStateRow.manifest
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (DriftStateRow.model, DriftStateRow.version)))
        with self._database.read() as session:
            fleets, total = fetch_page(session, wanted, paging)
            counts, faulty = _counts(session, [row.manifest for row in fleets])
        items = [_summary(row, counts[row.manifest], faulty.get(row.manifest, 0)) for row in fleets]
        return Page(items=items, total=total)

    def events(self, paging: PageQuery, asked: DriftFilter) -> Page[DriftEventInfo]:
        """Return one page of what has begun and ended, the newest first."""
        wanted = (
            select(DriftEventRow)
            .where(*_conditions(asked, DriftEventRow))
            .order_by(DriftEventRow.id.desc())
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (DriftEventRow.group, DriftEventRow.kind)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_event(row) for row in rows], total=total)

    def news(self) -> DriftNews:
        """Return what tells whether anything here has changed; asked each second."""
        with self._database.read() as session:
            judged = session.scalar(select(func.max(DriftStateRow.until)))
            event = session.scalar(select(func.max(DriftEventRow.id)))
        return DriftNews(judged_until=judged, event=event or 0)


def _conditions(
    asked: DriftFilter, table: type[DriftStateRow | DriftEventRow] = DriftStateRow
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (table.model, asked.model),
            (table.manifest, asked.manifest),
            (table.level, asked.level),
        )
        if value is not None
    ]
    if asked.device is not None:
        found.append(and_(table.level == "device", table.group == asked.device))
    if asked.site is not None:
        inside = select(Device.id).where(site_column() == asked.site)
        found.append(
            or_(
                and_(table.level == "site", table.group == asked.site),
                and_(table.level == "device", table.group.in_(inside)),
            )
        )
    if asked.state is not None:
        found.append(DriftStateRow.state == asked.state)
    if asked.faulty is not None:
        found.append(_FAULTY if asked.faulty else ~_FAULTY)
    return found


class _Counts(NamedTuple):
    sites: dict[str, int]
    devices: dict[str, int]


def _counts(
    session: Session, manifests: Sequence[str]
) -> tuple[defaultdict[str, _Counts], dict[str, int]]:
    """Return the groups of each manifest by state, and its devices with faults."""
    columns = (DriftStateRow.manifest, DriftStateRow.level, DriftStateRow.state)
    wanted = select(*columns, func.count()).where(
        DriftStateRow.manifest.in_(manifests), DriftStateRow.level != "fleet"
    )
    counts: defaultdict[str, _Counts] = defaultdict(lambda: _Counts({}, {}))
    for manifest, level, state, number in session.execute(wanted.group_by(*columns)):
        of = counts[manifest]
        (of.sites if level == "site" else of.devices)[state] = number
    faulty = (
        select(DriftStateRow.manifest, func.count())
        .where(DriftStateRow.manifest.in_(manifests), DriftStateRow.level == "device", _FAULTY)
        .group_by(DriftStateRow.manifest)
    )
    return counts, dict(session.execute(faulty).all())


def _summary(row: DriftStateRow, counts: _Counts, faulty: int) -> DriftSummary:
    return DriftSummary(
        fleet=group_of(row),
        sites=DriftCounts(**counts.sites),
        devices=DriftCounts(**counts.devices),
        faulty=faulty,
        false_alarms=_LIMITS.false_alarms / len(LEVELS),
        distance=_LIMITS.distance,
        spread=_LIMITS.spread,
    )


def group_of(row: DriftStateRow) -> DriftGroup:
    """Return a row as it is shown."""
    return DriftGroup(
        model=row.model,
        version=row.version,
        manifest=row.manifest,
        level=row.level,  # type: ignore[arg-type]  # pydantic checks it
        group=row.group,
        state=row.state,  # type: ignore[arg-type]
        since=row.since,
        until=row.until,
        rows=row.rows,
        findings=[DriftFinding.model_validate(one) for one in row.findings],
        faults=[DataFault.model_validate(one) for one in row.faults],
    )


def _event(row: DriftEventRow) -> DriftEventInfo:
    accuracy = row.detail.get("accuracy")
    return DriftEventInfo(
        id=row.id,
        at=row.at,
        kind=row.kind,  # type: ignore[arg-type]
        model=row.model,
        version=row.version,
        manifest=row.manifest,
        level=row.level,  # type: ignore[arg-type]
        group=row.group,
        findings=[DriftFinding.model_validate(one) for one in row.detail["findings"]],
        faults=[DataFault.model_validate(one) for one in row.detail["faults"]],
        accuracy=None if accuracy is None else AccuracyFound.model_validate(accuracy),
        replaced=row.detail.get("replaced", False),
    )
