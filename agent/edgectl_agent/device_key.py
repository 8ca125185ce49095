"""The device's private key: made on the device, never shown to anybody.

What it is asked for is small, so that it may live in a chip as well: a signature, a signing
request, and to speak TLS. Today there is one kind: a file of mode 0600 in the state directory.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Protocol

from edgectl_agent.durable import PRIVATE, Disk
from edgectl_agent.errors import Refused
from edgectl_protocol.encryption import ENCRYPTION_KEY_OID
from edgectl_protocol.enrolment import fingerprint_of

__all__ = ["KEY_PATH", "DeviceKey", "FileKey", "load_key", "load_or_make_key"]

KEY_PATH = "identity/key.pem"


class DeviceKey(Protocol):
    """An ECDSA P-256 key, wherever it is; may be used from any thread."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key (DER SubjectPublicKeyInfo), 64 hexadecimal digits."""

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature (P-256, SHA-256) in DER."""

    def signing_request(self, device: str, encryption_key: bytes = b"") -> str:
        """Return a certificate signing request (PKCS #10, PEM) that names an encryption key."""

    def certifies(self, certificate: Any) -> bool:
        """Say whether a certificate (`cryptography.x509.Certificate`) is of this key."""

    def load_into(self, context: ssl.SSLContext, certificate: Path) -> None:
        """Have new connections of `context` present `certificate`; raise `OSError` as it does."""


class FileKey:
    """A key in a PEM file."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Take the key.

        Args:
            path: of the file, which TLS reads by itself.
            content: of that file.

        Raises:
            Refused: ``enrol.damaged``: it is no P-256 key.
        """
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            PublicFormat,
            load_pem_private_key,
        )

        try:
            key = load_pem_private_key(content, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.key_size != 256:  # noqa: PLR2004
            raise Refused(
                "enrol.damaged",
                f"{path} is no P-256 private key",
                hint="remove the folder identity/ and enrol again",
            )
        self._path = path
        self._key = key
        self._key_id = fingerprint_of(
            key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key, 64 hexadecimal digits."""
        return self._key_id

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature in DER."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        return self._key.sign(content, ECDSA(SHA256()))

    def signing_request(self, device: str, encryption_key: bytes = b"") -> str:
        """Return a certificate signing request in PEM."""
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import NameOID

        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        if encryption_key:
            identifier = x509.ObjectIdentifier(ENCRYPTION_KEY_OID)
            extension = x509.UnrecognizedExtension(identifier, encryption_key)
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()

    def certifies(self, certificate: Any) -> bool:
        """Say whether a certificate is of this key."""
        return bool(certificate.public_key() == self._key.public_key())

    def load_into(self, context: ssl.SSLContext, certificate: Path) -> None:
        """Have new connections present `certificate`."""
        context.load_cert_chain(str(certificate), str(self._path))


def load_key(disk: Disk) -> FileKey:
    """Return the key of an enrolled device.

    Raises:
        Refused: ``enrol.damaged``: there is none, or it is no P-256 key.
    """
    try:
        content = disk.read(KEY_PATH, 65536)
    except FileNotFoundError as error:
        raise Refused(
            "enrol.damaged",
            f"{disk.locate(KEY_PATH)} is missing",
            hint="remove the folder identity/ and enrol again",
        ) from error
    return FileKey(Path(disk.locate(KEY_PATH)), content)


def load_or_make_key(disk: Disk) -> FileKey:
    """Return the key, which is made and durably written the first time.

    Raises:
        Refused: ``enrol.damaged``: what is there is no P-256 key.
    """
    if disk.size(KEY_PATH) is None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        content = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        disk.make_directory(KEY_PATH.rpartition("/")[0])
        disk.write_atomic(KEY_PATH, content, PRIVATE)
    return load_key(disk)
