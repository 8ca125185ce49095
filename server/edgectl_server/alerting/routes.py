"""The routes themselves: added, changed, tested and deleted by people."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.names import check_device_id
from edgectl_server.alerting.delivery import NoticeDeliverer
from edgectl_server.alerting.routing import new_notice
from edgectl_server.alerting.texts import document
from edgectl_server.audit import describe
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.schemas import (
    AlertNoticeInfo,
    AlertRouteChange,
    AlertRouteInfo,
    AlertRouteRequest,
    Page,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import AlertNotice, AlertRoute, Device, Webhook

__all__ = ["AlertRoutes"]

ROUTES_MAX = 64
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]{1,64}@[A-Za-z0-9.-]{1,189}")
"""No quoted local parts, no comments: nothing that could become another header or address."""
_SORT = {"name": AlertRoute.name, "created_at": AlertRoute.created_at}
_NOTICE_SORT = {"created_at": AlertNotice.created_at}


class AlertRoutes:
    """Its methods may be called from any thread."""

    def __init__(
        self, *, database: Database, deliverer: NoticeDeliverer, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._deliverer = deliverer
        self._now = now

    def create(self, asked: AlertRouteRequest, actor: str) -> AlertRouteInfo:
        """Add a route.

        Raises:
            Refused: ``alert.target``, ``alert.channel``.
            Conflict: ``alert.route_exists``, ``alert.routes``.
        """
        with self._database.write() as session:
            _check_name(session, asked.name, "")
            count = session.scalar(select(func.count()).select_from(AlertRoute)) or 0
            if count >= ROUTES_MAX:
                raise Conflict(
                    "alert.routes",
                    f"there are {ROUTES_MAX} routes already",
                    hint="delete one: `edgectl alerts routes list`",
                )
            row = AlertRoute(
                id=secrets.token_hex(8),
                name=asked.name,
                kinds=list(asked.kinds),
                severity=asked.severity,
                model=asked.model,
                site=asked.site,
                channel=asked.channel,
                target=self._target(session, asked.channel, asked.target),
                repeat_s=asked.repeat_s,
                enabled=asked.enabled,
                last_at=None,
                created_at=self._now(),
                created_by=actor,
            )
            session.add(row)
            session.flush()
            describe(object=row.id)
            return _info(session, row, self._deliverer.channels)

    def page(self, paging: PageQuery) -> Page[AlertRouteInfo]:
        """Return one page of the routes."""
        by = order(paging.sort, _SORT, default="name", last=AlertRoute.id)
        wanted = select(AlertRoute).order_by(*by)
        if paging.q:
            wanted = wanted.where(match(paging.q, (AlertRoute.name,)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(
                items=[_info(session, row, self._deliverer.channels) for row in rows], total=total
            )

    def change(self, identity: str, asked: AlertRouteChange) -> AlertRouteInfo:
        """Change what is given.

        Raises:
            NotFound: ``alert.no_route``.
            Refused: ``alert.target``.
            Conflict: ``alert.route_exists``.
        """
        given: dict[str, Any] = asked.model_dump(exclude_none=True)
        with self._database.write() as session:
            row = _find(session, identity, lock=True)
            if asked.name is not None:
                _check_name(session, asked.name, identity)
            if asked.target is not None:
                given["target"] = self._target(session, row.channel, asked.target)
            for name, value in given.items():
                setattr(row, name, value)
            session.flush()
            return _info(session, row, self._deliverer.channels)

    def delete(self, identity: str) -> None:
        """Delete a route, and what was on its way; raise `NotFound` ``alert.no_route``."""
        with self._database.write() as session:
            row = _find(session, identity, lock=True)
            describe(name=row.name)
            session.delete(row)

    def test(self, identity: str) -> AlertNoticeInfo:
        """Send a test by e-mail or MQTT now, once, whether the route is enabled or not.

        Raises:
            NotFound: ``alert.no_route``.
            Refused: ``alert.channel``: webhooks are tested themselves.
        """
        with self._database.read() as session:
            row = _find(session, identity)
            if row.channel == "webhook":
                raise Refused(
                    "alert.channel",
                    "a webhook is tested itself",
                    hint=f"edgectl webhooks test {row.target[0]}",
                )
            notice = new_notice(row, document(row.name, [], [], []), self._now())
        sent = self._deliverer.send_now(notice)
        with self._database.read() as session:
            return _notice(session.get_one(AlertNotice, sent))

    def notices(
        self, identity: str, paging: PageQuery, *, state: str | None
    ) -> Page[AlertNoticeInfo]:
        """Return one page of its messages, newest first; raise `NotFound` ``alert.no_route``."""
        by = order(paging.sort, _NOTICE_SORT, default="-created_at", last=AlertNotice.id)
        wanted = select(AlertNotice).where(AlertNotice.route == identity).order_by(*by)
        if state is not None:
            wanted = wanted.where(AlertNotice.state == state)
        if paging.q:
            wanted = wanted.where(match(paging.q, (AlertNotice.id, AlertNotice.error)))
        with self._database.read() as session:
            _find(session, identity)
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_notice(row) for row in rows], total=total)

    def _target(self, session: Session, channel: str, target: Sequence[str]) -> list[str]:
        """Return where messages go, checked."""
        match channel:
            case "webhook":
                return [_webhook(session, target)]
            case "email":
                if "email" not in self._deliverer.channels:
                    raise Refused(
                        "alert.channel",
                        "this server is not set up to send mail",
                        hint="set smtp_host and smtp_from (docs/server.toml) and start it again",
                    )
                wrong = [one for one in target if not _ADDRESS.fullmatch(one)]
                if wrong or not target:
                    raise _wrong_target(
                        f"{wrong[0][:80]!r} is no address" if wrong else "there is no address"
                    )
            case _:
                for one in target:
                    _check_device(session, one)
        return list(target)


def _webhook(session: Session, target: Sequence[str]) -> str:
    if len(target) != 1:
        raise _wrong_target(f"a route leads to one webhook, got {len(target)}")
    found = session.scalar(
        select(Webhook.id).where((Webhook.id == target[0]) | (Webhook.name == target[0]))
    )
    if found is None:
        raise _wrong_target(f"there is no webhook {target[0][:64]!r}")
    return found


def _check_device(session: Session, name: str) -> None:
    try:
        check_device_id(name)
    except ProtocolError as error:
        raise _wrong_target(str(error)) from error
    if not _enrolled(session, name):
        raise _wrong_target(f"there is no enrolled device {name}")


def _wrong_target(detail: str) -> Refused:
    return Refused(
        "alert.target",
        detail,
        hint="webhook: its name or id; email: addresses; mqtt: devices, or none for all clients",
    )


def _find(session: Session, identity: str, *, lock: bool = False) -> AlertRoute:
    row = session.get(AlertRoute, identity, with_for_update=True if lock else None)
    if row is None:
        raise NotFound(
            "alert.no_route",
            f"there is no route {identity[:32]!r}",
            hint="`edgectl alerts routes list` shows the ids",
        )
    return row


def _check_name(session: Session, name: str, identity: str) -> None:
    other = session.scalar(
        select(AlertRoute.id).where(AlertRoute.name == name, AlertRoute.id != identity)
    )
    if other is not None:
        raise Conflict(
            "alert.route_exists",
            f"there is a route {name} already",
            hint="choose another name, or change that one",
            data={"route": other},
        )


def _problem(session: Session, row: AlertRoute, channels: frozenset[str]) -> str:
    """Return why a route can tell nobody now; what it has to tell waits."""
    if row.channel == "webhook":
        hook = session.get(Webhook, row.target[0])
        if hook is None:
            return "its webhook was deleted"
        return "" if hook.enabled else "its webhook is switched off"
    if row.channel not in channels:
        return "this server is not set up to send mail"
    gone = [name for name in row.target if row.channel == "mqtt" and not _enrolled(session, name)]
    return f"there is no enrolled device {gone[0]} any more" if gone else ""


def _enrolled(session: Session, name: str) -> bool:
    device = session.get(Device, name)
    return device is not None and device.state == "enrolled"


def _info(session: Session, row: AlertRoute, channels: frozenset[str]) -> AlertRouteInfo:
    waiting = select(func.count(AlertNotice.id)).where(
        AlertNotice.route == row.id, AlertNotice.due_at.is_not(None)
    )
    return AlertRouteInfo.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "channel": row.channel,
            "target": row.target,
            "kinds": row.kinds,
            "severity": row.severity,
            "model": row.model,
            "site": row.site,
            "repeat_s": row.repeat_s,
            "enabled": row.enabled,
            "last_at": row.last_at,
            "problem": _problem(session, row, channels),
            "pending": session.scalar(waiting) or 0,
            "created_at": row.created_at,
            "created_by": row.created_by,
        }
    )


def _notice(row: AlertNotice) -> AlertNoticeInfo:
    return AlertNoticeInfo.model_validate(
        {
            "id": row.id,
            "state": row.state,
            "attempts": row.attempts,
            "error": row.error,
            **row.data["counts"],
            "created_at": row.created_at,
            "tried_at": row.tried_at,
            "next_at": row.due_at,
        }
    )
