"""How the device gets its identity, once.

Rules:

1. The key is made before anything is asked for, with mode 0600, and never leaves the device. A
   second attempt uses it again, so that a lost answer is no lost name.
2. The token's secret is not sent: request and answer are authenticated with a key derived from it,
   so that plain HTTP on the way is no danger to the device (`edgectl_protocol.enrolment`).
3. ``identity/enrolment.json`` is written last: with it the device is enrolled, without it not.
"""

from __future__ import annotations

import hmac
import json
import secrets
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from edgectl_agent.durable import PRIVATE, Disk
from edgectl_agent.errors import AgentError, Refused, Unreachable, UsageError
from edgectl_protocol.enrolment import (
    BrokerAddress,
    Enrolment,
    EnrolReply,
    EnrolRequest,
    key_of,
    parse_token,
    reply_mac,
    request_proof,
)
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.names import DeviceId

__all__ = ["Identity", "enrol", "load_identity"]

AUTHORITY_PATH = "identity/authority.pem"
CERTIFICATE_PATH = "identity/certificate.pem"
KEY_PATH = "identity/key.pem"
ROOT_PATH = "identity/root.json"
_FOLDER = "identity"
_IDENTITY_PATH = "identity/enrolment.json"
_REPLY_BYTES_MAX = 512 * 1024
_TIMEOUT_S = 30.0


class Identity(Struct, frozen=True, kw_only=True):
    """Who this device is, and where it belongs."""

    device: DeviceId
    server: str
    broker: BrokerAddress


def load_identity(disk: Disk) -> Identity | None:
    """Return the identity, or None on a device that is not enrolled."""
    try:
        return msgspec.json.decode(disk.read(_IDENTITY_PATH, 65536), type=Identity)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Refused(
            "enrol.damaged",
            f"{disk.locate(_IDENTITY_PATH)} is damaged",
            hint="remove the folder identity/ and enrol again with a new token",
        ) from error


def enrol(disk: Disk, *, server: str, token: str, device: str) -> Identity:
    """Enrol at `server` as `device`; safe to be called again after any failure.

    Raises:
        UsageError: ``settings.value``: an argument cannot be right.
        Refused: ``enrol.token``, ``enrol.exists``, ``enrol.reply`` and what else the server says.
        Unreachable: ``server.unreachable``.
    """
    url = _enrol_url(server)
    try:
        parsed = parse_token(token)
    except MalformedMessage as error:
        raise Refused(
            "enrol.token", str(error), hint="make one with: edgectl devices token create"
        ) from error
    disk.make_directory(_FOLDER)
    csr_pem = _make_request(_load_or_make_key(disk), device)
    secret = key_of(parsed.secret)
    nonce = secrets.token_hex(16)
    request = EnrolRequest(
        token_id=parsed.id,
        device=device,
        nonce=nonce,
        csr_pem=csr_pem,
        proof=request_proof(secret, nonce=nonce, device=device, csr_pem=csr_pem),
    )
    content = _post(url, msgspec.json.encode(request))
    enrolment = _open_reply(content, secret=secret, nonce=nonce, device=device)
    _check_certificate(disk, enrolment)
    disk.write_atomic(CERTIFICATE_PATH, enrolment.certificate_pem.encode())
    disk.write_atomic(AUTHORITY_PATH, enrolment.authority_pem.encode())
    disk.write_atomic(ROOT_PATH, enrolment.root.encode())
    identity = Identity(device=device, server=server, broker=enrolment.broker)
    disk.write_atomic(_IDENTITY_PATH, msgspec.json.encode(identity))
    return identity


def _enrol_url(server: str) -> str:
    parts = urlsplit(server)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            "settings.value",
            f"server is {server!r}, not the address of one",
            hint="write it as http://host:8080 or https://host",
        )
    return server.rstrip("/") + "/api/v1/enrol"


def _load_or_make_key(disk: Disk) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        return serialization.load_pem_private_key(disk.read(KEY_PATH), password=None)
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        content = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        disk.write_atomic(KEY_PATH, content, PRIVATE)
        return key
    except ValueError as error:
        raise Refused(
            "enrol.damaged",
            f"{disk.locate(KEY_PATH)} is no private key",
            hint="remove the folder identity/ and enrol again with a new token",
        ) from error


def _make_request(key: Any, device: str) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _post(url: str, content: bytes) -> bytes:
    headers = {"Content-Type": "application/json", "User-Agent": "edgectl-agent"}
    request = urllib.request.Request(url, content, headers, method="POST")  # noqa: S310 - checked
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310
            answer: bytes = reply.read(_REPLY_BYTES_MAX + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error.code, error.read(65536)) from error
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise Unreachable(
            "server.unreachable",
            f"no answer from {url}: {getattr(error, 'reason', error)}",
            hint="check the address and that the server runs; it is safe to try again",
        ) from error
    if len(answer) > _REPLY_BYTES_MAX:
        raise Refused("enrol.reply", f"the answer is longer than {_REPLY_BYTES_MAX} bytes")
    return answer


def _refusal(status: int, content: bytes) -> AgentError:
    """Translate a problem document of the server."""
    try:
        problem = json.loads(content)
        code, detail = str(problem["code"]), str(problem.get("detail", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        code, detail = "enrol.reply", f"status {status} without a problem document"
    hints = {
        "enrol.token": "make a new one with: edgectl devices token create",
        "enrol.exists": "choose another name, or decommission the device that has it",
    }
    hint = hints.get(code, "check that the address is that of an edgectl server")
    if status >= 500:  # noqa: PLR2004 - the status classes of HTTP
        return Unreachable(code, detail or f"status {status}", hint="try again later")
    return Refused(code, detail or f"status {status}", hint=hint)


def _open_reply(content: bytes, *, secret: bytes, nonce: str, device: str) -> Enrolment:
    try:
        reply = msgspec.json.decode(content, type=EnrolReply)
        mac = reply_mac(secret, nonce=nonce, enrolment=reply.enrolment)
        if not hmac.compare_digest(mac, reply.mac):
            raise Refused(
                "enrol.reply",
                "the answer was not made by who made the token",
                hint="check the address: something in between answers instead of the server",
            )
        enrolment = msgspec.json.decode(reply.enrolment, type=Enrolment)
    except msgspec.MsgspecError as error:
        raise Refused(
            "enrol.reply",
            "the answer is not that of an edgectl server",
            hint="check the address",
        ) from error
    if enrolment.device != device:
        raise Refused("enrol.reply", f"the answer is for {enrolment.device}")
    return enrolment


def _check_certificate(disk: Disk, enrolment: Enrolment) -> None:
    """Check that the certificate is of our key and name, so that a mistake shows here."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_pem_x509_certificate(enrolment.certificate_pem.encode())
        x509.load_pem_x509_certificate(enrolment.authority_pem.encode())
    except ValueError as error:
        raise Refused("enrol.reply", "the answer holds no certificate") from error
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ours = _load_or_make_key(disk).public_key()
    if [name.value for name in names] != [enrolment.device] or certificate.public_key() != ours:
        raise Refused("enrol.reply", "the certificate is of another device or key")
