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
    "GatePolicy",
    "OverlapInfo",
    "PaceInfo",
    "PhaseForecastInfo",
    "PhaseProgress",
    "PhaseSpec",
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


class PhaseSpec(Schema):
    """A part of a rollout; its end is counted from the beginning of the rollout."""

    name: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]{0,31})?$")] = ""
    """Empty: its number."""
    devices: int | None = Field(default=None, ge=1, le=100_000)
    percent: float | None = Field(default=None, gt=0, le=100)
    """Of the devices that the rollout has; neither this nor `devices`: all of them."""
    soak_s: float = Field(default=0.0, ge=0, le=30 * 86400)
    """How long to watch when its last device has ended."""
    approval: bool = False
    """The next phase begins when somebody says so."""


class GatePolicy(Schema):
    """What must hold at the end of a phase for the next one to begin; null: is not asked."""

    committed_min: int = Field(default=1, ge=1)
    """Devices that must have committed for anything to be said."""
    success_min: float | None = Field(default=None, ge=0, le=1)
    """Share of the ended devices that must have committed."""
    requests_min: int = Field(default=100, ge=1)
    """Requests that must have been answered for a signal of the model to count."""
    error_rate_max: float | None = Field(default=None, ge=0, le=1)
    latency_p95_us_max: float | None = Field(default=None, gt=0)
    latency_ratio_max: float | None = Field(default=None, gt=0, le=1000)
    """How much slower by p95 than other versions of the model on the fleet in the same time."""


class RolloutPolicy(Schema):
    """How it goes about it."""

    max_in_progress: int = Field(default=100, ge=1)
    failures_max: int = Field(default=1, ge=1)
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
    available_min: int | None = Field(default=None, ge=1)
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
        if last.devices is not None or last.percent not in (None, 100):
            self.phases = [*self.phases, PhaseSpec()]
        for number, phase in enumerate(self.phases, 1):
            if phase.devices is not None and phase.percent is not None:
                raise ValueError(f"phase {number}: give devices or percent, not both")
            if not phase.name:
                self.phases[number - 1] = phase.model_copy(update={"name": str(number)})
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("two phases have the same name")
        for kind in ("devices", "percent"):
            found = [value for one in self.phases if (value := getattr(one, kind)) is not None]
            if found != sorted(set(found)):
                raise ValueError(f"{kind} of phases must grow: they count from the beginning")
        if any(one.devices is None and one.percent is None for one in self.phases[:-1]):
            raise ValueError("only the last phase is of all devices")
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
    """What a gate says, with its figures."""

    gate: str
    verdict: Literal["passed", "failed", "not_enough_data"]
    detail: str


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
    fetches_bytes: int
    """Whole bundles."""
    phases: list[PhaseForecastInfo]
    sites: list[SiteForecastInfo]
    pace: PaceInfo
    unfit: list[str]
    """Devices that can run no variant, the first of them: they would fail."""
    unknown: list[str]
    """Devices that have never said what they are, the first of them."""
    overlaps: list[OverlapInfo]
    """While there is one, it cannot be started."""


class ActionRequest(Schema):
    """``POST /rollouts/{id}/actions/{pause|resume|approve|abort}``."""

    reason: str = Field(default="", max_length=1024)
    revert: bool = False
    """Of an abort: devices that have committed go back too."""
