"""Secrets that the server must know itself, kept in the database, sealed to ``secrets.pem``."""

from __future__ import annotations

from pathlib import Path

from edgectl_server.errors import Unavailable
from edgectl_server.signing.sealing_key import NotOpened, SealingKey

__all__ = ["SealedSecrets"]

_FILE = "secrets.pem"


class SealedSecrets:
    """Seals and opens secrets. Its methods may be called from any thread."""

    def __init__(self, key: SealingKey) -> None:
        self._key = key

    @classmethod
    def open(cls, directory: Path, *, passphrase: bytes | None = None) -> SealedSecrets:
        """Load the key in `directory`, or make it.

        Raises:
            Unavailable: ``keys.…`` as of `edgectl_server.signing.keys`.
        """
        path = directory / _FILE
        return cls(SealingKey.open(path, opens="secret that is kept", passphrase=passphrase))

    def seal(self, secret: str, purpose: str) -> str:
        """Return a secret as it is kept.

        Args:
            secret: any text.
            purpose: what it is of, such as ``webhook/…/url``; ASCII.
        """
        return self._key.seal(secret.encode(), purpose.encode("ascii"))

    def unseal(self, kept: str, purpose: str) -> str:
        """Return a secret that `seal` has sealed for the same purpose.

        Raises:
            Unavailable: ``keys.secrets``: with another key, or for something else.
        """
        try:
            return self._key.unseal(kept, purpose.encode("ascii")).decode()
        except (NotOpened, ValueError) as error:
            raise Unavailable(
                "keys.secrets",
                f"the secret of {purpose} does not open with this server's key",
                hint=f"restore {_FILE} in the key folder from the backup of this database's time; "
                "or delete what it belongs to, and make it again",
            ) from error
