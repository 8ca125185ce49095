"""Samples of inputs and answers, and the policies by which they may leave devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime

from edgectl_server.api.access import Admin, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.audit import describe
from edgectl_server.samples import SampleFilter
from edgectl_server.schemas import (
    DeviceIdStr,
    LabelStateStr,
    ModelNameStr,
    Page,
    SampleInfo,
    SampleKeyInfo,
    SamplePolicyChange,
    SamplePolicyInfo,
    SampleReasonStr,
)

__all__ = ["router"]

router = APIRouter(tags=["samples"])

ModelPath = Annotated[ModelNameStr, Path()]
SamplePath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
_BYTES = "application/octet-stream"


@router.get(
    "/samples", operation_id="list_samples", dependencies=[viewer], responses=responses(401, 422)
)
def list_samples(
    request: Request,
    paging: Paging,
    *,
    model: Annotated[ModelNameStr | None, Query(description="Of this model.")] = None,
    device: Annotated[DeviceIdStr | None, Query(description="From this device.")] = None,
    reason: Annotated[SampleReasonStr | None, Query(description="Taken for this reason.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Taken at this or later.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Taken before this.")] = None,
    site: Annotated[
        str | None, Query(max_length=128, description="From devices of this site.")
    ] = None,
    label_state: Annotated[
        LabelStateStr | None, Query(description="What annotations amount to.")
    ] = None,
    label: Annotated[
        str | None, Query(max_length=256, description="What annotations agree on.")
    ] = None,
) -> Page[SampleInfo]:
    """List what devices have sent, the newest first; what is in them only operators may read."""
    state = "" if label_state == "unlabelled" else label_state
    asked = SampleFilter(model, device, reason, since, until, state, label, site)
    return get_services(request).samples.page(paging, asked)


@router.get(
    "/samples/{sample}",
    operation_id="get_sample",
    dependencies=[operator],
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file, in the safetensors layout", "content": {_BYTES: {}}},
        **responses(401, 403, 404, 422),
    },
)
def get_sample(request: Request, sample: SamplePath) -> StreamingResponse:
    """Send the file of a sample; who has read it is in the audit log.

    One that is sealed to a key which this server does not have is sent sealed.
    """
    info, content = get_services(request).samples.read(sample)
    describe(changes=True, device=info.device, model=info.model, digest=info.digest)
    ending = "sealed" if info.sealed else "safetensors"
    return StreamingResponse(
        content,
        media_type=_BYTES,
        headers={
            "Content-Length": str(info.length),
            "Content-Disposition": f'attachment; filename="sample-{info.id}.{ending}"',
        },
    )


@router.delete(
    "/samples/{sample}",
    operation_id="delete_sample",
    status_code=204,
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def delete_sample(request: Request, sample: SamplePath) -> None:
    """Delete a sample, and its content."""
    services = get_services(request)
    services.samples.delete(sample)
    services.device_uploads.delete_old()


@router.get(
    "/sample-keys",
    operation_id="list_sample_keys",
    dependencies=[viewer],
    responses=responses(401),
)
def list_sample_keys(request: Request) -> list[SampleKeyInfo]:
    """List the keys that samples are, or were, sealed to, the newest first."""
    return get_services(request).sample_keys.all()


@router.post(
    "/sample-keys",
    operation_id="rotate_sample_key",
    status_code=201,
    responses=responses(401, 403),
)
def rotate_sample_key(request: Request, principal: Admin) -> SampleKeyInfo:
    """Make a new key of the server's, to which devices seal from now on; older ones still open."""
    services = get_services(request)
    return services.sample_policies.rotate(services.sample_keys, principal.user)


@router.get(
    "/models/{name}/samples",
    operation_id="get_sample_policy",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def get_sample_policy(request: Request, name: ModelPath) -> SamplePolicyInfo:
    """Show what of a model's inputs and answers may leave the devices that run it."""
    return get_services(request).sample_policies.get(name)


@router.put(
    "/models/{name}/samples",
    operation_id="put_sample_policy",
    responses=responses(401, 403, 409, 422),
)
def put_sample_policy(
    request: Request, principal: Admin, name: ModelPath, body: SamplePolicyChange
) -> SamplePolicyInfo:
    """Replace that; devices are told within a minute."""
    return get_services(request).sample_policies.put(name, body, principal.user)
