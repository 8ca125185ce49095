"""Rollouts, their devices and their history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct, field

from edgectl.types.devices import ObservationInfo, ReasonInfo, SwapInfo, TransferInfo

__all__ = [
    "ExperimentSpec",
    "GatePolicy",
    "OverlapInfo",
    "PaceInfo",
    "PhaseForecastInfo",
    "PhaseInfo",
    "PhaseProgress",
    "PhaseSpec",
    "ReasonGroup",
    "RolloutApplied",
    "RolloutBytes",
    "RolloutCounts",
    "RolloutDeviceInfo",
    "RolloutEventInfo",
    "RolloutForecast",
    "RolloutInfo",
    "RolloutPolicy",
    "RolloutRequest",
    "Selector",
    "ServiceComparison",
    "ServicePoint",
    "ServiceSide",
    "SiteForecastInfo",
    "VerdictInfo",
]


class Selector(Struct, frozen=True):
    """Which devices: all that are enrolled, those of a group or of a selector, or these."""

    all: bool = False
    devices: list[str] = field(default_factory=list)
    group: str = ""
    where: str = ""


class ExperimentSpec(Struct, frozen=True):
    """The devices that have the new version against those of the rollout that do not yet."""

    rate: str = "error_rate"
    margin: float = 0.01
    alpha: float = 0.05
    confidence_below: float = 0.5
    unit: str = "device"
    limit_s: float = 86400.0
    requests_max: int | None = None


class GatePolicy(Struct, frozen=True):
    """What must hold at the end of a phase for the next one to begin; None: is not asked."""

    committed_min: int = 1
    success_min: float | None = None
    requests_min: int = 100
    error_rate_max: float | None = None
    latency_p95_us_max: float | None = None
    latency_ratio_max: float | None = None
    class_mix_max: float | None = None
    confidence_max: float | None = None
    disagreement_max: float | None = None


class PhaseSpec(Struct, frozen=True):
    """A part of a rollout; its end is counted from the beginning of the rollout."""

    name: str = ""
    devices: int | None = None
    percent: float | None = None
    where: str = ""
    soak_s: float = 0.0
    approval: bool = False
    experiment: ExperimentSpec | None = None
    gates: GatePolicy | None = None


class RolloutPolicy(Struct, frozen=True):
    """How it goes about it."""

    max_in_progress: int = 100
    failures_max: int = 1
    observe_s: float = 10.0
    shadow_s: float = 0.0
    windows: str = ""
    error_rate_max: float = 0.05
    latency_ratio_max: float | None = 5.0
    class_shift_max: float | None = 0.5
    disagreement_max: float | None = 0.5
    goes_with: list[str] = field(default_factory=list)
    forgive: bool = False
    phases: list[PhaseSpec] = field(default_factory=list)
    gates: GatePolicy = GatePolicy()
    deadline_s: float | None = None
    on_deadline: str = "leave"
    available_min: int | None = None
    available_percent: float | None = None
    priority: int = 0


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
    overdue: int = 0
    reverted: int = 0
    cancelled: int = 0

    @property
    def unsuccessful(self) -> int:
        """Devices on which it has gone wrong."""
        return self.failed + self.rejected + self.rolled_back


class VerdictInfo(Struct, frozen=True):
    """What a gate says, with its figures."""

    gate: str
    verdict: str
    detail: str
    value: float | None = None
    limit: float | None = None
    low: float | None = None
    high: float | None = None
    devices: int | None = None
    requests: int | None = None
    reference_devices: int | None = None
    reference_requests: int | None = None
    final: bool = False


class PhaseProgress(Struct, frozen=True):
    """Where a rollout stands in its phases."""

    number: int
    phases: int
    name: str
    target: int
    admitted: int
    step: str
    settled_at: datetime | None
    soaks_until: datetime | None
    verdicts: list[VerdictInfo]


class PhaseInfo(Struct, frozen=True):
    """What has become of the devices of a phase."""

    number: int
    name: str
    standing: str
    soak_s: float
    approval: bool
    began_at: datetime | None
    ended_at: datetime | None
    counts: RolloutCounts


class ReasonGroup(Struct, frozen=True):
    """Devices that have ended in the same way for the same reason."""

    state: str
    code: str
    devices: int
    newest_at: datetime
    example: str


class ServiceSide(Struct, frozen=True):
    """What a version, or several, did in service."""

    devices: int
    requests: int
    errors: int
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency_p99_us: float | None
    latency: list[int]


class ServicePoint(Struct, frozen=True):
    """The same of a part of the time."""

    at: datetime
    new_requests: int
    new_errors: int
    new_p95_us: float | None
    other_requests: int
    other_errors: int
    other_p95_us: float | None


class ServiceComparison(Struct, frozen=True):
    """The version of a rollout beside the other versions of its model, since it began."""

    since: datetime
    until: datetime
    step_s: float
    complete: bool
    latency_edges_us: list[float]
    new: ServiceSide
    others: ServiceSide
    points: list[ServicePoint]


class RolloutBytes(Struct, frozen=True):
    """What fetching costs, of one device or of all."""

    whole: int = 0
    predicted: int = 0
    fetched: int = 0
    saved: int = 0


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
    phase: PhaseProgress | None = None
    bytes: RolloutBytes = RolloutBytes()


class PaceInfo(Struct, frozen=True):
    """How long updates of the model have taken beyond shadow and observation."""

    samples: int
    median_s: float | None = None
    slow_s: float | None = None


class PhaseForecastInfo(Struct, frozen=True):
    """What one phase would do."""

    name: str
    devices: int
    offline: int
    blocked: int
    variants: dict[str, int]
    fetches_bytes: int
    waves: int
    soak_s: float
    approval: bool
    least_s: float
    likely_s: float | None = None
    slow_s: float | None = None


class SiteForecastInfo(Struct, frozen=True):
    """What one site would lose."""

    site: str
    devices: int
    total: int
    available: int
    at_once: int
    blind_s: float | None = None


class OverlapInfo(Struct, frozen=True):
    """An unfinished rollout of the same model that has some of the devices."""

    rollout: str
    devices: int


class RolloutForecast(Struct, frozen=True):
    """``POST /rollouts/plan``: what a rollout would do. Nothing has been started."""

    model: str
    version: str
    devices: int
    fetches_bytes: int
    whole_bytes: int
    phases: list[PhaseForecastInfo]
    sites: list[SiteForecastInfo]
    pace: PaceInfo
    unfit: list[str]
    unknown: list[str]
    overlaps: list[OverlapInfo]
    unfit_devices: int = 0
    unknown_devices: int = 0
    offline_devices: int = 0


class RolloutApplied(Struct, frozen=True):
    """What was done about a rollout of a file, or would be."""

    action: str
    rollout: RolloutInfo | None
    changed: dict[str, Any]


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
    trial: dict[str, Any] | None = None
    shadow: ObservationInfo | None = None
    observation: ObservationInfo | None = None
    swap: SwapInfo | None = None
    transfer: TransferInfo | None = None
    bytes: RolloutBytes | None = None


class RolloutEventInfo(Struct, frozen=True):
    """What has happened to a rollout."""

    revision: int
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]
