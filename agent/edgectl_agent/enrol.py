"""How the device gets its identity, once.

Rules:

1. The key is made before anything is asked for, with mode 0600, and never leaves the device. A
   second attempt uses it again, so that a lost answer is no lost name.
2. No answer is believed that does not prove whose it is (`edgectl_protocol.enrolment`): with a
   token by the key derived from it, which is never sent; without one by the authority's key, whose
   fingerprint must have been given. There is no trust on first use.
3. Without a token a person may have to approve. Until then the device asks again, at growing
   intervals, for as long as it is let run.
4. ``identity/enrolment.json`` is written last: with it the device is enrolled, without it not.
5. A key in a token outlives the state directory. Starts are counted on from what the server has
   heard of the key: it would take what is told under a used number for a repeat.
"""

from __future__ import annotations

import contextlib
import hmac
import random
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from edgectl_agent.core.timing import delay_s
from edgectl_agent.device_key import DeviceKey, load_or_make_key
from edgectl_agent.durable import Disk
from edgectl_agent.errors import Refused, Unreachable, UsageError
from edgectl_agent.server_request import ANSWER_HINT, Answer, endpoint_url, post
from edgectl_protocol.enrolment import (
    BrokerAddress,
    Enrolment,
    EnrolReply,
    EnrolRequest,
    Token,
    Waiting,
    fingerprint_of,
    format_fingerprint,
    key_of,
    parse_fingerprint,
    parse_token,
    reply_mac,
    reply_text,
    request_proof,
    request_text,
)
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.fields import Count
from edgectl_protocol.names import DeviceId

__all__ = [
    "AUTHORITY_PATH",
    "CERTIFICATE_PATH",
    "ROOT_PATH",
    "Identity",
    "check_certificate",
    "enrol",
    "load_identity",
    "signed_by",
]

AUTHORITY_PATH = "identity/authority.pem"
CERTIFICATE_PATH = "identity/certificate.pem"
ROOT_PATH = "identity/root.json"
_IDENTITY_PATH = "identity/enrolment.json"
_ASK_AGAIN_FIRST_S = 2.0
_ASK_AGAIN_MAX_S = 60.0
_STATUS_WAITING = 202
_IN_BETWEEN = "check the address: something in between answers instead of the server"


class Identity(Struct, frozen=True, kw_only=True):
    """Who this device is, and where it belongs."""

    device: DeviceId
    server: str
    broker: BrokerAddress
    boot: Count = 0
    """The last one before it enrolled, as the server knows."""


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
            hint="remove the folder identity/ and enrol again",
        ) from error


def enrol(
    disk: Disk,
    *,
    server: str,
    device: str,
    token: str = "",
    authority: str = "",
    key: str = "",
    encryption_key: bytes = b"",
    server_ca: str = "",
    waiting: Callable[[str], None] = lambda _fingerprint: None,
    pause: Callable[[float], None] = time.sleep,
) -> Identity:
    """Enrol at `server` as `device`; safe to be called again after any failure.

    Args:
        disk: the state directory.
        server: ``http://…`` or ``https://…``.
        device: its name.
        token: an enrolment token; empty where this device's key is on the server's list, or is to
            be approved by a person.
        authority: fingerprint of the authority that must have answered; needed without a token,
            checked with one as well.
        key: URI of the device's key in a token; empty for a key in a file.
        encryption_key: public half of the key that encrypted bundles are opened with; empty for
            none. The signing request vouches for it, and the proof for the request.
        server_ca: whose certificates of HTTPS servers are good; see `edgectl_agent.server_tls`.
        waiting: called once, with the fingerprint of the device's key, when a person must approve.
        pause: waits so many seconds between two questions.

    Raises:
        UsageError: ``settings.value`` or ``enrol.missing``: an argument is wrong or missing.
        Refused: ``enrol.token``, ``enrol.exists``, ``enrol.reply``, ``enrol.authority`` and what
            else the server says.
        Unreachable: ``server.unreachable``, ``server.certificate``.
    """
    url = endpoint_url(server, "enrol")
    with contextlib.closing(load_or_make_key(disk, key)) as device_key:
        attempt = _Attempt(
            device=device,
            key=device_key,
            token=_parsed_token(token) if token else None,
            authority=_parsed_authority(authority),
            encryption_key=encryption_key,
            server_ca=server_ca,
        )
        enrolment = attempt.open(_ask_until_decided(attempt, url, waiting, pause))
    disk.write_atomic(CERTIFICATE_PATH, enrolment.certificate_pem.encode())
    disk.write_atomic(AUTHORITY_PATH, enrolment.authority_pem.encode())
    disk.write_atomic(ROOT_PATH, enrolment.root.encode())
    identity = Identity(device=device, server=server, broker=enrolment.broker, boot=enrolment.boot)
    disk.write_atomic(_IDENTITY_PATH, msgspec.json.encode(identity))
    return identity


def _ask_until_decided(
    attempt: _Attempt, url: str, waiting: Callable[[str], None], pause: Callable[[float], None]
) -> Answer:
    """Ask again for as long as a person has to approve."""
    answer: Answer | None = attempt.ask(url)
    failures = 0
    while answer is None or answer.status == _STATUS_WAITING:
        if failures == 0:
            waiting(format_fingerprint(attempt.key.key_id))
        failures += 1
        pause(
            delay_s(
                failures,
                first_s=_ASK_AGAIN_FIRST_S,
                max_s=_ASK_AGAIN_MAX_S,
                jitter=random.SystemRandom().random(),
            )
        )
        try:
            answer = attempt.ask(url)
        except Unreachable:  # it may be restarting; somebody is to approve, so we go on asking
            answer = None
    return answer


