"""What the planner is given of a rollout: its rows and those of its devices, as facts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from edgectl_protocol.messages import ReportedState
from edgectl_server.domain import rollouts as domain
from edgectl_server.domain.phases import gates_of
from edgectl_server.domain.rollout_facts import GONE, OPEN
from edgectl_server.domain.rollouts import DeviceState, RolloutState
from edgectl_server.domain.variants import ClassFigures, VariantFacts
from edgectl_server.flapping import is_flapping
from edgectl_server.order_answers import is_overtaken, knows_order, refusal_of, reported_of
from edgectl_server.ordering import Ordering, variants_of
from edgectl_server.rollout_experiments import add_windows, read_arms
from edgectl_server.rollout_phases import planner_policy, standing_of
from edgectl_server.rollout_signals import read_copies, read_signals
from edgectl_server.rollout_sites import lock_sites, read_sites, site_of
from edgectl_server.schemas import RolloutPolicy
from edgectl_server.storage.tables import (
    DesiredSlot,
    Device,
    ModelVersion,
    Rollout,
    RolloutDevice,
)

__all__ = ["observe"]

_BYTES_MAX = 2**40
"""More than a bundle can have: what a device says beyond that is not believed."""


def observe(
    session: Session,
    ordering: Ordering,
    rollout: Rollout,
    version: ModelVersion,
    *,
    preparing: bool,
    now: datetime,
) -> tuple[dict[str, RolloutDevice], domain.ObservedRollout]:
    """Return the rows of the rollout's devices and what the planner needs to know of them."""
    policy = RolloutPolicy.model_validate(rollout.policy)
    has_budget = policy.available_min is not None or policy.available_percent is not None
    if has_budget:
        lock_sites(session)
    variants = variants_of(session, version.id)
    known: dict[str, dict[str, ClassFigures]] = {}
    found = session.execute(
        select(RolloutDevice, Device, DesiredSlot)
        .outerjoin(Device, Device.id == RolloutDevice.device)
        .outerjoin(
            DesiredSlot,
            (DesiredSlot.device == RolloutDevice.device)
            & (DesiredSlot.slot == rollout.model)
            & (DesiredSlot.rollout == rollout.id),
        )
        .where(RolloutDevice.rollout == rollout.id)
        .order_by(RolloutDevice.device)
    ).all()

    def candidates_of(
        device: Device, reported: ReportedState | None, ranking: list[str] | None
    ) -> tuple[VariantFacts, ...] | None:
        return ordering.candidates(
            session, device, reported, variants, ranking=ranking, known=known
        )

    held = _held(session, rollout)
    devices = [
        _observe_device(row, device, desired, rollout.model, candidates_of, held=held, now=now)
        for row, device, desired in found
    ]
    for row, device, _ in found:
        _note_transfer(row, device, rollout)
    observed = domain.ObservedRollout(
        state=RolloutState(rollout.state),
        devices=devices,
        failures_acknowledged=rollout.failures_acknowledged,
        standing=standing_of(rollout),
        sites=read_sites(session) if has_budget else {},
        signals=_signals(
            session,
            rollout,
            policy,
            [(row, device) for row, device, _ in found],
            manifests=[one.manifest for one in variants],
            now=now,
        ),
        revert=rollout.revert,
        preparing=preparing,
        lot=rollout.id,
    )
    return {row.device: row for row, _, _ in found}, observed


def _note_transfer(row: RolloutDevice, device: Device | None, rollout: Rollout) -> None:
    """Keep what a device says that its download for this rollout has cost."""
    reported = None if device is None else reported_of(device)
    report = None if reported is None else reported.slots.get(rollout.model)
    update = None if report is None else report.update
    if update is None or update.transfer is None or update.rollout != rollout.id:
        return
    if row.order_counter is None or update.order < row.order_counter:
        return
    told = (update.transfer.whole_bytes, update.transfer.fetched_bytes)
    whole, fetched = (min(one, _BYTES_MAX) for one in told)
    if (row.whole_bytes, row.fetched_bytes) != (whole, fetched):
        row.whole_bytes, row.fetched_bytes = whole, fetched


