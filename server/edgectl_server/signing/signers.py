"""Where a private key is and how to sign with it: by URI, through securesystemslib.

==========================================  =====================================================
``file:root.pem``, ``file:/mnt/usb/a.pem``  PKCS #8 PEM, relative to the keys folder or absolute
``hsm:2?label=TOKEN``                       PKCS #11 (ECDSA), key id 2 on the token with that label;
                                            ``PYKCS11LIB`` in the environment names the library
``awskms:…``, ``gcpkms:…``, ``azurekms:…``  cloud key services, and HashiCorp Vault's transit
``hv:…``                                    engine; each needs its client library
==========================================  =====================================================

Rules: PINs and passphrases come from a file or a prompt, never from a URI. A token is asked by one
thread at a time, because logging in twice is an error there. What fails in a signer is one error
here, whatever the library raises.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signature, Signer, SSlibKey

from edgectl_protocol.metadata import KEY_NAME_FIELD
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.signing.key_files import load_private_key

__all__ = [
    "SECRET_NEEDED",
    "key_document",
    "key_name",
    "key_of_document",
    "load_public_key",
    "named_key",
    "open_signer",
    "public_key_of",
]

SECRET_NEEDED = Callable[[str], bytes | None]
"""Gives the secret of that name (``pin``, ``passphrase``); None: there is none."""
_PACKAGES = {
    "hsm": "edgectl[pkcs11]",
    "awskms": "securesystemslib[awskms]",
    "gcpkms": "securesystemslib[gcpkms]",
    "azurekms": "securesystemslib[azurekms]",
    "hv": "securesystemslib[vault]",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}")
_DOCUMENT_BYTES_MAX = 64 * 1024
_one_at_a_time = threading.Lock()


class _Guarded(Signer):
    """A signer outside of this process: one thread at a time, one kind of error."""

    def __init__(self, signer: Signer, uri: str) -> None:
        self._signer = signer
        self._uri = uri

    @property
    def public_key(self) -> Key:
        return self._signer.public_key

    @classmethod
    def from_priv_key_uri(
        cls,
        priv_key_uri: str,
        public_key: Key,
        secrets_handler: Callable[[str], str] | None = None,
    ) -> Signer:
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        with _one_at_a_time:
            try:
                return self._signer.sign(payload)
            except Exception as error:  # every library has its own
                raise _failed(self._uri, error) from error


def open_signer(uri: str, key: Key | None, folder: Path, secret: SECRET_NEEDED) -> Signer:
    """Return the signer at `uri`.

    Args:
        uri: see the module.
        key: its public half, which must be the right one; None: as the signer says.
        folder: where relative files are.
        secret: asked when a secret is needed.

    Raises:
        Refused: ``keys.uri``: no such kind of URI, or the public half must be given.
        Unavailable: ``keys.…``: it cannot be used here and now.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "file":
        return _file_signer(folder / rest, key, secret)
    if scheme not in _PACKAGES:
        raise Refused(
            "keys.uri",
            f"{uri!r} is not the URI of a key",
            hint=f"file:NAME.pem, or one of {', '.join(f'{name}:…' for name in _PACKAGES)}",
        )
    if key is None:
        key = public_key_of(uri, folder, secret)

    def handler(name: str) -> str:
        value = secret(name)
        if value is None:
            raise ValueError(f"the {name} is not known")
        return value.decode()

    try:
        return _Guarded(Signer.from_priv_key_uri(uri, key, handler), uri)
    except Exception as error:  # every library has its own
        raise _failed(uri, error) from error