class _Attempt:
    """Asks, and judges the answer to what was asked last."""

    def __init__(
        self,
        *,
        device: str,
        key: DeviceKey,
        token: Token | None,
        authority: str | None,
        encryption_key: bytes,
        server_ca: str,
    ) -> None:
        if token is None and authority is None:
            raise UsageError(
                "enrol.missing",
                "without a token the fingerprint of the server's authority must be given",
                hint="an operator sees it with: edgectl devices authority; give it as --authority",
            )
        self.key = key
        self._server_ca = server_ca
        self._device = device
        self._token = token
        self._secret = b"" if token is None else key_of(token.secret)
        self._authority = authority
        self._csr_pem = key.signing_request(device, encryption_key)
        self._nonce = ""

    def ask(self, url: str) -> Answer:
        """Ask with a new nonce; the answer is checked only by its status."""
        self._nonce = secrets.token_hex(16)
        said = {"nonce": self._nonce, "device": self._device, "csr_pem": self._csr_pem}
        if self._token is None:
            proof = self.key.sign(request_text(**said)).hex()
        else:
            proof = request_proof(self._secret, **said)
        token_id = "" if self._token is None else self._token.id
        request = EnrolRequest(token_id=token_id, proof=proof, **said)
        answer = post(url, msgspec.json.encode(request), server_ca=self._server_ca)
        if answer.status == _STATUS_WAITING:
            if self._token is not None:
                raise _no_answer()  # a token lets in or does not: no server says "wait" to it
            _check_waiting(answer.content)
        return answer

    def open(self, answer: Answer) -> Enrolment:
        """Return what the server said, once it is proven that it was the server."""
        try:
            reply = msgspec.json.decode(answer.content, type=EnrolReply)
            if self._token is not None:
                mac = reply_mac(self._secret, nonce=self._nonce, enrolment=reply.enrolment)
                if not hmac.compare_digest(mac, reply.mac):
                    raise Refused(
                        "enrol.reply",
                        "the answer was not made by who made the token",
                        hint=_IN_BETWEEN,
                    )
            enrolment = msgspec.json.decode(reply.enrolment, type=Enrolment)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _no_answer() from error
        if self._authority is not None:
            self._check_authority(enrolment, reply)
        if enrolment.device != self._device:
            raise Refused("enrol.reply", f"the answer is for {enrolment.device}", hint=ANSWER_HINT)
        check_certificate(
            enrolment.certificate_pem,
            device=self._device,
            key=self.key,
            authority_pem=enrolment.authority_pem,
        )
        return enrolment

    def _check_authority(self, enrolment: Enrolment, reply: EnrolReply) -> None:
        """Check the authority against the fingerprint, and without a token its signature."""
        authority = _load_certificate(enrolment.authority_pem)
        found = _fingerprint(authority)
        if found != self._authority:
            raise Refused(
                "enrol.authority",
                f"the answer is of the authority sha256:{found}, not of the one that was given",
                hint="check the server's address, and --authority with: edgectl devices authority",
            )
        text = reply_text(nonce=self._nonce, enrolment=reply.enrolment)
        if self._token is None and not signed_by(authority, reply.signature, text):
            raise Refused(
                "enrol.reply",
                "the answer was not signed by the server's authority",
                hint=_IN_BETWEEN,
            )


def signed_by(certificate: Any, signature: str, text: bytes) -> bool:
    """Say whether `signature` (hexadecimal) over `text` is of the certificate's P-256 key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(bytes.fromhex(signature), text, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def check_certificate(pem: str, *, device: str, key: DeviceKey, authority_pem: str) -> Any:
    """Return the certificate if it is of our name and key and was issued by this authority.

    Raises:
        Refused: ``enrol.reply``.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import NameOID

    certificate = _load_certificate(pem)
    names = [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device] or not key.certifies(certificate):
        raise Refused(
            "enrol.reply", "the certificate is of another device or key", hint=ANSWER_HINT
        )
    try:
        certificate.verify_directly_issued_by(_load_certificate(authority_pem))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Refused(
            "enrol.reply", "the certificate is of another authority", hint=ANSWER_HINT
        ) from error
    return certificate


def _load_certificate(pem: str) -> Any:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.public_key()
    except Exception as error:  # the parser's own errors are many, and all mean the same here
        raise Refused("enrol.reply", "the answer holds no certificate", hint=ANSWER_HINT) from error
    return certificate


def _fingerprint(certificate: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = certificate.public_key()
    return fingerprint_of(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _parsed_token(token: str) -> Token:
    try:
        return parse_token(token)
    except MalformedMessage as error:
        raise Refused(
            "enrol.token", str(error), hint="make one with: edgectl devices token create"
        ) from error


def _parsed_authority(authority: str) -> str | None:
    try:
        return parse_fingerprint(authority) if authority else None
    except MalformedMessage as error:
        raise UsageError(
            "settings.value",
            f"authority is {error}",
            hint="an operator sees it with: edgectl devices authority",
        ) from error


def _check_waiting(content: bytes) -> None:
    try:
        msgspec.json.decode(content, type=Waiting)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _no_answer() from error


def _no_answer() -> Refused:
    return Refused(
        "enrol.reply", "the answer is not that of an edgectl server", hint="check the address"
    )
