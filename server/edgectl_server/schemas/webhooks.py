"""Webhooks: who is told of what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgectl_server.schemas.base import Schema

__all__ = [
    "WebhookChange",
    "WebhookCreated",
    "WebhookDeliveryInfo",
    "WebhookDeliveryState",
    "WebhookEvent",
    "WebhookFormat",
    "WebhookInfo",
    "WebhookRequest",
]

WebhookEvent = Literal[
    "rollout.started",
    "rollout.phase",
    "rollout.paused",
    "rollout.resumed",
    "rollout.approved",
    "rollout.aborted",
    "rollout.finished",
    "gate.failed",
    "device.failed",
    "device.rejected",
    "device.rolled_back",
    "enrolment.pending",
]
"""What a webhook may be told of; `docs/webhooks.md` says when each happens."""
WebhookFormat = Literal["edgectl", "slack", "teams"]
WebhookDeliveryState = Literal["pending", "delivered", "failed"]


def _once(events: list[WebhookEvent]) -> list[WebhookEvent]:
    return list(dict.fromkeys(events))


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
_Url = Annotated[str, Field(min_length=1, max_length=2048)]
_Events = Annotated[list[WebhookEvent], Field(min_length=1, max_length=64), AfterValidator(_once)]


class WebhookRequest(Schema):
    """``POST /webhooks``."""

    name: _Name
    url: _Url
    events: _Events
    format: WebhookFormat = "edgectl"
    enabled: bool = True


class WebhookChange(Schema):
    """``PATCH /webhooks/{id}``: what is not given stays."""

    name: _Name | None = None
    url: _Url | None = None
    events: _Events | None = None
    format: WebhookFormat | None = None
    enabled: bool | None = None


class WebhookDeliveryInfo(Schema):
    """One event on its way to one webhook."""

    id: str
    """The header ``webhook-id``: the same at every attempt."""
    event: str
    """One of `WebhookEvent`, or ``webhook.test``."""
    state: WebhookDeliveryState
    attempts: int
    status: int | None
    """Of the newest answer; null: none has come."""
    error: str
    created_at: datetime
    tried_at: datetime | None
    next_at: datetime | None
    """When it is tried again; null: it has ended."""


class WebhookInfo(Schema):
    """A webhook, without its secret."""

    id: str
    name: str
    url: str
    events: list[WebhookEvent]
    format: WebhookFormat
    enabled: bool
    note: str
    """Why the server has switched it off."""
    created_at: datetime
    created_by: str
    changed_at: datetime
    pending: int
    """Deliveries that wait for an attempt."""
    newest: WebhookDeliveryInfo | None
    """What was tried last."""


class WebhookCreated(Schema):
    """A new webhook, and the secret that signs what it is sent: it is shown this once."""

    webhook: WebhookInfo
    secret: str
