"""The secret part of a backup: encrypted by a passphrase, which also vouches for the whole.

From the passphrase, scrypt (RFC 7914; N=2^15, r=8, p=1) makes two keys: one encrypts the secret
files (AES-256-GCM), the other authenticates the list of the backup (HMAC-SHA-256), and by it all
that is in the list. So whoever does not know the passphrase can neither read the keys nor change
anything that is restored.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from hashlib import scrypt, sha256

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgectl_server.backup.manifest import Sealing
from edgectl_server.errors import Refused

__all__ = ["PASSPHRASE_BYTES_MIN", "Seal", "is_secret_name"]

PASSPHRASE_BYTES_MIN = 12
_NONCE_BYTES = 12
_PURPOSE = b"edgectl backup keys 1"
_SECRET = re.compile(
    r"keys/[A-Za-z0-9_][A-Za-z0-9._ -]{0,95}|pki/[a-z-]{1,32}\.key"
    r"|audit/key\.pem|admin-password"
)


def is_secret_name(name: str) -> bool:
    """Say whether a file of the data folder belongs into the secret part."""
    return _SECRET.fullmatch(name) is not None


class Seal:
    """Two keys of one passphrase."""

    def __init__(self, passphrase: bytes, sealing: Sealing | None = None) -> None:
        """Derive the keys; without `sealing`, of a new backup.

        Raises:
            Refused: ``backup.passphrase``: too short to encrypt anything with.
        """
        if sealing is None and len(passphrase) < PASSPHRASE_BYTES_MIN:
            raise Refused(
                "backup.passphrase",
                f"the passphrase has {len(passphrase)} bytes, expected {PASSPHRASE_BYTES_MIN}",
                hint="openssl rand -base64 24 > backup.passphrase; chmod 600 backup.passphrase",
            )
        self.sealing = sealing or Sealing(salt=secrets.token_hex(16))
        keys = scrypt(
            passphrase,
            salt=bytes.fromhex(self.sealing.salt),
            n=2**15,
            r=8,
            p=1,
            maxmem=64 * 1024**2,
            dklen=64,
        )
        self._cipher, self._mac_key = AESGCM(keys[:32]), keys[32:]

    def mac(self, manifest: bytes) -> bytes:
        """Return what vouches for a list, as hexadecimal text."""
        return hmac.new(self._mac_key, manifest, sha256).hexdigest().encode()

    def check(self, manifest: bytes, mac: bytes) -> None:
        """Raise `Refused` ``backup.forged`` unless `mac` is that of `manifest`."""
        if not hmac.compare_digest(self.mac(manifest), mac.strip()):
            raise Refused(
                "backup.forged",
                "the passphrase does not vouch for this backup: it is another one, or somebody has "
                "changed the backup",
                hint="try the passphrase of the day of the backup, and else an older backup",
            )

    def close(self, files: Mapping[str, bytes]) -> bytes:
        """Encrypt files, by their names in the data folder."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        content = msgspec.msgpack.encode(dict(files))
        return nonce + self._cipher.encrypt(nonce, content, _PURPOSE)

    def open(self, sealed: bytes) -> dict[str, bytes]:
        """Decrypt files.

        Raises:
            Refused: ``backup.forged``.
        """
        try:
            content = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _PURPOSE)
            files = msgspec.msgpack.decode(content, type=dict[str, bytes])
        except (InvalidTag, ValueError, msgspec.DecodeError) as error:
            raise Refused(
                "backup.forged",
                "the keys in this backup cannot be decrypted",
                hint="try the passphrase of the day of the backup, and else an older backup",
            ) from error
        wrong = [name for name in files if not is_secret_name(name)]
        if wrong:
            raise Refused(
                "backup.forged",
                f"{wrong[0][:80]!r} is no secret file of a server",
                hint="no backup of ours holds it: look who has made this one",
            )
        return files
