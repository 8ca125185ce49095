"""Telemetry."""

from __future__ import annotations

from datetime import datetime

from edgectl_server.schemas.base import Schema

__all__ = ["PullInfo", "TelemetrySummary"]


class PullInfo(Schema):
    """What somebody has pulled over HTTP since this server was started."""

    puller: str
    """``device/<name>`` or ``token/<id>``."""
    user: str
    """Whose token it is; empty for a device."""
    bytes_sent: int
    answers: int
    last_at: datetime | None


class TelemetrySummary(Schema):
    """Counts of one slot of one device, added up over the asked time, by model digest."""

    device: str
    slot: str
    version: str
    manifest: str
    windows: int
    first: datetime
    last: datetime
    requests: int
    errors: int
    non_finite: int
    refused: int = 0
    """Requests outside the model's contract, which `requests` leaves out."""
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency: list[int]
    confidence: list[int]
    classes: list[int]
