"""Routes: whom alerts are told."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Admin, admin, get_services
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    AlertNoticeInfo,
    AlertNoticeState,
    AlertRouteChange,
    AlertRouteInfo,
    AlertRouteRequest,
    Page,
)

__all__ = ["router"]

router = APIRouter(prefix="/alert-routes", tags=["alert routes"])

RoutePath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


@router.get(
    "",
    operation_id="list_alert_routes",
    dependencies=[admin],
    responses=responses(401, 403, 422),
)
def list_alert_routes(request: Request, paging: Paging) -> Page[AlertRouteInfo]:
    """List the routes."""
    return get_services(request).alert_routes.page(paging)


@router.post(
    "",
    operation_id="create_alert_route",
    status_code=201,
    responses=responses(401, 403, 409, 422),
)
def create_alert_route(
    request: Request, principal: Admin, body: AlertRouteRequest
) -> AlertRouteInfo:
    """Add a route."""
    return get_services(request).alert_routes.create(body, principal.user)


@router.patch(
    "/{route}",
    operation_id="change_alert_route",
    dependencies=[admin],
    responses=responses(401, 403, 404, 409, 422),
)
def change_alert_route(
    request: Request, route: RoutePath, body: AlertRouteChange
) -> AlertRouteInfo:
    """Change a route."""
    return get_services(request).alert_routes.change(route, body)


@router.delete(
    "/{route}",
    operation_id="delete_alert_route",
    status_code=204,
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def delete_alert_route(request: Request, route: RoutePath) -> None:
    """Delete a route, and what was on its way by it."""
    get_services(request).alert_routes.delete(route)


@router.post(
    "/{route}/test",
    operation_id="test_alert_route",
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def test_alert_route(request: Request, route: RoutePath) -> AlertNoticeInfo:
    """Send a test by e-mail or MQTT now, once, and say how that went."""
    return get_services(request).alert_routes.test(route)


@router.get(
    "/{route}/notices",
    operation_id="alert_route_notices",
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def alert_route_notices(
    request: Request,
    route: RoutePath,
    paging: Paging,
    state: Annotated[AlertNoticeState | None, Query()] = None,
) -> Page[AlertNoticeInfo]:
    """List what was sent by e-mail or MQTT or is on its way, newest first."""
    return get_services(request).alert_routes.notices(route, paging, state=state)
