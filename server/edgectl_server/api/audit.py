"""The audit log, for admins: a page of it, all of it, and its state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime

from edgectl_protocol.audit import AuditHeader
from edgectl_server.api.access import admin, get_services
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.audit import AuditFilter, entry_of
from edgectl_server.clock import now
from edgectl_server.schemas import AuditEntryInfo, AuditState, Page
from edgectl_server.services import Services

__all__ = ["router"]

router = APIRouter(tags=["audit"])

_BATCH = 500


@router.get(
    "/audit",
    operation_id="list_audit",
    dependencies=[admin],
    responses=responses(401, 403, 422),
)
def list_audit(
    request: Request,
    paging: Paging,
    *,
    actor: Annotated[str, Query(max_length=128, description="Done by this one.")] = "",
    action: Annotated[str, Query(max_length=64, description="This was done.")] = "",
    object_: Annotated[
        str, Query(alias="object", max_length=256, description="Part of what it was done to.")
    ] = "",
    outcome: Annotated[
        Literal["done", "refused", "failed"] | None, Query(description="It ended so.")
    ] = None,
    since: Annotated[AwareDatetime | None, Query(description="Not before this.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this.")] = None,
) -> Page[AuditEntryInfo]:
    """List what was done, the newest first; `q` looks into everything but the details."""
    asked = AuditFilter(actor, action, object_, outcome or "", since, until)
    rows, total = get_services(request).audit.page(paging, asked)
    items = [
        AuditEntryInfo.model_validate(msgspec.to_builtins(entry_of(row), str_keys=True))
        for row in rows
    ]
    return Page(items=items, total=total)


@router.get(
    "/audit/state",
    operation_id="audit_state",
    dependencies=[admin],
    responses=responses(401, 403),
)
def audit_state(request: Request) -> AuditState:
    """Say how far the log goes, and how far it is vouched for."""
    services = get_services(request)
    number, digest = services.audit.head()
    heads = services.audit_heads
    return AuditState(
        number=number,
        hash=digest,
        key=heads.public_key,
        anchored=heads.anchored,
        alarm=heads.alarm,
    )


@router.get(
    "/audit/export",
    operation_id="export_audit",
    dependencies=[admin],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/x-ndjson": {}}, "description": "One JSON object a line"},
        **responses(401, 403),
    },
)
def export_audit(request: Request) -> StreamingResponse:
    """Send everything, as lines that `edgectl audit verify` checks: a header, heads, rows."""
    return StreamingResponse(_lines(get_services(request)), media_type="application/x-ndjson")


def _lines(services: Services) -> Iterator[bytes]:
    """Yield the lines of an export; heads before rows, so that no head is newer than the rows."""
    encoder = msgspec.json.Encoder()
    header = AuditHeader(format="edgectl-audit-1", exported_at=now().isoformat())
    yield encoder.encode({"export": header}) + b"\n"
    for head in services.audit_heads.heads():
        yield encoder.encode({"head": head}) + b"\n"
    after = 0
    while rows := services.audit.rows(after, _BATCH):
        yield b"".join(encoder.encode({"entry": entry_of(row)}) + b"\n" for row in rows)
        after = rows[-1].number
