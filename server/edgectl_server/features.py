"""Windows of features from the devices: taken in once, added up by hour, deleted when old.

Rules:

1. A window is taken once, by its key (device, boot, seq). What does not fit the reference of a
   bundle that this server has published, claims to be from the future, or counts far more rows than
   a device describes, is left out and said: such a window would outweigh the rest of a fleet.
2. Windows are kept for days, the sums of their hours for as long as other telemetry, those of usual
   days (`usual_days`) for as long as people call them so. A window is in the sum of its hour once:
   it is marked in the transaction that adds it, also when it comes late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, Select, and_, delete, not_, select
from sqlalchemy.orm import Session

from edgectl_protocol.messages import TelemetryBatch
from edgectl_protocol.watching import FeatureWindow, WatchPolicy, problem_of
from edgectl_server.domain.drift import Window
from edgectl_server.references import References
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import insert_new
from edgectl_server.storage.tables import (
    BundleVariant,
    Device,
    FeatureHourRow,
    FeatureWindowRow,
    ModelVersion,
    UsualDaysRow,
)

__all__ = ["FUTURE_MAX", "Counts", "Features", "manifests_of", "window_of"]

WINDOWS_KEPT = timedelta(days=3)
FUTURE_MAX = timedelta(minutes=10)
"""A clock may be wrong by so much."""
ROWS_TIMES_MAX = 20
"""Of the policy's rows of a window: applications may add four times them, and a policy that has
become stricter does not reach all devices at once."""
_ROLLED_AFTER = timedelta(hours=1)
_ROLLED_AT_ONCE = 500
_ROLLED_STEPS = 4
"""A minute: 120,000 windows an hour, twice what 10,000 devices send."""


class Counts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON of a row: counts of each feature of the reference, and of answers by class."""

    histograms: tuple[tuple[int, ...], ...]
    missing: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()

    def plus(self, other: Counts) -> Counts:
        """Add counts of the same reference."""
        return Counts(
            histograms=tuple(map(_sum, self.histograms, other.histograms)),
            missing=_sum(self.missing, other.missing),
            outside=_sum(self.outside, other.outside),
            classes=_sum(self.classes, other.classes),
        )


