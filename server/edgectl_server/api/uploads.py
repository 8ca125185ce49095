"""Uploads: ``HEAD`` says how much is there, ``PATCH`` sends the rest, as often as it takes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any

from anyio import CancelScope
from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from edgectl_server.api.access import get_services, operator
from edgectl_server.api.problems import responses
from edgectl_server.schemas import UploadLimits
from edgectl_server.uploads import UploadStatus, UploadWriter

__all__ = ["router"]

router = APIRouter(tags=["uploads"])

Sha256Path = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
_WRITE_BYTES = 1024**2
_HEADERS: dict[str, Any] = {
    "Upload-Offset": {"schema": {"type": "integer"}, "description": "Bytes that are durable."},
    "Upload-Complete": {"schema": {"type": "string", "enum": ["?0", "?1"]}},
}


def _answer(status: UploadStatus, code: int) -> Response:
    return Response(
        status_code=code,
        headers={
            "Upload-Offset": str(status.offset),
            "Upload-Complete": "?1" if status.complete else "?0",
        },
    )


@router.get(
    "/uploads",
    operation_id="upload_limits",
    dependencies=[operator],
    responses=responses(401, 403),
)
def upload_limits(request: Request) -> UploadLimits:
    """Say what may be uploaded, before somebody sends gigabytes in vain."""
    return get_services(request).uploads.limits()


@router.head(
    "/uploads/{sha256}",
    operation_id="upload_status",
    dependencies=[operator],
    response_class=Response,
    responses={200: {"headers": _HEADERS}, **responses(401, 403, 422)},
)
def upload_status(request: Request, sha256: Sha256Path) -> Response:
    """Say how much of a file is there; 0 bytes of one that nobody has begun to send."""
    return _answer(get_services(request).uploads.status(sha256), 200)


@router.patch(
    "/uploads/{sha256}",
    operation_id="upload",
    status_code=204,
    dependencies=[operator],
    response_class=Response,
    responses={204: {"headers": _HEADERS}, **responses(401, 403, 409, 413, 422, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def upload(
    request: Request,
    sha256: Sha256Path,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0)],
    length: Annotated[int, Header(alias="Upload-Length", ge=0)],
) -> Response:
    """Send the bytes of a file from ``Upload-Offset``; they are kept even if the rest is not."""
    uploads = get_services(request).uploads
    status = await run_in_threadpool(uploads.status, sha256)
    if not status.complete:
        writing = uploads.writing(sha256, offset, length)
        if not await _receive(request, writing):
            return Response(status_code=499)  # nobody is there to read it
        status = await run_in_threadpool(uploads.finish, sha256, length)
    return _answer(status, 204)


async def _receive(request: Request, writing: AbstractContextManager[UploadWriter]) -> bool:
    """Write the request's body in pieces of bounded size; False if the client has gone."""
    writer = await run_in_threadpool(writing.__enter__)
    pending = bytearray()
    try:
        try:
            async for piece in request.stream():
                pending += piece
                if len(pending) >= _WRITE_BYTES:
                    await run_in_threadpool(writer.write, bytes(pending))
                    pending.clear()
        except ClientDisconnect:
            await run_in_threadpool(writer.write, bytes(pending))
            return False
        await run_in_threadpool(writer.write, bytes(pending))
        return True
    finally:
        with CancelScope(shield=True):  # whatever ends the request, the upload is let go
            await run_in_threadpool(writing.__exit__, None, None, None)
