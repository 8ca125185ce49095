"""Telemetry of the fleet."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from edgectl_server.api.access import get_services, viewer
from edgectl_server.api.devices import Since
from edgectl_server.api.problems import responses
from edgectl_server.schemas import ModelNameStr, TelemetrySummary

__all__ = ["router"]

router = APIRouter(tags=["telemetry"])


@router.get(
    "/telemetry",
    operation_id="telemetry_summary",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def telemetry_summary(
    request: Request,
    model: Annotated[ModelNameStr | None, Query(description="Of this model only.")] = None,
    since_s: Since = 3600,
) -> list[TelemetrySummary]:
    """Add up telemetry by device, slot and manifest."""
    return get_services(request).telemetry.summary(model=model, since_s=since_s)
