"""The server's private keys: Ed25519 for TUF and for orders, one file a role.

Rules: a key file is PKCS #8 PEM with mode 0600 in a folder with mode 0700, encrypted if there is a
passphrase. A key that others could have read is not used: the start stops with the line that closes
the file, because closing it silently would hide that the key may be known. A key is made only where
there is none; whether it is the right one is for `edgectl_server.signing.repository` to say, which
knows the keys of the signed root.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from edgectl_server.errors import Unavailable
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["ROLES", "Keys", "check_private", "load_or_make_private_key", "read_passphrase"]

ROLES = ("root", "targets", "bins", "snapshot", "timestamp", "orders")
"""One key each. Root and targets may be taken offline; the others sign every day."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PASSPHRASE_BYTES_MAX = 1023


class Keys:
    """The signers of all roles."""

    def __init__(self, signers: dict[str, CryptoSigner]) -> None:
        assert set(signers) == set(ROLES), signers.keys()
        self._signers = signers

    @classmethod
    def open(cls, directory: Path, *, passphrase: bytes | None = None) -> Keys:
        """Load the keys in `directory`; make those that are missing.

        Raises:
            Unavailable: ``keys.permissions``, ``keys.passphrase`` or ``keys.unreadable``.
        """
        make_private_directory(directory)
        signers = {}
        for role in ROLES:
            key = load_or_make_private_key(
                directory / f"{role}.pem", Ed25519PrivateKey.generate, passphrase=passphrase
            )
            if not isinstance(key, Ed25519PrivateKey):
                raise _unreadable(directory / f"{role}.pem", "it is not an Ed25519 key")
            signers[role] = CryptoSigner(key)
        return cls(signers)

    def signer(self, role: str) -> CryptoSigner:
        """Return the signer of one of `ROLES`."""
        return self._signers[role]


def read_passphrase(file: str) -> bytes | None:
    """Return the first line of `file`; None for an empty name.

    Raises:
        Unavailable: ``keys.passphrase``: unreadable, readable by others, or empty.
    """
    if not file:
        return None
    path = Path(file)
    try:
        check_private(path)
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise Unavailable(
            "keys.passphrase", f"cannot read the passphrase file {path}: {error.strerror}"
        ) from error
    if not lines or not 0 < len(lines[0]) <= _PASSPHRASE_BYTES_MAX:
        raise Unavailable(
            "keys.passphrase",
            f"the first line of {path} is no passphrase",
            hint=f"write 1 to {_PASSPHRASE_BYTES_MAX} bytes into its first line",
        )
    return lines[0]


def load_or_make_private_key(
    path: Path, make: Callable[[], PrivateKeyTypes], *, passphrase: bytes | None = None
) -> PrivateKeyTypes:
    """Return the key in the file `path`; make and write one if there is no such file.

    Raises:
        Unavailable: ``keys.permissions``, ``keys.passphrase`` or ``keys.unreadable``.
    """
    if not path.exists():
        key = make()
        write_durably(path, _pem(key, passphrase), mode=0o600)
        return key
    check_private(path)
    content = path.read_bytes()
    encrypted = b"ENCRYPTED" in content
    if encrypted and passphrase is None:
        raise Unavailable(
            "keys.passphrase",
            f"{path} is encrypted and no passphrase was given",
            hint="set key_passphrase_file to the file with the passphrase in its first line",
        )
    try:
        key = load_pem_private_key(content, passphrase if encrypted else None)
    except ValueError as error:
        if encrypted:
            raise Unavailable(
                "keys.passphrase",
                f"the passphrase does not open {path}",
                hint="set key_passphrase_file to the file that was used when the key was made",
            ) from error
        raise _unreadable(path, "it is not a private key") from error
    if passphrase is not None and not encrypted:
        write_durably(path, _pem(key, passphrase), mode=0o600)
    return key


def check_private(path: Path) -> None:
    """Refuse a file that others may read or write.

    Raises:
        Unavailable: ``keys.permissions``.
    """
    mode = path.stat().st_mode
    if mode & _OTHERS:
        raise Unavailable(
            "keys.permissions",
            f"others may read or write {path} (mode {stat.S_IMODE(mode):04o}, expected 0600)",
            hint=f"decide whether the secret may be known to others, then: chmod 600 {path}",
        )


def _pem(key: PrivateKeyTypes, passphrase: bytes | None) -> bytes:
    encryption: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _unreadable(path: Path, why: str) -> Unavailable:
    return Unavailable(
        "keys.unreadable",
        f"cannot use the key {path}: {why}",
        hint="restore the file from a backup; a new key would be unknown to every device",
    )
