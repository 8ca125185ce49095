"""The sites of the fleet: which devices stand in for one another, and how many could now."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import and_, case, func, select, text
from sqlalchemy.orm import Session

from edgectl_server.device_filter import site_column
from edgectl_server.domain.rollouts import DeviceState, Site
from edgectl_server.storage.tables import Device, Rollout, RolloutDevice

__all__ = ["lock_sites", "read_sites", "site_of"]

_SITES_LOCK = 0x65646765_73697465  # any number that all servers on one PostgreSQL agree on


def site_of(device: Device) -> str:
    """Return the site of a device: its label of that name, else its group; both are people's."""
    return str(device.labels.get("site", "")) or device.group


def lock_sites(session: Session) -> None:
    """Until the end of the transaction, nobody else takes devices from sites that have a budget.

    A tick locks its own rollout only; another server may be at work on another one, and each would
    take the last device that a site can spare. SQLite has one writer as it is.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SITES_LOCK})


def read_sites(session: Session) -> dict[str, Site]:
    """Return every site with its devices, counted over the whole fleet and all rollouts."""
    at_work = (
        select(RolloutDevice.device)
        .join(Rollout, Rollout.id == RolloutDevice.rollout)
        .where(
            RolloutDevice.device == Device.id,
            RolloutDevice.state == DeviceState.IN_PROGRESS.value,
            Rollout.due_at.is_not(None),
        )
        .exists()
    )
    each = (
        select(
            site_column().label("site"),
            case((and_(Device.online, ~at_work), 1), else_=0).label("free"),
        )
        .where(Device.state == "enrolled")
        .subquery()
    )
    rows = session.execute(
        select(each.c.site, func.count(), func.sum(each.c.free)).group_by(each.c.site)
    )
    found: dict[str, Site] = defaultdict(lambda: Site(0, 0))
    found.update({group: Site(int(total), int(free)) for group, total, free in rows})
    return found
