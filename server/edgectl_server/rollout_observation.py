"""What the planner is given of a rollout: its rows and those of its devices, as facts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from edgectl_protocol.messages import ReportedState
from edgectl_server.domain import rollouts as domain
from edgectl_server.domain.rollout_facts import GONE, OPEN
from edgectl_server.domain.rollouts import DeviceState, RolloutState
from edgectl_server.domain.variants import Measured, VariantFacts
from edgectl_server.flapping import is_flapping
from edgectl_server.order_answers import is_overtaken, knows_order, refusal_of, reported_of
from edgectl_server.ordering import Ordering, variants_of
from edgectl_server.rollout_phases import standing_of
from edgectl_server.rollout_signals import read_signals
from edgectl_server.rollout_sites import read_sites, site_of
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
    variants = variants_of(session, version.id)
    known: dict[str, tuple[Measured, ...]] = {}
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
    policy = RolloutPolicy.model_validate(rollout.policy)
    has_budget = policy.available_min is not None or policy.available_percent is not None
    observed = domain.ObservedRollout(
        state=RolloutState(rollout.state),
        devices=devices,
        failures_acknowledged=rollout.failures_acknowledged,
        standing=standing_of(rollout),
        sites=read_sites(session) if has_budget else {},
        signals=_signals(session, rollout, [one.manifest for one in variants]),
        revert=rollout.revert,
        preparing=preparing,
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


def _signals(session: Session, rollout: Rollout, manifests: list[str]) -> domain.Signals:
    """Read telemetry only where a gate is about to ask for it."""
    gates = RolloutPolicy.model_validate(rollout.policy).gates
    asked = (gates.error_rate_max, gates.latency_p95_us_max, gates.latency_ratio_max)
    if rollout.settled_at is None or all(one is None for one in asked):
        return domain.Signals()
    return read_signals(session, rollout, manifests)


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
    """Return what the planner needs; `desired` is what this rollout desires, None if nothing."""
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
        )
    reported = reported_of(device)
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
        candidates=None if candidates is None else tuple(one.manifest for one in candidates),
        order_counter=row.order_counter,
        accepted_counter=accepted,
        report=None if reported is None else reported.slots.get(slot),
        rejected=frozenset() if reported is None else frozenset(reported.rejected),
        refused=refusal_of(reported, row.order_counter) is not None,
        overtaken=reported is not None and is_overtaken(device, reported),
        site=site_of(device),
        held=row.device in held,
        flapping=is_flapping(device, now),
        desired_here=desired_here,
    )
