"""Security events: what devices have refused, and what was said in their names."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from edgectl_server.api.access import get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import DeviceIdStr, Page, SecurityEventInfo

__all__ = ["router"]

router = APIRouter(tags=["security"])


@router.get(
    "/security-events",
    operation_id="security_events",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def security_events(request: Request, paging: Paging) -> Page[SecurityEventInfo]:
    """List what attackers may have done in the fleet, newest first."""
    return get_services(request).security.page(paging)


@router.get(
    "/devices/{device}/security-events",
    operation_id="device_security_events",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def device_security_events(
    request: Request, device: Annotated[DeviceIdStr, Path()], paging: Paging
) -> Page[SecurityEventInfo]:
    """List what an attacker may have done to a device, or in its name, newest first."""
    return get_services(request).security.page(paging, device=device)
