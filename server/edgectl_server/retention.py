"""What devices have said is kept for a while, and no more of it than a limit.

Telemetry has its own age (`edgectl_server.telemetry`); here are the events: they are deleted when
they are old, and the oldest of a device when it has too many.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, tuple_

from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import DeviceEventRow

__all__ = ["EVENTS_PER_DEVICE_MAX", "delete_old_events"]

EVENTS_PER_DEVICE_MAX = 10_000


def delete_old_events(database: Database, *, days: int, now: Callable[[], datetime]) -> None:
    """Delete the events that came more than `days` ago, and those beyond the limit of a device."""
    with database.write() as session:
        old = DeviceEventRow.received_at < now() - timedelta(days=days)
        session.execute(delete(DeviceEventRow).where(old))
        crowded = session.scalars(
            select(DeviceEventRow.device)
            .group_by(DeviceEventRow.device)
            .having(func.count() > EVENTS_PER_DEVICE_MAX)
        ).all()
        place = tuple_(DeviceEventRow.boot, DeviceEventRow.seq)
        for device in crowded:
            newest = (
                select(DeviceEventRow.boot, DeviceEventRow.seq)
                .where(DeviceEventRow.device == device)
                .order_by(DeviceEventRow.received_at.desc(), *_LAST)
                .limit(EVENTS_PER_DEVICE_MAX)
            )
            others = (DeviceEventRow.device == device, place.not_in(newest))
            session.execute(
                delete(DeviceEventRow).where(*others).execution_options(synchronize_session=False)
            )


_LAST = (DeviceEventRow.boot.desc(), DeviceEventRow.seq.desc())
