"""How rollouts are shown."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_protocol.update import UpdateState
from edgectl_server.device_views import evidence
from edgectl_server.domain.rollout_facts import GONE
from edgectl_server.domain.rollouts import DeviceState
from edgectl_server.errors import NotFound
from edgectl_server.order_answers import refusal_of, reported_of
from edgectl_server.rollout_admissions import first_orders, phase_beginnings, phase_of_device
from edgectl_server.rollout_phases import phase_progress
from edgectl_server.schemas import (
    Page,
    ReasonInfo,
    RolloutBytes,
    RolloutCounts,
    RolloutDeviceInfo,
    RolloutEventInfo,
    RolloutInfo,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import (
    BundleVariant,
    Device,
    ModelVersion,
    Rollout,
    RolloutDevice,
    RolloutEvent,
)

__all__ = ["RolloutViews", "count_devices", "count_places", "find_rollout", "rollout_info"]

_SORT = {"created_at": Rollout.created_at, "model": Rollout.model, "state": Rollout.state}
_DEVICE_SORT = {
    "device": RolloutDevice.device,
    "state": RolloutDevice.state,
    "updated_at": RolloutDevice.updated_at,
}
_EVENT_SORT = {"revision": RolloutEvent.revision}
_DOWNLOADED = frozenset(
    {
        UpdateState.VERIFYING,
        UpdateState.TRIAL,
        UpdateState.SHADOWING,
        UpdateState.WAITING,
        UpdateState.ACTIVATING,
        UpdateState.OBSERVING,
        UpdateState.COMMITTED,
        UpdateState.ROLLING_BACK,
        UpdateState.ROLLED_BACK,
    }
)
"""States that a device reaches only with the whole bundle."""


class RolloutViews:
    """Reads rollouts. Its methods may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rollouts(
        self, paging: PageQuery, *, state: str | None = None, model: str | None = None
    ) -> Page[RolloutInfo]:
        """Return one page of the rollouts, newest first."""
        wanted = select(Rollout).order_by(
            *order(paging.sort, _SORT, default="-created_at", last=Rollout.id)
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (Rollout.model, Rollout.id)))
        if state is not None:
            wanted = wanted.where(Rollout.state == state)
        if model is not None:
            wanted = wanted.where(Rollout.model == model)
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[rollout_info(session, row) for row in rows], total=total)

    def rollout(self, rollout_id: str) -> RolloutInfo:
        """Return a rollout; raise `NotFound` ``rollout.unknown``."""
        with self._database.read() as session:
            return rollout_info(session, find_rollout(session, rollout_id))

    def snapshot(self, rollout_id: str) -> RolloutInfo | None:
        """Return a rollout, or None; for live listeners."""
        with self._database.read() as session:
            rollout = session.get(Rollout, rollout_id)
            return None if rollout is None else rollout_info(session, rollout)

    def devices(
        self,
        rollout_id: str,
        paging: PageQuery,
        *,
        state: str | None = None,
        reason: str | None = None,
        phase: int | None = None,
    ) -> Page[RolloutDeviceInfo]:
        """Return one page of a rollout's devices.

        Args:
            rollout_id: which one.
            paging: `q` is a part of their names.
            state: only those that are in it.
            reason: only those whose reason has this code.
            phase: only those that had their turn in it, from 1.

        Raises:
            NotFound: ``rollout.unknown``.
        """
        wanted = (
            select(RolloutDevice)
            .where(RolloutDevice.rollout == rollout_id)
            .order_by(
                *order(paging.sort, _DEVICE_SORT, default="device", last=RolloutDevice.device)
            )
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (RolloutDevice.device,)))
        if state is not None:
            wanted = wanted.where(RolloutDevice.state == state)
        if reason is not None:
            wanted = wanted.where(RolloutDevice.reason["code"].as_string() == reason)
        with self._database.read() as session:
            rollout = find_rollout(session, rollout_id)
            if phase is not None:
                orders = first_orders(rollout_id)
                number = phase_of_device(orders, phase_beginnings(session, rollout))
                wanted = wanted.outerjoin(orders, orders.c.ordered == RolloutDevice.device)
                wanted = wanted.where(number == phase - 1)
            rows, total = fetch_page(session, wanted, paging)
            sizes = _bundle_sizes(session, rollout)
            version = session.get_one(ModelVersion, rollout.version_id).version
            items = [
                _device_info(session.get(Device, row.device), row, rollout, version, sizes)
                for row in rows
            ]
            return Page(items=items, total=total)

    def events(self, rollout_id: str, paging: PageQuery) -> Page[RolloutEventInfo]:
        """Return one page of a rollout's events, newest first."""
        wanted = (
            select(RolloutEvent)
            .where(RolloutEvent.rollout == rollout_id)
            .order_by(
                *order(paging.sort, _EVENT_SORT, default="-revision", last=RolloutEvent.revision)
            )
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (RolloutEvent.kind, RolloutEvent.actor)))
        with self._database.read() as session:
            find_rollout(session, rollout_id)
            rows, total = fetch_page(session, wanted, paging)
            items = [
                RolloutEventInfo(
                    revision=row.revision, at=row.at, actor=row.actor, kind=row.kind, data=row.data
                )
                for row in rows
            ]
            return Page(items=items, total=total)


