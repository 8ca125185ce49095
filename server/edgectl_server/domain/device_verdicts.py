"""What has become of each device of a rollout: what it says, and how long it has been silent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from edgectl_protocol.messages import Reason
from edgectl_protocol.update import ENDED, UpdateState
from edgectl_server.domain.phases import is_last, is_past_deadline
from edgectl_server.domain.rollout_facts import (
    BAD,
    OPEN,
    DeviceState,
    Mark,
    ObservedDevice,
    ObservedRollout,
    RolloutPolicy,
    RolloutState,
)

__all__ = ["CHANGES_MAX", "REFUSED_S_MAX", "find_marks", "taken_back"]

CHANGES_MAX = 250
"""Devices that one plan changes at most; the rest waits for the next."""
REFUSED_S_MAX = 600.0
"""How long a device may refuse its order: a clock is set within minutes, or not by itself."""
PARTNER_REJECTED = "update.partner_rejected"
"""The device will not try this version: one that it goes with was rejected there."""


def find_marks(policy: RolloutPolicy, observed: ObservedRollout, now: datetime) -> tuple[Mark, ...]:
    """Return the devices whose state is another one now, `CHANGES_MAX` at most."""
    marks = []
    last = is_last(policy, observed.standing)
    running = observed.state is RolloutState.RUNNING
    for device in observed.devices:
        mark = _verdict(policy, device)
        if mark is None and running:
            began = observed.standing.since if last else None
            mark = _deadline(policy, device, began, now) or _refuses(policy, device, now)
        if mark is not None:
            marks.append(mark)
        if len(marks) == CHANGES_MAX:
            break
    return tuple(marks)


def _verdict(policy: RolloutPolicy, device: ObservedDevice) -> Mark | None:
    """Return the device's new state, or None when it has none."""
    if not device.enrolled and (device.state in OPEN or device.state is DeviceState.OVERDUE):
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
    if device.state is DeviceState.OVERDUE:
        return _committed(device) or _returned(policy, device)
    return _committed(device) if device.state in BAD else None


def _returned(policy: RolloutPolicy, device: ObservedDevice) -> Mark | None:
    """Return what an overdue device is that had accepted its order, which therefore stands."""
    if not device.desired_here:
        return None
    ended = _ended_badly(policy, device)
    if ended is None and device.online:
        return Mark(device.device, DeviceState.IN_PROGRESS)
    return ended


def _deadline(
    policy: RolloutPolicy, device: ObservedDevice, began: datetime | None, now: datetime
) -> Mark | None:
    """Return what becomes of a device that is offline for too long.

    Args:
        policy: of the rollout.
        device: without another verdict.
        began: when the last phase began; None: a later one gives the device its turn.
        now: UTC.
    """
    if device.online or device.state not in OPEN:
        return None
    since = device.since if device.state is DeviceState.IN_PROGRESS else began
    if since is not None and device.heard_at is not None:
        since = max(since, device.heard_at)  # it was there: what counts is how long it is not
    if not is_past_deadline(policy, since, now):
        return None
    detail = f"offline, and waited for {policy.deadline_s:g} s"
    reason = Reason(code="rollout.deadline", detail=detail)
    state = DeviceState.OVERDUE if policy.on_deadline == "leave" else DeviceState.FAILED
    return Mark(device.device, state, reason)


def _refuses(policy: RolloutPolicy, device: ObservedDevice, now: datetime) -> Mark | None:
    """Return what becomes of a device that does not obey its order, for longer than it may."""
    if device.state is not DeviceState.IN_PROGRESS or device.refusal is None or device.overtaken:
        return None
    wait_s = min(REFUSED_S_MAX, policy.deadline_s or REFUSED_S_MAX)
    since = device.refused_since
    if since is None or now - since < timedelta(seconds=wait_s):
        return None
    state = DeviceState.OVERDUE if policy.on_deadline == "leave" else DeviceState.FAILED
    return Mark(device.device, state, device.refusal)


def taken_back(
    devices: Sequence[ObservedDevice], states: dict[str, DeviceState]
) -> tuple[str, ...]:
    """Return devices that become overdue and have not accepted the order that they have."""
    return tuple(
        one.device
        for one in devices
        if one.state is DeviceState.IN_PROGRESS
        and states[one.device] in {DeviceState.OVERDUE, DeviceState.FAILED}
        and one.desired_here
        and one.order_counter is not None
        and one.accepted_counter < one.order_counter
    )


def _committed(device: ObservedDevice) -> Mark | None:
    report = device.report
    if report is None or report.running is None:
        return None
    update = report.update
    idle = update is None or update.state in ENDED
    if idle and report.running.manifest in (device.candidates or ()):
        return Mark(device.device, DeviceState.COMMITTED, manifest=report.running.manifest)
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
