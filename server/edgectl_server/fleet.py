"""The devices: what they report, what is shown of them, and how one leaves.

What a device says is believed about itself only, and in order:

1. A reported state counts when its (boot, seq) is newer than the stored one. The same one again
   says only whether the device is connected. An older one is repeated by somebody; the broker may
   do so in good faith for as long as it resends what was not acknowledged.
2. The last will is written when a connection begins and sent when it breaks, with seq 0: it says
   "offline" for that connection and for older ones, and nothing else.
3. A retained state may be of a machine that had this name before: it counts only after the device
   has been heard live since it enrolled.
4. What is said of an order comes with the order's nonce. A device that gives another one speaks of
   an order that is not ours: the state is shown, and no rollout believes it.
5. An event counts once, by (device, boot, seq); whoever sends it again is acknowledged again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from edgectl_protocol.messages import DeviceEvent, Reason, ReportedState
from edgectl_server.device_filter import (
    OVERDUE_AFTER,
    RECENT,
    DeviceFilter,
    Moment,
    conditions_of,
    is_overdue,
)
from edgectl_server.device_selection import compile_selector, read_selector
from edgectl_server.device_views import (
    desired_slots,
    device_detail,
    device_event,
    device_summary,
)
from edgectl_server.errors import Conflict, NotFound
from edgectl_server.flapping import forget_breaks, is_break, note_disconnect
from edgectl_server.fleet_counts import count_fleet, list_sites, version_shares
from edgectl_server.kept_capabilities import complete
from edgectl_server.order_answers import knows_order, reported_of
from edgectl_server.ordering import Ordering
from edgectl_server.schemas import (
    DeviceDetail,
    DeviceEventInfo,
    DeviceSummary,
    FleetSummary,
    Page,
    SiteInfo,
    VersionShare,
)
from edgectl_server.signing.authority import Authority
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import insert_new
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import (
    Device,
    DeviceEventRow,
    ReportedSlot,
    SecurityEventRow,
)
from edgectl_server.targets import Targets

__all__ = ["Fleet", "Kicks", "find_device"]

logger = logging.getLogger(__name__)

RESENT_WITHIN = timedelta(minutes=10)
"""An older state that was sent so long before the newest is a replay."""
_SORT = {
    "id": Device.id,
    "last_seen_at": Device.last_seen_at,
    "enrolled_at": Device.enrolled_at,
    "group": Device.group,
    "device_class": Device.device_class,
    "agent_version": Device.agent_version,
}
_EVENT_SORT = {"at": DeviceEventRow.at, "received_at": DeviceEventRow.received_at}


class Kicks(Protocol):
    """What is needed of the broker to shut a device out."""

    def reload_revocations(self) -> bool:
        """Refuse newly revoked certificates from now on."""

    def kick(self, name: str) -> bool:
        """End the open connections of `name`."""


class Fleet:
    """The registry of devices. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        ordering: Ordering,
        authority: Authority,
        broker: Kicks,
        targets: Targets,
        now: Callable[[], datetime],
        overdue_after: timedelta = OVERDUE_AFTER,
    ) -> None:
        self._overdue_after = overdue_after
        self._targets = targets
        self._database = database
        self._ordering = ordering
        self._authority = authority
        self._broker = broker
        self._now = now

    # ------------------------------------------------------------ what devices say

    def take_state(
        self,
        session: Session,
        device: Device,
        state: ReportedState,
        *,
        retained: bool,
        link_age_s: float,
    ) -> Reason | None:
        """Store a reported state, if it is news; in the caller's transaction.

        Args:
            session: of the transaction.
            device: that says it, locked.
            state: what it says.
            retained: it was said before we asked.
            link_age_s: how long our connection to the broker had stood when it came.

        Returns:
            What is suspicious about it, if anything is.
        """
        now = self._now()
        if retained and device.last_seen_at is None:
            return None
        if not state.online and state.seq == 0:
            if (state.boot, state.connection) >= (device.boot, _connection_of(device)):
                if device.online and is_break(retained=retained, link_age_s=link_age_s):
                    note_disconnect(device, now)
                device.online = False
            return None
        if not retained:
            device.last_seen_at = now
        if (state.boot, state.seq) == (device.boot, device.seq) and not retained:
            device.online = state.online
        if (state.boot, state.seq) <= (device.boot, device.seq):
            return _replay(device, state)
        state = complete(device, state)
        device.boot, device.seq, device.online = state.boot, state.seq, state.online
        device.agent_version = state.agent_version
        device.reported = msgspec.to_builtins(state)
        device.device_class = self._targets.classify(state.capabilities).name
        session.execute(delete(ReportedSlot).where(ReportedSlot.device == device.id))
        for slot, report in state.slots.items():
            session.add(
                ReportedSlot(
                    device=device.id,
                    slot=slot,
                    version=report.running and report.running.version,
                    manifest=report.running and report.running.manifest,
                    update_state=report.update and report.update.state.value,
                )
            )
        if state.order_counter == 0:
            return None
        return _check_nonce(device, state.order_counter, state.order_nonce)

    def take_event(self, session: Session, device: Device, event: DeviceEvent) -> Reason | None:
        """Store an event once, in the caller's transaction; return why it is not believed."""
        now = self._now()
        device.last_seen_at = now
        # Number 0 speaks of no order of ours: somebody at the device has asked for it.
        complaint = _check_nonce(device, event.order, event.nonce) if event.order else None
        if complaint is not None:
            return complaint
        insert_new(
            session,
            DeviceEventRow,
            [
                {
                    "device": device.id,
                    "boot": event.boot,
                    "seq": event.seq,
                    "at": event.at,
                    "received_at": now,
                    "slot": event.slot,
                    "rollout": event.rollout,
                    "event": msgspec.to_builtins(event),
                }
            ],
        )
        return None

    def forget_connections(self) -> None:
        """Nobody is connected: the broker has just been started."""
        with self._database.write() as session:
            session.execute(update(Device).where(Device.online).values(online=False))

    def forgive_breaks(self, lost_at: datetime) -> None:
        """Our connection to the broker has ended then: what broke with it counts for nobody."""
        with self._database.write() as session:
            forgiven = forget_breaks(session, lost_at=lost_at)
        if forgiven:
            logger.info("%d devices were disconnected with us: that is no flapping", forgiven)

    # ------------------------------------------------------------ what is shown

    def summary(self) -> FleetSummary:
        """Return the counts of the fleet page."""
        with self._database.read() as session:
            return count_fleet(session, overdue_before=self._overdue_before(), now=self._now())

    def sites(self, paging: PageQuery) -> Page[SiteInfo]:
        """Return one page of the sites, the largest first."""
        before = self._overdue_before()
        with self._database.read() as session:
            return list_sites(session, paging, overdue_before=before, now=self._now())

    def _overdue_before(self) -> datetime:
        return self._now() - self._overdue_after

    def _alarms(self, session: Session, names: Iterable[str]) -> dict[str, int]:
        """Return how many security events each device has had of late."""
        found = session.execute(
            select(SecurityEventRow.device, func.count())
            .where(
                SecurityEventRow.device.in_(names),
                SecurityEventRow.received_at > self._now() - RECENT,
            )
            .group_by(SecurityEventRow.device)
        )
        return {row[0]: row[1] for row in found}

    def shares(self) -> list[VersionShare]:
        """Return how many devices run which version."""
        with self._database.read() as session:
            return version_shares(session)

    def devices(
        self, paging: PageQuery, wanted: DeviceFilter | None = None, *, where: str = ""
    ) -> Page[DeviceSummary]:
        """Return one page of the devices that match all that is given, counted as in `summary`.

        Raises:
            Refused: ``selector.syntax``, ``selector.unknown``.
        """
        columns = order(paging.sort, _SORT, default="id", last=Device.id)
        moment = Moment.at(self._now(), self._overdue_after)
        conditions = conditions_of(wanted or DeviceFilter(), moment)
        if paging.q:
            conditions.append(match(paging.q, (Device.id, Device.group)))
        with self._database.read() as session:
            if where:
                conditions.append(compile_selector(read_selector(session, where), moment))
            statement = select(Device).where(*conditions).order_by(*columns)
            rows, total = fetch_page(session, statement, paging, key=Device.id)
            names = [row.id for row in rows]
            desired, alarms = desired_slots(session, names), self._alarms(session, names)
            items = [
                DeviceSummary(
                    **device_summary(
                        row,
                        desired.get(row.id, {}),
                        alarms.get(row.id, 0),
                        overdue=is_overdue(row, moment.overdue_before),
                    )
                )
                for row in rows
            ]
            return Page(items=items, total=total)

    def device(self, name: str) -> DeviceDetail:
        """Return a device; raise `NotFound` ``device.unknown``."""
        with self._database.read() as session:
            return self._detail(session, find_device(session, name))

    def snapshot(self, name: str) -> DeviceDetail | None:
        """Return a device, or None; for live listeners."""
        with self._database.read() as session:
            device = session.get(Device, name)
            return None if device is None else self._detail(session, device)

    def _detail(self, session: Session, device: Device) -> DeviceDetail:
        alarms = self._alarms(session, [device.id]).get(device.id, 0)
        reported = reported_of(device)
        found = self._targets.classify(None if reported is None else reported.capabilities)
        overdue = is_overdue(device, self._overdue_before())
        return device_detail(session, device, alarms, why=found.why, overdue=overdue)

    def events(self, name: str, paging: PageQuery) -> Page[DeviceEventInfo]:
        """Return one page of a device's events, newest first."""
        columns = order(paging.sort, _EVENT_SORT, default="-received_at", last=DeviceEventRow.boot)
        wanted = (
            select(DeviceEventRow)
            .where(DeviceEventRow.device == name)
            .order_by(*columns, DeviceEventRow.seq.desc())
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (DeviceEventRow.slot, DeviceEventRow.rollout)))
        with self._database.read() as session:
            find_device(session, name)
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[device_event(row) for row in rows], total=total)

    # ------------------------------------------------------------ leaving

    def decommission(self, name: str) -> DeviceDetail:
        """Shut a device out for good: what it was to run is forgotten.

        May be repeated, after a failure half-way too.

        Raises:
            NotFound: ``device.unknown``.
        """
        return self._shut_out(name, "decommissioned")

    def revoke(self, name: str) -> DeviceDetail:
        """Shut a lost device out: its certificates are worthless, and it cannot renew them.

        What it is to run stays, for the time when it has enrolled again; that needs a token, a list
        entry or an approval made after this. May be repeated.

        Raises:
            NotFound: ``device.unknown``.
            Conflict: ``device.decommissioned``.
        """
        return self._shut_out(name, "revoked")

    def shut_out_since(self, since: datetime) -> list[str]:
        """Return the names of those that were decommissioned or revoked since then."""
        with self._database.read() as session:
            return list(
                session.scalars(
                    select(Device.id).where(
                        or_(Device.decommissioned_at > since, Device.revoked_at > since)
                    )
                )
            )

    def _shut_out(self, name: str, state: str) -> DeviceDetail:
        """Revoke first: what comes after may fail and be done again, but the device is out."""
        with self._database.read() as session:
            device = find_device(session, name)
            if state == "revoked" and device.state == "decommissioned":
                raise Conflict(
                    "device.decommissioned",
                    f"{name} was decommissioned: its certificates are revoked already",
                )
            certificates = certificates_of(device)
        self._revoke(certificates)
        with self._database.write() as session:
            found = session.get(Device, name, with_for_update=True)
            assert found is not None
            now = self._now()
            if state == "decommissioned":
                if found.state != state:
                    found.decommissioned_at = now
                self._ordering.withdraw(session, found)
            elif found.state != state:
                found.revoked_at = now
            found.state = state
            found.online = False
            certificates = certificates_of(found)
        self._revoke(certificates)  # one may have been issued between the two; none comes now
        try:
            self._broker.reload_revocations()
        finally:
            self._broker.kick(name)
        logger.info("device %s was %s", name, state)
        return self.device(name)

    def _revoke(self, certificates: Iterable[tuple[str, datetime]]) -> None:
        for serial, expires_at in certificates:
            self._authority.revoke(serial, self._now(), expires_at=expires_at)


