"""The key that microcontrollers pin: Ed25519, for their bundles alone.

It is made when the first such bundle is signed: ``microcontrollers.pem`` in the key folder, mode
0600, encrypted if there is a passphrase. Beside it lies ``microcontrollers.pub``, 64 hexadecimal
digits, to be built into firmware. It cannot be exchanged over the air: back it up.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgectl_server.errors import Unavailable
from edgectl_server.signing.key_files import load_or_make_private_key
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["MicrocontrollerKey"]

_FILE = "microcontrollers.pem"
_PUBLIC_FILE = "microcontrollers.pub"


class MicrocontrollerKey:
    """Signs bundles for microcontrollers. Its methods may be called from any thread."""

    def __init__(self, directory: Path, *, passphrase: bytes | None = None) -> None:
        """Take the key folder; nothing is read or made before something is to be signed."""
        self._directory = directory
        self._passphrase = passphrase

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 64 bytes.

        Raises:
            Unavailable: ``keys.…`` as of `edgectl_server.signing.keys`.
        """
        make_private_directory(self._directory)
        path = self._directory / _FILE
        key = load_or_make_private_key(
            path, Ed25519PrivateKey.generate, passphrase=self._passphrase
        )
        if not isinstance(key, Ed25519PrivateKey):
            raise Unavailable(
                "keys.unreadable",
                f"cannot use the key {path}: it is not an Ed25519 key",
                hint="restore the file from a backup; microcontrollers know no other key",
            )
        public = self._directory / _PUBLIC_FILE
        if not public.exists():
            write_durably(public, f"{key.public_key().public_bytes_raw().hex()}\n".encode())
        return key.sign(message)
