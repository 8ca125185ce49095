"""What goes in and out of ``/api/v1``: the public contract for the CLI, the UI and third parties.

Field names are snake_case, times RFC 3339 in UTC, sizes bytes, shares 0 to 1. Fields may be added;
none is renamed or changes its meaning. Errors are `Problem` (RFC 9457) with a stable `code`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["viewer", "operator", "admin"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DigestStr = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
ModelNameStr = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
VersionStr = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
DeviceIdStr = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Schema(BaseModel):
    """Unknown fields in a request are refused, so that a stale client is noticed."""

    model_config = ConfigDict(extra="forbid")


Item = TypeVar("Item")


class Page(Schema, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    total: int


class Problem(Schema):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    """What to do next."""
    request_id: str = ""
    errors: list[dict[str, Any]] = []
    """One entry a wrong field."""
    data: dict[str, Any] = {}


# ---------------------------------------------------------------- people


class LoginRequest(Schema):
    """``POST /session`` (browser: cookie) and ``POST /tokens:login`` (CLI: bearer token)."""

    username: str
    password: str


class Me(Schema):
    """Who is asking. `csrf` must be sent back as ``X-CSRF-Token`` with every change by cookie."""

    user: str
    role: Role
    csrf: str | None = None


class TokenRequest(Schema):
    """``POST /tokens``."""

    name: str = Field(min_length=1, max_length=128)
    role: Role = "operator"
    expires_in_s: int | None = Field(default=None, ge=60)


class TokenInfo(Schema):
    """An API token without its secret."""

    id: str
    name: str
    user: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class TokenCreated(Schema):
    """The only time that the token itself is shown."""

    token: str
    info: TokenInfo


# ---------------------------------------------------------------- models


class PushOptions(Schema):
    """How the pipeline shall work."""

    max_drop_points: float = Field(default=1.0, ge=0, le=100)
    """Largest loss against fp32, in points of the metric (1 point = 0.01)."""
    precisions: list[Literal["fp32", "int8"]] = ["fp32", "int8"]
    """int8: at least one int8 variant must pass, or the push is refused."""
    labels: list[str] = []


class PushRequest(Schema):
    """``POST /models/{name}/versions``; the files have been uploaded before."""

    model: Sha256
    filename: str = Field(max_length=256)
    version: VersionStr | None = None
    """None: the next free integer, or the version that already has this content."""
    calibration: Sha256 | None = None
    evaluation: Sha256 | None = None
    options: PushOptions = PushOptions()
    parent: VersionStr | None = None
    training_data: DigestStr | None = None
    code_revision: str = Field(default="", max_length=128)


class PushAccepted(Schema):
    """202 when work has begun, 200 when this very content is there already."""

    model: str
    version: str
    job: str | None
    created: bool


class TensorInfo(Schema):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]


class Trial(Schema):
    """One recipe that was tried."""

    recipe: str
    variant: str
    precision: Literal["fp32", "fp16", "int8"]
    status: Literal["accepted", "rejected", "failed", "skipped"]
    reason: str = ""
    size_bytes: int | None = None
    value: float | None = None
    """Of the report's metric, 0 to 1."""
    drop_points: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    seconds: float | None = None
    """What it took to make and measure."""


class Report(Schema):
    """The quantization report of a version."""

    metric: Literal["accuracy", "agreement"] | None
    """None where there was no data to measure on."""
    metric_source: Literal["evaluation", "calibration"] | None
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
    """Processor and runtime of the measurements."""
    warnings: list[str] = []


class VariantInfo(Schema):
    """A published bundle."""

    variant: str
    precision: str
    manifest: str
    target: str
    model_bytes: int
    bundle_bytes: int
    rank: int
    trial: Trial


class VersionSummary(Schema):
    """A version in a list."""

    model: str
    version: str
    state: Literal["processing", "ready", "refused", "failed"]
    source: str
    source_bytes: int
    created_at: datetime
    created_by: str
    job: str | None
    metric: str | None = None
    reference: float | None = None
    best: VariantInfo | None = None
    devices_running: int = 0


class VersionDetail(VersionSummary):
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


class ModelSummary(Schema):
    """A model in a list."""

    name: str
    created_at: datetime
    versions: int
    latest: VersionSummary | None
    devices_running: int
    devices_desired: int


class JobProgress(Schema):
    """How far a job is."""

    stage: str = ""
    """Such as ``check``, ``quantize``, ``evaluate``, ``pack``, ``sign``, ``publish``."""
    message: str = ""
    done: int = 0
    total: int = 0


