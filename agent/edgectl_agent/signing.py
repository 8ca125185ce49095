"""The device signs what it says, with the key of its certificate (`edgectl_agent.device_key`).

What is signed is a report of `edgectl_protocol.messages`, in an envelope whose type says which kind
of report it is. The server believes nothing that a broker brings without it.
"""

from __future__ import annotations

from typing import Protocol

from edgectl_protocol.compression import COMPRESSED, compress
from edgectl_protocol.envelopes import Envelope, Signature, encode_envelope, signed_bytes
from edgectl_protocol.messages import PAYLOAD_TYPES, Report, encode

__all__ = ["Signer", "seal", "seal_encoded"]


class Signer(Protocol):
    """What is needed of the device's key; used from several threads."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key (SubjectPublicKeyInfo, DER), hexadecimal."""

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature (P-256, SHA-256) in DER."""


def seal(signer: Signer, report: Report) -> bytes:
    """Return the report in a signed envelope, as it goes on the wire."""
    return seal_encoded(signer, type(report), encode(report))


def seal_encoded(
    signer: Signer, kind: type[Report], payload: bytes, *, compressed: bool = False
) -> bytes:
    """Return a report that was encoded before in a signed envelope, `compressed` if it is wanted.

    A payload that does not get shorter by it stays as it is.
    """
    payload_type = PAYLOAD_TYPES[kind]
    if compressed and len(packed := compress(payload)) < len(payload):
        payload_type, payload = payload_type + COMPRESSED, packed
    signature = Signature(keyid=signer.key_id, sig=signer.sign(signed_bytes(payload_type, payload)))
    return encode_envelope(
        Envelope(payload_type=payload_type, payload=payload, signatures=(signature,))
    )
