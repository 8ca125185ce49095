"""Private keys in files: PKCS #8 PEM, mode 0600, encrypted if there is a passphrase.

Rules: a key that others could have read is not used: whoever wants it is told the line that closes
the file, because closing it silently would hide that the key may be known. A key is made only where
there is none. A passphrase comes from a file, never from the command line.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgectl_server.errors import Unavailable
from edgectl_server.storage.files import write_durably

__all__ = [
    "check_private",
    "is_encrypted",
    "load_or_make_private_key",
    "load_private_key",
    "private_key_pem",
    "read_passphrase",
]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PASSPHRASE_BYTES_MAX = 1023
_KEY_BYTES_MAX = 64 * 1024


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

    A key that is not encrypted is encrypted when there is a passphrase.

    Raises:
        Unavailable: ``keys.permissions``, ``keys.passphrase`` or ``keys.unreadable``.
    """
    if not path.exists():
        key = make()
        write_durably(path, private_key_pem(key, passphrase), mode=0o600)
        return key
    key = load_private_key(path, passphrase=passphrase)
    if passphrase is not None and not is_encrypted(path):
        write_durably(path, private_key_pem(key, passphrase), mode=0o600)
    return key


def load_private_key(path: Path, *, passphrase: bytes | None = None) -> PrivateKeyTypes:
    """Return the key in the file `path`.

    Raises:
        Unavailable: ``keys.missing``, ``keys.permissions``, ``keys.passphrase`` or
            ``keys.unreadable``.
    """
    try:
        check_private(path)
        with path.open("rb") as file:
            content = file.read(_KEY_BYTES_MAX)
    except OSError as error:
        raise Unavailable(
            "keys.missing",
            f"cannot read the key {path}: {error.strerror}",
            hint="restore the file from a backup; a new key would be unknown to every device",
        ) from error
    encrypted = b"ENCRYPTED" in content
    if encrypted and passphrase is None:
        raise Unavailable(
            "keys.passphrase",
            f"{path} is encrypted and no passphrase was given",
            hint="name the file with the passphrase in its first line: key_passphrase_file of the "
            "server, --passphrase-file on the command line",
        )
    try:
        return load_pem_private_key(content, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise Unavailable(
                "keys.passphrase",
                f"the passphrase does not open {path}",
                hint="give the passphrase that was used when the key was made",
            ) from error
        raise Unavailable(
            "keys.unreadable",
            f"cannot use the key {path}: it is not a private key",
            hint="restore the file from a backup; a new key would be unknown to every device",
        ) from error


def is_encrypted(path: Path) -> bool:
    """Say whether the key in the file `path` is encrypted."""
    return b"ENCRYPTED" in path.read_bytes()[:_KEY_BYTES_MAX]


def private_key_pem(key: PrivateKeyTypes, passphrase: bytes | None) -> bytes:
    """Return a key as PKCS #8 PEM."""
    encryption: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


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
