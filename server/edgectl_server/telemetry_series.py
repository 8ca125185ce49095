"""What a device has sent, as it has gone over time: windows and samples in equal steps.

Steps go by the time of arrival, as all telemetry does here: a device's clock may be wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol.histograms import LATENCY_EDGES_US, merge, quantile
from edgectl_server.schemas import DeviceSeries, SlotSeries
from edgectl_server.storage.tables import SystemSampleRow, TelemetryWindow

__all__ = ["POINTS_MAX", "read_series"]

POINTS_MAX = 500
ROWS_MAX = 20_000
"""Rows of each kind that are read, the newest first: more than a minute's telemetry of a week."""
HEALTH = (
    "load_1min",
    "temperature_c",
    "memory_available_bytes",
    "disk_free_bytes",
    "agent_rss_bytes",
    "inference_rss_bytes",
)
_AT_ONCE = 1000


def read_series(
    session: Session, device: str, *, since_s: int, points: int, now: datetime
) -> DeviceSeries:
    """Return the series of a device.

    Args:
        session: open.
        device: its name.
        since_s: how far back, in seconds.
        points: into how many steps that is divided.
        now: the time.
    """
    begin = now - timedelta(seconds=since_s)
    step_s = since_s / points

    def step_of(at: datetime) -> int:
        return min(points - 1, max(0, int((at - begin).total_seconds() / step_s)))

    return DeviceSeries(
        step_s=step_s,
        times=[begin + timedelta(seconds=step_s * (number + 1)) for number in range(points)],
        slots=_slots(session, device, begin, points, step_of),
        health=_health(session, device, begin, points, step_of),
    )


def _slots(
    session: Session, device: str, begin: datetime, points: int, step_of: Callable[[datetime], int]
) -> list[SlotSeries]:
    rows = session.execute(
        select(
            TelemetryWindow.slot,
            TelemetryWindow.received_at,
            TelemetryWindow.requests,
            TelemetryWindow.errors,
            TelemetryWindow.latency,
        )
        .where(TelemetryWindow.device == device, TelemetryWindow.received_at >= begin)
        .order_by(TelemetryWindow.boot.desc(), TelemetryWindow.seq.desc())
        .limit(ROWS_MAX)
        .execution_options(yield_per=_AT_ONCE)
    )
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * points)
    errors: dict[str, list[int]] = defaultdict(lambda: [0] * points)
    latency: dict[tuple[str, int], tuple[int, ...]] = defaultdict(tuple)
    for slot, received_at, requests, failed, histogram in rows:
        step = step_of(received_at)
        counts[slot][step] += requests
        errors[slot][step] += failed
        latency[slot, step] = merge(latency[slot, step], histogram)

    def quantiles(slot: str, share: float) -> list[float | None]:
        return [
            quantile(LATENCY_EDGES_US, latency.get((slot, step), ()), share)
            for step in range(points)
        ]

    return [
        SlotSeries(
            slot=slot,
            requests=counts[slot],
            errors=errors[slot],
            latency_p50_us=quantiles(slot, 0.5),
            latency_p95_us=quantiles(slot, 0.95),
        )
        for slot in sorted(counts)
    ]


def _health(
    session: Session, device: str, begin: datetime, points: int, step_of: Callable[[datetime], int]
) -> dict[str, list[float | None]]:
    rows = session.execute(
        select(SystemSampleRow.received_at, SystemSampleRow.sample)
        .where(SystemSampleRow.device == device, SystemSampleRow.received_at >= begin)
        .order_by(SystemSampleRow.boot.desc(), SystemSampleRow.seq.desc())
        .limit(ROWS_MAX)
        .execution_options(yield_per=_AT_ONCE)
    )
    seen: dict[tuple[str, int], list[float]] = defaultdict(list)
    for received_at, sample in rows:
        for name in HEALTH:
            value = sample.get(name)
            if isinstance(value, int | float):
                seen[name, step_of(received_at)].append(float(value))

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        name: [mean(seen.get((name, step), [])) for step in range(points)]
        for name in HEALTH
        if any(known == name for known, _ in seen)
    }
