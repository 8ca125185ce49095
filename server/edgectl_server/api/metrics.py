"""``/metrics``, for Prometheus: a token with the scope ``metrics`` reads it, and nothing else."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from edgectl_server.api.access import get_services, viewer
from edgectl_server.api.problems import responses

__all__ = ["router"]

router = APIRouter(tags=["metrics"])

_TEXT = {
    "description": "Prometheus's text format, or OpenMetrics if `Accept` asks for it",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


@router.get(
    "/metrics",
    operation_id="metrics",
    dependencies=[viewer],
    response_class=Response,
    responses={200: _TEXT, **responses(401, 403)},
)
def metrics(request: Request) -> Response:
    """Return the figures of `docs/metrics.md`."""
    content, kind = get_services(request).metrics.text(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-store"})
