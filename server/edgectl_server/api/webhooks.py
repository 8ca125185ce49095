"""Webhooks: who outside is told of what happens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Admin, admin, get_services
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    Page,
    WebhookChange,
    WebhookCreated,
    WebhookDeliveryInfo,
    WebhookDeliveryState,
    WebhookInfo,
    WebhookRequest,
)

__all__ = ["router"]

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

WebhookPath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


@router.get(
    "", operation_id="list_webhooks", dependencies=[admin], responses=responses(401, 403, 422)
)
def list_webhooks(request: Request, paging: Paging) -> Page[WebhookInfo]:
    """List the webhooks."""
    return get_services(request).webhooks.page(paging)


@router.post(
    "",
    operation_id="create_webhook",
    status_code=201,
    responses=responses(401, 403, 409, 422),
)
def create_webhook(request: Request, principal: Admin, body: WebhookRequest) -> WebhookCreated:
    """Add a webhook; its secret is shown this once."""
    return get_services(request).webhooks.create(body, principal.user)


@router.get(
    "/{webhook}",
    operation_id="get_webhook",
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def get_webhook(request: Request, webhook: WebhookPath) -> WebhookInfo:
    """Show a webhook."""
    return get_services(request).webhooks.webhook(webhook)


@router.patch(
    "/{webhook}",
    operation_id="change_webhook",
    dependencies=[admin],
    responses=responses(401, 403, 404, 409, 422),
)
def change_webhook(request: Request, webhook: WebhookPath, body: WebhookChange) -> WebhookInfo:
    """Change a webhook; its secret stays."""
    return get_services(request).webhooks.change(webhook, body)


@router.delete(
    "/{webhook}",
    operation_id="delete_webhook",
    status_code=204,
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def delete_webhook(request: Request, webhook: WebhookPath) -> None:
    """Delete a webhook, and what was on its way to it."""
    get_services(request).webhooks.delete(webhook)


@router.post(
    "/{webhook}/test",
    operation_id="test_webhook",
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def test_webhook(request: Request, webhook: WebhookPath) -> WebhookDeliveryInfo:
    """Send it a test now, once, and say how that went."""
    return get_services(request).webhooks.test(webhook)


@router.get(
    "/{webhook}/deliveries",
    operation_id="webhook_deliveries",
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def webhook_deliveries(
    request: Request,
    webhook: WebhookPath,
    paging: Paging,
    state: Annotated[WebhookDeliveryState | None, Query()] = None,
) -> Page[WebhookDeliveryInfo]:
    """List what was sent to a webhook or is on its way, newest first."""
    return get_services(request).webhooks.deliveries(webhook, paging, state=state)
