"""The rollout planner: what a rollout does next, from what is seen, and nothing else.

A device of a rollout is in one of these states::

    pending ──► in_progress ──► committed
       │             ├────────► failed        it could not be done, and the device has given up
       │             ├────────► rejected      the device proved that this version must not run there
       │             ├────────► rolled_back   it ran, misbehaved, and the old one is back
       └─────────────┴────────► cancelled     aborted, or the device was decommissioned

Rules:

1. A device counts as committed only when it reports that it runs a manifest of this version with
   no update under way, after it has accepted this rollout's order. Bytes delivered are no success.
2. At most ``max_in_progress`` devices are in progress. Devices that are online come first; an
   order for an offline device waits for it on the broker, but only where everybody has a place,
   so that a device which never returns keeps no other from its turn.
3. ``failed`` on a device is not the end: it tries again by itself, up to ``attempts_max``.
4. When ``failures_max`` devices have ended badly since the last resume, it pauses. It does not
   pause when nobody is left to protect.
5. Paused: facts are still noted, nobody is ordered. Aborted: devices that are not committed get
   back what they were to run before, and nobody is ordered.
6. A device that was written off and then does commit is committed: facts win.
7. It is complete when every device has ended.
8. While something is prepared for it that saves devices from fetching, nobody is ordered; how long
   that may take is for whoever says so.

`plan` may be called twice with the same facts, and late: what it says is true of the facts it was
given, and whoever acts on it checks that they have not changed (see `edgectl_server.rollouts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from edgectl_protocol.messages import Reason, SlotReport
from edgectl_protocol.update import ENDED, UpdateState

__all__ = [
    "DeviceState",
    "Mark",
    "ObservedDevice",
    "ObservedRollout",
    "Plan",
    "RolloutPolicy",
    "RolloutState",
    "plan",
]

CHANGES_MAX = 500
"""Devices that one plan changes at most; the rest waits for the next."""


PARTNER_REJECTED = "update.partner_rejected"
"""The device will not try this version: one that it goes with was rejected there."""


class DeviceState(StrEnum):
    """Where a device stands in a rollout."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMMITTED = "committed"
    FAILED = "failed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


