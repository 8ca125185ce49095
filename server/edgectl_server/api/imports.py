"""Versions from other servers, and those servers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from edgectl_server.api.access import Operator, admin, get_services, viewer
from edgectl_server.api.problems import responses
from edgectl_server.schemas import ImportAccepted, ImportRequest, OriginInfo, OriginStr, Page

__all__ = ["router"]

router = APIRouter(tags=["models"])


@router.post(
    "/imports",
    operation_id="import_version",
    status_code=202,
    responses=responses(401, 403, 409, 422),
)
def import_version(request: Request, principal: Operator, body: ImportRequest) -> ImportAccepted:
    """Import a version that another server has exported, from a file that was uploaded."""
    return get_services(request).imports.start(body, principal.user, principal.role)


@router.get(
    "/origins", operation_id="list_origins", dependencies=[viewer], responses=responses(401)
)
def list_origins(request: Request) -> Page[OriginInfo]:
    """List the servers whose exported versions are believed, and by which root."""
    return get_services(request).imports.origins()


@router.delete(
    "/origins/{name}",
    operation_id="forget_origin",
    status_code=204,
    dependencies=[admin],
    responses=responses(401, 403, 404, 422),
)
def forget_origin(request: Request, name: Annotated[OriginStr, Path()]) -> None:
    """Forget an origin, its root and how new its metadata was; imported versions stay."""
    get_services(request).imports.forget(name)
