"""What the rollout planner is given and what it answers: states, policy, facts, plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from edgectl_protocol.messages import Reason, SlotReport

__all__ = [
    "ADMITTED",
    "BAD",
    "GONE",
    "OPEN",
    "Arm",
    "DeviceState",
    "Experiment",
    "GateName",
    "Gates",
    "Mark",
    "ObservedDevice",
    "ObservedRollout",
    "Phase",
    "Plan",
    "RolloutPolicy",
    "RolloutState",
    "Samples",
    "Signals",
    "Site",
    "Standing",
    "Verdict",
]


class DeviceState(StrEnum):
    """Where a device stands in a rollout."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMMITTED = "committed"
    FAILED = "failed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    OVERDUE = "overdue"
    REVERTED = "reverted"
    CANCELLED = "cancelled"


class RolloutState(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ABORTED = "aborted"


OPEN = frozenset({DeviceState.PENDING, DeviceState.IN_PROGRESS})
BAD = frozenset({DeviceState.FAILED, DeviceState.REJECTED, DeviceState.ROLLED_BACK})
GONE = frozenset({DeviceState.CANCELLED, DeviceState.REVERTED})
"""Not of the rollout any more: phases do not count them."""
ADMITTED = frozenset({DeviceState.IN_PROGRESS, DeviceState.COMMITTED, *BAD})
"""They have taken one of the places of a phase."""


@dataclass(frozen=True)
class Experiment:
    """The devices that have the new version against those of the rollout that do not yet."""

    rate: Literal["error_rate", "low_confidence"] = "error_rate"
    margin: float = 0.01
    alpha: float = 0.05
    confidence_below: float = 0.5
    unit: Literal["device", "site"] = "device"
    limit_s: float = 86_400.0
    requests_max: int | None = None


@dataclass(frozen=True)
class Gates:
    """What must hold at the end of a phase, but the last, for the next one to begin."""

    committed_min: int = 1
    """Devices that must have committed for anything to be said."""
    success_min: float | None = None
    """Share of the ended devices that must have committed."""
    requests_min: int = 100
    """Requests that the new version must have answered for a signal to count."""
    error_rate_max: float | None = None
    latency_p95_us_max: float | None = None
    latency_ratio_max: float | None = None
    """How much slower by p95 than what the other devices run in the same time."""
    class_mix_max: float | None = None
    confidence_max: float | None = None
    disagreement_max: float | None = None


@dataclass(frozen=True)
class Phase:
    """A part of the rollout: so many devices in all, or such a share of them, have had their turn.

    Both are counted from the beginning of the rollout, not of the phase; neither: all.
    """

    name: str = ""
    devices: int | None = None
    percent: float | None = None
    where: str = ""
    """Instead: the devices that this selector means, see `ObservedDevice.from_phase`."""
    soak_s: float = 0.0
    """How long to watch when the last device has ended, before the next phase begins."""
    approval: bool = False
    """The next phase begins when a person says so."""
    experiment: Experiment | None = None
    gates: Gates | None = None
    """What must hold at its end; None: the gates of the policy."""


@dataclass(frozen=True)
class RolloutPolicy:
    """How a rollout goes about it."""

    max_in_progress: int = 100
    failures_max: int = 1
    attempts_max: int = 5
    phases: tuple[Phase, ...] = ()
    """None: one phase of all devices. The last is of all devices."""
    gates: Gates = Gates()
    deadline_s: float | None = None
    """How long an offline device is waited for; None: for ever."""
    on_deadline: Literal["leave", "fail"] = "leave"
    available_min: int | None = None
    """Devices of a site that must stay online and undisturbed; None: no budget."""
    available_percent: float | None = None
    """The same as a share of the site's devices."""


@dataclass(frozen=True)
class ObservedDevice:
    """What is known of one device of the rollout."""

    device: str
    state: DeviceState
    enrolled: bool = True
    online: bool = False
    since: datetime | None = None
    """When it came into this state, or was last ordered."""
    heard_at: datetime | None = None
    """When anything was last heard of it."""
    candidates: tuple[str, ...] | None = None
    """Manifests that it is or would be offered; None before it has reported what it is."""
    committed: str | None = None
    """Manifest with which it has committed."""
    order_counter: int | None = None
    """Counter of this rollout's order for it."""
    accepted_counter: int = 0
    """Counter of the newest order that it has accepted."""
    report: SlotReport | None = None
    rejected: frozenset[str] = frozenset()
    """Manifests that it remembers as bad."""
    from_phase: int = 0
    """Number of the first phase that is for it, from 0."""
    refusal: Reason | None = None
    """Why it does not obey this rollout's order, if it says so."""
    refused_since: datetime | None = None
    """When it was first heard to say so."""
    overtaken: bool = False
    """It takes its present order for a replay: only one with a higher number will do."""
    desired_here: bool = False
    """What its slot shall run still comes from this rollout."""
    site: str = ""
    held: bool = False
    """Another rollout comes first on it."""
    on_hold: bool = False
    """People let nothing begin on it."""
    flapping: bool = False
    """Its connection comes and goes: it is let alone until it stays."""


@dataclass(frozen=True)
class Site:
    """Devices that stand in for one another."""

    total: int
    available: int
    """Online, and no rollout is at work on them."""


@dataclass(frozen=True)
class Samples:
    """Counts by class or bin, of the new version and of the others: for each device, a row."""

    new: tuple[tuple[int, ...], ...] = ()
    reference: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Arm:
    """One side of an experiment: of each device or site, what went wrong of how much."""

    units: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Signals:
    """What the new version did in service since the phase began, and the others in that time."""

    requests: int = 0
    errors: int = 0
    latency_p95_us: float | None = None
    reference_requests: int = 0
    reference_p95_us: float | None = None
    classes: Samples = Samples()
    confidence: Samples = Samples()
    copies: int = 0
    """Copied requests that both the new version and the one before have answered."""
    agreed: int = 0
    """Those of them to which both gave the same answer."""
    challenger: Arm = Arm()
    champion: Arm = Arm()


GateName = Literal[
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


@dataclass(frozen=True)
class Verdict:
    """What a gate says, with its figures; `edgectl_server.schemas.VerdictInfo` says which."""

    gate: GateName
    verdict: Literal["passed", "failed", "not_enough_data"]
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
    """It has ended, and is not asked again."""


@dataclass(frozen=True)
class Standing:
    """How far a rollout has come in its phases."""

    phase: int = 0
    since: datetime | None = None
    """When the phase began, or went on after a pause; None before the first plan."""
    settled_at: datetime | None = None
    """When the last device of the phase had ended; nobody is ordered until the next begins."""
    approved: int = -1
    """Phase that a person has let pass, whatever is missing there."""
    verdicts: tuple[Verdict, ...] = ()
    """Of this phase."""
    passed: tuple[Verdict, ...] = ()
    """Of the phase before, in the plan that begins this one."""


@dataclass(frozen=True)
class ObservedRollout:
    """What is known of the rollout."""

    state: RolloutState
    devices: Sequence[ObservedDevice]
    failures_acknowledged: int = 0
    standing: Standing = Standing()
    sites: Mapping[str, Site] = field(default_factory=dict)
    signals: Signals = Signals()
    revert: bool = False
    """Of an aborted one: what has committed goes back too."""
    preparing: bool = False
    """Something is being made that devices shall be ordered with: nobody new is ordered yet."""
    lot: str = ""
    """What the lots of an experiment's devices are drawn from: the same in every plan."""


@dataclass(frozen=True)
class Mark:
    """A device's state is now this."""

    device: str
    state: DeviceState
    reason: Reason | None = None
    manifest: str | None = None
    """Of a device that has committed: with which one."""


@dataclass(frozen=True)
class Plan:
    """What shall be done, all of it in one transaction."""

    state: RolloutState
    marks: tuple[Mark, ...] = ()
    orders: tuple[str, ...] = ()
    """Devices to be told (if need be, anew) to run its version; they are in progress then."""
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of these devices, the only manifests that they may be offered."""
    restores: tuple[str, ...] = ()
    """Devices that shall run again what they were to run before this rollout."""
    note: str | None = None
    """Why it is paused, or what it waits for; None: what was said before is still true."""
    look_again_at: datetime | None = None
    """None: never, all is done."""
    recovered: int = 0
    """Of the marks: devices that had ended badly, and have committed after all."""
    standing: Standing = Standing()
