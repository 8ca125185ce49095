"""Telemetry."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from edgectl_server.schemas.base import Schema

__all__ = [
    "AnswerInfo",
    "BootReceipt",
    "ClockJump",
    "DeviceReceipts",
    "DeviceSeries",
    "MissingMessages",
    "PullInfo",
    "SlotSeries",
    "TelemetrySummary",
]


class AnswerInfo(Schema):
    """That a device has answered with a digest."""

    device: str
    model: str
    version: str
    digest: str
    """Of the bundle's manifest."""
    first: datetime
    """By the device's clock."""
    last: datetime
    requests: int
    """Of the hours that the asked time touches."""
    errors: int


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


class SlotSeries(Schema):
    """What one slot has answered, a number a step; None: nothing came in that step."""

    slot: str
    requests: list[int]
    errors: list[int]
    latency_p50_us: list[float | None]
    latency_p95_us: list[float | None]


class DeviceSeries(Schema):
    """What a device has sent, in equal steps of the time at which it came."""

    step_s: float
    times: list[datetime]
    """End of each step."""
    slots: list[SlotSeries]
    health: dict[str, list[float | None]]
    """Means of what its system samples hold, by name, such as ``temperature_c``."""


class MissingMessages(Schema):
    """Numbers of messages that have not come."""

    first: int
    last: int
    noticed_at: datetime
    state: Literal["awaited", "lost", "partly lost", "unknown"]
    """By what the device says still waits in its spool; unknown: it never said."""


class BootReceipt(Schema):
    """What has come of one start of a device's agent."""

    boot: int
    first_at: datetime
    last_at: datetime
    last: int
    """The highest number of a message."""
    received: int
    """Messages that were new."""
    duplicates: int
    """Messages that had come before: acknowledged again, and stored once."""
    gaps: list[MissingMessages]
    forgotten: int
    """Missing numbers that are no longer known one by one."""


class ClockJump(Schema):
    """A device's clock was set within a window of features."""

    at: datetime
    """End of that window, by the device's clock."""
    model: str
    seconds: int
    """Forward, or back if negative."""


class DeviceReceipts(Schema):
    """What has come of a device, what is missing, and where its clock jumped."""

    device: str
    windows: int
    """Windows of telemetry that are stored."""
    feature_windows: int
    """Windows of features, of the last days."""
    dropped: int
    """Messages that its spool's budget has cost since its agent was started, as it says."""
    boots: list[BootReceipt]
    """Starts of its agent, the newest first."""
    clock_jumps: list[ClockJump]
    """The newest first."""
