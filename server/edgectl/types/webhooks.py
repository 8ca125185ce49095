"""Webhooks: who is told of what."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "WebhookChange",
    "WebhookCreated",
    "WebhookDeliveryInfo",
    "WebhookInfo",
    "WebhookRequest",
]


class WebhookRequest(Struct, frozen=True):
    """``POST /webhooks``."""

    name: str
    url: str
    events: list[str]
    format: str = "edgectl"
    enabled: bool = True


class WebhookChange(Struct, frozen=True):
    """``PATCH /webhooks/{id}``: what is not given stays."""

    name: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    events: list[str] | UnsetType = UNSET
    format: str | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class WebhookDeliveryInfo(Struct, frozen=True):
    """One event on its way to one webhook."""

    id: str
    event: str
    state: str
    attempts: int
    status: int | None
    error: str
    created_at: datetime
    tried_at: datetime | None
    next_at: datetime | None


class WebhookInfo(Struct, frozen=True):
    """A webhook, without its secret."""

    id: str
    name: str
    url: str
    events: list[str]
    format: str
    enabled: bool
    note: str
    created_at: datetime
    created_by: str
    changed_at: datetime
    pending: int
    newest: WebhookDeliveryInfo | None


class WebhookCreated(Struct, frozen=True):
    """A new webhook, and the secret that signs what it is sent: it is shown this once."""

    webhook: WebhookInfo
    secret: str
