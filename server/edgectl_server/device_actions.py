"""What people do with one device: hold it, let it go on, take it back to the version before.

Rules:

1. On a held device no rollout begins anything: it waits there as for one that is offline, and the
   rollout's deadline decides. What is in progress goes on, and an abort reaches it: a hold must not
   keep a bad model in place.
2. A rollback is an order like any other, for what the slot ran before, by the very manifest. While
   an unfinished rollout has the device, its rollout decides, and a rollback is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol.messages import Installed
from edgectl_server.audit import describe
from edgectl_server.errors import Conflict
from edgectl_server.fleet import find_device
from edgectl_server.order_answers import reported_of
from edgectl_server.ordering import Ordering, variants_of
from edgectl_server.rollout_selection import check_free
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, ModelVersion

__all__ = ["DeviceActions"]


class DeviceActions:
    """Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        ordering: Ordering,
        now: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._ordering = ordering
        self._now = now
        self._wake = wake

    def hold(self, name: str, actor: str, reason: str) -> None:
        """Let no rollout begin on a device; again: with another reason.

        Raises:
            NotFound: ``device.unknown``.
            Conflict: ``device.not_enrolled``.
        """
        with self._database.write() as session:
            device = _enrolled(session, name)
            device.held_at, device.held_by, device.hold_reason = self._now(), actor, reason

    def release(self, name: str) -> None:
        """Let rollouts go on with a device; does nothing if they may already.

        Raises:
            NotFound: ``device.unknown``.
        """
        with self._database.write() as session:
            find_device(session, name)
            device = session.get_one(Device, name, with_for_update=True)
            device.held_at, device.held_by, device.hold_reason = None, "", ""
        self._wake()

    def roll_back(self, name: str, slot: str, version: str | None) -> None:
        """Order a device to run in a slot what it ran before.

        Args:
            name: of the device.
            slot: the model.
            version: what is expected to come back; None: whatever ran before.

        Raises:
            NotFound: ``device.unknown``.
            Conflict: ``device.not_enrolled``, ``device.no_previous``, ``device.other_previous``,
                ``rollout.conflict``.
        """
        with self._database.write() as session:
            device = _enrolled(session, name)
            before = _previous(device, slot)
            found = session.scalars(
                select(ModelVersion).where(
                    ModelVersion.model == slot,
                    ModelVersion.version == (before.version if before else ""),
                    ModelVersion.state == "ready",
                )
            ).one_or_none()
            if before is None or found is None:
                raise Conflict(
                    "device.no_previous",
                    f"{name} has no version of {slot} from before that is still published",
                    hint="start a rollout of the version that it shall run",
                )
            if version is not None and version != before.version:
                raise Conflict(
                    "device.other_previous",
                    f"before, {name} ran {slot} {before.version}, not {version}",
                    hint="look at the device again: it has changed meanwhile",
                    data={"version": before.version},
                )
            check_free(session, slot, [name])
            published = {one.manifest for one in variants_of(session, found.id)}
            describe(version=before.version)
            self._ordering.desire(
                session,
                name,
                slot,
                found.id,
                rollout=None,
                ranking=[before.manifest] if before.manifest in published else None,
            )
        self._wake()


def _enrolled(session: Session, name: str) -> Device:
    find_device(session, name)
    device = session.get_one(Device, name, with_for_update=True)
    if device.state != "enrolled":
        raise Conflict(
            "device.not_enrolled",
            f"{name} was shut out: it takes no orders",
            hint="it has to enrol again first",
            data={"state": device.state},
        )
    return device


def _previous(device: Device, slot: str) -> Installed | None:
    reported = reported_of(device)
    report = None if reported is None else reported.slots.get(slot)
    return None if report is None else report.previous
