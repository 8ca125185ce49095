"""What devices upload: their logs, when somebody asks for them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse

from edgectl_protocol.chunks import Bitmap, chunk_count
from edgectl_server.api.access import Operator, get_services, operator, viewer
from edgectl_server.api.problems import responses
from edgectl_server.fleet import find_device
from edgectl_server.schemas import (
    DeviceIdStr,
    DeviceUploadInfo,
    DigestStr,
    JobInfo,
    LogFollowInfo,
    LogFollowPage,
    LogsStart,
    Page,
)
from edgectl_server.storage.tables import DeviceUpload

__all__ = ["router"]

router = APIRouter(tags=["devices"])

DevicePath = Annotated[DeviceIdStr, Path()]
_BYTES = "application/octet-stream"


@router.post(
    "/devices/{device}/logs",
    operation_id="device_logs",
    status_code=202,
    responses=responses(401, 403, 404, 409, 422),
)
def device_logs(
    request: Request, principal: Operator, device: DevicePath, body: LogsStart
) -> JobInfo:
    """Have a device upload its agent's last log lines: a job begins.

    Its result names the upload, which holds gzip of lines of JSON.
    """
    return get_services(request).device_logs.start(device, body.since_s, principal.user)


@router.post(
    "/devices/{device}/logs/follow",
    operation_id="follow_device_logs",
    status_code=201,
    responses=responses(401, 403, 404, 409, 429),
)
def follow_device_logs(request: Request, principal: Operator, device: DevicePath) -> LogFollowInfo:
    """Have a device send its agent's log lines as they come, while somebody asks for them.

    It stops by itself: 15 seconds after nobody asks for lines any more, and after 10 minutes.
    """
    return get_services(request).log_follows.start(device, principal.user)


@router.get(
    "/devices/{device}/logs/follow/{follow}",
    operation_id="followed_device_logs",
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def followed_device_logs(
    request: Request,
    device: DevicePath,
    follow: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")],
    after: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> LogFollowPage:
    """Return the lines that have come since; ask once a second for as long as somebody looks."""
    return get_services(request).log_follows.page(device, follow, after)


@router.get(
    "/devices/{device}/uploads",
    operation_id="device_uploads",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def device_uploads(request: Request, device: DevicePath) -> Page[DeviceUploadInfo]:
    """List the logs that a device has uploaded, or does, newest first."""
    services = get_services(request)
    with services.database.read() as session:
        find_device(session, device)
    items = [_info(row) for row in services.device_uploads.all_of(device, kind="logs")]
    return Page(items=items, total=len(items))


@router.get(
    "/devices/{device}/uploads/{digest}",
    operation_id="device_upload",
    dependencies=[operator],
    response_class=StreamingResponse,
    responses={
        200: {"description": "The content as it came", "content": {_BYTES: {}}},
        **responses(401, 403, 404, 422),
    },
)
def device_upload(
    request: Request, device: DevicePath, digest: Annotated[DigestStr, Path()]
) -> StreamingResponse:
    """Send logs as they came: nothing looks into them here. Samples have their own route."""
    row, content = get_services(request).device_uploads.read(device, digest, kind="logs")
    name = f"{device}-{row.kind}-{digest.removeprefix('sha256:')[:12]}"
    return StreamingResponse(
        content,
        media_type=_BYTES,
        headers={
            "Content-Length": str(row.length),
            "Content-Disposition": f'attachment; filename="{name}"',
        },
    )


def _info(row: DeviceUpload) -> DeviceUploadInfo:
    total = chunk_count(row.length)
    whole = row.state == "complete"
    return DeviceUploadInfo(
        digest=row.digest,
        kind=row.kind,  # type: ignore[arg-type]  # the protocol admits only these
        media_type=row.media_type,
        length=row.length,
        state=row.state,  # type: ignore[arg-type]
        chunks_done=total if whole else Bitmap(total, row.bitmap).done(),
        chunks_total=total,
        job=row.job,
        made_at=row.made_at,
        created_at=row.created_at,
        ended_at=row.ended_at,
        expires_at=row.expires_at,
        reason_code="" if row.reason is None else row.reason["code"],
        reason="" if row.reason is None else row.reason["detail"],
    )
