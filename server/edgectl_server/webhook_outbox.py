"""What outsiders are told of: written with the change itself, for every webhook that wants it.

A row of `WebhookDelivery` is committed with what it tells of, or not at all. Sending it is another
matter (`edgectl_server.webhooks`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.schemas import WebhookEvent
from edgectl_server.storage.tables import ModelVersion, Rollout, Webhook, WebhookDelivery

__all__ = ["PENDING_MAX", "announce", "announce_rollout", "new_delivery"]

logger = logging.getLogger(__name__)

PENDING_MAX = 10_000
"""Deliveries that may wait for one webhook; what comes after them it is not told."""
_GATE_FAILED = "failed"
_OF_ROLLOUTS: Mapping[str, WebhookEvent] = {
    "started": "rollout.started",
    "phase_began": "rollout.phase",
    "paused": "rollout.paused",
    "resumed": "rollout.resumed",
    "approved": "rollout.approved",
    "aborted": "rollout.aborted",
    "completed": "rollout.finished",
    "gates": "gate.failed",
    "device_failed": "device.failed",
    "device_rejected": "device.rejected",
    "device_rolled_back": "device.rolled_back",
}
"""By the kind of a `RolloutEvent`."""


def announce(session: Session, event: WebhookEvent, data: dict[str, Any], at: datetime) -> None:
    """Have an event sent to all webhooks that want it, once `session` is committed."""
    hooks = session.execute(select(Webhook.id, Webhook.events).where(Webhook.enabled)).all()
    for hook, events in hooks:
        if event not in events:
            continue
        waiting = select(func.count()).select_from(
            select(WebhookDelivery.id)
            .where(WebhookDelivery.webhook == hook, WebhookDelivery.due_at.is_not(None))
            .limit(PENDING_MAX)
            .subquery()
        )
        if (session.scalar(waiting) or 0) >= PENDING_MAX:
            logger.warning("webhook %s is not told of %s: %d wait", hook, event, PENDING_MAX)
            continue
        session.add(new_delivery(hook, event, data, at))


def announce_rollout(
    session: Session,
    rollout: Rollout,
    *,
    kind: str,
    actor: str,
    data: dict[str, Any],
    at: datetime,
) -> None:
    """Have what has happened to a rollout sent, if it is something that outsiders are told.

    Args:
        session: in which the `RolloutEvent` is written.
        rollout: as it is after that.
        kind: of the `RolloutEvent`, with its `actor` and `data`.
        actor: who has done it.
        data: of the event.
        at: when.
    """
    event = _OF_ROLLOUTS.get(kind)
    if event is None:
        return
    if event == "gate.failed":
        data = {gate: said for gate, said in data.items() if said.startswith(_GATE_FAILED)}
        if not data:
            return
        data = {"gates": data}
    version = session.get_one(ModelVersion, rollout.version_id)
    about = {
        "rollout": rollout.id,
        "model": rollout.model,
        "version": version.version,
        "state": rollout.state,
        "by": actor,
        "note": rollout.note,
    }
    announce(session, event, {**about, **data}, at)


def new_delivery(hook: str, event: str, data: dict[str, Any], at: datetime) -> WebhookDelivery:
    """Return the row of a delivery that is due at once."""
    return WebhookDelivery(
        id=f"msg_{secrets.token_urlsafe(24)}",
        webhook=hook,
        event=event,
        data=data,
        state="pending",
        attempts=0,
        due_at=at,
        status=None,
        error="",
        created_at=at,
        tried_at=None,
        ended_at=None,
    )
