"""Telemetry as a device with two models sends it: windows, and the signature around a batch."""

from __future__ import annotations

import random
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgectl_protocol.enrolment import fingerprint_of
from edgectl_protocol.envelopes import Envelope, Signature, encode_envelope, signed_bytes
from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US
from edgectl_protocol.messages import PAYLOAD_TYPES, InferenceWindow, TelemetryBatch, encode
from edgectl_protocol.names import digest_of

__all__ = ["Signer", "window_of"]

_TYPE = PAYLOAD_TYPES[TelemetryBatch]
_ECDSA = ec.ECDSA(SHA256())
_CLASSES = 7


class Signer:
    """The key of a device."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = fingerprint_of(der)

    def sealed(self, batch: TelemetryBatch) -> bytes:
        """Return the batch in a signed envelope."""
        payload = encode(batch)
        signed = self._key.sign(signed_bytes(_TYPE, payload), _ECDSA)
        signature = Signature(keyid=self.key_id, sig=signed)
        return encode_envelope(
            Envelope(payload_type=_TYPE, payload=payload, signatures=(signature,))
        )


def window_of(slot: str, start: datetime, end: datetime, chance: random.Random) -> InferenceWindow:
    """Return the counts of a slot between two moments."""
    latency = [0] * (len(LATENCY_EDGES_US) + 1)
    latency[12], latency[13], latency[20] = chance.randrange(900), chance.randrange(90), 3
    confidence = [chance.randrange(60) for _ in range(len(CONFIDENCE_EDGES) + 1)]
    return InferenceWindow(
        slot=slot,
        version="1",
        manifest=digest_of(slot.encode()),
        start=start,
        end=end,
        requests=sum(latency),
        latency=tuple(latency),
        confidence=tuple(confidence),
        classes=tuple(chance.randrange(300) for _ in range(_CLASSES)),
    )
