"""How a device gets its identity and keeps it, over a channel that need not be trusted.

Three ways in, one request. The device sends a certificate signing request with a proof, the server
answers with a JSON text (`Enrolment`) and its authentication. Both cover the device's nonce, so
that an old answer is worth nothing.

With a **token** ``ee_<id>_<secret>`` both sides derive K = SHA-256(secret); the secret never
travels, and the server keeps K only::

    proof = HMAC-SHA256(K, request_text(…))
    mac = HMAC-SHA256(K, reply_text(…))

**Without a token** the device's key must be on a list, or be approved by a person. The device
knows the server by the fingerprint of its authority's key, which it was given beforehand::

    proof = ECDSA(device's key, request_text(…))
    signature = ECDSA(authority's key, reply_text(…))

**Renewal** is of an enrolled device, with the key that it has; nothing in the request can be used
by somebody else, and the same request again has the same answer::

    proof = ECDSA(device's key, renewal_text(…))
    signature = ECDSA(authority's key, renewed_text(…))

ECDSA is over P-256 with SHA-256, its signatures are DER. MACs and signatures are sent as lower-case
hexadecimal digits. A fingerprint is the SHA-256 of a public key as DER SubjectPublicKeyInfo, shown
as 16 groups of four hexadecimal digits (`format_fingerprint`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.fields import Count
from edgectl_protocol.names import DeviceId

__all__ = [
    "BrokerAddress",
    "EnrolReply",
    "EnrolRequest",
    "Enrolment",
    "RenewReply",
    "RenewRequest",
    "Renewal",
    "Token",
    "Waiting",
    "fingerprint_of",
    "format_fingerprint",
    "format_token",
    "key_of",
    "parse_fingerprint",
    "parse_token",
    "renewal_text",
    "renewed_text",
    "reply_mac",
    "reply_text",
    "request_proof",
    "request_text",
]

_Mac = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
_Signature = Annotated[str, Meta(pattern=r"^([0-9a-f]{16,144})?$")]
_Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
_Certificate = Annotated[str, Meta(max_length=16384)]
_TOKEN = re.compile(r"ee_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_SEPARATORS = re.compile(r"[\s:-]")
_FINGERPRINT_CHARACTERS_MAX = 256


class EnrolRequest(Struct, frozen=True, kw_only=True):
    """``POST /api/v1/enrol``."""

    token_id: Annotated[str, Meta(pattern=r"^([0-9a-f]{16})?$")] = ""
    """Empty: without a token."""
    device: DeviceId
    nonce: _Nonce
    csr_pem: Annotated[str, Meta(max_length=8192)]
    """P-256 key; subject and extensions are ignored, the certificate is named after `device`."""
    proof: Annotated[str, Meta(pattern=r"^[0-9a-f]{16,144}$")]
    """MAC with the token's key, or signature with the device's."""


class EnrolReply(Struct, frozen=True, kw_only=True):
    """The answer: an `Enrolment` as JSON text, and its authentication."""

    enrolment: Annotated[str, Meta(max_length=128 * 1024)]
    mac: _Mac = ""
    """To a request with a token."""
    signature: _Signature = ""
    """To a request without."""


class Waiting(Struct, frozen=True, kw_only=True):
    """The answer with status 202: a person has to approve; ask again, with the same key."""

    fingerprint: Annotated[str, Meta(max_length=128)]
    """Of the device's key, as the person sees it."""


class BrokerAddress(Struct, frozen=True, kw_only=True):
    """Where the MQTT broker listens, as devices reach it."""

    host: Annotated[str, Meta(max_length=255)]
    port: Annotated[int, Meta(ge=1, le=65535)]


class Enrolment(Struct, frozen=True, kw_only=True):
    """Everything that a device needs to connect and to believe."""

    device: DeviceId
    certificate_pem: _Certificate
    authority_pem: _Certificate
    """Certificate authority of the broker and of all devices."""
    broker: BrokerAddress
    root: Annotated[str, Meta(max_length=65536)]
    """The first TUF root metadata, JSON text, exactly as signed."""
    boot: Count = 0
    """The newest that the server has heard of with this key: the device counts on from it."""


class RenewRequest(Struct, frozen=True, kw_only=True):
    """``POST /api/v1/renew``."""

    device: DeviceId
    nonce: _Nonce
    proof: Annotated[str, Meta(pattern=r"^[0-9a-f]{16,144}$")]


class RenewReply(Struct, frozen=True, kw_only=True):
    """The answer: a `Renewal` as JSON text, signed by the authority."""

    renewal: Annotated[str, Meta(max_length=32 * 1024)]
    signature: _Signature


class Renewal(Struct, frozen=True, kw_only=True):
    """The certificate to use from now on; the present one while that is good for long enough."""

    device: DeviceId
    certificate_pem: _Certificate


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


def fingerprint_of(public_key_der: bytes) -> str:
    """Return the fingerprint of a public key (DER SubjectPublicKeyInfo), 64 hexadecimal digits."""
    return hashlib.sha256(public_key_der).hexdigest()


def format_fingerprint(fingerprint: str) -> str:
    """Return 64 hexadecimal digits as two people compare them: in groups of four."""
    return "-".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


def parse_fingerprint(text: str) -> str:
    """Return the 64 hexadecimal digits of a fingerprint that a person has copied.

    Groups, colons, spaces, capitals and a leading ``sha256:`` are taken as they come.

    Raises:
        MalformedMessage: it is no whole fingerprint; a part of one is not enough to compare.
    """
    digits = text.strip().lower().removeprefix("sha256:")[:_FINGERPRINT_CHARACTERS_MAX]
    match = _FINGERPRINT.fullmatch(_SEPARATORS.sub("", digits))
    if match is None:
        raise MalformedMessage("not a fingerprint: expected 64 hexadecimal digits")
    return match[1]


def request_text(*, nonce: str, device: str, csr_pem: str) -> bytes:
    """Return what the proof of an enrolment covers."""
    return _text("edgectl-enrol-request-v1", nonce, device, csr_pem)


def reply_text(*, nonce: str, enrolment: str) -> bytes:
    """Return what the authentication of an enrolment's answer covers."""
    return _text("edgectl-enrol-reply-v1", nonce, enrolment)


def renewal_text(*, nonce: str, device: str) -> bytes:
    """Return what the proof of a renewal covers."""
    return _text("edgectl-renew-request-v1", nonce, device)


def renewed_text(*, nonce: str, renewal: str) -> bytes:
    """Return what the signature of a renewal's answer covers."""
    return _text("edgectl-renew-reply-v1", nonce, renewal)


def request_proof(key: bytes, *, nonce: str, device: str, csr_pem: str) -> str:
    """Return the proof of a request with a token, in hexadecimal digits."""
    return _mac(key, request_text(nonce=nonce, device=device, csr_pem=csr_pem))


def reply_mac(key: bytes, *, nonce: str, enrolment: str) -> str:
    """Return the authentication of a reply to it, in hexadecimal digits."""
    return _mac(key, reply_text(nonce=nonce, enrolment=enrolment))


def _text(*parts: str) -> bytes:
    # NUL ends each part but the last, which may hold anything: the others are names and digits.
    return "\0".join(parts).encode()


def _mac(key: bytes, text: bytes) -> str:
    return hmac.new(key, text, hashlib.sha256).hexdigest()
