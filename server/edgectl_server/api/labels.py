"""Labels of devices, and saved selectors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from edgectl_server.api.access import Operator, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.schemas import (
    LabelRequest,
    LabelResult,
    Page,
    SavedSelectorInfo,
    SavedSelectorRequest,
    SelectorNameStr,
    SelectorOverlap,
)

__all__ = ["router"]

router = APIRouter(tags=["devices"])

SelectorPath = Annotated[SelectorNameStr, Path()]


@router.post(
    "/devices/labels",
    operation_id="label_devices",
    dependencies=[operator],
    responses=responses(401, 403, 422),
)
def label_devices(request: Request, body: LabelRequest) -> LabelResult:
    """Set and remove labels of some devices."""
    return get_services(request).labels.change(body)


@router.get(
    "/selectors",
    operation_id="list_selectors",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_selectors(request: Request, paging: Paging) -> Page[SavedSelectorInfo]:
    """List the saved selectors, and how many devices each means now."""
    return get_services(request).labels.selectors(paging)


@router.get(
    "/selectors/{name}/overlaps",
    operation_id="selector_overlaps",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def selector_overlaps(request: Request, name: SelectorPath) -> list[SelectorOverlap]:
    """Say which other saved selectors and groups share devices with one, and how many."""
    return get_services(request).labels.overlaps(name)


@router.put(
    "/selectors/{name}",
    operation_id="put_selector",
    responses=responses(401, 403, 409, 422),
)
def put_selector(
    request: Request, principal: Operator, name: SelectorPath, body: SavedSelectorRequest
) -> SavedSelectorInfo:
    """Keep a selector under a name."""
    return get_services(request).labels.save(name, body.text, principal.user)


@router.delete(
    "/selectors/{name}",
    operation_id="delete_selector",
    status_code=204,
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def delete_selector(request: Request, name: SelectorPath) -> None:
    """Delete a saved selector."""
    get_services(request).labels.forget(name)