def public_key_of(uri: str, folder: Path, secret: SECRET_NEEDED) -> Key:
    """Return the public half of the key at `uri`: from the file, or from the token.

    Raises:
        Refused: ``keys.uri``: a cloud service; its public key has to be given.
        Unavailable: ``keys.…``.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "file":
        return _file_signer(folder / rest, None, secret).public_key
    if scheme != "hsm":
        raise Refused(
            "keys.uri",
            f"the public key of {uri} has to be given",
            hint="save it from the service as PEM and name the file with --public",
        )
    identifier, _, query = rest.partition("?")
    match = re.fullmatch(r"label=([^&]+)", query)
    if not re.fullmatch(r"[0-9]{0,9}", identifier) or (query and match is None):
        raise Refused("keys.uri", f"{uri!r} is not a key on a token", hint="hsm:2?label=TOKEN")

    def handler(name: str) -> str:
        return (secret(name) or b"").decode()

    with _one_at_a_time:
        try:
            _, key = HSMSigner.import_(
                int(identifier) if identifier else None,
                match[1] if match else None,
                handler,
            )
        except Exception as error:  # every library has its own
            raise _failed(uri, error) from error
    return key


def load_public_key(path: Path) -> Key:
    """Return the public key in a file: TUF's JSON, as ``keys generate`` writes it, or PEM.

    Raises:
        Refused: ``keys.public``: unreadable, of an unknown kind, or its id is not its own.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_DOCUMENT_BYTES_MAX)
        if content.startswith(b"-----BEGIN"):
            return named_key(SSlibKey.from_crypto(load_pem_public_key(content)), path.stem)
        return key_of_document(json.loads(content))
    except OSError as error:
        raise Refused("keys.public", f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError, UnsupportedAlgorithm) as error:
        raise _not_public(str(path)) from error


def key_of_document(document: Any) -> Key:
    """Return the key of a public key document, after a check that the id is the key's own.

    Raises:
        Refused: ``keys.public``.
    """
    try:
        given = Key.from_dict(document["keyid"], {**document, "keyval": {**document["keyval"]}})
        given.unrecognized_fields.pop("keyid", None)
        own = SSlibKey.from_crypto(_public_half(given), scheme=given.scheme)
        name = key_name(given)
    except (KeyError, TypeError, ValueError, AttributeError, UnsupportedAlgorithm) as error:
        raise _not_public("this document") from error
    if own.keyid != given.keyid:
        raise Refused(
            "keys.public",
            f"the id of this key would be {own.keyid[:12]}…, not {given.keyid[:12]}…",
            hint="make the file anew with the key's owner",
        )
    return named_key(own, name)


def key_document(key: Key) -> dict[str, Any]:
    """Return a public key as a JSON document, with its id."""
    return {"keyid": key.keyid, **key.to_dict()}


def key_name(key: Key) -> str:
    """Return whose key it is, as the signed metadata says; empty if it does not."""
    name = key.unrecognized_fields.get(KEY_NAME_FIELD)
    return name if isinstance(name, str) and _NAME.fullmatch(name) else ""


def named_key(key: Key, name: str) -> SSlibKey:
    """Return the key under a name for people; an empty or unusable name is none."""
    fields = {KEY_NAME_FIELD: name} if _NAME.fullmatch(name) else {}
    return SSlibKey(key.keyid, key.keytype, key.scheme, dict(key.keyval), fields)


def _file_signer(path: Path, key: Key | None, secret: SECRET_NEEDED) -> CryptoSigner:
    try:
        private = load_private_key(path)
    except Unavailable as error:
        if error.code != "keys.passphrase":
            raise
        private = load_private_key(path, passphrase=secret("passphrase"))
    try:
        own = CryptoSigner(private)
    except ValueError as error:
        raise Unavailable(
            "keys.unreadable",
            f"cannot use the key {path}: {error}",
            hint="Ed25519, ECDSA and RSA keys can sign; restore the file from a backup",
        ) from error
    if key is None:
        return own
    if own.public_key.keyid != key.keyid:
        raise Unavailable(
            "keys.unreadable",
            f"{path} is not the key {key.keyid[:12]}…",
            hint="restore the file from a backup; a new key would be unknown to every device",
        )
    return CryptoSigner(private, named_key(key, key_name(key)))


def _public_half(key: Key) -> PublicKeyTypes:
    public = key.keyval["public"]
    if key.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    return load_pem_public_key(public.encode())


def _failed(uri: str, error: Exception) -> Unavailable:
    scheme = uri.partition(":")[0]
    if isinstance(error, UnsupportedLibraryError | ImportError):
        return Unavailable(
            "keys.package",
            f"{uri} needs a package that is not installed here",
            hint=f"pip install '{_PACKAGES.get(scheme, 'edgectl[keys]')}'",
        )
    hint = "look at the service's own client: is the key there, and may you use it?"
    if scheme == "hsm":
        hint = "is the token there, PYKCS11LIB the path of its library, and the PIN right?"
    return Unavailable("keys.signer", f"cannot sign with {uri}", hint=hint)


def _not_public(what: str) -> Refused:
    return Refused(
        "keys.public",
        f"{what} is not a public key",
        hint="a FILE.pub of `edgectl keys generate`, or a public key in PEM",
    )
