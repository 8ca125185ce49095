"""Who may pull from a mirror: devices of the installation, by their certificate and its key.

A mirror knows no device. It knows the authority of the installation and its list of revoked
certificates, both from the server; a device sends its certificate, and a proof by its key
(`edgectl_protocol.pulls`). The list is asked for every few minutes; while the server is away, the
newest one that was signed by the authority counts.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from edgectl.errors import EdgectlError, LocalError
from edgectl.mirror.upstream import Upstream
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.pulls import CERTIFICATE_HEADER, PULL_CLOCK, PULL_S, parse_pull, pull_text

__all__ = ["Door", "Turned"]

LIST_S = 300.0
_CERTIFICATE_CHARACTERS_MAX = 8192


class Turned(Exception):
    """Somebody may not pull."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Door:
    """Checks each request; may be used from any thread."""

    def __init__(self, folder: Path, upstream: Upstream, now: Callable[[], datetime]) -> None:
        """Fetch the authority, or take the one of an earlier start.

        Raises:
            LocalError: ``mirror.package``: this installation has no `cryptography`.
            EdgectlError: there is no authority, neither here nor at the server.
        """
        try:
            from cryptography import x509
        except ImportError as error:
            raise LocalError(
                "mirror.package",
                "checking devices needs the package cryptography",
                "pip install cryptography, or let everybody pull with --open",
            ) from error
        self._x509 = x509
        self._upstream = upstream
        self._now = now
        self._lock = threading.Lock()
        self._list_file = folder / "revocations.pem"
        authority_file = folder / "authority.pem"
        try:
            authority_file.write_text(upstream.authority())
        except EdgectlError:
            if not authority_file.exists():
                raise
        self._authority = x509.load_pem_x509_certificate(authority_file.read_bytes())
        self._revoked: Any = None
        self._looked_s = 0.0
        if self._list_file.exists():
            with suppress(ValueError):
                self._take(self._list_file.read_text())
        self._refresh()
        if self._revoked is None:
            raise LocalError(
                "mirror.revocations",
                f"{upstream.url} gives no list of revoked certificates",
                "a mirror that checks devices needs it once",
            )

    def check(self, headers: Mapping[str, str], path: str) -> str:
        """Return the name of the device that asks for `path`; raise `Turned`."""
        try:
            proof = parse_pull(headers.get("Authorization", ""))
        except MalformedMessage as error:
            raise Turned("pull.proof", "only devices of the installation pull here") from error
        if abs(self._now().timestamp() - proof.at) > PULL_S:
            raise Turned(PULL_CLOCK, "the proof is not of now")
        certificate = self._certificate(headers.get(CERTIFICATE_HEADER, ""))
        said = pull_text(device=proof.device, at=proof.at, path=path)
        if not self._is_good(certificate, proof.device):
            raise Turned("pull.proof", "the certificate is not of a device of the installation")
        if not _is_signed(certificate, proof.proof, said):
            raise Turned("pull.proof", "the proof is not by the key of the certificate")
        self._refresh()
        if self._revoked.get_revoked_certificate_by_serial_number(certificate.serial_number):
            raise Turned("pull.proof", "the certificate was revoked")
        return proof.device

    def _certificate(self, text: str) -> Any:
        try:
            der = base64.b64decode(text[:_CERTIFICATE_CHARACTERS_MAX], validate=True)
            return self._x509.load_der_x509_certificate(der)
        except (binascii.Error, ValueError) as error:
            raise Turned("pull.proof", "there is no certificate with the proof") from error

    def _is_good(self, certificate: Any, device: str) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            certificate.verify_directly_issued_by(self._authority)
            names = certificate.subject.get_attributes_for_oid(self._x509.NameOID.COMMON_NAME)
        except (ValueError, TypeError, InvalidSignature):
            return False
        in_time = certificate.not_valid_before_utc <= self._now() < certificate.not_valid_after_utc
        return in_time and [one.value for one in names] == [device]

    def _refresh(self) -> None:
        """Ask for the list when it is time to; without an answer the one that is here counts."""
        with self._lock:
            if self._revoked is not None and time.monotonic() - self._looked_s < LIST_S:
                return
            self._looked_s = time.monotonic()
        try:
            self._take(self._upstream.revocations())
        except (EdgectlError, ValueError):
            return

    def _take(self, pem: str) -> None:
        revoked = self._x509.load_pem_x509_crl(pem.encode())
        key: Any = self._authority.public_key()
        if not revoked.is_signature_valid(key):
            raise ValueError("not signed by the authority")
        known = self._revoked
        if known is None or revoked.last_update_utc >= known.last_update_utc:
            self._revoked = revoked
            self._list_file.write_text(pem)


def _is_signed(certificate: Any, signature: str, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        certificate.public_key().verify(bytes.fromhex(signature), text, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError, TypeError, AttributeError):
        return False
    return True
