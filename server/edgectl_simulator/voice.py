"""What one device says: numbered, kept until it is acknowledged, signed when it is sent.

As on a real device: events and telemetry go through a spool, oldest first, again after every
reconnect and every `RESEND_S`; the state is the whole, retained; the last will is signed anew for
each connection. What does not fit into the spool pushes out the oldest telemetry.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgectl_protocol import topics
from edgectl_protocol.enrolment import fingerprint_of
from edgectl_protocol.envelopes import Envelope, Signature, encode_envelope, signed_bytes
from edgectl_protocol.messages import (
    PAYLOAD_TYPES,
    DeviceEvent,
    Report,
    ReportedState,
    SecurityEvent,
    SeedRequest,
    TelemetryBatch,
    encode,
)

__all__ = ["RESEND_S", "SPOOLED_MAX", "Publishes", "Voice"]

RESEND_S = 30.0
SPOOLED_MAX = 256
_SENT_AT_ONCE_MAX = 32
_NO_ROOM_S = 1.0
_ECDSA = ec.ECDSA(SHA256())
_TOPICS: dict[type[Any], Callable[[str], str]] = {
    DeviceEvent: topics.event,
    SecurityEvent: topics.event,
    TelemetryBatch: topics.telemetry,
    ReportedState: topics.state,
    SeedRequest: topics.seed,
}

Publishes = Callable[[str, bytes, bool], bool]
"""Sends topic and payload, retained or not; says whether it is on its way."""


class _Spooled:
    __slots__ = ("kind", "payload", "sent_s")

    def __init__(self, kind: type[Report], payload: bytes) -> None:
        self.kind, self.payload = kind, payload
        self.sent_s = float("-inf")


class Voice:
    """The spool and the signature of one device."""

    def __init__(
        self, device: str, key: ec.EllipticCurvePrivateKey, boot: int, said: Callable[[str], None]
    ) -> None:
        """Begin a boot; `said` is told the kind of each message that is sent."""
        self._device, self._key, self._said = device, key, said
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._key_id = fingerprint_of(der)
        self._spool: OrderedDict[tuple[int, int], _Spooled] = OrderedDict()
        self._seq = 0
        self.boot = boot
        self.lost = 0
        """Messages that did not fit into the spool."""

    def restarted(self) -> None:
        """Begin the next boot; what was spooled keeps its numbers."""
        self.boot += 1
        self._seq = 0
        self.reconnected()

    def reconnected(self) -> None:
        """Say everything again: nobody knows what was lost."""
        for one in self._spool.values():
            one.sent_s = float("-inf")

    def next(self) -> int:
        """Return the next number of this boot."""
        self._seq += 1
        return self._seq

    def keep(self, report: DeviceEvent | SecurityEvent | TelemetryBatch) -> None:
        """Spool a message."""
        if len(self._spool) >= SPOOLED_MAX:
            kinds = self._spool.items()
            oldest = next((key for key, one in kinds if one.kind is TelemetryBatch), None)
            self._spool.pop(next(iter(self._spool)) if oldest is None else oldest)
            self.lost += 1
        self._spool[report.boot, report.seq] = _Spooled(type(report), encode(report))

    def acknowledged(self, boot: int, seq: int) -> bool:
        """Note that the server has stored a message; say whether it was waited for."""
        return self._spool.pop((boot, seq), None) is not None

    def drain(self, elapsed_s: float, publish: Publishes) -> None:
        """Send what is due."""
        for number, one in enumerate(self._spool.values()):
            if number >= _SENT_AT_ONCE_MAX:
                return
            if elapsed_s - one.sent_s < RESEND_S:
                continue
            topic = _TOPICS[one.kind](self._device)
            if not publish(topic, self._sealed(one.kind, one.payload), False):
                one.sent_s = max(one.sent_s, elapsed_s - RESEND_S + _NO_ROOM_S)
                return
            self._said("resent" if one.sent_s > float("-inf") else _name(one.kind))
            one.sent_s = elapsed_s

    def resend_at_s(self) -> float:
        """Return when something is due to be sent again; infinity: nothing is waited for."""
        first = islice(self._spool.values(), _SENT_AT_ONCE_MAX)
        return min((one.sent_s + RESEND_S for one in first), default=float("inf"))

    def crowded(self) -> bool:
        """Say whether some wait for others to be acknowledged."""
        return len(self._spool) >= _SENT_AT_ONCE_MAX

    def sealed(self, report: ReportedState | SeedRequest) -> tuple[str, bytes]:
        """Return topic and signed payload of what is not spooled."""
        will = isinstance(report, ReportedState) and report.seq == 0
        self._said("will" if will else _name(type(report)))
        return _TOPICS[type(report)](self._device), self._sealed(type(report), encode(report))

    def _sealed(self, kind: type[Report], payload: bytes) -> bytes:
        payload_type = PAYLOAD_TYPES[kind]
        signed = self._key.sign(signed_bytes(payload_type, payload), _ECDSA)
        signature = Signature(keyid=self._key_id, sig=signed)
        return encode_envelope(
            Envelope(payload_type=payload_type, payload=payload, signatures=(signature,))
        )


def _name(kind: type[Report]) -> str:
    return {
        DeviceEvent: "event",
        SecurityEvent: "security",
        TelemetryBatch: "telemetry",
        ReportedState: "state",
        SeedRequest: "seed",
    }[kind]
