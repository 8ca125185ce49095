"""Telemetry of the fleet."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime

from edgectl_server.api.access import get_services, viewer
from edgectl_server.api.devices import Since
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    AnswerInfo,
    DeviceIdStr,
    DigestStr,
    ModelNameStr,
    Page,
    PullInfo,
    TelemetrySummary,
    VersionStr,
)

__all__ = ["router"]

router = APIRouter(tags=["telemetry"])

PULLS_SHOWN_MAX = 1000


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


@router.get(
    "/answers",
    operation_id="list_answers",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_answers(
    request: Request,
    paging: Paging,
    *,
    digest: Annotated[DigestStr | None, Query(description="Of a bundle's manifest.")] = None,
    model: Annotated[ModelNameStr | None, Query()] = None,
    version: Annotated[VersionStr | None, Query(description="Of that model.")] = None,
    device: Annotated[DeviceIdStr | None, Query()] = None,
    since: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> Page[AnswerInfo]:
    """Say which devices have answered with a digest, or with which ones a device, and when."""
    return get_services(request).answers.page(
        paging,
        digest=digest,
        model=model,
        version=version,
        device=device,
        since=since,
        until=until,
    )


@router.get("/pulls", operation_id="list_pulls", dependencies=[viewer], responses=responses(401))
def list_pulls(request: Request) -> list[PullInfo]:
    """Say who has pulled how much over HTTP since this server was started, the newest first."""
    return [
        PullInfo(
            puller=one.puller.name,
            user=one.puller.user,
            bytes_sent=one.bytes_sent,
            answers=one.answers,
            last_at=one.last_at,
        )
        for one in get_services(request).pullers.pulled()[:PULLS_SHOWN_MAX]
    ]
