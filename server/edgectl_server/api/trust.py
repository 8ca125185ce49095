"""Who signs what, and signatures that were made elsewhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from edgectl_server.api.access import get_services, operator, viewer
from edgectl_server.api.problems import responses
from edgectl_server.schemas import SubmitResult, TrustInfo

__all__ = ["router"]

router = APIRouter(prefix="/trust", tags=["trust"])

RolePath = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
_DOCUMENT = {
    "content": {"application/json": {"schema": {"type": "object"}}},
    "description": "Signed metadata (TUF 1.0)",
}


async def _body(request: Request) -> bytes:
    """Return the body as it was sent: its bytes are what is signed. `BodyLimit` bounds it."""
    return await request.body()


@router.get("", operation_id="get_trust", dependencies=[viewer], responses=responses(401))
def get_trust(request: Request) -> TrustInfo:
    """Show who signs what, what waits for signatures, and what needs attention."""
    return get_services(request).trust.info()


@router.get(
    "/staged/{role}",
    operation_id="get_staged",
    dependencies=[viewer],
    response_class=Response,
    responses={200: _DOCUMENT, **responses(401, 404, 422)},
)
def get_staged(request: Request, role: RolePath) -> Response:
    """Return what waits for signatures, with those so far, to be signed elsewhere."""
    content = get_services(request).trust.staged(role)
    return Response(content, media_type="application/json")


@router.get(
    "/published/{role}",
    operation_id="get_published",
    dependencies=[viewer],
    response_class=Response,
    responses={200: _DOCUMENT, **responses(401, 404, 422)},
)
def get_published(request: Request, role: RolePath) -> Response:
    """Return what devices have of a role, to be compared with what waits."""
    content = get_services(request).trust.published(role)
    return Response(content, media_type="application/json")


@router.post(
    "/staged/{role}",
    operation_id="submit_staged",
    dependencies=[operator],
    responses=responses(401, 403, 404, 413, 422),
    openapi_extra={
        "requestBody": {"required": True, "content": _DOCUMENT["content"]},
    },
)
def submit_staged(
    request: Request, role: RolePath, document: Annotated[bytes, Depends(_body)]
) -> SubmitResult:
    """Take over signatures that were made elsewhere; publish what is complete."""
    return get_services(request).trust.submit(role, document)
