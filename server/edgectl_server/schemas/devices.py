"""Devices, and the fleet as a whole."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from edgectl_server.schemas.base import ModelNameStr, Schema, VersionStr

__all__ = [
    "DeviceDetail",
    "DeviceEventInfo",
    "DeviceSummary",
    "FleetSummary",
    "HoldInfo",
    "HoldRequest",
    "InstalledInfo",
    "ObservationInfo",
    "ReasonInfo",
    "RollbackRequest",
    "SecurityEventInfo",
    "SiteInfo",
    "SlotInfo",
    "SwapInfo",
    "TransferInfo",
    "UpdateInfo",
    "VersionShare",
]


class SecurityEventInfo(Schema):
    """What an attacker may have done, as the device or the server saw it."""

    device: str
    source: Literal["device", "server"]
    """Who saw it: the device refused something, or the server did not believe the device."""
    at: datetime
    """First seen, by the clock of the source, which may be what is wrong."""
    until: datetime
    """Last seen."""
    received_at: datetime
    code: str
    detail: str
    """Of the newest."""
    count: int
    order: int | None
    """Number of the order that is meant."""


class InstalledInfo(Schema):
    """What a slot runs."""

    version: str
    variant: str
    manifest: str
    since: datetime
    threads: int = 0
    """Within one operator, as its trial has found best; 0: by the model's size."""
    provider: str = ""
    """Execution provider or delegate that its trial has chosen; empty: the runtime's usual one."""


class ReasonInfo(Schema):
    """Why something failed."""

    code: str
    detail: str


class ObservationInfo(Schema):
    """What a model did while it was a shadow, or observed after its activation.

    In the device's words: `edgectl_protocol.messages.ObservationReport`.
    """

    requests: int = 0
    """Live requests that it answered itself; 0 for a shadow."""
    errors: int = 0
    non_finite: int = 0
    latency_p95_us: float | None = None
    reference_p95_us: float | None = None
    """Of the model that it is compared with, which serves or served before."""
    class_shift: float | None = None
    """Total variation distance between the classes of both, 0 to 1."""
    mirrored: int = 0
    """Copied requests that both have answered."""
    agreed: int = 0
    skipped: int = 0
    """Chosen and not copied, for the budget's sake."""


class SwapInfo(Schema):
    """What it took to put a model into its slot."""

    load_ms: float = 0.0
    gap_ms: float = 0.0
    """How long requests had to wait, because memory forbade two models at once."""
    resident: bool = False
    """The model before it stays in memory while this one is observed."""


class TransferInfo(Schema):
    """What it took to fetch a bundle."""

    whole_bytes: int
    fetched_bytes: int
    """What came over the network; the rest is what was saved."""
    delta: str | None = None
    """The delta by which the model was made; null: it was fetched whole, or was there."""
    rest: str | None = None
    """The delta by which the rest of the bundle was made; null: as above."""
    refusal: ReasonInfo | None = None
    """Why a delta that the order named was not used."""


class UpdateInfo(Schema):
    """The newest update of a slot."""

    order: int
    version: str
    variant: str
    manifest: str = ""
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


class SlotInfo(Schema):
    """One model slot of a device."""

    slot: str
    desired_version: str | None
    desired_rollout: str | None
    running: InstalledInfo | None
    previous: InstalledInfo | None
    update: UpdateInfo | None
    fault: ReasonInfo | None = None
    """How what runs has failed last, such as a run that hung."""


class HoldInfo(Schema):
    """That nothing new begins on a device, and by whose wish."""

    at: datetime
    by: str
    reason: str


class HoldRequest(Schema):
    """``POST /devices/{device}/actions/hold``."""

    reason: str = Field(default="", max_length=1024)


class RollbackRequest(Schema):
    """``POST /devices/{device}/actions/rollback``."""

    slot: ModelNameStr
    """The model that goes back to the version before."""
    version: VersionStr | None = None
    """Which version it is expected to go back to; if it is another by now, it is refused."""


class DeviceSummary(Schema):
    """A device in a list."""

    id: str
    online: bool
    last_seen_at: datetime | None
    enrolled_at: datetime
    state: Literal["enrolled", "revoked", "decommissioned"]
    group: str = ""
    """Given by the server when it enrolled; empty: none."""
    agent_version: str
    machine: str
    cpu_model: str
    device_class: str = ""
    """As `GET /targets` lists them; empty: none."""
    labels: dict[str, str]
    """What the device says of itself; selectors know them as ``reported.name``."""
    assigned_labels: dict[str, str]
    """Given by people; selectors go by these."""
    slots: list[SlotInfo]
    security_events: int = 0
    """Of the last day."""
    overdue: bool = False
    """Offline for longer than the setting `device_overdue_s`."""
    hold: HoldInfo | None = None


class DeviceDetail(DeviceSummary):
    """A device with everything it reports."""

    boot: int
    certificate_expires_at: datetime
    fingerprint: str
    """Of the device's key, as the device shows it."""
    enrolled_by: str
    """How it came in, and who let it."""
    order_counter: int
    accepted_order_counter: int
    refusal: ReasonInfo | None = None
    """Why the device does not obey what came last as an order."""
    refused_order_counter: int | None = None
    """Counter of that order; null where its signature is not good."""
    device_class_reason: str = ""
    """Why it is of that class, or of none."""
    endpoint: str
    capabilities: dict[str, Any] | None
    rejected: list[str]
    system: dict[str, Any] | None
    """Newest system sample."""


class DeviceEventInfo(Schema):
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


class VersionShare(Schema):
    """How many devices run a version."""

    model: str
    version: str
    devices: int


class SiteInfo(Schema):
    """The devices of a place: of a label ``site``, or else of a group."""

    site: str
    """Empty: those that are of none."""
    devices: int
    online: int
    overdue: int
    failing: int
    security: int
    latitude: float | None
    """Degrees north, as the labels ``lat`` of its devices say."""
    longitude: float | None
    """Degrees east, as the labels ``lon`` of its devices say."""
    versions: list[VersionShare]


class FleetSummary(Schema):
    """The tiles of the fleet page; also the SSE snapshot ``fleet``."""

    devices: int
    online: int
    offline: int
    updating: int
    failing: int
    """Newest update failed, rejected or rolled back."""
    security: int = 0
    """Devices with a security event of the last day."""
    overdue: int = 0
    """Offline for longer than the setting `device_overdue_s`."""
    held: int = 0
    """No rollout begins on them."""
    versions: list[VersionShare]
