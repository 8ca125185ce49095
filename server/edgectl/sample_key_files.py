"""Keys of one's own that devices seal samples to: files on this machine, and what they open.

A private key is PKCS #8 PEM of X25519, mode 0600, encrypted if there is a passphrase; it never goes
to a server. Beside it, in ``FILE.pub``, is the public half as one line of base64, which does.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgectl.errors import LocalError
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.sealed_samples import (
    KEY_BYTES,
    SEALED_HEAD_BYTES_MAX,
    open_sample,
    read_sealed_head,
    sample_key_id,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

__all__ = ["PublicKey", "create_key", "open_with", "read_passphrase", "read_private", "read_public"]

_KEY_BYTES_MAX = 64 * 1024
_PASSPHRASE_BYTES_MAX = 1023
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class PublicKey(NamedTuple):
    """The public half.

    Attributes:
        id: its name, as samples and the server tell it.
        text: base64.
    """

    id: str
    text: str

    @classmethod
    def of(cls, public: bytes) -> PublicKey:
        """Name 32 bytes."""
        return cls(sample_key_id(public), b64encode(public).decode())


def create_key(path: Path, passphrase: bytes | None) -> PublicKey:
    """Make a key, and write ``path`` and ``path.pub``; neither may be there.

    Raises:
        LocalError: ``samples.key_file``; ``samples.not_installed``.
    """
    _check_installed()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    private = X25519PrivateKey.generate()
    public = PublicKey.of(private.public_key().public_bytes_raw())
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    beside = path.with_name(path.name + ".pub")
    try:
        if beside.exists():
            raise FileExistsError(17, "it is there already")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.write_text(public.text + "\n", "ascii")
    except OSError as error:
        raise LocalError(
            "samples.key_file",
            f"cannot write {path} and {beside}: {error.strerror}",
            "give it another name: a key that is lost opens nothing any more",
        ) from error
    return public


def read_public(text: str) -> PublicKey:
    """Return a public key that is named by its file, by that of its private half, or by itself.

    Raises:
        LocalError: ``samples.key_file``: it is neither.
    """
    path = Path(text)
    found = text
    with suppress(OSError, ValueError):
        if path.is_file():
            found = path.read_bytes()[:_KEY_BYTES_MAX].decode("ascii", "replace").strip()
    if "PRIVATE KEY" in found:
        beside = path.with_name(path.name + ".pub")
        raise LocalError(
            "samples.key_file",
            f"{path} is a private key, which goes to nobody",
            f"name the public one beside it: {beside}",
        )
    try:
        public = b64decode(found, validate=True)
    except ValueError:
        public = b""
    if len(public) != KEY_BYTES:
        raise LocalError(
            "samples.key_file",
            f"{text[:200]!r} is no public key, nor a file with one",
            "`edgectl samples key create FILE` makes FILE and FILE.pub; name the latter",
        )
    return PublicKey.of(public)


def read_passphrase(path: Path | None) -> bytes | None:
    """Return the first line of a file; raise `LocalError` ``samples.passphrase``."""
    if path is None:
        return None
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LocalError(
            "samples.passphrase", f"cannot read {path}: {error.strerror}", "check the path"
        ) from error
    if not lines or not 0 < len(lines[0]) <= _PASSPHRASE_BYTES_MAX:
        raise LocalError("samples.passphrase", f"the first line of {path} is no passphrase")
    return lines[0]


def read_private(path: Path, passphrase: bytes | None) -> X25519PrivateKey:
    """Return the key in a file.

    Raises:
        LocalError: ``samples.key_file``: it is not there, others may read it, it is another thing,
            or the passphrase does not open it; ``samples.not_installed``.
    """
    _check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        mode = path.stat().st_mode
        if mode & _OTHERS:
            raise LocalError(
                "samples.key_file",
                f"others may read or write {path} (mode {stat.S_IMODE(mode):04o}, expected 0600)",
                f"decide whether the key may be known to others, then: chmod 600 {path}",
            )
        with path.open("rb") as file:
            content = file.read(_KEY_BYTES_MAX)
    except OSError as error:
        raise LocalError(
            "samples.key_file", f"cannot read {path}: {error.strerror}", "check --key"
        ) from error
    encrypted = b"ENCRYPTED" in content
    try:
        key = load_pem_private_key(content, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        detail = "the passphrase does not open it" if encrypted else "it is no private key"
        raise LocalError(
            "samples.key_file",
            f"cannot use {path}: {detail}",
            "--passphrase-file names the file with its passphrase" if encrypted else "check --key",
        ) from error
    if not isinstance(key, X25519PrivateKey):
        raise LocalError(
            "samples.key_file",
            f"{path} is a key of another kind",
            "`edgectl samples key create` makes keys for samples",
        )
    return key


def open_with(content: bytes, key: X25519PrivateKey) -> bytes:
    """Return the file of a sealed sample.

    Raises:
        LocalError: ``samples.sealed``: it is sealed to another key, or is not what was sealed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
    ours = sample_key_id(key.public_key().public_bytes_raw())
    try:
        named = read_sealed_head(content[:SEALED_HEAD_BYTES_MAX], len(content)).key
        if named != ours:
            raise LocalError(
                "samples.sealed",
                f"it is sealed to the key {named}, and this one is {ours}",
                "`edgectl samples key list` tells whose that is",
            )
        return open_sample(content, lambda sealed, info: suite.decrypt(sealed, key, info))
    except (ProtocolError, InvalidTag, ValueError) as error:
        raise LocalError(
            "samples.sealed", "it does not open: it is not what the device has sealed"
        ) from error


def _check_installed() -> None:
    try:
        import cryptography.hazmat.primitives.hpke  # noqa: F401
    except ImportError as error:
        raise LocalError(
            "samples.not_installed",
            "what opens samples is not installed here: cryptography 47 or newer",
            "pip install 'edgectl[keys]'",
        ) from error
