"""Models, their versions, and pushing one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from edgectl_server.api.access import Operator, get_services, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    ModelNameStr,
    ModelSummary,
    Page,
    PushAccepted,
    PushRequest,
    VersionDetail,
    VersionStr,
    VersionSummary,
)

__all__ = ["router"]

router = APIRouter(tags=["models"])

NamePath = Annotated[ModelNameStr, Path()]
VersionPath = Annotated[VersionStr, Path()]


@router.get("/models", operation_id="list_models", dependencies=[viewer], responses=responses(401))
def list_models(request: Request, paging: Paging) -> Page[ModelSummary]:
    """List the models."""
    return get_services(request).registry.models(paging)


@router.get(
    "/models/{name}",
    operation_id="get_model",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_model(request: Request, name: NamePath) -> ModelSummary:
    """Show a model."""
    return get_services(request).registry.model(name)


@router.get(
    "/models/{name}/versions",
    operation_id="list_versions",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def list_versions(request: Request, name: NamePath, paging: Paging) -> Page[VersionSummary]:
    """List a model's versions, newest first."""
    return get_services(request).registry.versions(name, paging)


@router.get(
    "/models/{name}/versions/{version}",
    operation_id="get_version",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_version(request: Request, name: NamePath, version: VersionPath) -> VersionDetail:
    """Show a version with what was tried."""
    return get_services(request).registry.version(name, version)


@router.post(
    "/models/{name}/versions",
    operation_id="push_version",
    status_code=202,
    responses={
        200: {"model": PushAccepted, "description": "This very content is there already"},
        **responses(401, 403, 409, 422),
    },
)
def push_version(
    request: Request, response: Response, principal: Operator, name: NamePath, body: PushRequest
) -> PushAccepted:
    """Make a version of files that have been uploaded: a job begins."""
    accepted = get_services(request).registry.push(name, body, principal.user)
    if not accepted.created:
        response.status_code = 200
    return accepted
