"""Telemetry: counts that devices send, stored once, added up on request, deleted when old.

A batch is stored by (device, boot, seq); whoever sends it again is acknowledged again. Times in it
are the device's, which may be wrong: what is kept how long, and what "the last hour" means, goes by
the time of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import zip_longest

import msgspec
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US, merge, quantile
from edgectl_protocol.messages import InferenceWindow, TelemetryBatch
from edgectl_server.answers import add_answers
from edgectl_server.fleet import find_device
from edgectl_server.schemas import DeviceSeries, TelemetrySummary
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import insert_new
from edgectl_server.storage.tables import AnsweredHour, Device, SystemSampleRow, TelemetryWindow
from edgectl_server.telemetry_series import read_series

__all__ = ["Telemetry"]

WINDOWS_MAX = 100_000
"""Windows that one summary adds up, the newest first."""
_READ_AT_ONCE = 1000


@dataclass
class _Sum:
    """Windows of one slot of one device and one manifest."""

    version: str
    first: datetime
    last: datetime
    windows: int = 0
    requests: int = 0
    errors: int = 0
    non_finite: int = 0
    refused: int = 0
    latency: tuple[int, ...] = ()
    confidence: tuple[int, ...] = ()
    classes: list[int] = field(default_factory=list)

    def add(self, row: TelemetryWindow) -> None:
        self.windows += 1
        self.first, self.last = min(self.first, row.start), max(self.last, row.end)
        self.requests += row.requests
        self.errors += row.errors
        self.non_finite += row.non_finite
        self.refused += row.refused
        self.latency = merge(self.latency, row.latency)
        self.confidence = merge(self.confidence, row.confidence)
        self.classes = [a + b for a, b in zip_longest(self.classes, row.classes, fillvalue=0)]


class Telemetry:
    """Stores and adds up. Its methods may be called from any thread."""

    def __init__(
        self, *, database: Database, retention_days: int, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._retention = timedelta(days=retention_days)
        self._now = now

    def take_batch(self, session: Session, device: Device, batch: TelemetryBatch) -> int:
        """Store one batch: `take_batches`."""
        return self.take_batches(session, [(device, batch)])[0]

    def take_batches(
        self, session: Session, batches: Sequence[tuple[Device, TelemetryBatch]]
    ) -> list[int]:
        """Store batches once, in the caller's transaction; return of each how many windows are bad.

        A window whose histograms do not have our edges cannot be added to others: it is left out.
        All together are a handful of statements: one for each message costs several times as much.
        """
        now = self._now()
        stored = _stored(session, [(device.id, batch) for device, batch in batches])
        answered: list[tuple[str, InferenceWindow]] = []
        windows: list[dict[str, object]] = []
        samples: list[dict[str, object]] = []
        unusable = []
        for device, batch in batches:
            device.last_seen_at = now
            usable = [
                (number, window)
                for number, window in enumerate(batch.windows)
                if _has_our_edges(window)
            ]
            unusable.append(len(batch.windows) - len(usable))
            place = (device.id, batch.boot, batch.seq)
            if place in stored:
                continue
            stored.add(place)
            answered += [(device.id, window) for _, window in usable]
            key = {"device": device.id, "boot": batch.boot, "seq": batch.seq, "received_at": now}
            windows += [{**key, **_row(number, window)} for number, window in usable]
            if batch.system is not None:
                sample = msgspec.to_builtins(batch.system)
                samples.append({**key, "at": batch.system.at, "sample": sample})
        add_answers(session, answered, now)
        insert_new(session, TelemetryWindow, windows)
        insert_new(session, SystemSampleRow, samples)
        return unusable

    def summary(self, *, model: str | None, since_s: int) -> list[TelemetrySummary]:
        """Add up what has come in the last `since_s` seconds, by device, slot and manifest."""
        return self._summary(model=model, device=None, since_s=since_s)

    def device_summary(self, name: str, *, since_s: int) -> list[TelemetrySummary]:
        """Add up what one device has sent; raise `NotFound` ``device.unknown``."""
        with self._database.read() as session:
            find_device(session, name)
        return self._summary(model=None, device=name, since_s=since_s)

    def device_series(self, name: str, *, since_s: int, points: int) -> DeviceSeries:
        """Return what one device has sent over time; raise `NotFound` ``device.unknown``."""
        with self._database.read() as session:
            find_device(session, name)
            return read_series(session, name, since_s=since_s, points=points, now=self._now())

    def delete_old(self) -> int:
        """Delete what is older than the retention; return how many windows."""
        before = self._now() - self._retention
        old = TelemetryWindow.received_at < before
        with self._database.write() as session:
            count = session.scalar(select(func.count()).select_from(TelemetryWindow).where(old))
            session.execute(delete(TelemetryWindow).where(old))
            session.execute(delete(SystemSampleRow).where(SystemSampleRow.received_at < before))
            session.execute(delete(AnsweredHour).where(AnsweredHour.hour < before))
        return int(count or 0)

    def _summary(
        self, *, model: str | None, device: str | None, since_s: int
    ) -> list[TelemetrySummary]:
        wanted = (
            select(TelemetryWindow)
            .where(TelemetryWindow.received_at >= self._now() - timedelta(seconds=since_s))
            .order_by(TelemetryWindow.received_at.desc())
            .limit(WINDOWS_MAX)
            .execution_options(yield_per=_READ_AT_ONCE)
        )
        if model is not None:
            wanted = wanted.where(TelemetryWindow.slot == model)
        if device is not None:
            wanted = wanted.where(TelemetryWindow.device == device)
        sums: dict[tuple[str, str, str], _Sum] = {}
        with self._database.read() as session:
            for row in session.scalars(wanted):
                key = (row.device, row.slot, row.manifest)
                if key not in sums:
                    sums[key] = _Sum(row.version, row.start, row.end)
                sums[key].add(row)
                session.expunge(row)
        return [_info(*key, one) for key, one in sorted(sums.items())]


def _stored(
    session: Session, batches: Sequence[tuple[str, TelemetryBatch]]
) -> set[tuple[str, int, int]]:
    """Return which of these batches are stored; the caller has locked the devices' rows."""
    key = (TelemetryWindow.device, TelemetryWindow.boot, TelemetryWindow.seq)
    asked = [(device, batch.boot, batch.seq) for device, batch in batches if batch.windows]
    if not asked:
        return set()
    rows = session.execute(select(*key).where(tuple_(*key).in_(asked)).distinct())
    return {(device, boot, seq) for device, boot, seq in rows}


