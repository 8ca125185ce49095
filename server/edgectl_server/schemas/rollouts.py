"""Rollouts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import SLOTS_MAX, UpdatePolicy
from edgectl_protocol.windows import parse_windows
from edgectl_server.schemas.base import (
    DeviceIdStr,
    GroupStr,
    ModelNameStr,
    ModelVersionStr,
    Schema,
    VersionStr,
)
from edgectl_server.schemas.devices import ObservationInfo, ReasonInfo, SwapInfo, TransferInfo

__all__ = [
    "PHASES_MAX",
    "ActionRequest",
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
    "RolloutDeviceState",
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

PHASES_MAX = 10
RolloutDeviceState = Literal[
    "pending",
    "in_progress",
    "committed",
    "failed",
    "rejected",
    "rolled_back",
    "overdue",
    "reverted",
    "cancelled",
]


def _check_windows(text: str) -> str:
    try:
        parse_windows(text)
    except ProtocolError as error:
        raise ValueError(str(error)) from error
    return text


WindowsStr = Annotated[str, Field(max_length=1024), AfterValidator(_check_windows)]


class Selector(Schema):
    """Which devices: all that are enrolled, those of a group or of a selector, or these.

    Who enrols while it runs joins it, unless devices are named.
    """

    all: bool = False
    group: GroupStr = ""
    where: Annotated[str, Field(max_length=4096)] = ""
    """A selector such as ``site=porto and not tag=demo``."""
    devices: list[DeviceIdStr] = Field(default=[])


class ExperimentSpec(Schema):
    """The devices that have the new version against those of the rollout that do not yet.

    Looked at all the time while its phase is settled, until one of three things is sure: the new
    version is not worse by `margin` or more (passed), it is (failed), or a limit has come.
    """

    rate: Literal["error_rate", "low_confidence"] = "error_rate"
    """What is compared; the lower, the better."""
    margin: float = Field(default=0.01, gt=0, lt=1)
    """How much higher the rate may be: a difference, not a ratio."""
    alpha: float = Field(default=0.05, ge=0.0001, le=0.2)
    """Probability of each of the two wrong answers, however often it is looked at."""
    confidence_below: float = Field(default=0.5, ge=0.05, le=0.95, multiple_of=0.05)
    """Of ``low_confidence``: answers below it are counted."""
    unit: Literal["device", "site"] = "device"
    """What one observation is. Devices that see the same things belong together."""
    limit_s: float = Field(default=86400.0, ge=60, le=30 * 86400)
    """When it ends at the latest, counted from when the phase has settled."""
    requests_max: int | None = Field(default=None, ge=1000, le=10**12)
    """After how many requests of both sides it ends; null: `limit_s` alone decides."""


class GatePolicy(Schema):
    """What must hold at the end of a phase for the next one to begin; null: is not asked."""

    committed_min: int = Field(default=1, ge=1, le=10**9)
    """Devices that must have committed for anything to be said."""
    success_min: float | None = Field(default=None, ge=0, le=1)
    """Share of the ended devices that must have committed."""
    requests_min: int = Field(default=100, ge=1, le=10**9)
    """Requests that must have been answered for a signal of the model to count."""
    error_rate_max: float | None = Field(default=None, ge=0, le=1)
    latency_p95_us_max: float | None = Field(default=None, gt=0, le=10**9)
    latency_ratio_max: float | None = Field(default=None, gt=0, le=1000)
    """How much slower by p95 than other versions of the model on the fleet in the same time."""
    class_mix_max: float | None = Field(default=None, gt=0, lt=1)
    """Total variation distance between its classes and those of other versions in the same time."""
    confidence_max: float | None = Field(default=None, gt=0, lt=1)
    """Kolmogorov-Smirnov distance between its confidences and those of the others."""
    disagreement_max: float | None = Field(default=None, ge=0, le=1)
    """Share of the copied requests to which it and the version before gave different answers."""


class PhaseSpec(Schema):
    """A part of a rollout; its end is counted from the beginning of the rollout."""

    name: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]{0,31})?$")] = ""
    """Empty: its number."""
    devices: int | None = Field(default=None, ge=1, le=100_000)
    percent: float | None = Field(default=None, gt=0, le=100)
    """Of the devices that the rollout has; without this, `devices` and `where`: all of them."""
    where: Annotated[str, Field(max_length=4096)] = ""
    """Those of its devices that this selector means, such as ``tag=canary``; first phases only."""
    soak_s: float = Field(default=0.0, ge=0, le=30 * 86400)
    """How long to watch when its last device has ended."""
    approval: bool = False
    """The next phase begins when somebody says so."""
    experiment: ExperimentSpec | None = None
    gates: GatePolicy | None = None
    """What must hold at its end, in place of the gates of the policy; null: those."""


class RolloutPolicy(Schema):
    """How it goes about it."""

    max_in_progress: int = Field(default=100, ge=1, le=10**9)
    failures_max: int = Field(default=1, ge=1, le=10**9)
    """It pauses by itself when so many devices have failed, rejected or rolled back."""
    observe_s: float = Field(default=10.0, ge=0, le=7 * 86400)
    shadow_s: float = Field(default=0.0, ge=0, le=7 * 86400)
    """How long a candidate answers copies of live requests before it serves; 0: not at all."""
    windows: WindowsStr = ""
    """When devices may switch, such as ``mon-fri 02:00-04:00``; empty: at any time."""
    error_rate_max: float = Field(default=0.05, ge=0, le=1)
    latency_ratio_max: float | None = Field(default=5.0, gt=1, le=1000)
    class_shift_max: float | None = Field(default=0.5, ge=0, le=1)
    disagreement_max: float | None = Field(default=0.5, ge=0, le=1)
    goes_with: list[ModelVersionStr] = Field(default=[], max_length=SLOTS_MAX - 1)
    """Versions of other models, ``name@version``, that devices switch to in the same step."""
    forgive: bool = False
    """Devices that remember it as bad try it once more."""
    phases: list[PhaseSpec] = Field(default=[], max_length=PHASES_MAX)
    """None: all devices at once, within `max_in_progress`. A last one of all devices is added."""
    gates: GatePolicy = GatePolicy()
    deadline_s: float | None = Field(default=None, ge=1, le=90 * 86400)
    """How long an offline device is waited for; null: for ever."""
    on_deadline: Literal["leave", "fail"] = "leave"
    """What an offline device is then: overdue, or failed and counted as such."""
    available_min: int | None = Field(default=None, ge=1, le=10**9)
    """Devices of a site that must stay online with no rollout at work on them."""
    available_percent: float | None = Field(default=None, gt=0, le=100)
    """The same as a share of the site's devices; of both, the larger counts."""
    priority: int = Field(default=0, ge=-100, le=100)
    """On a device that is in two running rollouts, the higher one comes first."""

    @model_validator(mode="after")
    def complete_phases(self) -> Self:
        """Name the phases, add the one of all devices, and refuse an order that makes no sense."""
        if not self.phases:
            return self
        last = self.phases[-1]
        if last.devices is not None or last.where or last.percent not in (None, 100):
            self.phases = [*self.phases, PhaseSpec()]
        for number, phase in enumerate(self.phases, 1):
            given = (phase.devices is not None, phase.percent is not None, bool(phase.where))
            if sum(given) > 1:
                raise ValueError(f"phase {number}: give one of devices, percent and where")
            if not phase.name:
                self.phases[number - 1] = phase.model_copy(update={"name": str(number)})
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("two phases have the same name")
        for kind in ("devices", "percent"):
            found = [value for one in self.phases if (value := getattr(one, kind)) is not None]
            if found != sorted(set(found)):
                raise ValueError(f"{kind} of phases must grow: they count from the beginning")
        limited = [bool(one.devices or one.percent or one.where) for one in self.phases[:-1]]
        if not all(limited):
            raise ValueError("only the last phase is of all devices")
        selected = [bool(one.where) for one in self.phases]
        if selected != sorted(selected, reverse=True):
            raise ValueError("phases with a selector come before those that count")
        return self

    @model_validator(mode="after")
    def check_last_phase(self) -> Self:
        """Refuse what makes no sense where nobody comes after."""
        if not self.phases:
            return self
        if self.phases[-1].experiment is not None:
            raise ValueError("the last phase can be no experiment: nobody has the old version then")
        if self.phases[-1].gates is not None:
            raise ValueError("the last phase has no gates: nobody is left to protect")
        return self

    def for_devices(self) -> UpdatePolicy:
        """Return what an order tells the device."""
        return UpdatePolicy(
            observe_s=self.observe_s,
            shadow_s=self.shadow_s,
            windows=parse_windows(self.windows),
            error_rate_max=self.error_rate_max,
            latency_ratio_max=self.latency_ratio_max,
            class_shift_max=self.class_shift_max,
            disagreement_max=self.disagreement_max,
        )


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
    overdue: int = 0
    reverted: int = 0
    cancelled: int = 0