def _sum(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """Add element by element; what one of them lacks at its end is zero there."""
    total = np.zeros(max(len(left), len(right)), np.int64)
    total[: len(left)] += np.array(left, np.int64)
    total[: len(right)] += np.array(right, np.int64)
    return tuple(total.tolist())


class Features:
    """Stores and adds up. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        references: References,
        retention_days: int,
        watch: WatchPolicy,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._references = references
        self._retention = timedelta(days=retention_days)
        self._rows_max = ROWS_TIMES_MAX * watch.rows_per_s * watch.window_s
        self._now = now

    def take(self, session: Session, device: Device, batch: TelemetryBatch) -> str:
        """Store the window of one batch: `take_batches`."""
        return self.take_batches(session, [(device, batch)])[0]

    def take_batches(
        self, session: Session, batches: Sequence[tuple[Device, TelemetryBatch]]
    ) -> list[str]:
        """Store windows once, in the caller's transaction; return of each why it is unusable."""
        now = self._now()
        problems, rows = [], []
        for device, batch in batches:
            window = batch.features
            problem = "" if window is None else self._problem(session, window, now)
            problems.append(problem)
            if window is not None and not problem:
                rows.append(_row(device.id, batch, window, now))
        insert_new(session, FeatureWindowRow, rows)
        return problems

    def _problem(self, session: Session, window: FeatureWindow, now: datetime) -> str:
        """Say why a window is unusable; empty when it is not."""
        if window.end > now + FUTURE_MAX:
            return f"it ends at {window.end.isoformat()}, which is in the future"
        if window.rows > self._rows_max:
            return f"{window.rows} rows in a window, no device describes {self._rows_max:.0f}"
        known = self._references.find(session, window.manifest)
        if known is None:
            return f"nothing is known of the features of {window.manifest}"
        if window.reference not in {known.digest, known.watched}:
            return f"it counts on {window.reference}, the bundle has {known.digest}"
        return problem_of(window, known.reference)

    def roll_up(self) -> int:
        """Add the windows of hours that have ended to the sums of their hours; return how many."""
        with self._database.write() as session:
            rows = session.scalars(
                select(FeatureWindowRow)
                .where(
                    FeatureWindowRow.rolled.is_(False),
                    FeatureWindowRow.hour < self._now() - 2 * _ROLLED_AFTER,
                )
                .order_by(FeatureWindowRow.hour, FeatureWindowRow.device)
                .limit(_ROLLED_AT_ONCE)
                .with_for_update()
            ).all()
            hours = _hours_of(session, rows)
            for row in rows:
                key = (row.manifest, row.device, row.hour)
                hour = hours.get(key)
                if hour is None:
                    hour = hours[key] = FeatureHourRow(
                        manifest=row.manifest,
                        device=row.device,
                        hour=row.hour,
                        windows=0,
                        rows=0,
                        skipped=0,
                        counts=msgspec.to_builtins(Counts(histograms=())),
                    )
                    session.add(hour)
                hour.counts = msgspec.to_builtins(_added(hour, row))
                hour.windows += 1
                hour.rows += row.rows
                hour.skipped += row.skipped
                row.rolled = True
        return len(rows)

    def roll_up_due(self) -> None:
        """Roll up in a few steps: 10,000 devices must not outrun it, and others have a turn."""
        for _ in range(_ROLLED_STEPS):
            if self.roll_up() < _ROLLED_AT_ONCE:
                return

    def delete_old(self) -> None:
        """Delete windows after some days, hours after the retention."""
        now = self._now()
        with self._database.write() as session:
            session.execute(
                delete(FeatureWindowRow).where(
                    FeatureWindowRow.received_at < now - WINDOWS_KEPT,
                    FeatureWindowRow.rolled.is_(True),
                )
            )
            held = [_of_usual_days(row) for row in session.scalars(select(UsualDaysRow))]
            session.execute(
                delete(FeatureHourRow).where(
                    FeatureHourRow.hour < now - self._retention, *(not_(one) for one in held)
                )
            )


def manifests_of(model: str) -> Select[str]:
    """Return a query for the manifests of all bundles of a model."""
    return (
        select(BundleVariant.manifest)
        .join(ModelVersion, BundleVariant.version_id == ModelVersion.id)
        .where(ModelVersion.model == model, BundleVariant.manifest.is_not(None))
    )


def _of_usual_days(row: UsualDaysRow) -> ColumnElement[bool]:
    return and_(
        FeatureHourRow.hour >= row.since,
        FeatureHourRow.hour < row.until,
        FeatureHourRow.manifest.in_(manifests_of(row.model)),
    )


def _hours_of(
    session: Session, rows: Sequence[FeatureWindowRow]
) -> dict[tuple[str, str, datetime], FeatureHourRow]:
    """Return the sums that there are of the hours of these windows, and perhaps some more."""
    if not rows:
        return {}
    wanted = select(FeatureHourRow).where(
        FeatureHourRow.manifest.in_({row.manifest for row in rows}),
        FeatureHourRow.device.in_({row.device for row in rows}),
        FeatureHourRow.hour.in_({row.hour for row in rows}),
    )
    found = session.scalars(wanted.with_for_update())
    return {(row.manifest, row.device, row.hour): row for row in found}


def _added(hour: FeatureHourRow, row: FeatureWindowRow) -> Counts:
    new = msgspec.convert(row.counts, Counts)
    return new if not hour.windows else msgspec.convert(hour.counts, Counts).plus(new)


def _row(
    device: str, batch: TelemetryBatch, window: FeatureWindow, now: datetime
) -> dict[str, object]:
    start = window.start.astimezone(UTC)
    return {
        "device": device,
        "boot": batch.boot,
        "seq": batch.seq,
        "slot": window.slot,
        "manifest": window.manifest,
        "start": start,
        "end": window.end,
        "hour": start.replace(minute=0, second=0, microsecond=0),
        "rows": window.rows,
        "skipped": window.skipped,
        "clock_shift_s": window.clock_shift_s,
        "counts": msgspec.to_builtins(
            Counts(
                histograms=window.histograms,
                missing=window.missing,
                outside=window.outside,
                classes=window.classes,
            )
        ),
        "rolled": False,
        "received_at": now,
    }


def window_of(row: FeatureWindowRow, site: str) -> Window:
    """Return a stored window as it is judged."""
    counts = msgspec.convert(row.counts, Counts)
    return Window(
        device=row.device,
        site=site,
        rows=row.rows,
        histograms=counts.histograms,
        classes=counts.classes,
        missing=counts.missing,
        outside=counts.outside,
        clock_shift_s=row.clock_shift_s,
    )
