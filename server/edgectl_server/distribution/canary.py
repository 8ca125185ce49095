"""A certificate that was revoked when it was made, to see whether a broker knows of it.

Mosquitto reads a damaged or missing revocation list without complaint and then lets revoked devices
in. So nobody believes that a list is in force before the newest canary was turned away with the
alert "certificate revoked" (RFC 8446 §6.2), which a broker without a list never sends.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edgectl_server.signing.authority import Authority

__all__ = ["Canary", "MakeCanary", "Verdict", "make_canary"]

Verdict = Literal["refused", "accepted", "unknown"]
"""``accepted``: the broker does not know the newest list. ``unknown``: it could not be asked."""

NAME = "revocation-canary"
_TIMEOUT_S = 5.0
_ALERT_WAIT_S = 1.0
_REVOKED = "CERTIFICATE_REVOKED"
_NOT_A_CONNECT = b"\xc0\x00"  # PINGREQ: whoever gets to see it closes the connection


class Canary:
    """Such a certificate; its key is in memory only.

    Args:
        certificate_pem: revoked already.
        key_pem: not encrypted.
        authority: file with the authority that the broker's certificate is of.

    Attributes:
        expires_at: from then on a refusal says nothing about the list.
    """

    def __init__(self, certificate_pem: bytes, key_pem: bytes, authority: Path) -> None:
        self.expires_at = x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc
        self._context = ssl.create_default_context(cafile=str(authority))
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600; ssl reads only files
            file.write(certificate_pem + key_pem)
            file.flush()
            self._context.load_cert_chain(file.name)

    def ask(self, host: str, port: int) -> Verdict:
        """Try to get in at the broker `host`:`port`; takes seconds at most."""
        try:
            with (
                socket.create_connection((host, port), _TIMEOUT_S) as raw,
                self._context.wrap_socket(raw, server_hostname=host) as secured,
            ):
                # With TLS 1.3 the alert comes after the handshake. Only if none comes is anything
                # sent: closing with unread data, the broker would reset away its own alert.
                secured.settimeout(_ALERT_WAIT_S)
                try:
                    answer = secured.recv(1)
                except TimeoutError:
                    secured.settimeout(_TIMEOUT_S)
                    secured.sendall(_NOT_A_CONNECT)
                    answer = secured.recv(1)
        except ssl.SSLError as error:
            return "refused" if (error.reason or "").endswith(_REVOKED) else "unknown"
        except OSError:
            return "unknown"
        return "accepted" if not answer else "unknown"


MakeCanary = Callable[[], Canary]
"""Makes and revokes one: it is in every list that is made from now on."""


def make_canary(authority: Authority, authority_file: Path, now: datetime) -> Canary:
    """Issue a canary by `authority`, and revoke it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    issued = authority.issue_device(request.public_bytes(Encoding.PEM).decode(), NAME, now)
    authority.revoke(issued.serial, now, expires_at=issued.expires_at)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Canary(issued.certificate_pem.encode(), key_pem, authority_file)
