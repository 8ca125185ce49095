"""From alerts to messages: each route's plan, written down with what it has told.

A message and the rows that say what it tells are one transaction, so that a server that dies has
either told nothing or will. Messages by webhook become its deliveries (`webhook_outbox`), the
others rows of `AlertNotice`. Servers plan one after the other, as they look.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.alerting.rows import Silences, read_silences, silenced_until, write_event
from edgectl_server.alerting.texts import document, event_of
from edgectl_server.alerting.watch import take_turn
from edgectl_server.domain.alert_routing import Facts, Plan, RouteFacts, Told, plan
from edgectl_server.domain.alerts import Selector
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    AlertNotice,
    AlertRoute,
    AlertRow,
    AlertTold,
    Webhook,
    WebhookDelivery,
)
from edgectl_server.webhook_outbox import PENDING_MAX, new_delivery

__all__ = ["AlertRouter", "new_notice", "put_message"]

logger = logging.getLogger(__name__)


class AlertRouter:
    """Plans. Its methods may be called from any thread."""

    def __init__(self, *, database: Database, gather_s: float, now: Callable[[], datetime]) -> None:
        self._database = database
        self._gather = timedelta(seconds=gather_s)
        self._now = now

    def look(self) -> int:
        """Write what routes have to say now; return how many messages."""
        with self._database.read() as session:
            if session.scalar(select(AlertRoute.id).where(AlertRoute.enabled).limit(1)) is None:
                return 0
        now = self._now()
        made = 0
        with self._database.write() as session:
            take_turn(session)
            routes = session.scalars(
                select(AlertRoute).where(AlertRoute.enabled).order_by(AlertRoute.id)
            ).all()
            lasting = session.scalars(select(AlertRow).where(AlertRow.state != "resolved")).all()
            silences = read_silences(session, now)
            for route in routes:
                made += self._tell(session, route, lasting, silences, now)
        return made

    def _tell(
        self,
        session: Session,
        route: AlertRoute,
        lasting: Sequence[AlertRow],
        silences: Silences,
        now: datetime,
    ) -> int:
        told = {
            row.alert: row
            for row in session.scalars(select(AlertTold).where(AlertTold.route == route.id))
        }
        missing = told.keys() - {row.id for row in lasting}
        ended = session.scalars(select(AlertRow).where(AlertRow.id.in_(missing))).all()
        rows = {row.id: row for row in (*lasting, *ended)}
        facts = _route_facts(route, self._gather)
        wanted = [_facts(row, facts.selector, silences) for row in _in_order(rows)]
        before = {one: Told(row.at, row.severity) for one, row in told.items()}  # type: ignore[arg-type]  # it was written from one
        decided = plan(facts, wanted, before, now)
        if not decided:
            return 0
        said = document(
            route.name,
            [rows[one] for one in decided.began],
            [rows[one] for one in decided.again],
            [rows[one] for one in decided.ended],
        )
        if not put_message(session, route, said, now):
            return 0
        route.last_at = now
        _note_told(session, route, decided, told, rows=rows, at=now)
        return 1


def put_message(session: Session, route: AlertRoute, said: dict[str, Any], now: datetime) -> bool:
    """Put a message on its way, once `session` is committed; say whether it has a way."""
    if route.channel != "webhook":
        session.add(new_notice(route, said, now))
        return True
    hook = session.get(Webhook, route.target[0])
    if hook is None or not hook.enabled:
        return False  # it is told when the webhook is there again
    waiting = select(func.count(WebhookDelivery.id)).where(
        WebhookDelivery.webhook == hook.id, WebhookDelivery.due_at.is_not(None)
    )
    if (session.scalar(waiting) or 0) >= PENDING_MAX:
        logger.warning("the route %s waits: its webhook does", route.name)
        return False
    session.add(new_delivery(hook.id, event_of(said), said, now))
    return True


def new_notice(route: AlertRoute, said: dict[str, Any], at: datetime) -> AlertNotice:
    """Return the row of a message that is due at once."""
    return AlertNotice(
        id=f"alert_{secrets.token_urlsafe(24)}",
        route=route.id,
        channel=route.channel,
        target=route.target,
        data=said,
        state="pending",
        attempts=0,
        due_at=at,
        error="",
        created_at=at,
        tried_at=None,
        ended_at=None,
    )


def _note_told(
    session: Session,
    route: AlertRoute,
    decided: Plan,
    told: Mapping[str, AlertTold],
    *,
    rows: Mapping[str, AlertRow],
    at: datetime,
) -> None:
    for one in (*decided.began, *decided.again):
        row, before = rows[one], told.get(one)
        if before is None:
            session.add(AlertTold(route=route.id, alert=one, at=at, severity=row.severity))
        else:
            before.at, before.severity = at, row.severity
    for one in decided.ended:
        session.delete(told[one])
    for one in (*decided.began, *decided.ended):
        what = "ended" if one in told and rows[one].state == "resolved" else "began"
        write_event(session, rows[one], "told", at=at, route=route.name, what=what)


def _route_facts(route: AlertRoute, gather: timedelta) -> RouteFacts:
    return RouteFacts(
        selector=Selector(
            kinds=tuple(route.kinds),
            severity=route.severity,  # type: ignore[arg-type]  # it was checked when it was written
            model=route.model,
            site=route.site,
        ),
        repeat=timedelta(seconds=route.repeat_s) if route.repeat_s else None,
        gather=gather,
        last_at=route.last_at,
    )


def _facts(row: AlertRow, selector: Selector, silences: Silences) -> Facts:
    return Facts(
        id=row.id,
        state=row.state,  # type: ignore[arg-type]  # it was written from one
        severity=row.severity,  # type: ignore[arg-type]  # as well
        silenced=silenced_until(row, silences) is not None,
        wanted=selector.fits(kind=row.kind, severity=row.severity, model=row.model, site=row.site),
    )


def _in_order(rows: Mapping[str, AlertRow]) -> list[AlertRow]:
    """Return alerts as they are told: the most severe first, then the oldest."""
    urgency = {"critical": 0, "warning": 1}
    return sorted(
        rows.values(), key=lambda row: (urgency.get(row.severity, 2), row.opened_at, row.id)
    )
