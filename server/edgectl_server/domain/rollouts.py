"""The rollout planner: what a rollout does next, from what is seen, and nothing else.

A device of a rollout is in one of these states::

    pending ──► in_progress ──► committed ──► reverted      by an abort that takes everything back
       │          ▲  │ │
       │          │  │ ├──────► failed        it could not be done, and the device has given up
       │          │  │ ├──────► rejected      the device proved that this version must not run there
       │          │  │ └──────► rolled_back   it ran, misbehaved, and the old one is back
       ├──────────┼──┴────────► cancelled     aborted, decommissioned, or no longer selected
       └──────► overdue                       offline for too long: nobody waits for it

Rules:

1. A device counts as committed only when it reports that it runs a manifest of this version with
   no update under way, after it has accepted this rollout's order. Bytes delivered are no success.
2. At most ``max_in_progress`` devices are in progress, and no more are admitted than the phase
   allows, whenever they joined. Devices that are online come first; an order for an offline device
   waits for it on the broker, but only where everybody has a place, so that a device which never
   returns keeps no other from its turn.
3. ``failed`` on a device is not the end: it tries again by itself, up to ``attempts_max``.
   ``rejected`` is: that digest is not tried there again.
4. When ``failures_max`` devices have ended badly since the last resume, it pauses; so it does when
   a gate of a phase fails. It does not pause when nobody is left to protect.
5. Paused: facts are still noted, nobody is ordered. Aborted: devices that are not committed get
   back what they were to run before, those in progress among them, and nobody is ordered; with
   ``revert``, those that have committed get it back too.
6. A device that was written off and then does commit is committed: facts win. Its failure is not
   one that was acknowledged any more, or the next would be free.
7. An offline device is waited for until the deadline, from its order or from when it was last heard
   of, whichever is later: one that is there for hours and loses its connection for a moment is not
   late. Then it is overdue, or has failed, by policy: it holds no place, and what it has not
   accepted is taken back, so that it cannot come back at its own time and update beside the
   budgets. When it is online again before the end, it has its turn like everybody.
8. No site is left with fewer available devices than its budget says: online, and not in progress
   in any rollout. Who is offline is not available already.
9. With phases, what is promoted is what was proved: devices after the first phase are offered
   manifests with which one has committed here. A manifest that nobody has proved yet goes to one
   device at a time. The first phase takes devices that would run different manifests.
10. A device that refuses its order, its clock being wrong for example, is waited for like one that
    is offline, but no longer than `REFUSED_S_MAX`. Then it is overdue, or has failed, for the
    reason that it gives, until it takes an order again.
11. A phase with a selector is for the devices that it means. In an experiment, lots are drawn.
12. It is complete when every device has ended or is overdue, and no phase is left for the latter.
13. While something is prepared for it that saves devices from fetching, nobody is ordered; how long
    that may take is for whoever says so.

`plan` may be called twice with the same facts, and late: what it says is true of the facts it was
given, and whoever acts on it checks that they have not changed (see `edgectl_server.rollouts`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from edgectl_protocol.messages import Reason
from edgectl_server.domain.device_verdicts import CHANGES_MAX, find_marks, taken_back
from edgectl_server.domain.phase_gates import PhaseFacts
from edgectl_server.domain.phases import (
    advance,
    count_selected,
    has_failed,
    is_last,
    is_past_deadline,
    targets,
    waits_for,
)
from edgectl_server.domain.rollout_facts import (
    ADMITTED,
    BAD,
    GONE,
    OPEN,
    Arm,
    DeviceState,
    Experiment,
    Gates,
    Mark,
    ObservedDevice,
    ObservedRollout,
    Phase,
    Plan,
    RolloutPolicy,
    RolloutState,
    Samples,
    Signals,
    Site,
    Standing,
    Verdict,
)
from edgectl_server.domain.sites import SiteBudget

__all__ = [
    "BAD",
    "CHANGES_MAX",
    "OPEN",
    "Arm",
    "DeviceState",
    "Experiment",
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
    "in_line",
    "plan",
]

_LOOK_AGAIN = timedelta(seconds=5)


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
        return Plan(state=RolloutState.COMPLETED, standing=observed.standing)

    marks = find_marks(policy, observed, now)
    states = {one.device: one.state for one in observed.devices}
    states.update({mark.device: mark.state for mark in marks})
    counts = Counter(states.values())
    restores = taken_back(observed.devices, states)
    standing = observed.standing
    is_open = any(counts[state] for state in OPEN)
    if not is_open and (is_last(policy, standing) or not counts[DeviceState.OVERDUE]):
        said = _outcome(counts)
        return Plan(RolloutState.COMPLETED, marks, restores=restores, note=said, standing=standing)

    state = observed.state
    note: str | None = None
    written_off = {one.device for one in observed.devices if one.state in BAD}
    recovered = sum(1 for one in marks if one.device in written_off)
    acknowledged = max(0, observed.failures_acknowledged - recovered)
    unacknowledged = sum(counts[one] for one in BAD) - acknowledged
    if state is RolloutState.RUNNING and unacknowledged >= policy.failures_max:
        state = RolloutState.PAUSED
        note = f"paused by itself: {_outcome(counts)}; resume or abort"
    chosen = _Chosen()
    if state is RolloutState.RUNNING:
        facts = _phase_facts(policy, observed, states, counts, now)
        standing = advance(policy, standing, facts, now)
        if has_failed(standing):
            state = RolloutState.PAUSED
            note = _gate_note(policy, standing)
        elif observed.preparing:
            note = "waiting for deltas that are being made"
        else:
            proved = frozenset(
                manifest
                for manifest in [
                    *(one.committed for one in observed.devices),
                    *(mark.manifest for mark in marks),
                ]
                if manifest is not None
            )
            chosen = _choose(policy, observed, states, standing, proved)
            note = waits_for(policy, standing) or _waits(observed.devices, states, chosen)
    more = (
        len(marks) == CHANGES_MAX
        or len(chosen.orders) == CHANGES_MAX
        or standing.phase != observed.standing.phase
    )
    return Plan(
        state=state,
        marks=marks,
        orders=chosen.orders,
        offers=chosen.offers,
        restores=restores,
        note=note,
        look_again_at=now if more else now + _LOOK_AGAIN,
        standing=standing,
        recovered=recovered,
    )


def in_line(policy: RolloutPolicy, ready: Sequence[ObservedDevice]) -> list[ObservedDevice]:
    """Return in which order devices would have their turn in a rollout that begins."""
    proofs = _Proofs(policy, Standing(), frozenset(), ())
    states = {one.device: DeviceState.PENDING for one in ready}
    first = proofs.in_order([one for one in ready if one.from_phase == 0])
    first = first[: _targets(policy, ready, states)[0]]
    chosen = {one.device for one in first}
    rest = [one for one in ready if one.device not in chosen]
    return [*first, *sorted(rest, key=lambda one: (one.from_phase, not one.online, one.device))]


def _plan_abort(observed: ObservedRollout, now: datetime) -> Plan:
    """Take back what is not committed, or all of it.

    A device that commits meanwhile is told to go back too.
    """
    aborted = Reason(code="rollout.aborted", detail="the rollout was aborted")
    reverted = Reason(code="rollout.reverted", detail="the rollout was aborted and taken back")
    marks = [
        Mark(one.device, DeviceState.CANCELLED, aborted)
        for one in observed.devices
        if one.state in OPEN or one.state is DeviceState.OVERDUE
    ]
    restores = [
        one.device
        for one in observed.devices
        if one.desired_here
        and one.enrolled
        and (observed.revert or one.state is not DeviceState.COMMITTED)
    ]
    committed = {one.device for one in observed.devices if one.state is DeviceState.COMMITTED}
    marks += [Mark(name, DeviceState.REVERTED, reverted) for name in restores if name in committed]
    # A device is restored in the same transaction in which it is marked, or before.
    all_changed = sorted({mark.device for mark in marks} | set(restores))
    chosen = set(all_changed[:CHANGES_MAX])
    return Plan(
        state=RolloutState.ABORTED,
        marks=tuple(mark for mark in marks if mark.device in chosen),
        restores=tuple(one for one in restores if one in chosen),
        note=None,  # who aborted it, and why, stays
        look_again_at=now if len(all_changed) > len(chosen) else None,
        standing=observed.standing,
    )


# ---------------------------------------------------------------- who is next


@dataclass(frozen=True)
class _Chosen:
    """Devices to be ordered, and what they may be offered where that is limited."""

    orders: tuple[str, ...] = ()
    offers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    site_bound: int = 0
    """Devices that wait for others of their site."""


def _is_ready(device: ObservedDevice, state: DeviceState) -> bool:
    """Say whether the device waits, and could be told what to run."""
    if not device.candidates or device.held or device.on_hold or device.flapping:
        return False
    if state is DeviceState.OVERDUE:
        return device.online and not device.desired_here and device.refusal is None
    return state is DeviceState.PENDING


def _is_near(policy: RolloutPolicy, device: ObservedDevice, now: datetime) -> bool:
    """Say whether the device is there, or was until not long ago."""
    if device.online or device.heard_at is None:
        return device.online
    return not is_past_deadline(policy, device.heard_at, now)


def _phase_facts(
    policy: RolloutPolicy,
    observed: ObservedRollout,
    states: dict[str, DeviceState],
    counts: Counter[DeviceState],
    now: datetime,
) -> PhaseFacts:
    budget = SiteBudget(policy, observed.sites)
    phase = observed.standing.phase
    meant = [one for one in observed.devices if one.from_phase <= phase]
    reachable = sum(
        1
        for one in meant
        if _is_near(policy, one, now)
        and _is_ready(one, states[one.device])
        and budget.has_left(one.site)
    )
    return PhaseFacts(
        total=len(states) - sum(counts[one] for one in GONE),
        targets=_targets(policy, observed.devices, states),
        waiting=sum(1 for one in meant if states[one.device] is DeviceState.PENDING),
        admitted=sum(counts[one] for one in ADMITTED),
        in_progress=counts[DeviceState.IN_PROGRESS],
        committed=counts[DeviceState.COMMITTED],
        bad=sum(counts[one] for one in BAD),
        reachable=reachable,
        signals=observed.signals,
    )


def _targets(
    policy: RolloutPolicy, devices: Sequence[ObservedDevice], states: dict[str, DeviceState]
) -> tuple[int, ...]:
    here = [one.from_phase for one in devices if states[one.device] not in GONE]
    return targets(policy.phases, len(here), count_selected(policy.phases, here))


def _choose(
    policy: RolloutPolicy,
    observed: ObservedRollout,
    states: dict[str, DeviceState],
    standing: Standing,
    proved: frozenset[str],
) -> _Chosen:
    devices = observed.devices
    counts = Counter(states.values())
    again = [
        one
        for one in devices
        if states[one.device] is DeviceState.IN_PROGRESS and one.overtaken and one.desired_here
    ]
    offers = {one.device: one.candidates or () for one in again}
    orders = [one.device for one in again]
    places = policy.max_in_progress - counts[DeviceState.IN_PROGRESS]
    if policy.phases:
        admitted = sum(counts[one] for one in ADMITTED)
        target = _targets(policy, devices, states)[standing.phase]
        places = 0 if standing.settled_at is not None else min(places, target - admitted)
    meant = [one for one in devices if one.from_phase <= standing.phase]
    waiting = [one for one in meant if states[one.device] is DeviceState.PENDING]
    everybody_has_a_place = len(waiting) <= places
    ready = [
        one
        for one in meant
        if _is_ready(one, states[one.device]) and (one.online or everybody_has_a_place)
    ]
    tried = [
        one.candidates or () for one in devices if states[one.device] is DeviceState.IN_PROGRESS
    ]
    proofs = _Proofs(policy, standing, proved, tried, lot=observed.lot)
    budget = SiteBudget(policy, observed.sites)
    site_bound = 0
    for one in proofs.in_order(ready):
        if places <= 0 or len(orders) >= CHANGES_MAX:
            break
        offered = proofs.offer(one)
        if not offered:
            continue
        if one.online and not budget.take(one.site):
            site_bound += 1
            continue
        places -= 1
        orders.append(one.device)
        proofs.note(offered)
        if policy.phases:
            offers[one.device] = offered
    limited = {name: offers[name] for name in orders if name in offers and policy.phases}
    return _Chosen(tuple(orders[:CHANGES_MAX]), limited, site_bound)


class _Proofs:
    """Which manifests have been proved in this rollout, and who may try one that has not."""

    def __init__(
        self,
        policy: RolloutPolicy,
        standing: Standing,
        proved: frozenset[str],
        tried: Sequence[tuple[str, ...]],
        *,
        lot: str = "",
    ) -> None:
        self._phased = bool(policy.phases)
        self._lot = lot
        self._drawn = self._phased and policy.phases[standing.phase].experiment is not None
        self._first = standing.phase == 0
        self._proved = proved
        self._tried = {manifest for offered in tried for manifest in offered} - proved

    def in_order(self, ready: Sequence[ObservedDevice]) -> list[ObservedDevice]:
        """Return who is next: online first; in the first phase one of each manifest first.

        Then by name; for an experiment by lot, so that its sides do not differ by how they are
        named.
        """
        in_line = sorted(ready, key=lambda one: (not one.online, self._rank(one)))
        if not (self._phased and self._first):
            return in_line
        seen: Counter[str] = Counter()
        ranked = []
        for place, one in enumerate(in_line):
            assert one.candidates, one.device  # else it is not ready
            ranked.append((not one.online, seen[one.candidates[0]], place, one))
            seen[one.candidates[0]] += 1
        return [one for *_, one in sorted(ranked, key=lambda entry: entry[:3])]

    def _rank(self, device: ObservedDevice) -> str:
        if not self._drawn:
            return device.device
        return hashlib.sha256(f"{self._lot}/{device.device}".encode()).hexdigest()

    def offer(self, device: ObservedDevice) -> tuple[str, ...]:
        """Return the manifests that the device may be offered now."""
        candidates = device.candidates or ()
        if not self._phased or self._first:
            return candidates
        proved = tuple(one for one in candidates if one in self._proved)
        if proved:
            return proved
        return () if self._tried.intersection(candidates) else candidates

    def note(self, offered: tuple[str, ...]) -> None:
        """Somebody is about to try these."""
        self._tried |= set(offered) - self._proved


# ---------------------------------------------------------------- what is said


def _waits(
    devices: Sequence[ObservedDevice], states: dict[str, DeviceState], chosen: _Chosen
) -> str:
    """Say what an unfinished rollout waits for, where that is not plain progress."""
    open_devices = [one for one in devices if states[one.device] in OPEN]
    others = [one for one in open_devices if one.device not in chosen.orders]
    pending = [one for one in others if states[one.device] is DeviceState.PENDING]
    offline = sum(1 for one in open_devices if not one.online)
    unknown = sum(1 for one in others if one.online and one.candidates is None)
    refused = sum(1 for one in others if one.refusal is not None)
    held = sum(1 for one in pending if one.held)
    on_hold = sum(1 for one in pending if one.on_hold)
    flapping = sum(1 for one in pending if one.flapping and one.online)
    bound = chosen.site_bound
    parts = [
        f"{refused} {_devices(refused)} to take an order that was refused" if refused else "",
        f"{offline} offline {_devices(offline)}" if offline else "",
        f"the first report of {unknown} {_devices(unknown)}" if unknown else "",
        f"{held} {_devices(held)} in another rollout" if held else "",
        f"{on_hold} held {_devices(on_hold)}" if on_hold else "",
        f"{flapping} {_devices(flapping)} whose connection comes and goes" if flapping else "",
        f"{bound} {_devices(bound)} whose site has too few others available" if bound else "",
    ]
    told = " and ".join(part for part in parts if part)
    return f"waiting for {told}" if told else ""


def _gate_note(policy: RolloutPolicy, standing: Standing) -> str:
    failed = [one for one in standing.verdicts if one.verdict == "failed"]
    told = "; ".join(f"{one.gate}: {one.detail}" for one in failed)
    phase = policy.phases[standing.phase].name
    return f"paused by itself: phase {phase} failed its gates: {told}; resume or abort"


def _outcome(counts: Counter[DeviceState]) -> str:
    said = [*sorted(BAD), DeviceState.OVERDUE]
    return ", ".join(f"{counts[one]} {one.replace('_', ' ')}" for one in said if counts[one])


def _devices(count: int) -> str:
    return "device" if count == 1 else "devices"
