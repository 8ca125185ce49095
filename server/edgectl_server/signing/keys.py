"""The signers that this server holds, by role: ``signers.json`` in the keys folder, mode 0600.

::

    {"roles": {"snapshot": [{"uri": "file:snapshot.pem", "key": {…}, "secret_file": ""}], …}}

Rules: the file says how to reach a private key; whether that key counts, only the signed metadata
says. A role without a signer here, or with fewer than its threshold, is *offline*: it is signed
elsewhere. Without the file every role gets one Ed25519 key of its own. Secrets come from files:
`secret_file` of the signer, relative to the folder or absolute, else the server's passphrase.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key, Signer, SSlibKey

from edgectl_protocol.metadata import MODELS_ROLE
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.signing.key_files import (
    check_private,
    load_or_make_private_key,
    private_key_pem,
    read_passphrase,
)
from edgectl_server.signing.signers import (
    key_document,
    key_of_document,
    named_key,
    open_signer,
)
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = [
    "ONLINE_ROLES",
    "ROLES",
    "HeldKey",
    "Keys",
    "check_private",
    "load_or_make_private_key",
    "read_passphrase",
]

ONLINE_ROLES = (MODELS_ROLE, "snapshot", "timestamp", "orders")
"""They sign every day; the server must hold their keys."""
ROLES = ("root", "targets", *ONLINE_ROLES)
"""What there is without model families."""
_FILE = "signers.json"
_FILE_BYTES_MAX = 1024**2


@dataclass(frozen=True)
class HeldKey:
    """A key that this server can sign with."""

    uri: str
    key: Key
    secret_file: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is written."""
        return {"uri": self.uri, "key": key_document(self.key), "secret_file": self.secret_file}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> HeldKey:
        """Read what was written."""
        uri, secret_file = document["uri"], document.get("secret_file", "")
        if not isinstance(uri, str) or not isinstance(secret_file, str):
            raise TypeError("uri and secret_file are text")
        return cls(uri, key_of_document(document["key"]), secret_file)


