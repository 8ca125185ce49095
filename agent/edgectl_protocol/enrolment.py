"""How a device gets its identity, over a channel that need not be trusted.

An enrolment token is ``ee_<id>_<secret>``. Device and server derive the key K = SHA-256(secret);
the server keeps K and never sees the secret again. The device sends a certificate signing request
with a proof, the server answers with a JSON text and its authentication::

    proof = HMAC-SHA256(K, "edgectl-enrol-request-v1" NUL nonce NUL device NUL csr)
    mac   = HMAC-SHA256(K, "edgectl-enrol-reply-v1" NUL nonce NUL text)

Somebody in between can neither use the token nor plant an authority or a TUF root of their own,
even where the server is reached by plain HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.names import DeviceId

__all__ = [
    "BrokerAddress",
    "EnrolReply",
    "EnrolRequest",
    "Enrolment",
    "Token",
    "format_token",
    "key_of",
    "parse_token",
    "reply_mac",
    "request_proof",
]

_Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
_TOKEN = re.compile(r"ee_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


class EnrolRequest(Struct, frozen=True, kw_only=True):
    """``POST /api/v1/enrol``."""

    token_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
    device: DeviceId
    nonce: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    csr_pem: Annotated[str, Meta(max_length=8192)]
    """P-256 key; subject and extensions are ignored, the certificate is named after `device`."""
    proof: _Hex


class EnrolReply(Struct, frozen=True, kw_only=True):
    """The answer: an `Enrolment` as JSON text, and its authentication."""

    enrolment: Annotated[str, Meta(max_length=128 * 1024)]
    mac: _Hex


class BrokerAddress(Struct, frozen=True, kw_only=True):
    """Where the MQTT broker listens, as devices reach it."""

    host: Annotated[str, Meta(max_length=255)]
    port: Annotated[int, Meta(ge=1, le=65535)]


class Enrolment(Struct, frozen=True, kw_only=True):
    """Everything that a device needs to connect and to believe."""

    device: DeviceId
    certificate_pem: Annotated[str, Meta(max_length=16384)]
    authority_pem: Annotated[str, Meta(max_length=16384)]
    """Certificate authority of the broker and of all devices."""
    broker: BrokerAddress
    root: Annotated[str, Meta(max_length=65536)]
    """The first TUF root metadata, JSON text, exactly as signed."""


class Token(NamedTuple):
    """The two parts of an enrolment token."""

    id: str
    secret: str


def parse_token(text: str) -> Token:
    """Split an enrolment token; raise `MalformedMessage` for any other text."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None:
        raise MalformedMessage(
            "not an enrolment token: expected ee_<16 hex digits>_<43 characters>"
        )
    return Token(match[1], match[2])


def format_token(token: Token) -> str:
    """Return the token as a person copies it."""
    return f"ee_{token.id}_{token.secret}"


def key_of(secret: str) -> bytes:
    """Return K, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def request_proof(key: bytes, *, nonce: str, device: str, csr_pem: str) -> str:
    """Return the proof of a request in hexadecimal digits."""
    parts = ("edgectl-enrol-request-v1", nonce, device, csr_pem)
    return hmac.new(key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()


def reply_mac(key: bytes, *, nonce: str, enrolment: str) -> str:
    """Return the authentication of a reply in hexadecimal digits."""
    parts = ("edgectl-enrol-reply-v1", nonce, enrolment)
    return hmac.new(key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()
