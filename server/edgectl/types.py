"""What the REST API answers, as frozen structs.

The names and fields are those of the OpenAPI description; a test compares them with the server's.
Unknown fields are ignored and states are plain text, so that a newer server can be spoken to.
Times are aware and in UTC, sizes bytes, shares 0 to 1.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct, field

from edgectl.enrolment import (
    AuthorityInfo,
    EnrolRequestInfo,
    EnrolTokenCreated,
    EnrolTokenInfo,
    PreauthorisedEntry,
    PreauthorisedInfo,
    PreauthoriseResult,
)

__all__ = [
    "AuthorityInfo",
    "DeviceDetail",
    "DeviceEventInfo",
    "DeviceSummary",
    "EnrolRequestInfo",
    "EnrolTokenCreated",
    "EnrolTokenInfo",
    "FleetSummary",
    "InstalledInfo",
    "JobInfo",
    "JobProgress",
    "Me",
    "ModelSummary",
    "Page",
    "PreauthoriseResult",
    "PreauthorisedEntry",
    "PreauthorisedInfo",
    "Problem",
    "PushAccepted",
    "PushOptions",
    "PushRequest",
    "ReadyInfo",
    "ReasonInfo",
    "Report",
    "RolloutCounts",
    "RolloutDeviceInfo",
    "RolloutEventInfo",
    "RolloutInfo",
    "RolloutPolicy",
    "RolloutRequest",
    "SecurityEventInfo",
    "Selector",
    "SlotInfo",
    "TelemetrySummary",
    "TensorInfo",
    "TokenCreated",
    "TokenInfo",
    "Trial",
    "UpdateInfo",
    "VariantInfo",
    "VersionDetail",
    "VersionInfo",
    "VersionShare",
    "VersionSummary",
]

Item = TypeVar("Item")


class Page(Struct, Generic[Item], frozen=True):
    """One page of a list."""

    items: list[Item]
    total: int


class Problem(Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    request_id: str = ""
    errors: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


class Me(Struct, frozen=True):
    """Who is asking."""

    user: str
    role: str
    scopes: tuple[str, ...] = ()
    csrf: str | None = None


class TokenInfo(Struct, frozen=True):
    """An API token without its secret."""

    id: str
    name: str
    user: str
    role: str
    scopes: tuple[str, ...]
    made_by: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class AuditEntryInfo(Struct, frozen=True):
    """What somebody did; `edgectl_protocol.audit.AuditEntry` says more."""

    number: int
    at: datetime
    actor: str
    via: str
    address: str
    action: str
    object: str
    outcome: str
    details: dict[str, Any]
    previous: str
    hash: str


class AuditState(Struct, frozen=True):
    """How far the audit log goes, and how far it is vouched for."""

    number: int
    hash: str
    key: str
    anchored: int
    alarm: str


class TokenCreated(Struct, frozen=True):
    """The only time that the token itself is shown."""

    token: str
    info: TokenInfo


class PushOptions(Struct, frozen=True):
    """How the pipeline shall work."""

    max_drop_points: float = 1.0
    precisions: list[str] = field(default_factory=lambda: ["fp32", "int8"])
    labels: list[str] = field(default_factory=list)
    encrypt: list[str] = field(default_factory=list)


class PushRequest(Struct, frozen=True, kw_only=True):
    """``POST /models/{name}/versions``: digests are 64 hexadecimal digits of uploaded files."""

    model: str
    filename: str
    version: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    options: PushOptions = PushOptions()
    parent: str | None = None
    training_data: str | None = None
    code_revision: str = ""


class PushAccepted(Struct, frozen=True):
    """`created` is false when this very content is there already."""

    model: str
    version: str
    job: str | None
    created: bool


class TensorInfo(Struct, frozen=True):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]


class Trial(Struct, frozen=True):
    """One recipe that was tried."""

    recipe: str
    variant: str
    precision: str
    status: str
    reason: str = ""
    size_bytes: int | None = None
    value: float | None = None
    drop_points: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    seconds: float | None = None


class Report(Struct, frozen=True):
    """The quantization report of a version."""

    metric: str | None
    metric_source: str | None
    samples: int
    reference: float | None
    max_drop_points: float
    opset: int
    nodes: int
    parameters: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    trials: list[Trial]
    measured_on: str
    warnings: list[str] = field(default_factory=list)


class VariantInfo(Struct, frozen=True):
    """A published bundle."""

    variant: str
    precision: str
    manifest: str
    target: str
    model_bytes: int
    bundle_bytes: int
    rank: int
    trial: Trial
    encrypted: bool = False


class SignatureWait(Struct, frozen=True):
    """Whose signatures a version waits for."""

    role: str
    version: int
    missing: int
    threshold: int


class VersionSummary(Struct, frozen=True, kw_only=True):
    """A version in a list."""

    model: str
    version: str
    state: str
    source: str
    source_bytes: int
    created_at: datetime
    created_by: str
    job: str | None
    metric: str | None = None
    reference: float | None = None
    best: VariantInfo | None = None
    devices_running: int = 0
    waits_for: SignatureWait | None = None


class VersionDetail(VersionSummary, frozen=True, kw_only=True):
    """A version with its report."""

    source_name: str
    calibration: str | None
    evaluation: str | None
    options: PushOptions
    parent: str | None
    labels: list[str]
    variants: list[VariantInfo]
    report: Report | None
    error: Problem | None = None


class ModelSummary(Struct, frozen=True):
    """A model in a list."""

    name: str
    created_at: datetime
    versions: int
    latest: VersionSummary | None
    devices_running: int
    devices_desired: int


class TrustKey(Struct, frozen=True):
    """A key that signs for a role."""

    keyid: str
    name: str
    scheme: str
    online: bool


class TrustRole(Struct, frozen=True):
    """A role of the signed metadata."""

    name: str
    version: int | None
    expires: datetime | None
    threshold: int
    keys: list[TrustKey]
    online: bool
    patterns: list[str]
    targets: int


class StagedInfo(Struct, frozen=True):
    """A change that waits for signatures."""

    role: str
    version: int
    expires: datetime
    summary: list[str]
    signed_by: list[str]
    unsigned: list[TrustKey]
    missing: int
    threshold: int


class AlertInfo(Struct, frozen=True):
    """What somebody should look at."""

    code: str
    severity: str
    detail: str
    hint: str


class TrustInfo(Struct, frozen=True):
    """Who signs what, what waits, what needs attention."""

    roles: list[TrustRole]
    staged: list[StagedInfo]
    alerts: list[AlertInfo]


class SubmitResult(Struct, frozen=True):
    """What has become of a document that was signed elsewhere."""

    published: list[str]
    staged: list[StagedInfo]


class JobProgress(Struct, frozen=True):
    """How far a job is."""

    stage: str = ""
    message: str = ""
    done: int = 0
    total: int = 0


class JobInfo(Struct, frozen=True):
    """A job."""

    id: str
    kind: str
    state: str
    progress: JobProgress
    result: dict[str, Any] | None
    error: Problem | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    subject: dict[str, str]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in {"succeeded", "failed", "cancelled"}


class InstalledInfo(Struct, frozen=True):
    """What a slot runs."""

    version: str
    variant: str
    manifest: str
    since: datetime


class ReasonInfo(Struct, frozen=True):
    """Why something failed."""

    code: str
    detail: str


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


class SlotInfo(Struct, frozen=True):
    """One model slot of a device."""

    slot: str
    desired_version: str | None
    desired_rollout: str | None
    running: InstalledInfo | None
    previous: InstalledInfo | None
    update: UpdateInfo | None
    fault: ReasonInfo | None = None


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


class FleetSummary(Struct, frozen=True):
    """The fleet in numbers."""

    devices: int
    online: int
    offline: int
    updating: int
    failing: int
    versions: list[VersionShare]
    security: int = 0


class Selector(Struct, frozen=True):
    """Which devices: all that are enrolled when it starts, those of a group, or these."""

    all: bool = False
    devices: list[str] = field(default_factory=list)
    group: str = ""


class RolloutPolicy(Struct, frozen=True):
    """How it goes about it."""

    max_in_progress: int = 100
    failures_max: int = 1
    observe_s: float = 10.0


class RolloutRequest(Struct, frozen=True):
    """``POST /rollouts``."""

    model: str
    version: str
    selector: Selector
    policy: RolloutPolicy = RolloutPolicy()


class RolloutCounts(Struct, frozen=True):
    """Devices by state; the sum is `total`."""

    total: int = 0
    pending: int = 0
    in_progress: int = 0
    committed: int = 0
    failed: int = 0
    rejected: int = 0
    rolled_back: int = 0
    cancelled: int = 0

    @property
    def unsuccessful(self) -> int:
        """Devices on which it has gone wrong."""
        return self.failed + self.rejected + self.rolled_back


class RolloutInfo(Struct, frozen=True):
    """A rollout."""

    id: str
    model: str
    version: str
    state: str
    selector: Selector
    policy: RolloutPolicy
    counts: RolloutCounts
    revision: int
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    note: str = ""


class RolloutDeviceInfo(Struct, frozen=True):
    """One device of a rollout."""

    device: str
    online: bool
    state: str
    step: str
    bytes_done: int
    bytes_total: int
    variant: str
    reason: ReasonInfo | None
    updated_at: datetime


class RolloutEventInfo(Struct, frozen=True):
    """What has happened to a rollout."""

    revision: int
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]


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


class VersionInfo(Struct, frozen=True):
    """``GET /version``."""

    version: str
    api: str = "v1"
    ui: bool = False


class ReadyInfo(Struct, frozen=True):
    """``GET /health/ready``: `checks` says ``ok`` or what is wrong."""

    ready: bool
    checks: dict[str, str]
