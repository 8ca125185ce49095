"""Requests to the server by hand, as somebody without our programs would send them."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from attacks.scene import Site
from edgectl_protocol.encryption import ENCRYPTION_KEY_OID
from edgectl_protocol.enrolment import renewal_text, request_proof

Key = ec.EllipticCurvePrivateKey


def ask(
    site: Site, method: str, path: str, body: Any = None, *, token: str = "", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Send a request; return the status and the JSON of the answer."""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(
        f"{site.server.url.rstrip('/')}/api/v1/{path}",
        None if body is None else msgspec.json.encode(body),
        {"Content-Type": "application/json", **headers},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, _json(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _json(error.read())


def _json(content: bytes) -> dict[str, Any]:
    value = json.loads(content or b"{}")
    return value if isinstance(value, dict) else {"value": value}


def new_key() -> Key:
    """Make a key as a device makes its own."""
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Key, name: str = "stranger", *, encryption_key: bytes = b"") -> str:
    """Return a signing request, with an X25519 key if one is given."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if encryption_key:
        named = x509.UnrecognizedExtension(
            x509.ObjectIdentifier(ENCRYPTION_KEY_OID), encryption_key
        )
        request = request.add_extension(named, critical=False)
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def enrol_by_key(
    site: Site, device: str, token_id: str, token_key: bytes, key: Key | None = None
) -> int:
    """Enrol with K, which the server keeps of a token; return the status."""
    nonce, csr = secrets.token_hex(16), csr_of(key or new_key(), device)
    proof = request_proof(token_key, nonce=nonce, device=device, csr_pem=csr)
    body = {"token_id": token_id, "device": device, "nonce": nonce, "csr_pem": csr, "proof": proof}
    return ask(site, "POST", "enrol", body)[0]


def renew(site: Site, device: str, key: Key) -> tuple[int, dict[str, Any]]:
    """Ask for the certificate of a device, with a key."""
    nonce = secrets.token_hex(16)
    proof = key.sign(renewal_text(nonce=nonce, device=device), ec.ECDSA(hashes.SHA256())).hex()
    return ask(site, "POST", "renew", {"device": device, "nonce": nonce, "proof": proof})
