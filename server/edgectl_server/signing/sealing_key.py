"""A key of the server's key folder to which it seals what it must know again (HPKE, RFC 9180).

It is X25519, mode 0600, encrypted if there is a passphrase. Who has the database, or a copy of it,
has nothing of what was sealed. What a secret is for is part of its seal, so that none can be put in
the place of another.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from edgectl_server.errors import Unavailable
from edgectl_server.signing.key_files import load_or_make_private_key
from edgectl_server.storage.files import make_private_directory

__all__ = ["SUITE", "NotOpened", "SealingKey"]

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class NotOpened(Exception):
    """It was sealed to another key, or for something else."""


class SealingKey:
    """Seals and opens. Its methods may be called from any thread."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path, *, opens: str, passphrase: bytes | None = None) -> SealingKey:
        """Load the key at `path`, or make it.

        Args:
            path: in the key folder.
            opens: what no other key opens, such as ``encrypted model``; for the error.
            passphrase: of the file.

        Raises:
            Unavailable: ``keys.…`` as of `edgectl_server.signing.keys`.
        """
        make_private_directory(path.parent)
        key = load_or_make_private_key(path, X25519PrivateKey.generate, passphrase=passphrase)
        if not isinstance(key, X25519PrivateKey):
            raise Unavailable(
                "keys.unreadable",
                f"cannot use the key {path}: it is not an X25519 key",
                hint=f"restore the file from a backup; another key opens no {opens}",
            )
        return cls(key)

    def seal(self, secret: bytes, info: bytes) -> str:
        """Return a secret as it is kept: base64; `info` says what it is for."""
        return b64encode(SUITE.encrypt(secret, self._key.public_key(), info)).decode()

    def unseal(self, kept: str, info: bytes) -> bytes:
        """Return what `seal` has sealed with the same `info`; raise `NotOpened`."""
        try:
            return SUITE.decrypt(b64decode(kept), self._key, info)
        except (InvalidTag, ValueError) as error:
            raise NotOpened(str(error)) from error
