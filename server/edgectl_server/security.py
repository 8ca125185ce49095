"""Security events: what an attacker may have done to a device, or in its name.

Two tell of them. A device reports what it refused, signed; that is stored once by its (boot, seq).
The intake notes what it did not believe (`note`): unsigned, signed by another, repeated. That may
come as fast as an attacker likes, so it is counted in memory and written now and then: one row for
each device, code and hour, and no more devices at once than `NOTED_MAX`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edgectl_protocol.messages import SecurityEvent
from edgectl_server.fleet import find_device
from edgectl_server.schemas import Page, SecurityEventInfo
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import insert_new
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import Device, SecurityEventRow

__all__ = ["NOTED_MAX", "PER_DEVICE_MAX", "SecurityEvents"]

NOTED_MAX = 4096
"""Pairs of device and code that wait to be written."""
PER_DEVICE_MAX = 1000
_COUNT_MAX = 2**31 - 1
_SORT = {
    "at": SecurityEventRow.at,
    "received_at": SecurityEventRow.received_at,
    "device": SecurityEventRow.device,
    "code": SecurityEventRow.code,
}


@dataclass
class _Noted:
    at: datetime
    until: datetime
    detail: str
    count: int = 1


class SecurityEvents:
    """Stores, counts and shows. Its methods may be called from any thread."""

    def __init__(
        self, *, database: Database, retention_days: int, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._retention = timedelta(days=retention_days)
        self._now = now
        self._noted: dict[tuple[str, str], _Noted] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------ from devices

    def take(self, session: Session, device: Device, event: SecurityEvent) -> None:
        """Store what a device reports, once; in the caller's transaction."""
        now = self._now()
        device.last_seen_at = now
        row = {
            "device": device.id,
            # A machine that has the name after it begins at its first boot again.
            "key": f"{device.public_key_sha256[:32]}/{event.boot}/{event.seq}",
            "source": "device",
            "at": event.at,
            "until": event.until,
            "received_at": now,
            "code": event.reason.code,
            "detail": event.reason.detail,
            "count": event.count,
            "order": event.order,
        }
        insert_new(session, SecurityEventRow, [row])

    # ------------------------------------------------------------ from the server itself

    def note(self, device: str, code: str, detail: str) -> None:
        """Count something that was not believed; returns at once."""
        now = self._now()
        with self._lock:
            noted = self._noted.get((device, code))
            if noted is not None:
                noted.until, noted.detail = now, detail[:1024]
                noted.count = min(noted.count + 1, _COUNT_MAX)
            elif len(self._noted) < NOTED_MAX:
                self._noted[device, code] = _Noted(now, now, detail[:1024])

    def flush(self) -> None:
        """Write what was noted; what cannot be written now is kept."""
        with self._lock:
            noted, self._noted = self._noted, {}
        if not noted:
            return
        try:
            with self._database.write() as session:
                known = set(
                    session.scalars(
                        select(Device.id).where(Device.id.in_({device for device, _ in noted}))
                    )
                )
                for (device, code), one in sorted(noted.items()):
                    if device in known:
                        _add(session, device, code, one)
        except Exception:
            with self._lock:
                self._noted = {**noted, **self._noted}
            raise

    # ------------------------------------------------------------ what is shown

    def page(self, paging: PageQuery, *, device: str | None = None) -> Page[SecurityEventInfo]:
        """Return one page of the events of a device, or of all, newest first.

        Raises:
            NotFound: ``device.unknown``.
        """
        columns = order(paging.sort, _SORT, default="-received_at", last=SecurityEventRow.id)
        wanted = select(SecurityEventRow).order_by(*columns)
        if device is not None:
            wanted = wanted.where(SecurityEventRow.device == device)
        if paging.q:
            searched = (SecurityEventRow.device, SecurityEventRow.code, SecurityEventRow.detail)
            wanted = wanted.where(match(paging.q, searched))
        with self._database.read() as session:
            if device is not None:
                find_device(session, device)
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_info(row) for row in rows], total=total)

    def delete_old(self) -> None:
        """Delete what is older than the retention, and the oldest of a device that has too many."""
        with self._database.write() as session:
            old = SecurityEventRow.received_at < self._now() - self._retention
            session.execute(delete(SecurityEventRow).where(old))
            _delete_crowd(session)


def _add(session: Session, device: str, code: str, noted: _Noted) -> None:
    """Add to the row of this hour, or make it."""
    key = f"server/{code}/{noted.at:%Y%m%d%H}"
    row = session.scalars(
        select(SecurityEventRow)
        .where(SecurityEventRow.device == device, SecurityEventRow.key == key)
        .with_for_update()
    ).one_or_none()
    if row is not None:
        row.until = row.received_at = noted.until
        row.detail = noted.detail
        row.count = min(row.count + noted.count, _COUNT_MAX)
        return
    session.add(
        SecurityEventRow(
            device=device,
            key=key,
            source="server",
            at=noted.at,
            until=noted.until,
            received_at=noted.until,
            code=code,
            detail=noted.detail,
            count=noted.count,
            order=None,
        )
    )


def _info(row: SecurityEventRow) -> SecurityEventInfo:
    return SecurityEventInfo(
        device=row.device,
        source="device" if row.source == "device" else "server",
        at=row.at,
        until=row.until,
        received_at=row.received_at,
        code=row.code,
        detail=row.detail,
        count=row.count,
        order=row.order,
    )


def _delete_crowd(session: Session) -> None:
    crowded = session.scalars(
        select(SecurityEventRow.device)
        .group_by(SecurityEventRow.device)
        .having(func.count() > PER_DEVICE_MAX)
    ).all()
    for device in crowded:
        of_it = SecurityEventRow.device == device
        newest = (
            select(SecurityEventRow.id)
            .where(of_it)
            .order_by(SecurityEventRow.received_at.desc(), SecurityEventRow.id.desc())
            .limit(PER_DEVICE_MAX)
        )
        session.execute(
            delete(SecurityEventRow)
            .where(of_it, SecurityEventRow.id.not_in(newest))
            .execution_options(synchronize_session=False)
        )
