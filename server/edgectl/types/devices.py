"""Devices, what they run and report."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct, field

__all__ = [
    "AnswerInfo",
    "BootReceipt",
    "ClockJump",
    "DeviceDetail",
    "DeviceEventInfo",
    "DeviceReceipts",
    "DeviceSeries",
    "DeviceSummary",
    "FleetSummary",
    "HoldInfo",
    "InstalledInfo",
    "MissingMessages",
    "ObservationInfo",
    "PullInfo",
    "ReasonInfo",
    "SecurityEventInfo",
    "SiteInfo",
    "SlotInfo",
    "SlotSeries",
    "SwapInfo",
    "TelemetrySummary",
    "TransferInfo",
    "UpdateInfo",
    "VersionShare",
]


class InstalledInfo(Struct, frozen=True):
    """What a slot runs."""

    version: str
    variant: str
    manifest: str
    since: datetime
    threads: int = 0
    provider: str = ""


class ReasonInfo(Struct, frozen=True):
    """Why something failed."""

    code: str
    detail: str


class ObservationInfo(Struct, frozen=True):
    """What a model did while it was a shadow, or observed after its activation."""

    requests: int = 0
    errors: int = 0
    non_finite: int = 0
    latency_p95_us: float | None = None
    reference_p95_us: float | None = None
    class_shift: float | None = None
    mirrored: int = 0
    agreed: int = 0
    skipped: int = 0


class SwapInfo(Struct, frozen=True):
    """What it took to put a model into its slot."""

    load_ms: float = 0.0
    gap_ms: float = 0.0
    resident: bool = False


class TransferInfo(Struct, frozen=True):
    """What it took to fetch a bundle."""

    whole_bytes: int
    fetched_bytes: int
    delta: str | None = None
    rest: str | None = None
    refusal: ReasonInfo | None = None


class UpdateInfo(Struct, frozen=True):
    """The newest update of a slot."""

    order: int
    version: str
    variant: str
    state: str
    attempt: int
    bytes_done: int
    bytes_total: int
    rollout: str | None
    reason: ReasonInfo | None
    trial: dict[str, Any] | None
    shadow: ObservationInfo | None = None
    observation: ObservationInfo | None = None
    swap: SwapInfo | None = None
    transfer: TransferInfo | None = None
    manifest: str = ""


class SlotInfo(Struct, frozen=True):
    """One model slot of a device."""

    slot: str
    desired_version: str | None
    desired_rollout: str | None
    running: InstalledInfo | None
    previous: InstalledInfo | None
    update: UpdateInfo | None
    fault: ReasonInfo | None = None


class HoldInfo(Struct, frozen=True):
    """That nothing new begins on a device, and by whose wish."""

    at: datetime
    by: str
    reason: str


class DeviceSummary(Struct, frozen=True, kw_only=True):
    """A device in a list."""

    id: str
    online: bool
    last_seen_at: datetime | None
    enrolled_at: datetime
    state: str
    agent_version: str
    machine: str
    cpu_model: str
    labels: dict[str, str]
    slots: list[SlotInfo]
    group: str = ""
    security_events: int = 0
    assigned_labels: dict[str, str] = field(default_factory=dict)
    device_class: str = ""
    overdue: bool = False
    hold: HoldInfo | None = None


class DeviceDetail(DeviceSummary, frozen=True, kw_only=True):
    """A device with everything it reports."""

    boot: int
    certificate_expires_at: datetime
    fingerprint: str = ""
    enrolled_by: str = ""
    order_counter: int
    accepted_order_counter: int
    endpoint: str
    capabilities: dict[str, Any] | None
    rejected: list[str]
    system: dict[str, Any] | None
    refusal: ReasonInfo | None = None
    refused_order_counter: int | None = None
    device_class_reason: str = ""


class DeviceEventInfo(Struct, frozen=True):
    """A transition that a device has reported."""

    device: str
    at: datetime
    received_at: datetime
    slot: str
    order: int
    version: str
    variant: str
    before: str
    event: str
    after: str
    rollout: str | None
    reason: ReasonInfo | None
    trial: dict[str, Any] | None
    shadow: ObservationInfo | None = None
    observation: ObservationInfo | None = None
    swap: SwapInfo | None = None
    transfer: TransferInfo | None = None


class SecurityEventInfo(Struct, frozen=True):
    """What an attacker may have done, as the device or the server saw it."""

    device: str
    source: str
    at: datetime
    until: datetime
    received_at: datetime
    code: str
    detail: str
    count: int
    order: int | None


class VersionShare(Struct, frozen=True):
    """How many devices run a version."""

    model: str
    version: str
    devices: int


class SiteInfo(Struct, frozen=True):
    """The devices of a place; of no site where `site` is empty."""

    site: str
    devices: int
    online: int
    overdue: int
    failing: int
    security: int
    latitude: float | None
    longitude: float | None
    versions: list[VersionShare]


class FleetSummary(Struct, frozen=True):
    """The fleet in numbers."""

    devices: int
    online: int
    offline: int
    updating: int
    failing: int
    versions: list[VersionShare]
    security: int = 0
    overdue: int = 0
    held: int = 0


class PullInfo(Struct, frozen=True):
    """What somebody has pulled over HTTP since the server was started."""

    puller: str
    """``device/<name>`` or ``token/<id>``."""
    user: str
    bytes_sent: int
    answers: int
    last_at: datetime | None


class AnswerInfo(Struct, frozen=True):
    """That a device has answered with a digest."""

    device: str
    model: str
    version: str
    digest: str
    first: datetime
    last: datetime
    requests: int
    errors: int


class TelemetrySummary(Struct, frozen=True):
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
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency: list[int]
    confidence: list[int]
    classes: list[int]
    refused: int = 0


class SlotSeries(Struct, frozen=True):
    """What one slot has answered, a number a step; None: nothing came in that step."""

    slot: str
    requests: list[int]
    errors: list[int]
    latency_p50_us: list[float | None]
    latency_p95_us: list[float | None]


class DeviceSeries(Struct, frozen=True):
    """What a device has sent, in equal steps of the time at which it came."""

    step_s: float
    times: list[datetime]
    slots: list[SlotSeries]
    health: dict[str, list[float | None]]


class MissingMessages(Struct, frozen=True):
    """Numbers of messages that have not come."""

    first: int
    last: int
    noticed_at: datetime
    state: str


class BootReceipt(Struct, frozen=True):
    """What has come of one start of a device's agent."""

    boot: int
    first_at: datetime
    last_at: datetime
    last: int
    received: int
    duplicates: int
    gaps: list[MissingMessages]
    forgotten: int


class ClockJump(Struct, frozen=True):
    """A device's clock was set within a window of features."""

    at: datetime
    model: str
    seconds: int


class DeviceReceipts(Struct, frozen=True):
    """What has come of a device, what is missing, and where its clock jumped."""

    device: str
    windows: int
    feature_windows: int
    dropped: int
    boots: list[BootReceipt]
    clock_jumps: list[ClockJump]
