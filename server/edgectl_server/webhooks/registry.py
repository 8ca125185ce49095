"""The webhooks themselves: added, changed, tested and deleted by people."""

from __future__ import annotations

import secrets as random_secrets
from collections.abc import Callable
from datetime import datetime
from typing import cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.audit import describe
from edgectl_server.errors import Conflict, NotFound
from edgectl_server.schemas import (
    Page,
    WebhookChange,
    WebhookCreated,
    WebhookDeliveryInfo,
    WebhookFormat,
    WebhookInfo,
    WebhookRequest,
)
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import Webhook, WebhookDelivery
from edgectl_server.webhooks.addresses import check_url
from edgectl_server.webhooks.delivery import WEBHOOKS_MAX, Deliverer, purpose_of
from edgectl_server.webhooks.signatures import make_secret

__all__ = ["Webhooks"]

_SORT = {"name": Webhook.name, "created_at": Webhook.created_at}
_DELIVERY_SORT = {"created_at": WebhookDelivery.created_at}


class Webhooks:
    """Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        secrets: SealedSecrets,
        deliverer: Deliverer,
        now: Callable[[], datetime],
        private: bool,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            secrets: seals addresses and secrets.
            deliverer: sends tests.
            now: the clock.
            private: addresses that are not of the Internet are allowed.
        """
        self._database = database
        self._secrets = secrets
        self._deliverer = deliverer
        self._now = now
        self._private = private

    def create(self, asked: WebhookRequest, actor: str) -> WebhookCreated:
        """Add a webhook; what is returned is the only place where its secret is shown.

        Raises:
            Refused: ``webhook.url``, ``webhook.address``.
            Conflict: ``webhook.exists``, ``webhook.limit``.
        """
        check_url(asked.url, private=self._private)
        now = self._now()
        identity, secret = random_secrets.token_hex(8), make_secret()
        with self._database.write() as session:
            _check_name(session, asked.name, identity)
            count = session.scalar(select(func.count()).select_from(Webhook)) or 0
            if count >= WEBHOOKS_MAX:
                raise Conflict(
                    "webhook.limit",
                    f"there are {WEBHOOKS_MAX} webhooks already",
                    hint="delete one: `edgectl webhooks list`",
                )
            row = Webhook(
                id=identity,
                name=asked.name,
                url=self._secrets.seal(asked.url, purpose_of(identity, "url")),
                secret=self._secrets.seal(secret, purpose_of(identity, "secret")),
                events=list(asked.events),
                format=asked.format,
                enabled=asked.enabled,
                note="",
                created_at=now,
                created_by=actor,
                changed_at=now,
            )
            session.add(row)
            describe(object=identity)
            session.flush()
            return WebhookCreated(webhook=self._info(session, row), secret=secret)

    def page(self, paging: PageQuery) -> Page[WebhookInfo]:
        """Return one page of the webhooks."""
        wanted = select(Webhook).order_by(
            *order(paging.sort, _SORT, default="name", last=Webhook.id)
        )
        if paging.q:
            wanted = wanted.where(match(paging.q, (Webhook.name,)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[self._info(session, row) for row in rows], total=total)

    def webhook(self, identity: str) -> WebhookInfo:
        """Return a webhook; raise `NotFound` ``webhook.unknown``."""
        with self._database.read() as session:
            return self._info(session, _find(session, identity))

    def change(self, identity: str, asked: WebhookChange) -> WebhookInfo:
        """Change what is given; what was on its way goes to where it leads then.

        Raises:
            NotFound: ``webhook.unknown``.
            Refused: ``webhook.url``, ``webhook.address``.
            Conflict: ``webhook.exists``.
        """
        if asked.url is not None:
            check_url(asked.url, private=self._private)
        with self._database.write() as session:
            row = _find(session, identity, lock=True)
            if asked.name is not None:
                _check_name(session, asked.name, identity)
                row.name = asked.name
            if asked.url is not None:
                row.url = self._secrets.seal(asked.url, purpose_of(identity, "url"))
            row.events = row.events if asked.events is None else list(asked.events)
            row.format = asked.format or row.format
            if asked.enabled is not None:
                row.enabled, row.note = asked.enabled, ""
            row.changed_at = self._now()
            session.flush()
            return self._info(session, row)

    def delete(self, identity: str) -> None:
        """Delete a webhook, and what was on its way; raise `NotFound` ``webhook.unknown``."""
        with self._database.write() as session:
            row = _find(session, identity, lock=True)
            describe(name=row.name)
            session.delete(row)

    def test(self, identity: str) -> WebhookDeliveryInfo:
        """Send it a test now, enabled or not; raise `NotFound` ``webhook.unknown``."""
        with self._database.read() as session:
            _find(session, identity)
        delivery = self._deliverer.test(identity)
        with self._database.read() as session:
            return _delivery_info(session.get_one(WebhookDelivery, delivery))

    def deliveries(
        self, identity: str, paging: PageQuery, *, state: str | None
    ) -> Page[WebhookDeliveryInfo]:
        """Return one page of what it is sent, newest first; `NotFound` ``webhook.unknown``."""
        columns = order(paging.sort, _DELIVERY_SORT, default="-created_at", last=WebhookDelivery.id)
        wanted = (
            select(WebhookDelivery).where(WebhookDelivery.webhook == identity).order_by(*columns)
        )
        if state is not None:
            wanted = wanted.where(WebhookDelivery.state == state)
        if paging.q:
            wanted = wanted.where(
                match(paging.q, (WebhookDelivery.id, WebhookDelivery.event, WebhookDelivery.error))
            )
        with self._database.read() as session:
            _find(session, identity)
            rows, total = fetch_page(session, wanted, paging)
            return Page(items=[_delivery_info(row) for row in rows], total=total)

    def _info(self, session: Session, row: Webhook) -> WebhookInfo:
        waiting = select(func.count(WebhookDelivery.id)).where(
            WebhookDelivery.webhook == row.id, WebhookDelivery.due_at.is_not(None)
        )
        newest = session.scalars(
            select(WebhookDelivery)
            .where(WebhookDelivery.webhook == row.id, WebhookDelivery.tried_at.is_not(None))
            .order_by(WebhookDelivery.tried_at.desc(), WebhookDelivery.id)
            .limit(1)
        ).one_or_none()
        return WebhookInfo(
            id=row.id,
            name=row.name,
            url=self._secrets.unseal(row.url, purpose_of(row.id, "url")),
            events=row.events,
            format=cast("WebhookFormat", row.format),
            enabled=row.enabled,
            note=row.note,
            created_at=row.created_at,
            created_by=row.created_by,
            changed_at=row.changed_at,
            pending=session.scalar(waiting) or 0,
            newest=None if newest is None else _delivery_info(newest),
        )


def _find(session: Session, identity: str, *, lock: bool = False) -> Webhook:
    row = session.get(Webhook, identity, with_for_update=True if lock else None)
    if row is None:
        raise NotFound(
            "webhook.unknown",
            f"there is no webhook {identity[:32]!r}",
            hint="`edgectl webhooks list` shows the ids",
        )
    return row


def _check_name(session: Session, name: str, identity: str) -> None:
    other = session.scalar(select(Webhook.id).where(Webhook.name == name, Webhook.id != identity))
    if other is not None:
        raise Conflict(
            "webhook.exists",
            f"there is a webhook {name} already",
            hint="choose another name, or change that one",
            data={"webhook": other},
        )


def _delivery_info(row: WebhookDelivery) -> WebhookDeliveryInfo:
    return WebhookDeliveryInfo.model_validate(
        {
            "id": row.id,
            "event": row.event,
            "state": row.state,
            "attempts": row.attempts,
            "status": row.status,
            "error": row.error,
            "created_at": row.created_at,
            "tried_at": row.tried_at,
            "next_at": row.due_at,
        }
    )
