"""How far a group was from its reference, step by step: the same tests, on what is kept.

Rules:

1. A short time is read from windows, in steps of the period of judging; a longer one from the sums
   of hours, and from those windows that are in no sum yet: each row counts once.
2. Hours of fewer than three devices do not say how rows resemble one another: then distances are
   told and no p-values, because rows taken as independent cry wolf.
3. At most `ROWS_MAX` rows are read. Of a large group devices are looked at that stand evenly in the
   list of its names, the same for each step; how many is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol.watching import Reference
from edgectl_server.device_filter import site_column
from edgectl_server.domain.drift import Window, compare_group
from edgectl_server.domain.two_samples import Comparison
from edgectl_server.features import Counts, window_of
from edgectl_server.schemas import DriftCourse, DriftHistory
from edgectl_server.storage.tables import (
    Device,
    DriftStateRow,
    FeatureHourRow,
    FeatureWindowRow,
)

__all__ = ["FEATURES_TOLD", "HISTORY_S_MAX", "Course", "read_history"]

FEATURES_TOLD = 6
"""Of the features, those that were farthest from the reference, when nobody asks for others."""
HISTORY_S_MAX = 90 * 86_400
POINTS_MAX = 200
ROWS_MAX = 6_000
"""A row is some kilobytes of JSON: this many take half a second."""
_BY_WINDOWS_S = 6 * 3600
_DEVICE_BY_WINDOWS_S = 72 * 3600
"""Windows are kept for three days."""
_WINDOW_S = 600
"""Length of a window where nobody has set another; a guess is enough to bound what is read."""
_HOUR = timedelta(hours=1)
_DEVICES_MIN = 3


class Course(NamedTuple):
    """What is asked of a group.

    Attributes:
        since_s: how far back.
        features: names; empty: those that were farthest.
        period: of judging.
    """

    since_s: int
    features: Sequence[str]
    period: timedelta


class _Seen(NamedTuple):
    end: datetime
    window: Window


def read_history(
    session: Session, group: DriftStateRow, reference: Reference, asked: Course
) -> DriftHistory:
    """Return the course of a group until it was judged last."""
    by_windows = asked.since_s <= (
        _DEVICE_BY_WINDOWS_S if group.level == "device" else _BY_WINDOWS_S
    )
    base = asked.period if by_windows else max(_HOUR, asked.period)
    # Steps are whole periods, so that the newest ones are what was judged.
    step = base * max(1, math.ceil(asked.since_s / POINTS_MAX / base.total_seconds()))
    points = max(1, math.ceil(asked.since_s / step.total_seconds()))
    begin = group.until - points * step
    names = _devices(session, group)
    each = asked.since_s / (_WINDOW_S if by_windows else _HOUR.total_seconds())
    chosen = names[:: max(1, math.ceil(len(names) * each / ROWS_MAX))]
    seen = _windows(session, group, begin, chosen, unsummed=not by_windows)
    if not by_windows:
        seen += _hours(session, group, begin, chosen)
    steps: list[list[Window]] = [[] for _ in range(points)]
    for end, window in seen:
        number = math.ceil((end - begin) / step) - 1
        steps[min(points - 1, max(0, number))].append(window)
    compared = [compare_group(reference, windows) if windows else {} for windows in steps]
    precise = by_windows or len({one.window.device for one in seen}) >= _DEVICES_MIN
    return DriftHistory(
        model=group.model,
        version=group.version,
        manifest=group.manifest,
        level=group.level,  # type: ignore[arg-type]  # pydantic checks it
        group=group.group,
        step_s=step.total_seconds(),
        times=[begin + step * (number + 1) for number in range(points)],
        rows=[sum(window.rows for window in windows) for windows in steps],
        devices=len(names),
        devices_read=len(chosen),
        features=[
            _course(name, compared, precise=precise)
            for name in asked.features or _farthest(compared)
        ],
    )


def _devices(session: Session, group: DriftStateRow) -> list[str]:
    """Return the names of the group's devices, in order."""
    if group.level == "device":
        return [group.group]
    judged = select(DriftStateRow.group).where(
        DriftStateRow.manifest == group.manifest, DriftStateRow.level == "device"
    )
    wanted = select(Device.id).where(Device.state == "enrolled", Device.id.in_(judged))
    if group.level == "site":
        wanted = wanted.where(site_column() == group.group)
    return list(session.scalars(wanted.order_by(Device.id)))


def _windows(
    session: Session,
    group: DriftStateRow,
    begin: datetime,
    devices: Sequence[str],
    *,
    unsummed: bool,
) -> list[_Seen]:
    """Return windows; `unsummed`: those alone that are not in the sum of their hour."""
    wanted = (
        select(FeatureWindowRow)
        .where(
            FeatureWindowRow.manifest == group.manifest,
            FeatureWindowRow.end > begin,
            FeatureWindowRow.end <= group.until,
            FeatureWindowRow.device.in_(devices),
        )
        .order_by(FeatureWindowRow.end.desc())
        .limit(ROWS_MAX)
    )
    if unsummed:
        wanted = wanted.where(FeatureWindowRow.rolled.is_(False))
    return [_Seen(row.end, window_of(row, "")) for row in session.scalars(wanted)]


def _hours(
    session: Session, group: DriftStateRow, begin: datetime, devices: Sequence[str]
) -> list[_Seen]:
    wanted = (
        select(FeatureHourRow)
        .where(
            FeatureHourRow.manifest == group.manifest,
            FeatureHourRow.hour >= begin,
            FeatureHourRow.hour < group.until,
            FeatureHourRow.device.in_(devices),
        )
        .order_by(FeatureHourRow.hour.desc())
        .limit(ROWS_MAX)
    )
    seen = []
    for row in session.scalars(wanted):
        counts = msgspec.convert(row.counts, Counts)
        window = Window(
            device=row.device,
            site="",
            rows=row.rows,
            histograms=counts.histograms,
            classes=counts.classes,
        )
        seen.append(_Seen(min(row.hour + _HOUR, group.until), window))
    return seen


def _farthest(compared: Sequence[Mapping[str, Comparison]]) -> list[str]:
    """Return the features that were farthest from the reference in any step, these first."""
    sizes: dict[str, float] = {}
    for step in compared:
        for name, one in step.items():
            sizes[name] = max(sizes.get(name, 0.0), one.distance, one.spread / 2)
    return sorted(sizes, key=lambda name: (-sizes[name], name))[:FEATURES_TOLD]


def _course(
    name: str, compared: Sequence[Mapping[str, Comparison]], *, precise: bool
) -> DriftCourse:
    found = [step.get(name) for step in compared]
    return DriftCourse(
        feature=name,
        distance=[None if one is None else round(one.distance, 4) for one in found],
        spread=[None if one is None else round(one.spread, 4) for one in found],
        p_value=[None if one is None or not precise else one.p_value for one in found],
    )
