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

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from edgectl_protocol.messages import Reason
from edgectl_server.audit import describe, note
from edgectl_server.delta_making import DeltasWanted
from edgectl_server.domain import rollouts as domain
from edgectl_server.domain.phases import has_failed
from edgectl_server.domain.rollouts import BAD, DeviceState, Plan, RolloutState, Standing, Verdict
from edgectl_server.errors import Conflict
from edgectl_server.ordering import Ordering
from edgectl_server.rollout_forecast import forecast_rollout
from edgectl_server.rollout_observation import observe
from edgectl_server.rollout_phases import keep_standing, planner_policy, standing_of
from edgectl_server.rollout_places import (
    check_places,
    place_devices,
    read_places,
    settle_phases,
)
from edgectl_server.rollout_selection import (
    check_free,
    desired_versions,
    find_late_joiners,
    find_leavers,
    find_ready_version,
    select_devices,
    settle_selector,
)
from edgectl_server.rollout_specs import find_meant, what_changes
from edgectl_server.rollout_views import RolloutViews, count_devices, find_rollout, rollout_info
from edgectl_server.schemas import (
    RolloutApplied,
    RolloutForecast,
    RolloutInfo,
    RolloutPolicy,
    RolloutRequest,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    ModelVersion,
    Rollout,
    RolloutDevice,
    RolloutEvent,
)
from edgectl_server.webhook_outbox import announce_rollout

__all__ = ["Rollouts"]

_ACTIVE = (RolloutState.RUNNING.value, RolloutState.PAUSED.value)
_WATCHED = (DeviceState.PENDING, DeviceState.IN_PROGRESS, *BAD)
"""Device states in which a report may change something."""
_TICKS_MAX = 32
_TICK_S_MAX = 0.5
_NOTE_MAX = 1024
_FAILED_AGAIN_AFTER = timedelta(seconds=30)

