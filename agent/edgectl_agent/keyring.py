"""The device's encryption key (X25519), and the content keys that are sealed to it.

Rules:

1. The key is made before the device enrols, with mode 0600, and never leaves the device; its public
   half goes out with the signing request. It may lie in another folder than the state
   (``key_directory``), on another medium: who has the state alone then has no model.
2. It is read when it is used and not kept: the medium may be taken away while models serve.
3. That a key is not there, or opens nothing, is the world's fault and not the bundle's: an update
   is tried again, and a slot waits, but nothing is removed or remembered as bad.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgectl_agent.durable import PRIVATE, RealDisk
from edgectl_agent.errors import KeyUnavailable, Refused
from edgectl_protocol.encryption import device_context

__all__ = ["KEY_FILE", "Keyring"]

KEY_FILE = "encryption.pem"
_KEY_BYTES_MAX = 4096


class Keyring:
    """Opens what is sealed to this device."""

    def __init__(self, directory: Path, device: str) -> None:
        """Take the folder of the key; nothing is read."""
        self._directory = directory
        self._device = device

    def open(self, sealed: bytes, *, target: str, manifest: str) -> bytearray:
        """Return the content key of a bundle, 32 bytes; to be wiped by who gets it.

        Args:
            sealed: as an order of the server brought it.
            target: path of the bundle in the signed targets.
            manifest: digest of its manifest.

        Raises:
            KeyUnavailable: ``key.device``: this device's key cannot be read; ``key.sealed``: what
                is sealed is for another device, another bundle or another key, or damaged.
        """
        from cryptography.exceptions import InvalidTag

        from edgectl_agent.hpke import open_sealed

        key = self._load()
        info = device_context(device=self._device, target=target, manifest=manifest)
        try:
            return bytearray(open_sealed(sealed, key, info))
        except (InvalidTag, ValueError) as error:
            raise KeyUnavailable(
                "key.sealed",
                f"the content key of {manifest} does not open: it was sealed to another key, "
                "for another device or for another bundle",
                hint="enrol the device again, so that the server knows its present key",
            ) from error

    def public_key(self) -> bytes:
        """Return the public half, 32 bytes; the key is made if there is none.

        Raises:
            Refused: ``key.device``: the folder cannot be used, or holds something else.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        try:
            if not self._path.exists():
                content = X25519PrivateKey.generate().private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                RealDisk(self._directory).write_atomic(KEY_FILE, content, PRIVATE)
            public: bytes = self._load().public_key().public_bytes_raw()
        except (KeyUnavailable, OSError) as error:
            raise Refused(
                "key.device",
                f"cannot make or read {self._path}: {error}",
                hint="check key_directory, and that its medium is mounted",
            ) from error
        return public

    @property
    def _path(self) -> Path:
        return self._directory / KEY_FILE

    def _load(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            with self._path.open("rb") as file:
                key = load_pem_private_key(file.read(_KEY_BYTES_MAX), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise KeyUnavailable(
                "key.device",
                f"this device's encryption key {self._path} cannot be read: {error}",
                hint="mount the medium that key_directory is on, or restore the key",
            ) from error
        if not isinstance(key, X25519PrivateKey):
            raise KeyUnavailable("key.device", f"{self._path} is not an X25519 key")
        return key