class VerdictInfo(Schema):
    """What a gate says, with its figures; those that it does not have are null."""

    gate: Literal[
        "committed",
        "success",
        "error_rate",
        "latency_p95",
        "latency_ratio",
        "class_mix",
        "confidence",
        "disagreement",
        "experiment",
    ]
    verdict: Literal["passed", "failed", "not_enough_data"]
    detail: str
    value: float | None = None
    """What was measured: a share, a distance, a ratio, microseconds; of an experiment a difference
    of rates, that of the new version less that of the old."""
    limit: float | None = None
    """What it may be at most; of `committed` and `success` at least."""
    low: float | None = None
    """Of an experiment: the true difference is surely higher than this."""
    high: float | None = None
    """Of an experiment: it is surely lower than this."""
    devices: int | None = None
    """That the figures of the new version are from; of an experiment by site, sites."""
    requests: int | None = None
    reference_devices: int | None = None
    """The same of what it is compared with."""
    reference_requests: int | None = None
    final: bool = False
    """Of an experiment: it has ended, and is not asked again."""


class PhaseProgress(Schema):
    """Where a rollout stands in its phases."""

    number: int
    """From 1."""
    phases: int
    name: str
    target: int
    """Devices that may have had their turn at its end."""
    admitted: int
    """Devices that have."""
    step: Literal["ordering", "soaking", "gates", "approval"]
    """It orders, or has settled and soaks, waits for its gates, or for somebody's word."""
    settled_at: datetime | None
    soaks_until: datetime | None
    verdicts: list[VerdictInfo]


