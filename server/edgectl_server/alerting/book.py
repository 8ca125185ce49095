"""Alerts as people see them and see to them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from edgectl_server.alerting.rows import read_silences, shown, write_event
from edgectl_server.audit import describe
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.schemas import (
    AlertCounts,
    AlertDetail,
    AlertEvent,
    Page,
    RaisedAlert,
    SilenceInfo,
    SilenceRequest,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import AlertEventRow, AlertRow, AlertSilence, User

__all__ = ["AlertBook", "AlertFilter"]

SILENCES_MAX = 200
"""In force at a time: each is looked at for each alert."""
_EVENTS_MAX = 200
_SORT = {
    "opened_at": AlertRow.opened_at,
    "kind": AlertRow.kind,
    "severity": case({"critical": 2, "warning": 1}, value=AlertRow.severity, else_=0),
}
_SILENCE_SORT = {"until": AlertSilence.until, "created_at": AlertSilence.created_at}


class AlertFilter(NamedTuple):
    """What is asked of alerts; None: nothing."""

    state: str | None = None
    severity: str | None = None
    kind: str | None = None
    """Or its beginning up to a dot."""
    model: str | None = None
    site: str | None = None
    device: str | None = None
    owner: str | None = None
    ended: bool | None = None
    """Only those that are resolved, or are not."""


class AlertBook:
    """Its methods may be called from any thread."""

    def __init__(self, *, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    def page(
        self,
        paging: PageQuery,
        wanted: AlertFilter,
    ) -> Page[RaisedAlert]:
        """Return one page of the alerts, the most severe first."""
        statement = select(AlertRow)
        if paging.sort:
            by = order(paging.sort, _SORT, default="", last=AlertRow.id)
        else:
            severest = _SORT["severity"].desc()
            by = (severest, AlertRow.opened_at.desc(), AlertRow.id.desc())
        statement = statement.order_by(*by)
        for condition in _conditions(wanted):
            statement = statement.where(condition)
        if paging.q:
            columns = (AlertRow.subject, AlertRow.summary, AlertRow.kind, AlertRow.owner)
            statement = statement.where(match(paging.q, columns))
        with self._database.read() as session:
            rows, total = fetch_page(session, statement, paging)
            silences = read_silences(session, self._now())
            return Page(items=[shown(row, silences) for row in rows], total=total)

    def counts(self) -> AlertCounts:
        """Return how many there are."""
        with self._database.read() as session:
            by_state = _counted(session, AlertRow.state)
            by_severity = _counted(session, AlertRow.severity)
            silences = len(read_silences(session, self._now()))
            newest = session.scalar(select(func.max(AlertEventRow.at)))
        return AlertCounts(
            open=by_state.get("open", 0),
            acknowledged=by_state.get("acknowledged", 0),
            critical=by_severity.get("critical", 0),
            warning=by_severity.get("warning", 0),
            info=by_severity.get("info", 0),
            silences=silences,
            newest=newest,
        )

    def detail(self, identity: str) -> AlertDetail:
        """Return an alert and what has happened to it; raise `NotFound` ``alert.unknown``."""
        with self._database.read() as session:
            row = _find(session, identity)
            events = session.scalars(
                select(AlertEventRow)
                .where(AlertEventRow.alert == identity)
                .order_by(AlertEventRow.revision.desc())
                .limit(_EVENTS_MAX)
            )
            return AlertDetail(
                alert=shown(row, read_silences(session, self._now())),
                events=[
                    AlertEvent.model_validate(
                        {
                            "revision": one.revision,
                            "at": one.at,
                            "actor": one.actor,
                            "kind": one.kind,
                            "data": one.data,
                        }
                    )
                    for one in events
                ],
            )

    def acknowledge(self, identity: str, actor: str, reason: str) -> RaisedAlert:
        """Note that somebody knows of it: nobody is reminded of it any more.

        Raises:
            NotFound: ``alert.unknown``.
            Conflict: ``alert.ended``.
        """
        now = self._now()
        with self._database.write() as session:
            row = _find(session, identity, lock=True)
            _check_lasts(row)
            if row.state == "open":
                row.state, row.acknowledged_at, row.acknowledged_by = "acknowledged", now, actor
                row.owner = row.owner or actor
                write_event(session, row, "acknowledged", at=now, actor=actor, reason=reason)
            describe(kind=row.kind, subject=row.subject)
            return shown(row, read_silences(session, now))

    def assign(self, identity: str, actor: str, owner: str) -> RaisedAlert:
        """Say who sees to it.

        Raises:
            NotFound: ``alert.unknown``.
            Refused: ``alert.owner``: there is no such user.
        """
        now = self._now()
        with self._database.write() as session:
            row = _find(session, identity, lock=True)
            if owner and session.get(User, owner) is None:
                raise Refused(
                    "alert.owner",
                    f"there is no user {owner[:64]!r}",
                    hint="`edgectl users list` names them",
                )
            if row.owner != owner:
                write_event(
                    session, row, "assigned", at=now, actor=actor, to=owner, before=row.owner
                )
                row.owner = owner
            describe(kind=row.kind, subject=row.subject)
            return shown(row, read_silences(session, now))

    def resolve(self, identity: str, actor: str, reason: str) -> RaisedAlert:
        """End it; as long as its condition lasts it comes back only if it grows more severe.

        Raises:
            NotFound: ``alert.unknown``.
            Conflict: ``alert.ended``.
        """
        now = self._now()
        with self._database.write() as session:
            row = _find(session, identity, lock=True)
            _check_lasts(row)
            row.state, row.resolved_at, row.resolved_by = "resolved", now, actor
            write_event(session, row, "resolved", at=now, actor=actor, reason=reason)
            describe(kind=row.kind, subject=row.subject)
            return shown(row, read_silences(session, now))

    # ------------------------------------------------------------ silences

    def silences(self, paging: PageQuery) -> Page[SilenceInfo]:
        """Return one page of the silences in force, the one that ends first first."""
        wanted = (
            select(AlertSilence)
            .where(AlertSilence.until > self._now())
            .order_by(*order(paging.sort, _SILENCE_SORT, default="until", last=AlertSilence.id))
        )
        if paging.q:
            columns = (AlertSilence.kind, AlertSilence.reason, AlertSilence.subject)
            wanted = wanted.where(match(paging.q, columns))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_silence(row) for row in rows], total=total)

    def silence(self, asked: SilenceRequest, actor: str) -> SilenceInfo:
        """Have nobody told of some alerts for a while.

        Raises:
            Refused: ``alert.silence``: it would silence everything.
            Conflict: ``alert.silences``: there are too many.
        """
        if not (asked.kind or asked.model or asked.site or asked.subject):
            raise Refused(
                "alert.silence",
                "a silence of everything would hide what nobody expects",
                hint="give a kind, a model, a site or a subject; or switch routes off",
            )
        now = self._now()
        with self._database.write() as session:
            in_force = session.scalar(
                select(func.count()).select_from(AlertSilence).where(AlertSilence.until > now)
            )
            if (in_force or 0) >= SILENCES_MAX:
                raise Conflict(
                    "alert.silences",
                    f"{SILENCES_MAX} silences are in force already",
                    hint="end one: `edgectl alerts silence list`",
                )
            row = AlertSilence(
                id=secrets.token_hex(8),
                kind=asked.kind,
                model=asked.model,
                site=asked.site,
                subject=asked.subject,
                until=now + timedelta(seconds=asked.for_s),
                reason=asked.reason,
                created_at=now,
                created_by=actor,
            )
            session.add(row)
            describe(object=row.id)
            return _silence(row)

    def end_silence(self, identity: str) -> None:
        """End a silence now; raise `NotFound` ``alert.no_silence``."""
        now = self._now()
        with self._database.write() as session:
            row = session.get(AlertSilence, identity, with_for_update=True)
            if row is None or row.until <= now:
                raise NotFound(
                    "alert.no_silence",
                    f"there is no silence {identity[:32]!r} in force",
                    hint="`edgectl alerts silence list` shows them",
                )
            row.until = now
            describe(kind=row.kind, model=row.model, site=row.site, subject=row.subject)


def _conditions(wanted: AlertFilter) -> Iterable[ColumnElement[bool]]:
    for name in ("state", "severity", "model", "site", "device", "owner"):
        value = getattr(wanted, name)
        if value is not None:
            yield getattr(AlertRow, name) == value
    if wanted.kind is not None:
        begins = AlertRow.kind.startswith(f"{wanted.kind}.", autoescape=True)
        yield (AlertRow.kind == wanted.kind) | begins
    if wanted.ended is not None:
        over = AlertRow.state == "resolved"
        yield over if wanted.ended else ~over


def _counted(session: Session, column: InstrumentedAttribute[str]) -> dict[str, int]:
    lasting = select(column, func.count()).where(AlertRow.state != "resolved").group_by(column)
    return {str(name): count for name, count in session.execute(lasting).all()}


def _find(session: Session, identity: str, *, lock: bool = False) -> AlertRow:
    row = session.get(AlertRow, identity, with_for_update=True if lock else None)
    if row is None:
        raise NotFound(
            "alert.unknown",
            f"there is no alert {identity[:32]!r}",
            hint="`edgectl alerts list` shows the ids",
        )
    return row


def _check_lasts(row: AlertRow) -> None:
    if row.state == "resolved":
        raise Conflict(
            "alert.ended",
            f"the alert has ended already, by {row.resolved_by}",
            hint="`edgectl alerts list` shows those that last",
        )


def _silence(row: AlertSilence) -> SilenceInfo:
    return SilenceInfo(
        id=row.id,
        kind=row.kind,
        model=row.model,
        site=row.site,
        subject=row.subject,
        until=row.until,
        reason=row.reason,
        created_at=row.created_at,
        created_by=row.created_by,
    )
