"""How often models are right, as far as counts tell."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    AccuracyDetail,
    AccuracyGroup,
    DeviceIdStr,
    DigestStr,
    ModelNameStr,
    Page,
)

__all__ = ["router"]

router = APIRouter(tags=["telemetry"])


@router.get(
    "/accuracy", operation_id="list_accuracy", dependencies=[viewer], responses=responses(401, 422)
)
def list_accuracy(
    request: Request,
    paging: Paging,
    model: Annotated[ModelNameStr | None, Query(description="Of this model only.")] = None,
    level: Annotated[
        Literal["device", "site", "fleet"] | None, Query(description="Of this level only.")
    ] = None,
    state: Annotated[
        Literal["unknown", "good", "suspected", "low", "recovering"] | None,
        Query(description="In this state only."),
    ] = None,
) -> Page[AccuracyGroup]:
    """Say of each fleet, site and device how often its model is right, estimated without labels."""
    return get_services(request).accuracy.page(paging, model=model, level=level, state=state)


@router.get(
    "/models/{model}/accuracy",
    operation_id="get_accuracy",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_accuracy(
    request: Request,
    model: Annotated[ModelNameStr, Path()],
    manifest: Annotated[
        DigestStr | None, Query(description="Of this bundle; else of the one judged last.")
    ] = None,
    site: Annotated[
        str | None, Query(description="Of this site; else of the fleet.", max_length=128)
    ] = None,
    device: Annotated[DeviceIdStr | None, Query(description="Of this device.")] = None,
) -> AccuracyDetail:
    """Say from what it was estimated, how it has gone, and where it is low."""
    return get_services(request).accuracy.detail(model, manifest=manifest, site=site, device=device)
