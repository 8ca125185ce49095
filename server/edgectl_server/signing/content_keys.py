"""Content keys of encrypted bundles: kept sealed, and sealed anew for each device that needs one.

Rules:

1. A content key lies in the database sealed to a key of the server's key folder, ``content.pem``
   (X25519, mode 0600, encrypted if there is a passphrase). Who has the database, the blobs or both
   has no model; who only makes keys needs no secret.
2. A device gets it sealed to its own key, for one device, target and manifest, inside its signed
   order. So a device is added without encrypting anything again, and what was sealed for one device
   is worth nothing to another.
3. In the clear it is in this process's memory only, while it is sealed anew.

Both are HPKE, as `edgectl_protocol.encryption` says.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from edgectl_protocol.encryption import (
    CONTENT_KEY_BYTES,
    SEALED_KEY_BYTES,
    device_context,
    storage_context,
)
from edgectl_server.errors import Unavailable
from edgectl_server.signing.sealing_key import SUITE, NotOpened, SealingKey

__all__ = ["ContentKeys"]

_FILE = "content.pem"


class ContentKeys:
    """Seals and opens content keys. Its methods may be called from any thread."""

    def __init__(self, key: SealingKey) -> None:
        self._key = key

    @classmethod
    def open(cls, directory: Path, *, passphrase: bytes | None = None) -> ContentKeys:
        """Load the key in `directory`, or make it.

        Raises:
            Unavailable: ``keys.…`` as of `edgectl_server.signing.keys`.
        """
        path = directory / _FILE
        return cls(SealingKey.open(path, opens="encrypted model", passphrase=passphrase))

    def keep(self, content_key: bytes, manifest: str) -> str:
        """Return a content key as it is kept in the database.

        Args:
            content_key: 32 bytes.
            manifest: digest of the bundle that it opens.
        """
        assert len(content_key) == CONTENT_KEY_BYTES, len(content_key)
        return self._key.seal(content_key, storage_context(manifest=manifest))

    def seal(self, kept: str, *, manifest: str, target: str, device: str, recipient: str) -> bytes:
        """Return a kept content key as it goes to a device.

        Args:
            kept: as `keep` returned it.
            manifest: digest of the bundle.
            target: its path in the signed targets.
            device: the device's name.
            recipient: its X25519 public key, 64 hexadecimal digits.

        Raises:
            Unavailable: ``keys.content``: it was kept with another key, or for another bundle.
        """
        public_key = X25519PublicKey.from_public_bytes(bytes.fromhex(recipient))
        try:
            content_key = self._key.unseal(kept, storage_context(manifest=manifest))
        except NotOpened as error:
            raise Unavailable(
                "keys.content",
                f"the content key of {target} does not open with this server's key",
                hint=f"restore {_FILE} in the key folder from the backup of this database's time; "
                "or push the model again as another version",
            ) from error
        info = device_context(device=device, target=target, manifest=manifest)
        sealed = SUITE.encrypt(content_key, public_key, info)
        assert len(sealed) == SEALED_KEY_BYTES, len(sealed)
        return sealed
