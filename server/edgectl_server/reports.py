"""Signed reports: who said it, and that nobody else could have.

A device signs what it says with the key of its certificate. Here the envelope is opened: the
signature is checked against the key in the device's row, and only then is the payload decoded. A
broker, or another device, can withhold a report and repeat one; it cannot make one.

Chunks of uploads are not signed one by one, and do not come here: the digest of their index is in
the offer, which is (`edgectl_server.device_uploads`).

Rules: the key id in the envelope is a hint, which says why a signature is not good. The payload
type must be one that belongs on the topic: one that belongs on none, with a good signature, is of
an agent that is newer than this server, and of nobody else. Of telemetry the type may say that the
payload is compressed, which is undone after the signature was checked, and within the bound of a
report. A key is parsed once and kept by its fingerprint, so that a device that enrols with another
key is checked against that one at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from edgectl_protocol.compression import COMPRESSED, decompress
from edgectl_protocol.envelopes import Envelope, decode_envelope, signed_bytes
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.log_lines import LogLines
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    PAYLOAD_TYPES,
    REPORT_BYTES_MAX,
    BenchmarkReport,
    DeviceEvent,
    Report,
    ReportedState,
    SecurityEvent,
    SeedRequest,
    TelemetryBatch,
    decode,
)
from edgectl_protocol.outcomes import OutcomeReport
from edgectl_protocol.topics import UpTopic
from edgectl_protocol.uploads import UploadOffer

__all__ = ["DeviceKey", "NotBelieved", "NotKnown", "Reports"]

_KEYS_MAX = 16384
_ECDSA = ec.ECDSA(SHA256())
_COMPRESSIBLE = "telemetry"
"""Topic of what may come compressed."""
_KINDS: dict[str, tuple[type[Any], ...]] = {
    "state": (ReportedState,),
    "event": (DeviceEvent, SecurityEvent, BenchmarkReport, UploadOffer, OutcomeReport, LogLines),
    "telemetry": (TelemetryBatch,),
    "seed": (SeedRequest,),
}
_BY_TYPE: dict[str, dict[str, type[Any]]] = {
    topic: {PAYLOAD_TYPES[kind]: kind for kind in kinds} for topic, kinds in _KINDS.items()
}
_TYPES = frozenset(PAYLOAD_TYPES.values())


class NotBelieved(Exception):
    """A message is not what it should be.

    Attributes:
        code: ``report.…``, stable.
        detail: a sentence for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class NotKnown(Exception):
    """A device says what this server is too old for."""


class DeviceKey(NamedTuple):
    """The key of a device, as it is in its row."""

    public_key_sha256: str
    certificate_pem: str


class Reports:
    """Opens what devices send; used by one thread."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, ec.EllipticCurvePublicKey] = OrderedDict()

    def open(self, topic: UpTopic, content: bytes, key: DeviceKey) -> Report:
        """Return what the device says.

        Args:
            topic: where it was published.
            content: as it came.
            key: of the device that may publish there.

        Raises:
            NotBelieved: ``report.unsigned``, ``report.type``, ``report.key``,
                ``report.signature``, ``report.malformed`` or ``report.device``.
            NotKnown: it is of the device, and of a type that this server does not know.
        """
        try:
            envelope = decode_envelope(content, bytes_max=MESSAGE_BYTES_MAX)
        except ProtocolError as error:
            raise NotBelieved("report.unsigned", f"{topic.kind}: {error}") from error
        payload_type, is_packed = envelope.payload_type, False
        if topic.kind == _COMPRESSIBLE and payload_type.endswith(COMPRESSED):
            payload_type, is_packed = payload_type.removesuffix(COMPRESSED), True
        kind = _BY_TYPE[topic.kind].get(payload_type)
        said = f"{envelope.payload_type[:80]!r} on the topic of the {topic.kind}"
        if kind is None and payload_type.removesuffix(COMPRESSED) in _TYPES:
            raise NotBelieved("report.type", said)
        self._verify(topic, envelope, key)
        if kind is None:
            raise NotKnown(said)
        try:
            payload = envelope.payload
            if is_packed:
                payload = decompress(payload, bytes_max=REPORT_BYTES_MAX)
            report: Report = decode(kind, payload)
        except ProtocolError as error:
            raise NotBelieved("report.malformed", f"{topic.kind}: {error}") from error
        if report.device != topic.device:
            raise NotBelieved("report.device", f"in the name of {report.device}")
        return report

    def _verify(self, topic: UpTopic, envelope: Envelope, key: DeviceKey) -> None:
        signature = envelope.signatures[0]
        if len(envelope.signatures) > 1 or signature.keyid != key.public_key_sha256:
            raise NotBelieved(
                "report.key",
                f"{topic.kind}: signed with the key {signature.keyid[:16]!r}, the device's is "
                f"{key.public_key_sha256[:16]}",
            )
        content = signed_bytes(envelope.payload_type, envelope.payload)
        try:
            self._key(key).verify(signature.sig, content, _ECDSA)
        except InvalidSignature as error:
            raise NotBelieved("report.signature", f"{topic.kind}: altered or forged") from error

    def _key(self, key: DeviceKey) -> ec.EllipticCurvePublicKey:
        known = self._keys.get(key.public_key_sha256)
        if known is not None:
            self._keys.move_to_end(key.public_key_sha256)
            return known
        certificate = x509.load_pem_x509_certificate(key.certificate_pem.encode())
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)  # the authority takes no other
        self._keys[key.public_key_sha256] = public
        if len(self._keys) > _KEYS_MAX:
            self._keys.popitem(last=False)
        return public
