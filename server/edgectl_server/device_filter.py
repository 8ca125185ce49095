"""Which devices a list shows, as conditions of a statement: what is counted is listed by these too.

A device is overdue when it has been offline for longer than is usual for it. An online one is not,
however long it has had nothing to say. Its site is the label of that name, else its group.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, String, and_, exists, func, not_

from edgectl_protocol.update import ENDED, UpdateState
from edgectl_server.storage.tables import Device, ReportedSlot, SecurityEventRow

__all__ = [
    "FAILING",
    "OVERDUE_AFTER",
    "RECENT",
    "UPDATING",
    "DeviceFilter",
    "Moment",
    "conditions_of",
    "is_overdue",
    "is_so",
    "overdue_since",
    "site_column",
]

OVERDUE_AFTER = timedelta(hours=1)
RECENT = timedelta(days=1)
"""Security events that came so long ago still mark their device."""
FAILING = (UpdateState.FAILED, UpdateState.REJECTED, UpdateState.ROLLED_BACK)
UPDATING = tuple(state for state in UpdateState if state not in ENDED)


class Moment(NamedTuple):
    """When it is asked, which some answers depend on."""

    now: datetime
    overdue_before: datetime
    """Who is offline since then is overdue."""

    @classmethod
    def at(cls, now: datetime, overdue_after: timedelta) -> Moment:
        """Return that of a time."""
        return cls(now, now - overdue_after)


class DeviceFilter(NamedTuple):
    """What is asked of devices; None: nothing."""

    state: str = "enrolled"
    online: bool | None = None
    model: str | None = None
    """Runs it."""
    version: str | None = None
    """Runs it."""
    updating: bool | None = None
    failing: bool | None = None
    group: str | None = None
    security: bool | None = None
    device_class: str | None = None
    overdue: bool | None = None
    held: bool | None = None
    site: str | None = None


def overdue_since(before: datetime) -> ColumnElement[bool]:
    """Return the condition of having been offline since `before`."""
    seen = func.coalesce(Device.last_seen_at, Device.enrolled_at)
    return and_(Device.online.is_(False), seen < before)


def is_overdue(device: Device, before: datetime) -> bool:
    """Say of a row what `overdue_since` says of a column."""
    return (
        device.state == "enrolled"
        and not device.online
        and (device.last_seen_at or device.enrolled_at) < before
    )


def site_column() -> ColumnElement[str]:
    """Return the site of a device; empty: of none."""
    label = func.nullif(Device.labels["site"].as_string(), "")
    return func.coalesce(label, Device.group, type_=String())


def is_so(name: str, moment: Moment) -> ColumnElement[bool]:
    """Return the condition that a device is so at a moment.

    Args:
        name: ``online``, ``overdue``, ``updating``, ``failing``, ``held`` or ``security``.
        moment: when.
    """
    slot = exists().where(ReportedSlot.device == Device.id)
    match name:
        case "online":
            return Device.online.is_(True)
        case "overdue":
            return overdue_since(moment.overdue_before)
        case "updating":
            return slot.where(ReportedSlot.update_state.in_(UPDATING))
        case "failing":
            return slot.where(ReportedSlot.update_state.in_(FAILING))
        case "held":
            return Device.held_at.is_not(None)
        case "security":
            return exists().where(
                SecurityEventRow.device == Device.id,
                SecurityEventRow.received_at > moment.now - RECENT,
            )
        case _:
            raise AssertionError(name)


def conditions_of(wanted: DeviceFilter, moment: Moment) -> list[ColumnElement[bool]]:
    """Return what must hold of a device, all of it.

    Args:
        wanted: what is asked.
        moment: when.
    """
    found: list[ColumnElement[bool]] = [Device.state == wanted.state]
    if wanted.model is not None or wanted.version is not None:
        running = exists().where(ReportedSlot.device == Device.id)
        found.append(running.where(*_running(wanted.model, wanted.version)))
    exact: tuple[tuple[Any, Any], ...] = (
        (Device.group, wanted.group),
        (Device.device_class, wanted.device_class),
        (site_column(), wanted.site),
    )
    found += [column == value for column, value in exact if value is not None]
    for name in ("online", "updating", "failing", "security", "overdue", "held"):
        asked = getattr(wanted, name)
        if asked is not None:
            holds = is_so(name, moment)
            found.append(holds if asked else not_(holds))
    return found


def _running(model: str | None, version: str | None) -> list[ColumnElement[bool]]:
    asked = ((ReportedSlot.slot, model), (ReportedSlot.version, version))
    return [
        ReportedSlot.version.is_not(None),
        *(column == value for column, value in asked if value is not None),
    ]