def certificates_of(device: Device) -> list[tuple[str, datetime]]:
    """Return serial and end of all certificates that a device may use."""
    earlier = [(serial, datetime.fromisoformat(end)) for serial, end in device.earlier_serials]
    return [*earlier, (device.certificate_serial, device.certificate_expires_at)]


def _connection_of(device: Device) -> int:
    """Return the connection from which the newest stored state came."""
    number: int = device.reported.get("connection", 0)
    return number


def _replay(device: Device, state: ReportedState) -> Reason | None:
    """Say that an old state was repeated, unless the broker may have resent it in good faith."""
    newest = reported_of(device)
    if newest is None or newest.sent_at is None or state.sent_at is None:
        return None
    if newest.sent_at - state.sent_at < RESENT_WITHIN:
        return None
    detail = f"a state of {state.sent_at:%Y-%m-%d %H:%M}, the newest is of {newest.sent_at}"
    return Reason(code="report.replayed", detail=detail)


def _check_nonce(device: Device, counter: int, nonce: str | None) -> Reason | None:
    if knows_order(device, counter, nonce) is not False:
        return None
    detail = f"it speaks of an order {counter} with a nonce that we did not give that number"
    return Reason(code="report.nonce", detail=detail)


def find_device(session: Session, name: str) -> Device:
    """Return a device's row; raise `NotFound` ``device.unknown``."""
    device = session.get(Device, name)
    if device is None:
        raise NotFound(
            "device.unknown",
            f"there is no device {name[:80]!r}",
            hint="`edgectl devices list` lists them",
        )
    return device
