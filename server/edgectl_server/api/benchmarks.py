"""Device classes, what devices have measured, and having one measure."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Operator, get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    BenchmarkStart,
    JobInfo,
    MeasurementInfo,
    ModelNameStr,
    Page,
    TargetList,
    VersionStr,
)

__all__ = ["router"]

router = APIRouter(tags=["devices"])

NamePath = Annotated[ModelNameStr, Path()]
VersionPath = Annotated[VersionStr, Path()]


@router.get(
    "/targets", operation_id="list_targets", dependencies=[viewer], responses=responses(401)
)
def list_targets(request: Request) -> TargetList:
    """List the device classes, and how many devices of the fleet are of each."""
    services = get_services(request)
    return services.targets.list(services.database)


@router.get(
    "/models/{name}/versions/{version}/measurements",
    operation_id="list_measurements",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def list_measurements(
    request: Request,
    name: NamePath,
    version: VersionPath,
    paging: Paging,
    device_class: Annotated[
        str | None, Query(max_length=64, description="Of devices of this class.")
    ] = None,
) -> Page[MeasurementInfo]:
    """List what devices have measured of a version's variants, newest first."""
    services = get_services(request)
    return services.measurements.page(name, version, paging, device_class=device_class)


@router.post(
    "/models/{name}/versions/{version}/benchmarks",
    operation_id="start_benchmark",
    status_code=202,
    responses=responses(401, 403, 404, 409, 422),
)
def start_benchmark(
    request: Request,
    principal: Operator,
    name: NamePath,
    version: VersionPath,
    body: BenchmarkStart,
) -> JobInfo:
    """Have a device measure variants of a version in its trial process: a job begins.

    What the device serves is not touched, and an update goes first.
    """
    return get_services(request).benchmarks.start(name, version, body, principal.user)
