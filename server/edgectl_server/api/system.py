"""Version and health: open to everybody, and saying no more than that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

import edgectl_protocol
from edgectl_server.api.access import get_services
from edgectl_server.schemas import ReadyInfo, VersionInfo
from edgectl_server.services import Services

__all__ = ["check_readiness", "router"]

logger = logging.getLogger(__name__)

router = APIRouter(tags=["system"])


@router.get("/version", operation_id="version")
async def version(request: Request) -> VersionInfo:
    """Say which edgectl this is."""
    return VersionInfo(version=edgectl_protocol.__version__, ui=request.app.state.has_ui)


@router.get("/health/live", operation_id="live")
async def live() -> dict[str, bool]:
    """Answer as long as the process can."""
    return {"live": True}


@router.get(
    "/authority.pem",
    operation_id="authority_pem",
    response_class=Response,
    responses={
        200: {
            "description": "The certificate of the installation's own authority, in PEM",
            "content": {"application/x-pem-file": {"schema": {"type": "string"}}},
        }
    },
)
def authority_pem(request: Request) -> Response:
    """Return the certificate that vouches for this server where ``tls`` is ``own``.

    It proves nothing by itself: compare its fingerprint with the one that the server has printed.
    """
    content = get_services(request).authority.certificate_pem
    return Response(content, media_type="application/x-pem-file")


@router.get(
    "/health/ready",
    operation_id="ready",
    responses={503: {"model": ReadyInfo, "description": "Not ready"}},
)
def ready(request: Request, response: Response) -> ReadyInfo:
    """Say whether everything that the server needs answers."""
    info = check_readiness(get_services(request))
    if not info.ready:
        response.status_code = 503
    return info


def check_readiness(services: Services) -> ReadyInfo:
    """Look at each part once; a part that does not answer is named, the reason is in the log."""
    checks = {
        "database": _try("database", services.database.probe),
        "blobs": _try("blobs", services.blobs.probe),
        "broker": "ok" if services.link.connected else "not connected",
        "signing": _try("signing", services.repository.metadata),
    }
    return ReadyInfo(ready=all(found == "ok" for found in checks.values()), checks=checks)


def _try(name: str, probe: Callable[[], Any]) -> str:
    try:
        probe()
    except Exception:  # whatever it is, the answer is "not ready"
        logger.exception("%s does not answer", name)
        return "does not answer"
    return "ok"
