"""The fleet in numbers: as a whole, and by site.

These are asked every second while somebody looks, so each comes from an index and none from the
devices' reports; sites, which need the labels, are asked rarely.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Integer, cast, distinct, exists, func, select
from sqlalchemy.orm import Session

from edgectl_server.device_filter import (
    FAILING,
    RECENT,
    UPDATING,
    overdue_since,
    site_column,
)
from edgectl_server.schemas import FleetSummary, Page, SiteInfo, VersionShare
from edgectl_server.storage.paging import PageQuery, order
from edgectl_server.storage.tables import Device, ReportedSlot, SecurityEventRow

__all__ = ["count_fleet", "list_sites", "version_shares"]

_ENROLLED = Device.state == "enrolled"


def count_fleet(session: Session, *, overdue_before: datetime, now: datetime) -> FleetSummary:
    """Return the counts of the fleet page.

    Args:
        session: open.
        overdue_before: who is offline since then is overdue.
        now: the time.
    """
    counted = select(Device.online, func.count()).where(_ENROLLED).group_by(Device.online)
    by_online = dict(session.execute(counted).all())
    online, offline = by_online.get(True, 0), by_online.get(False, 0)

    def having(states: Sequence[str]) -> int:
        counted = select(func.count(distinct(ReportedSlot.device))).join(
            Device, Device.id == ReportedSlot.device
        )
        wanted = counted.where(_ENROLLED, ReportedSlot.update_state.in_(states))
        return session.scalar(wanted) or 0

    def count(*conditions: ColumnElement[bool]) -> int:
        return session.scalar(select(func.count()).where(_ENROLLED, *conditions)) or 0

    # Distinct in a query of its own, or SQLite asks for the events of every device in turn.
    recent = (
        select(SecurityEventRow.device)
        .where(SecurityEventRow.received_at > now - RECENT)
        .distinct()
        .subquery()
    )
    alarmed = (
        select(func.count())
        .select_from(recent)
        .join(Device, Device.id == recent.c.device)
        .where(_ENROLLED)
    )
    return FleetSummary(
        devices=online + offline,
        online=online,
        offline=offline,
        updating=having(UPDATING),
        failing=having(FAILING),
        security=session.scalar(alarmed) or 0,
        overdue=count(overdue_since(overdue_before)),
        held=count(Device.held_at.is_not(None)),
        versions=version_shares(session),
    )


def version_shares(session: Session) -> list[VersionShare]:
    """Return how many devices run which version."""
    # Who has left is subtracted: they are few, and the whole fleet need not be looked up for them.
    counted = select(ReportedSlot.slot, ReportedSlot.version, func.count()).where(
        ReportedSlot.version.is_not(None)
    )
    by_version = (ReportedSlot.slot, ReportedSlot.version)
    gone = counted.join(Device, Device.id == ReportedSlot.device).where(
        Device.state.in_(("revoked", "decommissioned"))
    )
    found: Counter[tuple[str, str | None]] = Counter()
    for statement, sign in ((counted, 1), (gone, -1)):
        for slot, version, devices in session.execute(statement.group_by(*by_version)):
            found[slot, version] += sign * devices
    return [
        VersionShare(model=slot, version=version, devices=devices)
        for (slot, version), devices in sorted(found.items())
        if version is not None and devices > 0
    ]


def list_sites(
    session: Session, paging: PageQuery, *, overdue_before: datetime, now: datetime
) -> Page[SiteInfo]:
    """Return one page of the sites, the largest first.

    Args:
        session: open.
        paging: `q` is part of a site's name.
        overdue_before: who is offline since then is overdue.
        now: the time.
    """
    slot = exists().where(ReportedSlot.device == Device.id, ReportedSlot.update_state.in_(FAILING))
    alarmed = exists().where(
        SecurityEventRow.device == Device.id, SecurityEventRow.received_at > now - RECENT
    )
    each = (
        select(
            site_column().label("site"),
            cast(Device.online, Integer).label("online"),
            cast(overdue_since(overdue_before), Integer).label("overdue"),
            cast(slot, Integer).label("failing"),
            cast(alarmed, Integer).label("security"),
        )
        .where(_ENROLLED)
        .subquery()
    )
    counts = {
        "devices": func.count().label("devices"),
        **{
            name: func.sum(each.c[name]).label(name)
            for name in ("online", "overdue", "failing", "security")
        },
    }
    grouped = select(each.c.site, *counts.values()).group_by(each.c.site)
    if paging.q:
        grouped = grouped.where(each.c.site.icontains(paging.q, autoescape=True))
    table = grouped.subquery()
    sortable = {"site": table.c.site, **{name: table.c[name] for name in counts}}
    columns = order(paging.sort, sortable, default="-devices", last=table.c.site)
    total = session.scalar(select(func.count()).select_from(table)) or 0
    rows = session.execute(
        select(table).order_by(*columns).offset(paging.offset).limit(paging.limit)
    ).all()
    names = [row.site for row in rows]
    versions, places = _versions(session, names), _places(session, names)
    return Page(
        items=[
            SiteInfo(
                site=row.site,
                **{name: getattr(row, name) for name in counts},
                latitude=places.get(row.site, (None, None))[0],
                longitude=places.get(row.site, (None, None))[1],
                versions=versions.get(row.site, []),
            )
            for row in rows
        ],
        total=total,
    )


def _versions(session: Session, sites: Sequence[str]) -> dict[str, list[VersionShare]]:
    site = site_column()
    rows = session.execute(
        select(site, ReportedSlot.slot, ReportedSlot.version, func.count())
        .join(Device, Device.id == ReportedSlot.device)
        .where(_ENROLLED, ReportedSlot.version.is_not(None), site.in_(sites))
        .group_by(site, ReportedSlot.slot, ReportedSlot.version)
        .order_by(ReportedSlot.slot, ReportedSlot.version)
    )
    found: dict[str, list[VersionShare]] = defaultdict(list)
    for name, slot, version, devices in rows:
        assert version is not None, slot
        found[name].append(VersionShare(model=slot, version=version, devices=devices))
    return found


def _places(session: Session, sites: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return where each site is: where most of its devices that say so are, in degrees."""
    site = site_column()
    latitude, longitude = (Device.labels[name].as_string() for name in ("lat", "lon"))
    rows = session.execute(
        select(site, latitude, longitude, func.count())
        .where(_ENROLLED, latitude.is_not(None), longitude.is_not(None), site.in_(sites))
        .group_by(site, latitude, longitude)
        .order_by(func.count(), latitude, longitude)
    )
    return {
        name: place
        for name, north, east, _ in rows
        if (place := _place(_degrees(north, 90), _degrees(east, 180))) is not None
    }


def _place(north: float | None, east: float | None) -> tuple[float, float] | None:
    return None if north is None or east is None else (north, east)


def _degrees(text: Any, most: float) -> float | None:
    """Read what people have written as a label; anything may stand there."""
    try:
        found = float(text)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and abs(found) <= most else None