def _held(session: Session, rollout: Rollout) -> frozenset[str]:
    """Return devices on which a running rollout of higher priority comes first."""
    other = aliased(RolloutDevice)
    return frozenset(
        session.scalars(
            select(other.device)
            .join(Rollout, Rollout.id == other.rollout)
            .join(RolloutDevice, RolloutDevice.device == other.device)
            .where(
                RolloutDevice.rollout == rollout.id,
                other.rollout != rollout.id,
                Rollout.state == RolloutState.RUNNING.value,
                Rollout.priority > rollout.priority,
                other.state.in_([state.value for state in OPEN]),
            )
        )
    )


def _signals(
    session: Session,
    rollout: Rollout,
    policy: RolloutPolicy,
    members: Sequence[tuple[RolloutDevice, Device | None]],
    *,
    manifests: list[str],
    now: datetime,
) -> domain.Signals:
    """Read telemetry only where a gate is about to ask for it."""
    if rollout.settled_at is None:
        return domain.Signals()
    planned = planner_policy(policy)
    gates = gates_of(planned, standing_of(rollout))
    asked = (
        gates.error_rate_max,
        gates.latency_p95_us_max,
        gates.latency_ratio_max,
        gates.class_mix_max,
        gates.confidence_max,
    )
    found = domain.Signals()
    phase = planned.phases[rollout.phase]
    soaks = now - rollout.settled_at < timedelta(seconds=phase.soak_s)
    if any(one is not None for one in asked) and not soaks:
        found = read_signals(session, rollout, manifests)
    if gates.disagreement_max is not None:
        copies, agreed = read_copies(rollout, members)
        found = replace(found, copies=copies, agreed=agreed)
    experiment = phase.experiment
    if experiment is not None:
        rows = [row for row, _ in members]
        add_windows(session, rollout, experiment, rows, manifests=manifests, now=now)
        challenger, champion = read_arms(experiment, members)
        found = replace(found, challenger=challenger, champion=champion)
    return found


_CandidatesOf = Callable[
    [Device, ReportedState | None, list[str] | None], tuple[VariantFacts, ...] | None
]


def _observe_device(
    row: RolloutDevice,
    device: Device | None,
    desired: DesiredSlot | None,
    slot: str,
    candidates_of: _CandidatesOf,
    *,
    held: Collection[str],
    now: datetime,
) -> domain.ObservedDevice:
    """Return what the planner needs, and keep since when the device refuses its order.

    `desired` is what this rollout desires there, None if nothing.
    """
    state = DeviceState(row.state)
    enrolled = device is not None and device.state == "enrolled"
    desired_here = desired is not None
    # What has ended well is not looked into: it is most of a large rollout.
    if device is None or state is DeviceState.COMMITTED or state in GONE:
        return domain.ObservedDevice(
            device=row.device,
            state=state,
            enrolled=enrolled,
            committed=row.manifest,
            desired_here=desired_here,
            from_phase=row.from_phase,
        )
    reported = reported_of(device)
    refusal = refusal_of(reported, row.order_counter)
    row.refused_since = None if refusal is None else row.refused_since or now
    candidates = candidates_of(device, reported, None if desired is None else desired.ranking)
    accepted = 0
    if reported is not None and knows_order(device, reported.order_counter, reported.order_nonce):
        accepted = reported.order_counter
    return domain.ObservedDevice(
        device=row.device,
        state=state,
        enrolled=enrolled,
        online=device.online,
        since=row.updated_at,
        heard_at=device.last_seen_at,
        candidates=None if candidates is None else tuple(one.manifest for one in candidates),
        order_counter=row.order_counter,
        accepted_counter=accepted,
        report=None if reported is None else reported.slots.get(slot),
        rejected=frozenset() if reported is None else frozenset(reported.rejected),
        from_phase=row.from_phase,
        refusal=refusal,
        refused_since=row.refused_since,
        overtaken=reported is not None and is_overtaken(device, reported),
        site=site_of(device),
        held=row.device in held,
        on_hold=device.held_at is not None,
        flapping=is_flapping(device, now),
        desired_here=desired_here,
    )
