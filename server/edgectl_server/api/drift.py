"""Drift: where the fleet has left the references of its models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import StringConstraints

from edgectl_server.api.access import Operator, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.drift_history import HISTORY_S_MAX
from edgectl_server.drift_lists import DriftFilter
from edgectl_server.drift_views import Asked
from edgectl_server.schemas import (
    DeviceIdStr,
    DigestStr,
    DriftDetail,
    DriftEventInfo,
    DriftGroup,
    DriftHistory,
    DriftLevelStr,
    DriftStateStr,
    DriftSummary,
    ModelNameStr,
    Page,
    UsualDays,
    UsualDaysChange,
)

__all__ = ["router"]

router = APIRouter(tags=["telemetry"])

OfModel = Annotated[ModelNameStr | None, Query(description="Of this model only.")]
OfManifest = Annotated[DigestStr | None, Query(description="Of this bundle only.")]
OfSite = Annotated[
    str | None, Query(description="Of this site and its devices only.", max_length=128)
]
OfDevice = Annotated[DeviceIdStr | None, Query(description="Of this device only.")]
JudgedLast = Annotated[
    DigestStr | None, Query(description="Of this bundle; else of the one judged last.")
]
SiteOrFleet = Annotated[
    str | None, Query(description="Of this site; else of the fleet.", max_length=128)
]
SINCE_S = 86_400
_FEATURES_MAX = 8


@router.get(
    "/drift", operation_id="list_drift", dependencies=[viewer], responses=responses(401, 422)
)
def list_drift(
    request: Request,
    paging: Paging,
    *,
    model: OfModel = None,
    level: Annotated[DriftLevelStr | None, Query(description="Of this level only.")] = None,
    state: Annotated[DriftStateStr | None, Query(description="In this state only.")] = None,
    manifest: OfManifest = None,
    site: OfSite = None,
    device: OfDevice = None,
    faulty: Annotated[
        bool | None, Query(description="With faults of their data, or without.")
    ] = None,
) -> Page[DriftGroup]:
    """Say of each fleet, site and device whether it has left its model's reference."""
    asked = DriftFilter(model, manifest, level, state, site, device, faulty)
    return get_services(request).drift_lists.page(paging, asked)


@router.get(
    "/drift-summary",
    operation_id="summarize_drift",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def summarize_drift(request: Request, paging: Paging, model: OfModel = None) -> Page[DriftSummary]:
    """Say of each bundle where the fleet stands, and how many sites and devices; drift first."""
    return get_services(request).drift_lists.summary(paging, model=model)


@router.get(
    "/drift-events",
    operation_id="list_drift_events",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_drift_events(
    request: Request,
    paging: Paging,
    *,
    model: OfModel = None,
    manifest: OfManifest = None,
    site: OfSite = None,
    device: OfDevice = None,
) -> Page[DriftEventInfo]:
    """List drift and faults of data that have begun and ended, the newest first."""
    asked = DriftFilter(model, manifest, site=site, device=device)
    return get_services(request).drift_lists.events(paging, asked)


@router.get(
    "/models/{model}/drift",
    operation_id="get_drift",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_drift(
    request: Request,
    model: Annotated[ModelNameStr, Path()],
    manifest: JudgedLast = None,
    site: SiteOrFleet = None,
    device: OfDevice = None,
) -> DriftDetail:
    """Explain: which features moved, how far, with both histograms, and where."""
    return get_services(request).drift.detail(Asked(model, manifest, site, device))


@router.get(
    "/models/{model}/drift/usual",
    operation_id="get_usual_days",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_usual_days(request: Request, model: Annotated[ModelNameStr, Path()]) -> UsualDays:
    """Show which days were usual for a model, as somebody has said."""
    return get_services(request).usual_days.get(model)


@router.put(
    "/models/{model}/drift/usual",
    operation_id="set_usual_days",
    responses=responses(401, 403, 404, 422),
)
def set_usual_days(
    request: Request,
    principal: Operator,
    model: Annotated[ModelNameStr, Path()],
    body: UsualDaysChange,
) -> UsualDays:
    """Say which days were usual: what these hours of the day saw then is no drift."""
    return get_services(request).usual_days.put(model, body, principal.user)


@router.delete(
    "/models/{model}/drift/usual",
    operation_id="delete_usual_days",
    status_code=204,
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def delete_usual_days(request: Request, model: Annotated[ModelNameStr, Path()]) -> None:
    """Compare a model with its reference alone again."""
    get_services(request).usual_days.delete(model)


@router.get(
    "/models/{model}/drift/history",
    operation_id="get_drift_history",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_drift_history(
    request: Request,
    model: Annotated[ModelNameStr, Path()],
    *,
    manifest: JudgedLast = None,
    site: SiteOrFleet = None,
    device: OfDevice = None,
    since_s: Annotated[
        int, Query(ge=600, le=HISTORY_S_MAX, description="How far back, in seconds.")
    ] = SINCE_S,
    feature: Annotated[
        list[Annotated[str, StringConstraints(max_length=320)]],
        Query(max_length=_FEATURES_MAX, description="These; else those that were farthest."),
    ] = [],  # noqa: B006  # FastAPI copies it
) -> DriftHistory:
    """Tell how far a group was from its reference, step by step."""
    asked = Asked(model, manifest, site, device)
    return get_services(request).drift.history(asked, since_s=since_s, features=feature)