class PhaseInfo(Schema):
    """What has become of the devices of a phase."""

    number: int
    """From 1."""
    name: str
    standing: Literal["past", "current", "next"]
    """An ended rollout has no current one, and next ones that it never came to."""
    soak_s: float
    approval: bool
    began_at: datetime | None
    ended_at: datetime | None
    counts: RolloutCounts
    """Of devices that had their first order in this phase, and as pending those that will."""


class ReasonGroup(Schema):
    """Devices that have ended in the same way for the same reason."""

    state: RolloutDeviceState
    code: str
    devices: int
    newest_at: datetime
    example: str
    """What one of them says."""


class ServiceSide(Schema):
    """What a version, or several, did in service."""

    devices: int
    requests: int
    errors: int
    """Answers that are no numbers are among them."""
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency_p99_us: float | None
    latency: list[int]
    """Requests by `latency_edges_us`; empty where there are none."""


class ServicePoint(Schema):
    """The same of a part of the time."""

    at: datetime
    """Its beginning."""
    new_requests: int
    new_errors: int
    new_p95_us: float | None
    other_requests: int
    other_errors: int
    other_p95_us: float | None


class ServiceComparison(Schema):
    """The version of a rollout beside the other versions of its model, since it began."""

    since: datetime
    until: datetime
    step_s: float
    """Of a point."""
    complete: bool
    """False: there was more telemetry than is added up; the oldest is not in it."""
    latency_edges_us: list[float]
    """Between the bins of a histogram; it has a bin more."""
    new: ServiceSide
    others: ServiceSide
    points: list[ServicePoint]
    """Times without any request have none."""