class RolloutState(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ABORTED = "aborted"


OPEN = frozenset({DeviceState.PENDING, DeviceState.IN_PROGRESS})
BAD = frozenset({DeviceState.FAILED, DeviceState.REJECTED, DeviceState.ROLLED_BACK})


@dataclass(frozen=True)
class RolloutPolicy:
    """How a rollout goes about it."""

    max_in_progress: int = 100
    failures_max: int = 1
    attempts_max: int = 5


@dataclass(frozen=True)
class ObservedDevice:
    """What is known of one device of the rollout."""

    device: str
    state: DeviceState
    enrolled: bool = True
    online: bool = False
    candidates: tuple[str, ...] | None = None
    """Manifests that it is or would be offered; None before it has reported what it is."""
    order_counter: int | None = None
    """Counter of this rollout's order for it."""
    accepted_counter: int = 0
    """Counter of the newest order that it has accepted."""
    report: SlotReport | None = None
    rejected: frozenset[str] = frozenset()
    """Manifests that it remembers as bad."""
    refused: bool = False
    """It has said that it does not obey this rollout's order."""
    overtaken: bool = False
    """It takes its present order for a replay: only one with a higher number will do."""
    desired_here: bool = False
    """What its slot shall run still comes from this rollout."""


@dataclass(frozen=True)
class ObservedRollout:
    """What is known of the rollout."""

    state: RolloutState
    devices: Sequence[ObservedDevice]
    failures_acknowledged: int = 0
    preparing: bool = False
    """Something is being made that devices shall be ordered with: nobody new is ordered yet."""


@dataclass(frozen=True)
class Mark:
    """A device's state is now this."""

    device: str
    state: DeviceState
    reason: Reason | None = None


@dataclass(frozen=True)
class Plan:
    """What shall be done, all of it in one transaction."""

    state: RolloutState
    marks: tuple[Mark, ...] = ()
    orders: tuple[str, ...] = ()
    """Devices to be told (if need be, anew) to run its version; they are in progress then."""
    restores: tuple[str, ...] = ()
    """Devices that shall run again what they were to run before this rollout."""
    note: str | None = None
    """Why it is paused, or what it waits for; None: what was said before is still true."""
    look_again_at: datetime | None = None
    """None: never, all is done."""


def plan(policy: RolloutPolicy, observed: ObservedRollout, now: datetime) -> Plan:
    """Return what the rollout does next.

    Args:
        policy: as the rollout was started with.
        observed: the facts.
        now: UTC.
    """
    if observed.state is RolloutState.ABORTED:
        return _plan_abort(observed, now)
    if observed.state is RolloutState.COMPLETED:
        return Plan(state=RolloutState.COMPLETED)

    marks = _marks(policy, observed)
    states = {one.device: one.state for one in observed.devices}
    states.update({mark.device: mark.state for mark in marks})
    counts = Counter(states.values())
    bad = sum(counts[state] for state in BAD)
    if not any(counts[state] for state in OPEN):
        return Plan(state=RolloutState.COMPLETED, marks=marks, note=_outcome(counts))

    state = observed.state
    note: str | None = None
    unacknowledged = bad - observed.failures_acknowledged
    if state is RolloutState.RUNNING and unacknowledged >= policy.failures_max:
        state = RolloutState.PAUSED
        note = f"paused by itself: {_outcome(counts)}; resume or abort"
    orders: tuple[str, ...] = ()
    if state is RolloutState.RUNNING and observed.preparing:
        note = "waiting for deltas that are being made"
    elif state is RolloutState.RUNNING:
        orders = _orders(policy, observed.devices, states)
        note = _waits(observed.devices, states, orders)
    more = len(marks) == CHANGES_MAX or len(orders) == CHANGES_MAX
    return Plan(
        state=state,
        marks=marks,
        orders=orders,
        note=note,
        look_again_at=now if more else now + timedelta(seconds=5),
    )


def _plan_abort(observed: ObservedRollout, now: datetime) -> Plan:
    """Take back what is not committed; a device that commits meanwhile is told to go back too."""
    reason = Reason(code="rollout.aborted", detail="the rollout was aborted")
    cancelled = [one.device for one in observed.devices if one.state in OPEN]
    restores = [
        one.device
        for one in observed.devices
        if one.desired_here and one.enrolled and one.state is not DeviceState.COMMITTED
    ]
    # A device is restored in the same transaction in which it is cancelled, or before.
    chosen = set(sorted({*cancelled, *restores})[:CHANGES_MAX])
    left = len({*cancelled, *restores}) - len(chosen)
    return Plan(
        state=RolloutState.ABORTED,
        marks=tuple(Mark(one, DeviceState.CANCELLED, reason) for one in cancelled if one in chosen),
        restores=tuple(one for one in restores if one in chosen),
        note=None,  # who aborted it, and why, stays
        look_again_at=now if left else None,
    )


def _marks(policy: RolloutPolicy, observed: ObservedRollout) -> tuple[Mark, ...]:
    marks = []
    for device in observed.devices:
        mark = _verdict(policy, device)
        if mark is not None:
            marks.append(mark)
        if len(marks) == CHANGES_MAX:
            break
    return tuple(marks)


def _verdict(policy: RolloutPolicy, device: ObservedDevice) -> Mark | None:
    """Return the device's new state, or None when it has none."""
    if device.state in OPEN and not device.enrolled:
        reason = Reason(code="device.decommissioned", detail="the device was decommissioned")
        return Mark(device.device, DeviceState.CANCELLED, reason)
    if device.state is DeviceState.PENDING and device.candidates == ():
        detail = "no variant of it can run on the device, or be opened there"
        reason = Reason(code="rollout.no_variant", detail=detail)
        return Mark(device.device, DeviceState.FAILED, reason)
    if device.order_counter is None or device.accepted_counter < device.order_counter:
        return None  # what it reports is not an answer to our order
    if device.state is DeviceState.IN_PROGRESS:
        return _committed(device) or _ended_badly(policy, device)
    if device.state in BAD:
        return _committed(device)
    return None


def _committed(device: ObservedDevice) -> Mark | None:
    report = device.report
    if report is None or report.running is None:
        return None
    update = report.update
    idle = update is None or update.state in ENDED
    if idle and report.running.manifest in (device.candidates or ()):
        return Mark(device.device, DeviceState.COMMITTED)
    return None


def _ended_badly(policy: RolloutPolicy, device: ObservedDevice) -> Mark | None:
    candidates = device.candidates or ()
    update = None if device.report is None else device.report.update
    if update is None or update.manifest not in candidates or update.order < device.order_counter:  # type: ignore[operator]  # _verdict has checked it
        if candidates and device.rejected.issuperset(candidates):
            detail = "the device has rejected every variant of this version before"
            reason = Reason(code="device.rejected_before", detail=detail)
            return Mark(device.device, DeviceState.REJECTED, reason)
        return None
    if update.state is UpdateState.FAILED and update.attempt >= policy.attempts_max:
        return Mark(device.device, DeviceState.FAILED, update.reason)
    if update.state is UpdateState.ROLLED_BACK:
        return Mark(device.device, DeviceState.ROLLED_BACK, update.reason)
    if update.state is UpdateState.REJECTED:
        # While another candidate is left, the device goes on with that one.
        left = set(candidates) - device.rejected - {update.manifest}
        by_partner = update.reason is not None and update.reason.code == PARTNER_REJECTED
        if not left or update.manifest == candidates[-1] or by_partner:
            return Mark(device.device, DeviceState.REJECTED, update.reason)
    return None


def _orders(
    policy: RolloutPolicy,
    devices: Sequence[ObservedDevice],
    states: dict[str, DeviceState],
) -> tuple[str, ...]:
    counts = Counter(states.values())
    places = policy.max_in_progress - counts[DeviceState.IN_PROGRESS]
    waiting = [one for one in devices if states[one.device] is DeviceState.PENDING]
    everybody_has_a_place = len(waiting) <= places
    ready = [one for one in waiting if one.candidates and (one.online or everybody_has_a_place)]
    ready.sort(key=lambda one: (not one.online, one.device))
    again = [
        one
        for one in devices
        if states[one.device] is DeviceState.IN_PROGRESS and one.overtaken and one.desired_here
    ]
    return tuple(one.device for one in [*again, *ready[: max(0, places)]][:CHANGES_MAX])


def _waits(
    devices: Sequence[ObservedDevice], states: dict[str, DeviceState], orders: tuple[str, ...]
) -> str:
    """Say what an unfinished rollout waits for, where that is not plain progress."""
    open_devices = [one for one in devices if states[one.device] in OPEN]
    offline = sum(1 for one in open_devices if not one.online)
    unknown = sum(
        1
        for one in open_devices
        if one.online and one.candidates is None and one.device not in orders
    )
    refused = sum(1 for one in open_devices if one.refused and one.device not in orders)
    parts = []
    if refused:
        parts.append(f"{refused} {_devices(refused)} to take an order that was refused")
    if offline:
        parts.append(f"{offline} offline {_devices(offline)}")
    if unknown:
        parts.append(f"the first report of {unknown} {_devices(unknown)}")
    return f"waiting for {' and '.join(parts)}" if parts else ""


def _outcome(counts: Counter[DeviceState]) -> str:
    bad = [f"{counts[state]} {state.replace('_', ' ')}" for state in sorted(BAD) if counts[state]]
    return ", ".join(bad)


def _devices(count: int) -> str:
    return "device" if count == 1 else "devices"