def find_rollout(session: Session, rollout_id: str, *, lock: bool = False) -> Rollout:
    """Return a rollout's row, locked if asked; raise `NotFound` ``rollout.unknown``."""
    rollout = session.get(Rollout, rollout_id, with_for_update=True if lock else None)
    if rollout is None:
        raise NotFound(
            "rollout.unknown",
            f"there is no rollout {rollout_id[:80]!r}",
            hint="`edgectl rollout list` lists them",
        )
    return rollout


def count_devices(session: Session, rollout_id: str) -> dict[str, int]:
    """Return how many of a rollout's devices are in which state."""
    rows = session.execute(
        select(RolloutDevice.state, func.count())
        .where(RolloutDevice.rollout == rollout_id)
        .group_by(RolloutDevice.state)
    )
    return {state: int(count) for state, count in rows}


def count_places(session: Session, rollout: Rollout) -> dict[int, int]:
    """Return how many devices are for which phase first, where phases have selectors."""
    if not any(phase.get("where") for phase in rollout.policy.get("phases", [])):
        return {}
    rows = session.execute(
        select(RolloutDevice.from_phase, func.count())
        .where(
            RolloutDevice.rollout == rollout.id,
            RolloutDevice.state.not_in([state.value for state in GONE]),
        )
        .group_by(RolloutDevice.from_phase)
    )
    return {number: int(count) for number, count in rows}


def rollout_info(session: Session, rollout: Rollout) -> RolloutInfo:
    """Return how a rollout is shown."""
    counts = count_devices(session, rollout.id)
    total = sum(counts.values())
    return RolloutInfo.model_validate(
        {
            "id": rollout.id,
            "model": rollout.model,
            "version": session.get_one(ModelVersion, rollout.version_id).version,
            "state": rollout.state,
            "selector": rollout.selector,
            "policy": rollout.policy,
            "counts": RolloutCounts(total=total, **counts),
            "revision": rollout.revision,
            "created_at": rollout.created_at,
            "created_by": rollout.created_by,
            "finished_at": rollout.finished_at,
            "note": rollout.note,
            "phase": phase_progress(rollout, counts, count_places(session, rollout)),
            "bytes": _bytes(session, rollout.id),
        }
    )


def _bytes(session: Session, rollout_id: str) -> RolloutBytes:
    """Return what fetching costs all devices of a rollout."""
    told = RolloutDevice.fetched_bytes.is_not(None)
    whole, predicted, fetched, saved = session.execute(
        select(
            func.sum(RolloutDevice.whole_bytes),
            func.sum(RolloutDevice.predicted_bytes),
            func.sum(RolloutDevice.fetched_bytes),
            func.sum(RolloutDevice.whole_bytes - RolloutDevice.fetched_bytes).filter(told),
        ).where(RolloutDevice.rollout == rollout_id)
    ).one()
    return RolloutBytes(
        whole=int(whole or 0),
        predicted=int(predicted or 0),
        fetched=int(fetched or 0),
        saved=max(0, int(saved or 0)),
    )


def _bytes_of(row: RolloutDevice) -> RolloutBytes | None:
    """Return the same of one device; None before it was ordered."""
    if row.whole_bytes is None:
        return None
    fetched = row.fetched_bytes
    return RolloutBytes(
        whole=row.whole_bytes,
        predicted=row.predicted_bytes or 0,
        fetched=fetched or 0,
        saved=0 if fetched is None else max(0, row.whole_bytes - fetched),
    )


def _bundle_sizes(session: Session, rollout: Rollout) -> dict[str, int]:
    """Return the bytes of each variant's bundle."""
    wanted = select(BundleVariant).where(BundleVariant.version_id == rollout.version_id)
    return {one.variant: one.bundle_bytes for one in session.scalars(wanted)}


def _device_info(
    device: Device | None,
    row: RolloutDevice,
    rollout: Rollout,
    version: str,
    sizes: Mapping[str, int],
) -> RolloutDeviceInfo:
    reported = None if device is None else reported_of(device)
    report = None if reported is None else reported.slots.get(rollout.model)
    update_report = None if report is None else report.update
    if (
        update_report is None
        or row.order_counter is None
        or update_report.order < row.order_counter
        or update_report.version != version
        or (row.state == DeviceState.CANCELLED)
    ):
        update_report = None  # it tells of something else
    bytes_done, bytes_total = 0, 0
    if update_report is not None:
        bytes_done, bytes_total = update_report.bytes_done, update_report.bytes_total
        if bytes_total == 0 and update_report.state in _DOWNLOADED:
            # A device counts only while it works on an update; by now it has the whole bundle.
            bytes_done = bytes_total = sizes.get(update_report.variant, 0)
    reason = row.reason
    if row.state == DeviceState.IN_PROGRESS:
        # Not the end yet, but what an operator must see: a refused order, a failed attempt.
        told = refusal_of(reported, row.order_counter) or (update_report and update_report.reason)
        reason = msgspec.to_builtins(told) if told else None
    ours = update_report is not None and update_report.rollout == rollout.id
    seen = msgspec.to_builtins(update_report) if ours else {}
    return RolloutDeviceInfo.model_validate(
        {
            "device": row.device,
            "online": device is not None and device.online,
            "state": row.state,
            "step": "" if update_report is None else update_report.state.value,
            "bytes_done": bytes_done,
            "bytes_total": bytes_total,
            "variant": "" if update_report is None else update_report.variant,
            "reason": None if reason is None else ReasonInfo.model_validate(reason),
            "updated_at": row.updated_at,
            "trial": seen.get("trial"),
            **evidence(seen),
            "bytes": _bytes_of(row),
        }
    )
