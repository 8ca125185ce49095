"""Devices: the fleet, what each reports, and how one is shut out."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Operator, admin, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.device_filter import DeviceFilter
from edgectl_server.schemas import (
    DeviceDetail,
    DeviceEventInfo,
    DeviceIdStr,
    DeviceReceipts,
    DeviceSeries,
    DeviceSummary,
    FleetSummary,
    GroupStr,
    HoldRequest,
    ModelNameStr,
    Page,
    RollbackRequest,
    SiteInfo,
    TelemetrySummary,
    VersionStr,
)
from edgectl_server.telemetry_series import POINTS_MAX

__all__ = ["SINCE_S_MAX", "Since", "router"]

router = APIRouter(tags=["devices"])

SINCE_S_MAX = 7 * 86400
DevicePath = Annotated[DeviceIdStr, Path()]
Since = Annotated[
    int, Query(ge=1, le=SINCE_S_MAX, description="Add up what has come in so many seconds.")
]


@router.get("/fleet", operation_id="fleet_summary", dependencies=[viewer], responses=responses(401))
def fleet_summary(request: Request) -> FleetSummary:
    """Count the fleet."""
    return get_services(request).fleet.summary()


@router.get(
    "/fleet/sites",
    operation_id="list_sites",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_sites(request: Request, paging: Paging) -> Page[SiteInfo]:
    """List the sites of the fleet with what runs there, the largest first."""
    return get_services(request).fleet.sites(paging)


@router.get(
    "/devices", operation_id="list_devices", dependencies=[viewer], responses=responses(401, 422)
)
def list_devices(
    request: Request,
    paging: Paging,
    *,
    state: Annotated[
        Literal["enrolled", "revoked", "decommissioned"],
        Query(description="Those that belong to the fleet, are lost, or were shut out for good."),
    ] = "enrolled",
    online: Annotated[bool | None, Query(description="Connected now, or not.")] = None,
    model: Annotated[ModelNameStr | None, Query(description="Runs this model.")] = None,
    version: Annotated[VersionStr | None, Query(description="Runs this version.")] = None,
    updating: Annotated[bool | None, Query(description="An update is under way.")] = None,
    failing: Annotated[bool | None, Query(description="Its newest update ended badly.")] = None,
    group: Annotated[GroupStr | None, Query(description="Is in this group.")] = None,
    security: Annotated[
        bool | None, Query(description="It has had a security event in the last day.")
    ] = None,
    device_class: Annotated[
        str | None, Query(max_length=64, description="Is of this class; empty: of none.")
    ] = None,
    overdue: Annotated[
        bool | None, Query(description="Has been offline for longer than is usual.")
    ] = None,
    held: Annotated[bool | None, Query(description="No rollout begins on it.")] = None,
    site: Annotated[
        str | None, Query(max_length=64, description="Is of this site; empty: of none.")
    ] = None,
    where: Annotated[
        str, Query(max_length=1024, description="A selector, such as `site=porto`.")
    ] = "",
) -> Page[DeviceSummary]:
    """List the devices that match everything that is given; the enrolled ones unless asked."""
    wanted = DeviceFilter(
        state=state,
        online=online,
        model=model,
        version=version,
        updating=updating,
        failing=failing,
        group=group,
        security=security,
        device_class=device_class,
        overdue=overdue,
        held=held,
        site=site,
    )
    return get_services(request).fleet.devices(paging, wanted, where=where)


@router.get(
    "/devices/{device}",
    operation_id="get_device",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_device(request: Request, device: DevicePath) -> DeviceDetail:
    """Show a device with everything it reports."""
    return get_services(request).fleet.device(device)


@router.get(
    "/devices/{device}/events",
    operation_id="device_events",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def device_events(request: Request, device: DevicePath, paging: Paging) -> Page[DeviceEventInfo]:
    """List what has happened on a device, newest first."""
    return get_services(request).fleet.events(device, paging)


@router.get(
    "/devices/{device}/telemetry",
    operation_id="device_telemetry",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def device_telemetry(
    request: Request, device: DevicePath, since_s: Since = 3600
) -> list[TelemetrySummary]:
    """Add up the telemetry of a device."""
    return get_services(request).telemetry.device_summary(device, since_s=since_s)


@router.get(
    "/devices/{device}/telemetry/receipts",
    operation_id="device_receipts",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def device_receipts(request: Request, device: DevicePath) -> DeviceReceipts:
    """Say what has come of a device, twice or not at all, and where its clock jumped."""
    return get_services(request).receipts.show(device)


@router.get(
    "/devices/{device}/telemetry/series",
    operation_id="device_series",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def device_series(
    request: Request,
    device: DevicePath,
    since_s: Since = 3600,
    points: Annotated[int, Query(ge=2, le=POINTS_MAX, description="At most so many.")] = 120,
) -> DeviceSeries:
    """Return what a device has sent as it has gone over time, in equal steps."""
    return get_services(request).telemetry.device_series(device, since_s=since_s, points=points)


@router.post(
    "/devices/{device}/actions/hold",
    operation_id="hold_device",
    responses=responses(401, 403, 404, 409, 422),
)
def hold_device(
    request: Request, principal: Operator, device: DevicePath, body: HoldRequest
) -> DeviceDetail:
    """Let no rollout begin on a device, until it is released."""
    services = get_services(request)
    services.device_actions.hold(device, principal.user, body.reason)
    return services.fleet.device(device)


@router.post(
    "/devices/{device}/actions/release",
    operation_id="release_device",
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def release_device(request: Request, device: DevicePath) -> DeviceDetail:
    """Let rollouts go on with a device that was held."""
    services = get_services(request)
    services.device_actions.release(device)
    return services.fleet.device(device)


@router.post(
    "/devices/{device}/actions/rollback",
    operation_id="roll_back_device",
    dependencies=[operator],
    responses=responses(401, 403, 404, 409, 422),
)
def roll_back_device(request: Request, device: DevicePath, body: RollbackRequest) -> DeviceDetail:
    """Order a device to run the version before in one of its slots."""
    services = get_services(request)
    services.device_actions.roll_back(device, body.slot, body.version)
    return services.fleet.device(device)


@router.post(
    "/devices/{device}/actions/decommission",
    operation_id="decommission_device",
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def decommission_device(request: Request, device: DevicePath) -> DeviceDetail:
    """Revoke a device's certificate and end its connection; it cannot come back with it."""
    return get_services(request).fleet.decommission(device)


@router.post(
    "/devices/{device}/actions/revoke",
    operation_id="revoke_device",
    dependencies=[operator],
    responses=responses(401, 403, 404, 409, 422),
)
def revoke_device(request: Request, device: DevicePath) -> DeviceDetail:
    """Shut a lost device out, until somebody lets it enrol again."""
    return get_services(request).fleet.revoke(device)
