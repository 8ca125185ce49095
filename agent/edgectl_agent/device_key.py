"""The device's private key: made on the device, never shown to anybody.

What it is asked for is small, so that it may live in a chip as well: a signature, a signing
request, and to speak TLS. There are two kinds: a file of mode 0600 in the state directory, and a
key in a token (`edgectl_agent.token_key`). Of the latter the same file holds the public half. So a
device keeps the key that it began with: it does not enrol with one and go on with another.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgectl_agent.durable import PRIVATE, Disk
from edgectl_agent.errors import Refused
from edgectl_agent.key_uri import parse_key_uri
from edgectl_agent.openssl import open_key
from edgectl_agent.signing_request import signing_request
from edgectl_agent.tls_key import is_reference
from edgectl_agent.token_key import TokenKey
from edgectl_protocol.enrolment import fingerprint_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["KEY_PATH", "DeviceKey", "FileKey", "load_key", "load_or_make_key"]

KEY_PATH = "identity/key.pem"


class DeviceKey(Protocol):
    """An ECDSA P-256 key, wherever it is; may be used from any thread."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key (DER SubjectPublicKeyInfo), 64 hexadecimal digits."""

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature (P-256, SHA-256) in DER; raise `TokenAway`."""

    def signing_request(self, device: str, encryption_key: bytes = b"") -> str:
        """Return a certificate signing request (PKCS #10, PEM) that names an encryption key."""

    def certifies(self, certificate: Any) -> bool:
        """Say whether a certificate (`cryptography.x509.Certificate`) is of this key."""

    def load_into(self, context: ssl.SSLContext, certificate: Path) -> None:
        """Have new connections of `context` present `certificate`; raise `OSError` as it does."""

    def close(self) -> None:
        """Let go of it; it is not used afterwards."""


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
        self._path = path
        self._content = content
        self._key = open_key(content) or _LargerKey(self._whole())
        self._key_id = fingerprint_of(self._key.public_der)

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key, 64 hexadecimal digits."""
        return self._key_id

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature in DER."""
        return self._key.sign(content)

    def signing_request(self, device: str, encryption_key: bytes = b"") -> str:
        """Return a certificate signing request in PEM."""
        return signing_request(self._whole(), device, encryption_key)

    def certifies(self, certificate: Any) -> bool:
        """Say whether a certificate is of this key."""
        return bool(certificate.public_key() == self._whole().public_key())

    def load_into(self, context: ssl.SSLContext, certificate: Path) -> None:
        """Have new connections present `certificate`."""
        context.load_cert_chain(str(certificate), str(self._path))

    def close(self) -> None:
        """Do nothing: a file was read."""

    def _whole(self) -> EllipticCurvePrivateKey:
        """Return it with all that can be done with a key; raise `Refused` ``enrol.damaged``."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(self._content, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise Refused(
                "enrol.damaged",
                f"{self._path} is no P-256 private key",
                hint="remove the folder identity/ and enrol again",
            )
        return key


class _LargerKey:
    """The same as `edgectl_agent.openssl.SigningKey`, where OpenSSL is no shared library."""

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._key = key
        self.public_der = key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, content: bytes) -> bytes:
        """Return an ECDSA signature in DER."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        return self._key.sign(content, ECDSA(SHA256()))


def load_key(disk: Disk, uri: str = "") -> DeviceKey:
    """Return the key of an enrolled device.

    Args:
        disk: the state directory.
        uri: of a key in a token; empty for a key in a file.

    Raises:
        UsageError: ``key.uri``, ``key.pin``.
        Refused: ``enrol.damaged``: there is none, or it is no P-256 key; ``key.other``: the device
            has enrolled with another one; and what `TokenKey` raises.
    """
    path = Path(disk.locate(KEY_PATH))
    try:
        content = disk.read(KEY_PATH, 65536)
    except FileNotFoundError as error:
        raise Refused(
            "enrol.damaged",
            f"{path} is missing",
            hint="remove the folder identity/ and enrol again",
        ) from error
    if is_reference(content) != bool(uri):
        here = "a key in a token" if is_reference(content) else "a key in a file"
        raise Refused(
            "key.other",
            f"this device began with {here}, and the setting `key` says otherwise",
            hint="set `key` as it was; or remove the folder identity/ and enrol again",
        )
    if not uri:
        return FileKey(path, content)
    key = TokenKey(parse_key_uri(uri), path)
    if key.reference != content:
        key.close()
        raise Refused(
            "key.other",
            "the key in the token is not the one that this device began with",
            hint="put the right token in; or remove the folder identity/ and enrol again",
        )
    return key


def load_or_make_key(disk: Disk, uri: str = "") -> DeviceKey:
    """Return the key, which is made and durably written the first time.

    In a token, a key that is there already is taken: somebody may have made it, or the power was
    cut before the file was written.

    Raises:
        UsageError: ``key.uri``, ``key.pin``.
        Refused: as `load_key`.
    """
    if disk.size(KEY_PATH) is not None:
        return load_key(disk, uri)
    disk.make_directory(KEY_PATH.rpartition("/")[0])
    if uri:
        key = TokenKey(parse_key_uri(uri), Path(disk.locate(KEY_PATH)), make=True)
        disk.write_atomic(KEY_PATH, key.reference, PRIVATE)
        return key
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    content = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    disk.write_atomic(KEY_PATH, content, PRIVATE)
    return load_key(disk)
