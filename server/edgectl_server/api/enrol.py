"""What devices ask without a login: to be let in, and a new certificate. They prove themselves.

Unlike elsewhere, unknown fields are tolerated: agents are older and newer than the server.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from edgectl_protocol import enrolment
from edgectl_server.api.access import get_services
from edgectl_server.api.problems import responses
from edgectl_server.errors import Refused
from edgectl_server.schemas import DeviceIdStr, Schema

__all__ = ["router"]

router = APIRouter(tags=["devices"])

Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Proof = Annotated[str, Field(pattern=r"^[0-9a-f]{16,144}$")]
Message = TypeVar("Message")


class EnrolBody(BaseModel):
    """What a device sends; see `edgectl_protocol.enrolment` for how it is made."""

    token_id: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")] = ""
    """Empty: without a token."""
    device: DeviceIdStr
    nonce: Nonce
    csr_pem: Annotated[str, Field(max_length=8192)]
    """PKCS #10 in PEM, with an ECDSA P-256 key."""
    proof: Proof
    """MAC with the token's key, or signature of the device's."""


class EnrolAnswer(Schema):
    """What it gets back."""

    enrolment: str
    """JSON text: certificate, authority, broker address, first signed root."""
    mac: str
    """Authentication of that text with the token's key."""
    signature: str
    """Signature of that text by the authority, to a request without a token."""


class WaitingAnswer(Schema):
    """A person has to approve first: ask again."""

    fingerprint: str
    """Of the device's key, as the person sees it."""


class RenewBody(BaseModel):
    """What a device sends for a new certificate."""

    device: DeviceIdStr
    nonce: Nonce
    proof: Proof


class RenewAnswer(Schema):
    """What it gets back."""

    renewal: str
    """JSON text: the certificate to use."""
    signature: str
    """Signature of that text by the authority."""


@router.post(
    "/enrol",
    operation_id="enrol",
    responses={202: {"model": WaitingAnswer}, **responses(401, 403, 409, 422, 429)},
)
def enrol(request: Request, response: Response, body: EnrolBody) -> EnrolAnswer | WaitingAnswer:
    """Exchange a token, or a key that is let in, for a certificate."""
    address = request.client.host if request.client is not None else ""
    message = _message(body, enrolment.EnrolRequest)
    reply = get_services(request).enrolment.enrol(message, address)
    if isinstance(reply, enrolment.Waiting):
        response.status_code = 202
        return WaitingAnswer(fingerprint=reply.fingerprint)
    return EnrolAnswer(enrolment=reply.enrolment, mac=reply.mac, signature=reply.signature)


@router.post("/renew", operation_id="renew", responses=responses(401, 409, 422))
def renew(request: Request, body: RenewBody) -> RenewAnswer:
    """Get the certificate to use from now on, for the key of an enrolled device."""
    reply = get_services(request).enrolment.renew(_message(body, enrolment.RenewRequest))
    return RenewAnswer(renewal=reply.renewal, signature=reply.signature)


def _message(body: BaseModel, kind: type[Message]) -> Message:
    document: dict[str, Any] = body.model_dump()
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise Refused("request.invalid", str(error)) from error