class JobInfo(Schema):
    """A job."""

    id: str
    kind: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: JobProgress
    result: dict[str, Any] | None
    error: Problem | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    subject: dict[str, str]
    """What it works on, such as ``{"model": "har", "version": "1"}``."""


# ---------------------------------------------------------------- devices


class EnrolTokenRequest(Schema):
    """``POST /devices/tokens``."""

    uses: int = Field(default=1, ge=1, le=10000)
    expires_in_s: int = Field(default=3600, ge=60, le=30 * 86400)


class EnrolTokenCreated(Schema):
    """The only time that the token is shown."""

    token: str
    id: str
    uses: int
    expires_at: datetime


class InstalledInfo(Schema):
    """What a slot runs."""

    version: str
    variant: str
    manifest: str
    since: datetime


class ReasonInfo(Schema):
    """Why something failed."""

    code: str
    detail: str


class UpdateInfo(Schema):
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


class SlotInfo(Schema):
    """One model slot of a device."""

    slot: str
    desired_version: str | None
    desired_rollout: str | None
    running: InstalledInfo | None
    previous: InstalledInfo | None
    update: UpdateInfo | None


class DeviceSummary(Schema):
    """A device in a list."""

    id: str
    online: bool
    last_seen_at: datetime | None
    enrolled_at: datetime
    state: Literal["enrolled", "decommissioned"]
    agent_version: str
    machine: str
    cpu_model: str
    labels: dict[str, str]
    slots: list[SlotInfo]


class DeviceDetail(DeviceSummary):
    """A device with everything it reports."""

    boot: int
    certificate_expires_at: datetime
    order_counter: int
    accepted_order_counter: int
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


class VersionShare(Schema):
    """How many devices run a version."""

    model: str
    version: str
    devices: int


class FleetSummary(Schema):
    """The tiles of the fleet page; also the SSE snapshot ``fleet``."""

    devices: int
    online: int
    offline: int
    updating: int
    failing: int
    """Newest update failed, rejected or rolled back."""
    versions: list[VersionShare]


# ---------------------------------------------------------------- rollouts


class Selector(Schema):
    """Which devices: all that are enrolled when it starts, or these."""

    all: bool = False
    devices: list[DeviceIdStr] = []


class RolloutPolicy(Schema):
    """How it goes about it."""

    max_in_progress: int = Field(default=100, ge=1)
    failures_max: int = Field(default=1, ge=1)
    """It pauses by itself when so many devices have failed, rejected or rolled back."""
    observe_s: float = Field(default=10.0, ge=0, le=7 * 86400)


class RolloutRequest(Schema):
    """``POST /rollouts``."""

    model: ModelNameStr
    version: VersionStr
    selector: Selector
    policy: RolloutPolicy = RolloutPolicy()


class RolloutCounts(Schema):
    """Devices by state; the sum is `total`."""

    total: int = 0
    pending: int = 0
    in_progress: int = 0
    committed: int = 0
    failed: int = 0
    rejected: int = 0
    rolled_back: int = 0
    cancelled: int = 0


class RolloutInfo(Schema):
    """A rollout; also the SSE snapshot ``rollout:<id>``."""

    id: str
    model: str
    version: str
    state: Literal["running", "paused", "completed", "aborted"]
    selector: Selector
    policy: RolloutPolicy
    counts: RolloutCounts
    revision: int
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    note: str = ""
    """Why it is paused, or what it waits for."""


class RolloutDeviceInfo(Schema):
    """One device of a rollout."""

    device: str
    online: bool
    state: Literal[
        "pending", "in_progress", "committed", "failed", "rejected", "rolled_back", "cancelled"
    ]
    step: str
    """The device's own update state, such as ``downloading``."""
    bytes_done: int
    bytes_total: int
    variant: str
    reason: ReasonInfo | None
    updated_at: datetime


class RolloutEventInfo(Schema):
    """What has happened to a rollout."""

    revision: int
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]


class ActionRequest(Schema):
    """``POST /rollouts/{id}/actions/{pause|resume|abort}``."""

    reason: str = Field(default="", max_length=1024)


# ---------------------------------------------------------------- telemetry, system


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
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency: list[int]
    confidence: list[int]
    classes: list[int]


class VersionInfo(Schema):
    """``GET /version`` (no login)."""

    version: str
    api: Literal["v1"] = "v1"
    ui: bool


class ReadyInfo(Schema):
    """``GET /health/ready`` (no login)."""

    ready: bool
    checks: dict[str, str]
    """``ok`` or what is wrong: ``database``, ``blobs``, ``broker``, ``signing``."""
