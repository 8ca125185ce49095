"""The revocation list, for brokers that run elsewhere. It is signed, and no secret."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from edgectl_server.api.access import get_services

__all__ = ["router"]

router = APIRouter(tags=["system"])


@router.get(
    "/revocations.pem",
    operation_id="revocations",
    response_class=Response,
    responses={
        200: {
            "description": "The list of revoked certificates (RFC 5280) in PEM",
            "content": {"application/x-pem-file": {"schema": {"type": "string"}}},
        }
    },
)
def revocations(request: Request) -> Response:
    """Return the newest revocation list; its bytes stay the same until something is revoked."""
    content = get_services(request).revocations.pem()
    return Response(content, media_type="application/x-pem-file")
