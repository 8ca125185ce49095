"""Who may enrol: tokens, keys on the list, devices that ask; and how they know this server."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import Operator, get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.image_snippet import PACKAGE, PREFIX, SERVER, TOKEN, image_snippet
from edgectl_server.schemas import (
    ApproveRequest,
    AuthorityInfo,
    DeviceIdStr,
    EnrolRequestInfo,
    EnrolTokenCreated,
    EnrolTokenInfo,
    EnrolTokenRequest,
    ImageSnippet,
    Page,
    PreauthorisedEntry,
    PreauthorisedInfo,
    PreauthoriseRequest,
    PreauthoriseResult,
    RejectRequest,
)

__all__ = ["router"]

router = APIRouter(prefix="/enrolment", tags=["devices"])

DevicePath = Annotated[DeviceIdStr, Path()]
TokenPath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


@router.get("/authority", operation_id="authority", dependencies=[viewer], responses=responses(401))
def authority(request: Request) -> AuthorityInfo:
    """Show by what a device without a token knows this server."""
    services = get_services(request)
    return AuthorityInfo(
        fingerprint=f"sha256:{services.authority.fingerprint}",
        certificate_pem=services.authority.certificate_pem,
        takes_requests=services.admission.takes_requests,
    )


@router.get(
    "/image-snippet",
    operation_id="image_snippet",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def show_image_snippet(
    request: Request,
    server: Annotated[str, Query(pattern=SERVER, max_length=300)],
    prefix: Annotated[str, Query(pattern=PREFIX)] = "device",
    package: Annotated[
        str, Query(pattern=PACKAGE, max_length=300)
    ] = "/boot/firmware/edgectl-agent.deb",
    form: Literal["cloud-init", "script"] = "cloud-init",
) -> ImageSnippet:
    """Show what an image does so that each of its devices enrols by itself.

    It is a template: where `placeholder` stands in it, an enrolment token belongs.
    """
    fingerprint = f"sha256:{get_services(request).authority.fingerprint}"
    text = image_snippet(form, server=server, authority=fingerprint, prefix=prefix, package=package)
    return ImageSnippet(form=form, text=text, placeholder=TOKEN)


# ---------------------------------------------------------------- tokens


@router.post(
    "/tokens",
    operation_id="create_enrol_token",
    status_code=201,
    responses=responses(401, 403, 422),
)
def create_enrol_token(
    request: Request, principal: Operator, body: EnrolTokenRequest
) -> EnrolTokenCreated:
    """Make a token with which devices enrol."""
    return get_services(request).admission.create_token(
        uses=body.uses, expires_in_s=body.expires_in_s, group=body.group, user=principal.user
    )


@router.get(
    "/tokens",
    operation_id="list_enrol_tokens",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_enrol_tokens(request: Request, paging: Paging) -> Page[EnrolTokenInfo]:
    """List the tokens that are good for something, without their secrets."""
    return get_services(request).admission.tokens(paging)


@router.delete(
    "/tokens/{token_id}",
    operation_id="revoke_enrol_token",
    status_code=204,
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def revoke_enrol_token(request: Request, token_id: TokenPath) -> None:
    """Make a token worthless; devices that have enrolled with it stay."""
    get_services(request).admission.revoke_token(token_id)


# ---------------------------------------------------------------- the list


@router.post(
    "/preauthorised",
    operation_id="preauthorise",
    responses=responses(401, 403, 409, 422),
)
def preauthorise(
    request: Request, principal: Operator, body: PreauthoriseRequest
) -> PreauthoriseResult:
    """Put keys on the list of those that may enrol, all of them or none."""
    return get_services(request).admission.preauthorise(body.entries, principal.user)


@router.get(
    "/preauthorised",
    operation_id="list_preauthorised",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_preauthorised(request: Request, paging: Paging) -> Page[PreauthorisedInfo]:
    """List the keys that may enrol and have not yet."""
    return get_services(request).admission.preauthorised(paging)


@router.delete(
    "/preauthorised/{device}",
    operation_id="forget_preauthorised",
    status_code=204,
    dependencies=[operator],
    responses=responses(401, 403, 404, 422),
)
def forget_preauthorised(request: Request, device: DevicePath) -> None:
    """Take a key off the list."""
    get_services(request).admission.forget_preauthorised(device)


# ---------------------------------------------------------------- requests


@router.get(
    "/requests",
    operation_id="list_enrol_requests",
    dependencies=[viewer],
    responses=responses(401, 422),
)
def list_enrol_requests(request: Request, paging: Paging) -> Page[EnrolRequestInfo]:
    """List the devices that ask to be let in."""
    return get_services(request).admission.requests(paging)


@router.post(
    "/requests/{device}/actions/approve",
    operation_id="approve_device",
    responses=responses(401, 403, 404, 409, 422),
)
def approve_device(
    request: Request, principal: Operator, device: DevicePath, body: ApproveRequest
) -> PreauthorisedEntry:
    """Let a device in that asks, by the fingerprint that the device itself shows."""
    return get_services(request).admission.approve(
        device, body.fingerprint, group=body.group, user=principal.user
    )


@router.post(
    "/requests/{device}/actions/reject",
    operation_id="reject_device",
    responses=responses(401, 403, 404, 409, 422),
)
def reject_device(
    request: Request, principal: Operator, device: DevicePath, body: RejectRequest
) -> EnrolRequestInfo:
    """Turn a device down that asks."""
    return get_services(request).admission.reject(device, body.fingerprint, user=principal.user)
