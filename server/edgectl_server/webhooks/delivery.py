"""Deliveries on their way to webhooks, by the rules of `edgectl_server.delivering`.

The id is the header ``webhook-id``; waits grow as the Standard Webhooks specification proposes. An
answer of 410 switches the webhook off. What is switched off keeps what waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from sqlalchemy.orm import Session

from edgectl_server.audit import note
from edgectl_server.delivering import Deliveries, Outcome
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Webhook, WebhookDelivery
from edgectl_server.webhook_outbox import new_delivery
from edgectl_server.webhooks.bodies import TEST_EVENT, make_body
from edgectl_server.webhooks.sending import GONE, Send
from edgectl_server.webhooks.signatures import signed_headers

__all__ = ["WAITS_S", "WEBHOOKS_MAX", "Deliverer", "purpose_of"]

WEBHOOKS_MAX = 32
"""Each may have a thread."""
WAITS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Before the second attempt, the third …: three days in all."""


def purpose_of(webhook: str, field: str) -> str:
    """Return what a sealed field of a webhook is for."""
    return f"webhook/{webhook}/{field}"


class Deliverer(Deliveries[WebhookDelivery]):
    """Sends what is due. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        secrets: SealedSecrets,
        send: Send,
        now: Callable[[], datetime],
        waits_s: Sequence[float] = WAITS_S,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            secrets: opens addresses and secrets of webhooks.
            send: makes one attempt.
            now: the clock.
            waits_s: before each attempt but the first.
        """
        super().__init__(
            WebhookDelivery,
            WebhookDelivery.webhook,
            database=database,
            now=now,
            waits_s=waits_s,
            threads=WEBHOOKS_MAX,
            name="webhook",
        )
        self._secrets = secrets
        self._send = send

    def test(self, hook: str) -> str:
        """Send a webhook a test, once; return the name of the delivery."""
        return self.send_now(new_delivery(hook, TEST_EVENT, {"webhook": hook}, self._now()))

    def _takes(self, session: Session, receiver: str) -> bool:
        webhook = session.get(Webhook, receiver)  # None: deleted since, and its rows with it
        return webhook is not None and webhook.enabled

    def _prepare(self, session: Session, row: WebhookDelivery) -> Callable[[], Outcome]:
        webhook = session.get_one(Webhook, row.webhook)
        url = self._secrets.unseal(webhook.url, purpose_of(webhook.id, "url"))
        secret = self._secrets.unseal(webhook.secret, purpose_of(webhook.id, "secret"))
        body = make_body(webhook.format, row.event, row.data, row.created_at)
        assert row.tried_at is not None, row.id
        return partial(self._send, url, signed_headers(secret, row.id, row.tried_at, body), body)

    def _is_last(self, session: Session, row: WebhookDelivery, outcome: Outcome) -> bool:
        row.status = outcome.status
        if outcome.status == GONE:
            _switch_off(session, row.webhook)
        return outcome.status == GONE or row.event == TEST_EVENT


def _switch_off(session: Session, hook: str) -> None:
    webhook = session.get_one(Webhook, hook, with_for_update=True)
    webhook.enabled = False
    webhook.note = f"its receiver has answered {GONE}: it wants no more"
    note(session, "disable_webhook", hook, {"name": webhook.name, "status": GONE})
