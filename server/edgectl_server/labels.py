"""Labels that people give to devices, and selectors that are saved under a name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.audit import describe
from edgectl_server.device_filter import OVERDUE_AFTER, Moment
from edgectl_server.device_selection import compile_selector, read_selector
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.schemas import (
    LabelRequest,
    LabelResult,
    Page,
    SavedSelectorInfo,
    SelectorOverlap,
)
from edgectl_server.schemas.selectors import LABELS_MAX
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import Device, SavedSelector

__all__ = ["Labels"]

SAVED_MAX = 200
_SORT = {"name": SavedSelector.name, "changed_at": SavedSelector.changed_at}


class Labels:
    """Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        now: Callable[[], datetime],
        overdue_after: timedelta = OVERDUE_AFTER,
    ) -> None:
        self._database = database
        self._now = now
        self._overdue_after = overdue_after

    def _moment(self) -> Moment:
        return Moment.at(self._now(), self._overdue_after)

    def change(self, asked: LabelRequest) -> LabelResult:
        """Set and remove labels of devices.

        Raises:
            Refused: ``labels.devices``, ``labels.limit``; of the selector ``selector.syntax``,
                ``selector.unknown``.
            Conflict: ``labels.expected``.
        """
        if bool(asked.devices) == bool(asked.where):
            raise Refused(
                "labels.devices", "say which devices: by name, or by a selector; not both"
            )
        with self._database.write() as session:
            wanted = select(Device).where(Device.state == "enrolled").with_for_update()
            if asked.where:
                expression = read_selector(session, asked.where)
                wanted = wanted.where(compile_selector(expression, self._moment()))
            else:
                wanted = wanted.where(Device.id.in_(asked.devices))
            devices = session.scalars(wanted.order_by(Device.id)).all()
            unknown = sorted(set(asked.devices) - {one.id for one in devices})
            if unknown:
                raise Refused("labels.devices", f"not enrolled: {', '.join(unknown[:10])}")
            if asked.expected not in {None, len(devices)}:
                raise Conflict(
                    "labels.expected",
                    f"{len(devices)} devices are meant by now, not {asked.expected}",
                    hint="look at the list again",
                    data={"devices": len(devices)},
                )
            changed = 0
            for device in devices:
                labels = {**device.labels, **asked.set}
                labels = {key: value for key, value in labels.items() if key not in asked.remove}
                if len(labels) > LABELS_MAX:
                    raise Refused(
                        "labels.limit", f"{device.id} would have more than {LABELS_MAX} labels"
                    )
                changed += labels != device.labels
                device.labels = labels
            describe(matched=len(devices), changed=changed)
        return LabelResult(matched=len(devices), changed=changed)

    def selectors(self, paging: PageQuery) -> Page[SavedSelectorInfo]:
        """Return one page of the saved selectors."""
        wanted = select(SavedSelector).order_by(
            *order(paging.sort, _SORT, default="name", last=SavedSelector.name)
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (SavedSelector.name, SavedSelector.text)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_info(session, row, self._moment()) for row in rows], total=total)

    def save(self, name: str, text: str, actor: str) -> SavedSelectorInfo:
        """Keep a selector under a name; running rollouts keep what it meant when they started.

        Raises:
            Refused: ``selector.syntax``, ``selector.unknown``: also where another would no longer
                mean anything.
            Conflict: ``selector.limit``.
        """
        with self._database.write() as session:
            row = session.get(SavedSelector, name)
            count = session.scalar(select(func.count()).select_from(SavedSelector)) or 0
            if row is None and count >= SAVED_MAX:
                raise Conflict("selector.limit", f"there are {SAVED_MAX} saved selectors already")
            if row is None:
                read_selector(session, text)  # before it exists: it cannot name itself
                row = SavedSelector(name=name, changed_at=self._now(), changed_by=actor, text=text)
                session.add(row)
            row.text, row.changed_at, row.changed_by = text, self._now(), actor
            read_selector(session, text)
            session.flush()
            for other in session.scalars(select(SavedSelector.name)).all():
                read_selector(session, f"@{other}")
            return _info(session, row, self._moment())

    def overlaps(self, name: str) -> list[SelectorOverlap]:
        """Return what shares devices with a saved selector now, what shares most first.

        Raises:
            NotFound: ``selector.missing``.
        """
        moment = self._moment()
        with self._database.read() as session:
            row = _find(session, name)
            mine = compile_selector(read_selector(session, row.text), moment)
            enrolled = Device.state == "enrolled"
            both = func.count(Device.id).filter(mine)
            found = []
            for other in session.scalars(select(SavedSelector).where(SavedSelector.name != name)):
                theirs = compile_selector(read_selector(session, other.text), moment)
                shared, of = session.execute(
                    select(both, func.count(Device.id)).where(enrolled, theirs)
                ).one()
                found.append(
                    SelectorOverlap(kind="selector", name=other.name, devices=shared, of=of)
                )
            groups = select(Device.group, both, func.count(Device.id)).where(enrolled)
            for group, shared, of in session.execute(groups.group_by(Device.group)):
                if group:
                    found.append(SelectorOverlap(kind="group", name=group, devices=shared, of=of))
        shares = [one for one in found if one.devices]
        return sorted(shares, key=lambda one: (-one.devices, one.kind, one.name))

    def forget(self, name: str) -> None:
        """Delete a saved selector.

        Raises:
            NotFound: ``selector.missing``.
            Refused: ``selector.unknown``: another one names it.
        """
        with self._database.write() as session:
            session.delete(_find(session, name))
            session.flush()
            for other in session.scalars(select(SavedSelector.name)).all():
                read_selector(session, f"@{other}")


def _find(session: Session, name: str) -> SavedSelector:
    row = session.get(SavedSelector, name)
    if row is None:
        raise NotFound(
            "selector.missing",
            f"there is no saved selector {name}",
            hint="`edgectl selectors list` lists them",
        )
    return row


def _info(session: Session, row: SavedSelector, moment: Moment) -> SavedSelectorInfo:
    condition = compile_selector(read_selector(session, row.text), moment)
    wanted = select(func.count(Device.id)).where(Device.state == "enrolled", condition)
    return SavedSelectorInfo(
        name=row.name,
        text=row.text,
        devices=session.scalar(wanted) or 0,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
    )
