"""The sites of the fleet: which devices stand in for one another, and how many could now."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session

from edgectl_server.device_filter import site_column
from edgectl_server.domain.rollouts import DeviceState, Site
from edgectl_server.storage.tables import Device, Rollout, RolloutDevice

__all__ = ["read_sites", "site_of"]


def site_of(device: Device) -> str:
    """Return the site of a device: its label of that name, else its group; both are people's."""
    return str(device.labels.get("site", "")) or device.group


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