class Keys:
    """The signers of all roles. Its methods may be called from any thread."""

    def __init__(self, directory: Path, passphrase: bytes | None) -> None:
        self._directory = directory
        self._passphrase = passphrase
        self._held: dict[str, tuple[HeldKey, ...]] = {}
        self._signers: dict[str, Signer] = {}
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        passphrase: bytes | None = None,
        make: Collection[str] = ROLES,
    ) -> Keys:
        """Load the keys in `directory`; where there is no list of signers, make them.

        Args:
            directory: the keys folder.
            passphrase: encrypts the key files.
            make: the roles that get a key when there is no list.

        Raises:
            Unavailable: ``keys.permissions``, ``keys.passphrase``, ``keys.missing`` or
                ``keys.unreadable``.
        """
        make_private_directory(directory)
        keys = cls(directory, passphrase)
        if keys.path.exists():
            keys.reload()
        else:
            keys._held = {role: (keys._default(role),) for role in make}
            keys._write()
        for held in keys._held.values():
            for one in held:
                if one.uri.startswith("file:") and not one.secret_file:
                    keys._encrypt(one)
                    keys._signer(one)
        return keys

    @property
    def path(self) -> Path:
        """The list of signers."""
        return self._directory / _FILE

    def reload(self) -> None:
        """Read the list again; another process may have changed it.

        Raises:
            Unavailable: ``keys.permissions`` or ``keys.unreadable``.
        """
        try:
            check_private(self.path)
            with self.path.open("rb") as file:
                document = json.loads(file.read(_FILE_BYTES_MAX))
            held = {
                str(role): tuple(HeldKey.from_dict(one) for one in listed)
                for role, listed in document["roles"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, Refused) as error:
            raise Unavailable(
                "keys.unreadable",
                f"cannot read the list of signers {self.path}",
                hint="restore the keys folder from a backup",
            ) from error
        with self._lock:
            self._held = held

    def held(self, role: str) -> Sequence[HeldKey]:
        """Return the keys that are held for a role, the newest last."""
        return self._held.get(role, ())

    def roles(self) -> Mapping[str, Sequence[HeldKey]]:
        """Return all keys that are held, by role."""
        return dict(self._held)

    def signers(self, role: str, keyids: Iterable[str]) -> list[Signer]:
        """Return the signers of those of the keys that are held for the role.

        Raises:
            Unavailable: ``keys.…``: one of them cannot be used now.
        """
        wanted = set(keyids)
        return [self._signer(one) for one in self.held(role) if one.key.keyid in wanted]

    def signer(self, role: str) -> Signer:
        """Return the newest signer of a role.

        Raises:
            Unavailable: ``keys.none``: this server holds none; or it cannot be used now.
        """
        held = self.held(role)
        if not held:
            raise Unavailable(
                "keys.none",
                f"this server holds no key for {role}",
                hint=f"edgectl keys add-signer {role} URI, or sign with the role's offline keys",
            )
        return self._signer(held[-1])

    def hold(self, role: str, held: HeldKey) -> None:
        """Add a key to those that are held for a role.

        Raises:
            Unavailable: ``keys.…``: it cannot be used.
        """
        with self._lock:
            self._signer(held)
            kept = [one for one in self.held(role) if one.key.keyid != held.key.keyid]
            self._held = {**self._held, role: (*kept, held)}
            self._write()

    def make(self, role: str) -> HeldKey:
        """Make a new key file and hold it for a role."""
        private = Ed25519PrivateKey.generate()
        key = SSlibKey.from_crypto(private.public_key())
        name = f"{role}-{key.keyid[:12]}.pem"
        content = private_key_pem(private, self._passphrase)
        write_durably(self._directory / name, content, mode=0o600)
        held = HeldKey(f"file:{name}", named_key(key, f"server {role}"))
        self.hold(role, held)
        return held

    def keep_only(self, listed: Mapping[str, Collection[str]]) -> list[str]:
        """Forget the keys that no metadata lists for their role, and delete their files.

        Only files that this folder holds are deleted.

        Args:
            listed: ids of the keys that are listed, or about to be, by role.

        Returns:
            Ids of what was forgotten.
        """
        with self._lock:
            kept = {
                role: tuple(one for one in held if one.key.keyid in listed.get(role, ()))
                for role, held in self._held.items()
            }
            gone = [
                one for role, held in self._held.items() for one in held if one not in kept[role]
            ]
            if not gone:
                return []
            self._held = {role: held for role, held in kept.items() if held}
            self._write()
            in_use = {one.uri for held in kept.values() for one in held}
            for one in gone:
                name = one.uri.removeprefix("file:")
                if one.uri.startswith("file:") and one.uri not in in_use and "/" not in name:
                    (self._directory / name).unlink(missing_ok=True)
            return [one.key.keyid for one in gone]

    # ------------------------------------------------------------ files

    def _default(self, role: str) -> HeldKey:
        path = self._directory / f"{role}.pem"
        private = load_or_make_private_key(
            path, Ed25519PrivateKey.generate, passphrase=self._passphrase
        )
        if not isinstance(private, Ed25519PrivateKey):
            raise Unavailable(
                "keys.unreadable",
                f"cannot use the key {path}: it is not an Ed25519 key",
                hint="restore the file from a backup",
            )
        key = SSlibKey.from_crypto(private.public_key())
        return HeldKey(f"file:{path.name}", named_key(key, f"server {role}"))

    def _encrypt(self, held: HeldKey) -> None:
        """Encrypt a key file that was plain, if there is a passphrase now."""
        path = self._directory / held.uri.removeprefix("file:")
        if path.exists():
            load_or_make_private_key(path, Ed25519PrivateKey.generate, passphrase=self._passphrase)

    def _signer(self, held: HeldKey) -> Signer:
        with self._lock:
            signer = self._signers.get(held.uri)
            if signer is None or signer.public_key.keyid != held.key.keyid:
                signer = open_signer(
                    held.uri, held.key, self._directory, lambda _: self._secret(held)
                )
                self._signers[held.uri] = signer
            return signer

    def _secret(self, held: HeldKey) -> bytes | None:
        if not held.secret_file:
            return self._passphrase
        return read_passphrase(str(self._directory / held.secret_file))

    def _write(self) -> None:
        document = {
            "roles": {
                role: [one.to_dict() for one in held] for role, held in sorted(self._held.items())
            }
        }
        write_durably(self.path, json.dumps(document, indent=1).encode(), mode=0o600)
