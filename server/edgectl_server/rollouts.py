"""Rollouts: started, paused, resumed and aborted by people, moved on by a tick.

Rules:

1. What a rollout does is decided by `edgectl_server.domain.rollouts.plan`, which is pure. A tick
   claims one rollout whose time has come, observes, plans and writes everything that the plan says
   in one transaction: states, orders, the event rows, the outbox.
2. The rollout's row is locked while that happens, and people's actions lock it too. So a tick may
   run twice, late, or in several servers at once: it acts on facts that nobody changes under it.
3. Every change is a `RolloutEvent` with the next revision, in the transaction that makes it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from edgectl_protocol.messages import ReportedState
from edgectl_server.audit import describe, note
from edgectl_server.delta_making import DeltasWanted
from edgectl_server.domain import rollouts as domain
from edgectl_server.domain.rollouts import BAD, DeviceState, Plan, RolloutState
from edgectl_server.domain.variants import Measured, VariantFacts
from edgectl_server.errors import Conflict
from edgectl_server.order_answers import is_overtaken, knows_order, refusal_of, reported_of
from edgectl_server.ordering import Ordering, variants_of
from edgectl_server.rollout_selection import (
    check_free,
    desired_versions,
    find_ready_version,
    select_devices,
)
from edgectl_server.rollout_views import RolloutViews, count_devices, find_rollout, rollout_info
from edgectl_server.schemas import (
    RolloutInfo,
    RolloutPolicy,
    RolloutRequest,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    DesiredSlot,
    Device,
    ModelVersion,
    Rollout,
    RolloutDevice,
    RolloutEvent,
)

__all__ = ["Rollouts"]

_ACTIVE = (RolloutState.RUNNING.value, RolloutState.PAUSED.value)
_WATCHED = (DeviceState.PENDING, DeviceState.IN_PROGRESS, *BAD)
"""Device states in which a report may change something."""
_TICKS_MAX = 32
_BYTES_MAX = 2**40
"""More than a bundle can have: what a device says beyond that is not believed."""


class Rollouts(RolloutViews):
    """All rollouts. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        ordering: Ordering,
        now: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
        deltas: DeltasWanted | None = None,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            ordering: makes the orders.
            now: the clock.
            wake: called when a rollout shall be looked at now.
            deltas: has them made; None: there are none.
        """
        super().__init__(database)
        self._deltas = deltas
        self._ordering = ordering
        self._now = now
        self._wake = wake

    # ------------------------------------------------------------ what people do

    def start(self, request: RolloutRequest, actor: str) -> RolloutInfo:
        """Start a rollout.

        Raises:
            NotFound: ``version.unknown``.
            Refused: ``rollout.selector``.
            Conflict: ``rollout.not_ready``, ``rollout.no_devices``, ``rollout.conflict``.
        """
        now = self._now()
        with self._database.write() as session:
            version = find_ready_version(session, request.model, request.version)
            names = select_devices(session, request.selector)
            check_free(session, request.model, names)
            rollout = Rollout(
                id=secrets.token_hex(8),
                model=request.model,
                version_id=version.id,
                state=RolloutState.RUNNING.value,
                selector=request.selector.model_dump(mode="json"),
                policy=request.policy.model_dump(mode="json"),
                revision=0,
                failures_acknowledged=0,
                note="",
                due_at=now,
                created_at=now,
                created_by=actor,
                finished_at=None,
            )
            session.add(rollout)
            describe(object=rollout.id, devices=len(names))
            session.flush()
            before = desired_versions(session, request.model, names)
            session.add_all(
                RolloutDevice(
                    rollout=rollout.id,
                    device=name,
                    state=DeviceState.PENDING.value,
                    previous_version_id=before.get(name),
                    order_counter=None,
                    reason=None,
                    updated_at=now,
                )
                for name in names
            )
            self._log(session, rollout, actor, "started", {"devices": len(names)})
            session.flush()
            planned = self._deltas is not None and self._deltas.plan(session, version)
            info = rollout_info(session, rollout)
        if planned and self._deltas is not None:
            self._deltas.notify()
        self._wake()
        return info

    def pause(self, rollout_id: str, actor: str, reason: str) -> RolloutInfo:
        """Order nobody any more; raise `Conflict` ``rollout.state`` if it is not running."""
        return self._act(rollout_id, actor, reason, "paused", {RolloutState.RUNNING})

    def resume(self, rollout_id: str, actor: str, reason: str) -> RolloutInfo:
        """Go on; failures so far are acknowledged and do not pause it again."""
        return self._act(rollout_id, actor, reason, "resumed", {RolloutState.PAUSED})

    def abort(self, rollout_id: str, actor: str, reason: str) -> RolloutInfo:
        """End it, and give devices that are not committed back what they were to run before."""
        states = {RolloutState.RUNNING, RolloutState.PAUSED}
        return self._act(rollout_id, actor, reason, "aborted", states)

    def _act(
        self, rollout_id: str, actor: str, reason: str, kind: str, states: set[RolloutState]
    ) -> RolloutInfo:
        with self._database.write() as session:
            rollout = find_rollout(session, rollout_id, lock=True)
            if RolloutState(rollout.state) not in states:
                raise Conflict(
                    "rollout.state",
                    f"the rollout is {rollout.state} and cannot be {kind}",
                    hint=f"only a {' or '.join(sorted(states))} rollout can be {kind}",
                    data={"state": rollout.state},
                )
            by = f"{kind} by {actor}" + (f": {reason}" if reason else "")
            if kind == "resumed":
                rollout.state = RolloutState.RUNNING.value
                counts = count_devices(session, rollout.id)
                rollout.failures_acknowledged = sum(counts.get(state.value, 0) for state in BAD)
                rollout.note = ""
            else:
                rollout.state = kind
                rollout.note = by[:1024]
            rollout.due_at = self._now()
            self._log(session, rollout, actor, kind, {"reason": reason})
            info = rollout_info(session, rollout)
        self._wake()
        return info

    # ------------------------------------------------------------ the tick

    def touch(self, devices: Iterable[str]) -> None:
        """Something was heard of `devices`: look at their rollouts now.

        In a transaction of its own: a tick locks a rollout before its devices, and whoever has
        just written to devices would lock them in the other order.
        """
        rollouts = (
            select(RolloutDevice.rollout)
            .where(RolloutDevice.device.in_(list(devices)), RolloutDevice.state.in_(_WATCHED))
            .distinct()
        )
        active = (Rollout.id.in_(rollouts), Rollout.state.in_(_ACTIVE))
        with self._database.read() as session:
            found = session.scalars(select(Rollout.id).where(*active)).all()
        if not found:
            return
        with self._database.write() as session:
            session.execute(
                update(Rollout)
                .where(Rollout.id.in_(found), Rollout.due_at.is_not(None))
                .values(due_at=self._now())
                .execution_options(synchronize_session=False)
            )
        self._wake()

    def tick(self) -> int:
        """Move on the rollouts whose time has come; return how many changed."""
        changed = 0
        for _ in range(_TICKS_MAX):
            done = self._tick_one()
            if done is None:
                break
            changed += done
        return changed

    def _tick_one(self) -> bool | None:
        """Claim and move on one rollout; None when none is due."""
        now = self._now()
        with self._database.read() as session:  # most ticks find nothing, and lock nothing
            if session.scalar(select(Rollout.id).where(Rollout.due_at <= now).limit(1)) is None:
                return None
        due = (
            select(Rollout)
            .where(Rollout.due_at <= now)
            .order_by(Rollout.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._database.write() as session:
            rollout = session.scalars(due).one_or_none()
            if rollout is None:
                return None
            revision = rollout.revision
            version = session.get_one(ModelVersion, rollout.version_id)
            rows, observed = self._observe(session, rollout, version)
            policy = RolloutPolicy.model_validate(rollout.policy)
            made = domain.plan(
                domain.RolloutPolicy(
                    max_in_progress=policy.max_in_progress, failures_max=policy.failures_max
                ),
                observed,
                now,
            )
            self._carry_out(session, rollout, rows, made)
            return rollout.revision != revision

    def _observe(
        self, session: Session, rollout: Rollout, version: ModelVersion
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
        rows = {row.device: row for row, _, _ in found}

        def candidates_of(
            device: Device, reported: ReportedState | None, ranking: list[str] | None
        ) -> tuple[VariantFacts, ...] | None:
            return self._ordering.candidates(
                session, device, reported, variants, ranking=ranking, known=known
            )

        devices = [
            _observe_device(row, device, desired, rollout.model, candidates_of)
            for row, device, desired in found
        ]
        for row, device, _ in found:
            _note_transfer(row, device, rollout)
        preparing = self._deltas is not None and self._deltas.is_preparing(session, rollout)
        return rows, domain.ObservedRollout(
            RolloutState(rollout.state), devices, rollout.failures_acknowledged, preparing
        )

    def _carry_out(
        self, session: Session, rollout: Rollout, rows: dict[str, RolloutDevice], made: Plan
    ) -> None:
        now = self._now()
        for mark in made.marks:
            row = rows[mark.device]
            row.state, row.updated_at = mark.state.value, now
            row.reason = None if mark.reason is None else msgspec.to_builtins(mark.reason)
            data = {"device": mark.device, "reason": row.reason}
            self._log(session, rollout, "server", f"device_{mark.state.value}", data)
        for name in sorted(made.orders):
            row = rows[name]
            row.order_counter = self._ordering.desire(
                session, name, rollout.model, rollout.version_id, rollout=rollout.id
            )
            row.state, row.updated_at = DeviceState.IN_PROGRESS.value, now
            data = {"device": name, "order": row.order_counter}
            expected = self._ordering.expected_transfer(session, name, rollout.model)
            if expected is not None:
                row.whole_bytes, row.predicted_bytes = expected
                data["predicted_bytes"] = row.predicted_bytes
            self._log(session, rollout, "server", "device_ordered", data)
        for name in sorted(made.restores):
            counter = self._ordering.desire(
                session, name, rollout.model, rows[name].previous_version_id, rollout=None
            )
            data = {"device": name, "order": counter}
            self._log(session, rollout, "server", "device_restored", data)
        if made.orders or made.restores:
            summary = {"orders": len(made.orders), "restores": len(made.restores)}
            note(session, "issue_orders", rollout.id, {"model": rollout.model, **summary})
        if made.note is not None and made.note != rollout.note:
            rollout.note = made.note
        if made.state.value != rollout.state:
            rollout.state = made.state.value
            self._log(session, rollout, "server", made.state.value, {"note": rollout.note})
        rollout.due_at = made.look_again_at
        if made.look_again_at is None:
            rollout.finished_at = now

    def _log(
        self, session: Session, rollout: Rollout, actor: str, kind: str, data: dict[str, Any]
    ) -> None:
        rollout.revision += 1
        session.add(
            RolloutEvent(
                rollout=rollout.id,
                revision=rollout.revision,
                at=self._now(),
                actor=actor,
                kind=kind,
                data=data,
            )
        )


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


_CandidatesOf = Callable[
    [Device, ReportedState | None, list[str] | None], tuple[VariantFacts, ...] | None
]


def _observe_device(
    row: RolloutDevice,
    device: Device | None,
    desired: DesiredSlot | None,
    slot: str,
    candidates_of: _CandidatesOf,
) -> domain.ObservedDevice:
    """Return what the planner needs; `desired` is what this rollout desires, None if nothing."""
    state = DeviceState(row.state)
    enrolled = device is not None and device.state == "enrolled"
    desired_here = desired is not None
    # What has ended well is not looked into: it is most of a large rollout.
    if device is None or state in {DeviceState.COMMITTED, DeviceState.CANCELLED}:
        return domain.ObservedDevice(
            device=row.device, state=state, enrolled=enrolled, desired_here=desired_here
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
        candidates=None if candidates is None else tuple(one.manifest for one in candidates),
        order_counter=row.order_counter,
        accepted_counter=accepted,
        report=None if reported is None else reported.slots.get(slot),
        rejected=frozenset() if reported is None else frozenset(reported.rejected),
        refused=refusal_of(reported, row.order_counter) is not None,
        overtaken=reported is not None and is_overtaken(device, reported),
        desired_here=desired_here,
    )
