"""Signed envelopes: DSSE v1 (secure-systems-lab/dsse, protocol.md and envelope.md), taken apart.

An envelope is JSON: a payload, its type, and signatures over both. This module knows no
cryptography: it says what is signed and what the envelope holds; who checks the signature does so
before it looks into the payload. Only standard base64 is taken, where DSSE would take URL-safe too.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgectl_protocol.errors import LimitExceeded, MalformedMessage

__all__ = ["Envelope", "Signature", "decode_envelope", "encode_envelope", "signed_bytes"]

_SIGNATURES_MAX = 16


class Signature(Struct, frozen=True, kw_only=True):
    """One signature; `keyid` is a hint and proves nothing."""

    keyid: Annotated[str, Meta(max_length=128)] = ""
    sig: Annotated[bytes, Meta(max_length=1024)]


class Envelope(Struct, frozen=True, kw_only=True, rename="camel"):
    """A payload with its type and signatures, none of which has been checked."""

    payload_type: Annotated[str, Meta(max_length=128)]
    payload: bytes
    signatures: Annotated[tuple[Signature, ...], Meta(min_length=1, max_length=_SIGNATURES_MAX)]


def signed_bytes(payload_type: str, payload: bytes) -> bytes:
    """Return what a signature covers: DSSE's pre-authentication encoding of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the envelope as it goes on the wire."""
    return msgspec.json.encode(envelope)


def decode_envelope(content: bytes, *, bytes_max: int) -> Envelope:
    """Take apart what came from outside; no signature is checked.

    Args:
        content: the message.
        bytes_max: longest message that is looked at.

    Raises:
        LimitExceeded: it is longer.
        MalformedMessage: it is no envelope, or has no signature, or too many.
    """
    if len(content) > bytes_max:
        raise LimitExceeded(f"an envelope of {len(content)} bytes, at most {bytes_max}")
    try:
        return msgspec.json.decode(content, type=Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not a signed envelope") from error