logger = logging.getLogger(__name__)


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

    def forecast(self, request: RolloutRequest) -> RolloutForecast:
        """Return what a rollout would do if it were started now; nothing is changed.

        Raises:
            NotFound: ``version.unknown``.
            Refused: ``rollout.selector``.
            Conflict: ``rollout.not_ready``, ``rollout.no_devices``.
        """
        with self._database.read() as session:
            return forecast_rollout(session, self._ordering, request)

    def start(self, request: RolloutRequest, actor: str) -> RolloutInfo:
        """Start a rollout.

        Raises:
            NotFound: ``version.unknown``.
            Refused: ``rollout.selector``.
            Conflict: ``rollout.not_ready``, ``rollout.no_devices`` (of a phase too),
                ``rollout.conflict``.
        """
        now = self._now()
        with self._database.write() as session:
            version = find_ready_version(session, request.model, request.version)
            names = select_devices(session, request.selector)
            check_free(session, request.model, names)
            policy = settle_phases(session, request.policy)
            places = read_places(session, policy.phases, names)
            check_places(policy.phases, places.values())
            rollout = Rollout(
                id=secrets.token_hex(8),
                model=request.model,
                version_id=version.id,
                state=RolloutState.RUNNING.value,
                selector=settle_selector(session, request.selector).model_dump(mode="json"),
                policy=policy.model_dump(mode="json"),
                revision=0,
                failures_acknowledged=0,
                note="",
                due_at=now,
                created_at=now,
                created_by=actor,
                finished_at=None,
                priority=policy.priority,
            )
            session.add(rollout)
            describe(object=rollout.id, devices=len(names))
            session.flush()
            self._add_devices(session, rollout, places)
            self._log(session, rollout, actor, "started", {"devices": len(names)})
            session.flush()
            planned = self._deltas is not None and self._deltas.plan(session, version)
            info = rollout_info(session, rollout)
        if planned and self._deltas is not None:
            self._deltas.notify()
        self._wake()
        return info

    def apply(self, request: RolloutRequest, actor: str, *, dry_run: bool) -> RolloutApplied:
        """Make it so that a rollout is as a file says: start it, change it, or do nothing.

        Args:
            request: what the file says.
            actor: who applies it.
            dry_run: only say what would be done.

        Raises:
            As of `start`; Conflict: ``rollout.ended``, ``rollout.unchangeable``.
        """
        describe(dry_run=dry_run)
        with self._database.read() as session:
            found, changed = self._compare(session, request)
            if found is None and dry_run:
                check_free(session, request.model, select_devices(session, request.selector))
            info = None if found is None else rollout_info(session, found)
        if info is None:
            started = None if dry_run else self.start(request, actor)
            return RolloutApplied(action="start", rollout=started, changed={})
        if not changed or dry_run:
            action: Literal["change", "nothing"] = "change" if changed else "nothing"
            return RolloutApplied(action=action, rollout=info, changed=changed)
        with self._database.write() as session:
            found, changed = self._compare(session, request)
            assert found is not None, "rollouts are not deleted"
            found.policy = {**found.policy, **changed}
            found.priority = request.policy.priority
            found.due_at = self._now()
            describe(object=found.id, changed=sorted(changed))
            self._log(session, found, actor, "changed", changed)
            session.flush()
            info = rollout_info(session, found)
        self._wake()
        return RolloutApplied(action="change", rollout=info, changed=changed)

    def _compare(
        self, session: Session, request: RolloutRequest
    ) -> tuple[Rollout | None, dict[str, Any]]:
        """Return the rollout that a file means, locked where `session` writes, and what differs."""
        version = find_ready_version(session, request.model, request.version)
        selector = settle_selector(session, request.selector)
        found = find_meant(session, request.model, version.id, selector)
        if found is None:
            return None, {}
        return found, what_changes(found, settle_phases(session, request.policy))

    def _add_devices(self, session: Session, rollout: Rollout, places: Mapping[str, int]) -> None:
        before = desired_versions(session, rollout.model, list(places))
        session.add_all(
            RolloutDevice(
                rollout=rollout.id,
                device=name,
                state=DeviceState.PENDING.value,
                previous_version_id=before.get(name),
                order_counter=None,
                reason=None,
                updated_at=self._now(),
                from_phase=place,
            )
            for name, place in places.items()
        )

    def pause(self, rollout_id: str, actor: str, reason: str) -> RolloutInfo:
        """Order nobody any more; raise `Conflict` ``rollout.state`` if it is not running."""
        return self._act(rollout_id, actor, reason, "paused", {RolloutState.RUNNING})

    def resume(self, rollout_id: str, actor: str, reason: str) -> RolloutInfo:
        """Go on; failures so far are acknowledged and do not pause it again."""
        return self._act(rollout_id, actor, reason, "resumed", {RolloutState.PAUSED})

    def approve(self, rollout_id: str, actor: str, reason: str) -> RolloutInfo:
        """Let its phase pass, which has settled, whatever its gates have not said yet.

        A gate that fails afterwards takes that back.
        """
        with self._database.write() as session:
            rollout = find_rollout(session, rollout_id, lock=True)
            if rollout.state != RolloutState.RUNNING or rollout.settled_at is None:
                raise Conflict(
                    "rollout.no_approval",
                    f"no phase of the rollout waits for approval: {rollout.note or rollout.state}",
                    hint="a phase can be approved when its last device has ended",
                    data={"state": rollout.state},
                )
            rollout.approved_phase = rollout.phase
            rollout.due_at = self._now()
            data = {"reason": reason, **_phase_data(rollout)}
            self._log(session, rollout, actor, "approved", data)
            info = rollout_info(session, rollout)
        self._wake()
        return info

    def abort(
        self, rollout_id: str, actor: str, reason: str, *, revert: bool = False
    ) -> RolloutInfo:
        """End it, and give devices back what they were to run before.

        Those that are not committed, in progress or not; with `revert` those that are, too.
        """
        states = {RolloutState.RUNNING, RolloutState.PAUSED}
        return self._act(rollout_id, actor, reason, "aborted", states, revert=revert)

    def _act(
        self,
        rollout_id: str,
        actor: str,
        reason: str,
        kind: str,
        states: set[RolloutState],
        *,
        revert: bool = False,
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
                rollout.phase_since = self._now()  # the pause is nobody's fault
                if has_failed(standing_of(rollout)):
                    rollout.approved_phase = rollout.phase
            else:
                rollout.state = kind
                rollout.revert = revert
                rollout.note = by[:_NOTE_MAX]
            rollout.due_at = self._now()
            data = {"reason": reason, **({"revert": True} if revert else {})}
            self._log(session, rollout, actor, kind, data)
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
        """Move on the rollouts whose time has come; return how many changed.

        It stops early, and asks to be called again, when it has kept others from the database for
        `_TICK_S_MAX`.
        """
        changed, began_s = 0, time.monotonic()
        for _ in range(_TICKS_MAX):
            done = self._tick_one()
            if done is None:
                break
            changed += done
            if time.monotonic() - began_s > _TICK_S_MAX:
                self._wake()
                break
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
        claimed = None
        try:
            with self._database.write() as session:
                rollout = session.scalars(due).one_or_none()
                if rollout is None:
                    return None
                claimed, revision = rollout.id, rollout.revision
                self._move_on(session, rollout, now)
                return rollout.revision != revision
        except Exception:  # one that fails must not keep the others from their turn
            if claimed is None:
                raise
            logger.exception("rollout %s cannot be moved on now", claimed)
            self._put_off(claimed, now + _FAILED_AGAIN_AFTER)
            return False

    def _move_on(self, session: Session, rollout: Rollout, now: datetime) -> None:
        self._let_join(session, rollout)
        version = session.get_one(ModelVersion, rollout.version_id)
        policy = planner_policy(RolloutPolicy.model_validate(rollout.policy))
        preparing = self._deltas is not None and self._deltas.is_preparing(session, rollout)
        rows, observed = observe(
            session, self._ordering, rollout, version, preparing=preparing, now=now
        )
        self._carry_out(session, rollout, rows, domain.plan(policy, observed, now))

    def _put_off(self, rollout_id: str, until: datetime) -> None:
        with self._database.write() as session:
            session.execute(
                update(Rollout)
                .where(Rollout.id == rollout_id, Rollout.due_at.is_not(None))
                .values(due_at=until)
            )

    def _let_join(self, session: Session, rollout: Rollout) -> None:
        """Take in who has come to belong to a running rollout, and let go who does not any more.

        Phase and rate hold for newcomers too; who has had an order stays.
        """
        if rollout.state != RolloutState.RUNNING:
            return
        for row in find_leavers(session, rollout):
            reason = Reason(code="rollout.left", detail="the selector does not mean it any more")
            row.state, row.updated_at = DeviceState.CANCELLED.value, self._now()
            row.reason = msgspec.to_builtins(reason)
            data = {"device": row.device, "reason": row.reason}
            self._log(session, rollout, "server", "device_cancelled", data)
        place_devices(session, rollout)
        late = find_late_joiners(session, rollout)
        if late:
            phases = RolloutPolicy.model_validate(rollout.policy).phases
            self._add_devices(session, rollout, read_places(session, phases, late))
            self._log(session, rollout, "server", "devices_joined", {"devices": len(late)})
            session.flush()

    def _carry_out(
        self, session: Session, rollout: Rollout, rows: dict[str, RolloutDevice], made: Plan
    ) -> None:
        now = self._now()
        for mark in made.marks:
            row = rows[mark.device]
            row.state, row.updated_at = mark.state.value, now
            row.manifest = mark.manifest
            row.reason = None if mark.reason is None else msgspec.to_builtins(mark.reason)
            data = {"device": mark.device, "reason": row.reason}
            self._log(session, rollout, "server", f"device_{mark.state.value}", data)
        acknowledged = rollout.failures_acknowledged - made.recovered
        rollout.failures_acknowledged = max(0, acknowledged)
        # Before the orders, which are of the phase that begins: the events tell who was in which.
        self._note_standing(session, rollout, made.standing)
        for name in sorted(made.orders):
            row = rows[name]
            row.order_counter = self._ordering.desire(
                session,
                name,
                rollout.model,
                rollout.version_id,
                rollout=rollout.id,
                ranking=made.offers.get(name),
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
            rollout.note = made.note[:_NOTE_MAX]
        if made.state.value != rollout.state:
            rollout.state = made.state.value
            self._log(session, rollout, "server", made.state.value, {"note": rollout.note})
        rollout.due_at = made.look_again_at
        if made.look_again_at is None:
            rollout.finished_at = now

    def _note_standing(self, session: Session, rollout: Rollout, standing: Standing) -> None:
        before = standing_of(rollout)
        keep_standing(rollout, standing)
        if standing.settled_at is not None and before.settled_at is None:
            self._log(session, rollout, "server", "phase_settled", _phase_data(rollout))
        said = standing.passed or standing.verdicts
        if said and _outcomes(said) != _outcomes(before.verdicts):
            gates: dict[str, Any] = {one.gate: f"{one.verdict}: {one.detail}" for one in said}
            self._log(session, rollout, "server", "gates", gates)
        if standing.phase != before.phase:
            self._log(session, rollout, "server", "phase_began", _phase_data(rollout))

    def _log(
        self, session: Session, rollout: Rollout, actor: str, kind: str, data: dict[str, Any]
    ) -> None:
        rollout.revision += 1
        at = self._now()
        session.add(
            RolloutEvent(
                rollout=rollout.id,
                revision=rollout.revision,
                at=at,
                actor=actor,
                kind=kind,
                data=data,
            )
        )
        announce_rollout(session, rollout, kind=kind, actor=actor, data=data, at=at)


def _outcomes(verdicts: Iterable[Verdict]) -> list[tuple[str, str, bool]]:
    """Return what is worth an event: figures alone change with every batch of telemetry."""
    return [(one.gate, one.verdict, one.final) for one in verdicts]


def _phase_data(rollout: Rollout) -> dict[str, Any]:
    phases = RolloutPolicy.model_validate(rollout.policy).phases
    return {"phase": phases[rollout.phase].name} if phases else {}
