"""Enrolment: the one change that needs no login, because the token proves itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from edgectl_protocol import enrolment
from edgectl_server.api.access import get_services
from edgectl_server.api.problems import responses
from edgectl_server.errors import Refused
from edgectl_server.schemas import DeviceIdStr, Schema, Sha256

__all__ = ["router"]

router = APIRouter(tags=["devices"])


class EnrolBody(BaseModel):
    """What a device sends; see `edgectl_protocol.enrolment` for how it is made.

    Unlike elsewhere, unknown fields are tolerated: agents are older and newer than the server.
    """

    token_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    device: DeviceIdStr
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    csr_pem: Annotated[str, Field(max_length=8192)]
    """PKCS #10 in PEM, with an ECDSA P-256 key."""
    proof: Sha256


class EnrolAnswer(Schema):
    """What it gets back."""

    enrolment: str
    """JSON text: certificate, authority, broker address, first signed root."""
    mac: Sha256
    """Authentication of that text with the token's key."""


@router.post("/enrol", operation_id="enrol", responses=responses(401, 409, 422))
def enrol(request: Request, body: EnrolBody) -> EnrolAnswer:
    """Exchange a token for a certificate."""
    try:
        message = msgspec.convert(body.model_dump(), enrolment.EnrolRequest)
    except msgspec.ValidationError as error:
        raise Refused("request.invalid", str(error)) from error
    reply = get_services(request).enrolment.enrol(message)
    return EnrolAnswer(enrolment=reply.enrolment, mac=reply.mac)
