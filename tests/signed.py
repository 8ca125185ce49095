"""What a device signs, made by hand: with `cryptography` and the bytes of the DSSE text alone."""

import base64
import hashlib
import json

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgectl_protocol.messages import PAYLOAD_TYPES, Report, encode


def key_id(key: ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def seal(
    key: ec.EllipticCurvePrivateKey,
    report: Report | bytes,
    payload_type: str | None = None,
    *,
    keyid: str | None = None,
) -> bytes:
    """Return the report in an envelope; `payload_type` and `keyid` may be lies."""
    payload = report if isinstance(report, bytes) else encode(report)
    kind = PAYLOAD_TYPES[type(report)] if payload_type is None else payload_type
    content = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = key.sign(content, ec.ECDSA(SHA256()))
    document = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [
            {
                "keyid": key_id(key) if keyid is None else keyid,
                "sig": base64.b64encode(signature).decode(),
            }
        ],
    }
    return json.dumps(document).encode()


def payload_of(envelope: bytes, certificate: x509.Certificate | None = None) -> bytes:
    """Return what is signed; check the signature, if the signer's certificate is given."""
    document = json.loads(envelope)
    payload = base64.b64decode(document["payload"])
    if certificate is not None:
        kind = document["payloadType"]
        content = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        signature = base64.b64decode(document["signatures"][0]["sig"])
        public.verify(signature, content, ec.ECDSA(SHA256()))
    return payload
