"""Days of which people say that they were usual: what a model sees by night is no drift by night.

Rules:

1. Only people say so. A server that took last week for usual would hide what was wrong last week.
2. Compared are the same hours of the day (UTC), of bundles of the model that count the same
   features on the same edges.
3. Sums of these hours are kept as long as the days are said to be usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol.watching import Reference
from edgectl_server.domain.drift import USUAL_DAYS_MIN, Usual, Window
from edgectl_server.errors import NotFound, Refused
from edgectl_server.features import Counts, manifests_of
from edgectl_server.references import Known, References
from edgectl_server.rollout_sites import site_of
from edgectl_server.schemas import UsualDays, UsualDaysChange
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Device,
    FeatureHourRow,
    Model,
    UsualDaysRow,
)

__all__ = ["DAYS_MAX", "UsualDaysBook", "find_usual_days", "read_usual"]

DAYS_MAX = 62
ROWS_MAX = 20_000
"""Hours of devices that are read for one stretch of a bundle, the newest first."""
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


class UsualDaysBook:
    """What people say. Its methods may be called from any thread."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    def get(self, model: str) -> UsualDays:
        """Return the usual days of a model.

        Raises:
            NotFound: ``drift.usual``: nobody has said which they are.
        """
        with self._database.read() as session:
            found = find_usual_days(session, model)
        if found is None:
            raise _unknown(model)
        return found

    def put(self, model: str, change: UsualDaysChange, user: str) -> UsualDays:
        """Say which days were usual; what was said before is forgotten.

        Raises:
            NotFound: ``model.unknown``.
            Refused: ``drift.usual``: too few or too many days, or days to come.
        """
        days = (change.until - change.since) / _DAY
        if not USUAL_DAYS_MIN <= days <= DAYS_MAX or change.until > self._now():
            raise Refused(
                "drift.usual",
                f"usual are {USUAL_DAYS_MIN} to {DAYS_MAX} days that are over, got {days:.1f} "
                f"until {change.until.isoformat()}",
                hint="name a stretch of whole days with --from and --to",
            )
        with self._database.write() as session:
            if session.get(Model, model) is None:
                raise NotFound(
                    "model.unknown", f"there is no model {model}", hint="`edgectl models list`"
                )
            row = session.get(UsualDaysRow, model)
            if row is None:
                row = UsualDaysRow(model=model)
                session.add(row)
            row.since, row.until = change.since, change.until
            row.set_at, row.set_by = self._now(), user
            session.flush()
            return _info(row)

    def delete(self, model: str) -> None:
        """Compare with the reference alone again; raise `NotFound` ``drift.usual``."""
        with self._database.write() as session:
            row = session.get(UsualDaysRow, model)
            if row is None:
                raise _unknown(model)
            session.delete(row)


def find_usual_days(session: Session, model: str) -> UsualDays | None:
    """Return the usual days of a model; None: nobody has said which they are."""
    row = session.get(UsualDaysRow, model)
    return None if row is None else _info(row)


def read_usual(
    session: Session, references: References, known: Known, until: datetime, period: timedelta
) -> list[Usual]:
    """Return what devices counted on usual days in the hours of day of a stretch.

    Args:
        session: to read with.
        references: of the model's bundles.
        known: the bundle that is judged.
        until: end of the stretch.
        period: its length.
    """
    row = session.get(UsualDaysRow, known.model)
    if row is None:
        return []
    hours = _hours(row, until, period)
    manifests = session.scalars(manifests_of(known.model)).all()
    alike = [
        one
        for one in manifests
        if (other := references.find(session, one)) is not None
        and _alike(other.reference, known.reference)
    ]
    found = session.execute(
        select(FeatureHourRow, Device)
        .join(Device, Device.id == FeatureHourRow.device)
        .where(
            FeatureHourRow.manifest.in_(alike),
            FeatureHourRow.hour.in_(hours),
            Device.state == "enrolled",
        )
        .order_by(FeatureHourRow.hour.desc(), FeatureHourRow.device)
        .limit(ROWS_MAX)
    )
    return [Usual(hour.hour.date(), _window(hour, site_of(owner))) for hour, owner in found]


def _hours(row: UsualDaysRow, until: datetime, period: timedelta) -> list[datetime]:
    """Return the hours of the usual days that lie as those of the stretch do."""
    begin = until - period
    first = begin.replace(minute=0, second=0, microsecond=0)
    of_day = {
        (first + number * _HOUR).hour
        for number in range(min(24, math.ceil((until - first) / _HOUR)))
    }
    start = row.since.replace(minute=0, second=0, microsecond=0)
    hours = [start + number * _HOUR for number in range(math.ceil((row.until - start) / _HOUR))]
    return [one for one in hours if one.hour in of_day and row.since <= one < row.until]


def _alike(one: Reference, other: Reference) -> bool:
    """Say whether counts of both can be added up."""
    return len(one.classes) == len(other.classes) and [
        (feature.name, feature.edges) for feature in one.features
    ] == [(feature.name, feature.edges) for feature in other.features]


def _window(hour: FeatureHourRow, site: str) -> Window:
    counts = msgspec.convert(hour.counts, Counts)
    return Window(
        hour.device, site, hour.rows, counts.histograms, counts.classes, counts.missing,
        counts.outside,
    )  # fmt: skip


def _info(row: UsualDaysRow) -> UsualDays:
    return UsualDays(
        model=row.model, since=row.since, until=row.until, set_at=row.set_at, set_by=row.set_by
    )


def _unknown(model: str) -> NotFound:
    return NotFound(
        "drift.usual",
        f"nobody has said which days of {model} were usual",
        hint="`edgectl drift usual MODEL --from DAY --to DAY` does",
    )