def _row(number: int, window: InferenceWindow) -> dict[str, object]:
    return {
        "number": number,
        "slot": window.slot,
        "version": window.version,
        "manifest": window.manifest,
        "start": window.start,
        "end": window.end,
        "requests": window.requests,
        "errors": window.errors,
        "non_finite": window.non_finite,
        "refused": window.refused,
        "latency": list(window.latency),
        "confidence": list(window.confidence),
        "classes": list(window.classes),
    }


def _has_our_edges(window: InferenceWindow) -> bool:
    return (
        len(window.latency) in {0, len(LATENCY_EDGES_US) + 1}
        and len(window.confidence) in {0, len(CONFIDENCE_EDGES) + 1}
        and window.start <= window.end
    )


def _info(device: str, slot: str, manifest: str, one: _Sum) -> TelemetrySummary:
    return TelemetrySummary(
        device=device,
        slot=slot,
        version=one.version,
        manifest=manifest,
        windows=one.windows,
        first=one.first,
        last=one.last,
        requests=one.requests,
        errors=one.errors,
        non_finite=one.non_finite,
        refused=one.refused,
        latency_p50_us=quantile(LATENCY_EDGES_US, one.latency, 0.5),
        latency_p95_us=quantile(LATENCY_EDGES_US, one.latency, 0.95),
        latency=list(one.latency),
        confidence=list(one.confidence),
        classes=one.classes,
    )