class RolloutBytes(Schema):
    """What fetching costs, of one device or of all."""

    whole: int = 0
    """Of the bundles of devices that have been ordered to run them."""
    predicted: int = 0
    """What those were expected to fetch, deltas and what they had counted in."""
    fetched: int = 0
    """What devices say that came over the network."""
    saved: int = 0
    """What those devices would have fetched besides, without deltas and what they had."""


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
    phase: PhaseProgress | None = None
    """Null: it has no phases."""
    bytes: RolloutBytes = RolloutBytes()


class RolloutDeviceInfo(Schema):
    """One device of a rollout."""

    device: str
    online: bool
    state: RolloutDeviceState
    step: str
    """The device's own update state, such as ``downloading``."""
    bytes_done: int
    bytes_total: int
    variant: str
    reason: ReasonInfo | None
    updated_at: datetime
    trial: dict[str, Any] | None = None
    """What the device measured of the update, as its own page has it."""
    shadow: ObservationInfo | None = None
    observation: ObservationInfo | None = None
    swap: SwapInfo | None = None
    transfer: TransferInfo | None = None
    bytes: RolloutBytes | None = None
    """Null before it was ordered."""


class RolloutEventInfo(Schema):
    """What has happened to a rollout."""

    revision: int
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]


class PaceInfo(Schema):
    """How long updates of the model have taken beyond shadow and observation."""

    samples: int
    median_s: float | None
    slow_s: float | None
    """Nineteen of twenty were faster."""


class PhaseForecastInfo(Schema):
    """What one phase would do."""

    name: str
    devices: int
    offline: int
    """Of them; they are waited for, and times do not count them."""
    blocked: int
    """Of them, that the budget of their site never lets go."""
    variants: dict[str, int]
    fetches_bytes: int
    waves: int
    soak_s: float
    approval: bool
    least_s: float
    likely_s: float | None
    slow_s: float | None


class SiteForecastInfo(Schema):
    """What one site would lose."""

    site: str
    devices: int
    total: int
    available: int
    at_once: int
    blind_s: float | None
    """At worst without any device that serves; null: the load time was never measured there."""


class OverlapInfo(Schema):
    """An unfinished rollout of the same model that has some of the devices."""

    rollout: str
    devices: int


class RolloutForecast(Schema):
    """``POST /rollouts/plan``: what a rollout would do. Nothing has been started."""

    model: str
    version: str
    devices: int
    offline_devices: int
    """Of all of these, fit for it or not; phases count the offline ones of those that are fit."""
    fetches_bytes: int
    """With the deltas that there are; those of a version that runs nowhere yet are made when a
    rollout begins."""
    whole_bytes: int
    """Of the same bundles without deltas."""
    phases: list[PhaseForecastInfo]
    sites: list[SiteForecastInfo]
    pace: PaceInfo
    unfit: list[str]
    """Devices that can run no variant, the first of them: they would fail."""
    unfit_devices: int
    """How many they are."""
    unknown: list[str]
    """Devices that have never said what they are, the first of them."""
    unknown_devices: int
    overlaps: list[OverlapInfo]
    """While there is one, it cannot be started."""


class RolloutApplied(Schema):
    """``POST /rollouts/apply``: what was done, or with ``dry_run`` would be."""

    action: Literal["start", "change", "nothing"]
    rollout: RolloutInfo | None
    """Null: it would be started."""
    changed: dict[str, Any]
    """Fields of the policy, and what they are now."""


class ActionRequest(Schema):
    """``POST /rollouts/{id}/actions/{pause|resume|approve|abort}``."""

    reason: str = Field(default="", max_length=1024)
    revert: bool = False
    """Of an abort: devices that have committed go back too."""
