"""What a backup holds: the list that everything in it is checked against.

A backup is a folder or a file of these members, in this order::

    manifest.json              this list
    manifest.mac               HMAC-SHA-256 of it under the passphrase, where there is one
    database.sqlite            all tables, whatever database the server uses
    tuf/… audit/… pki/…        files of the data folder that are no secret
    keys.sealed                those that are, encrypted (`edgectl_server.backup.sealing`)
    blobs/sha256/ab/abcd…      the blob store
    uploads/sha256/ab/abcd…    what devices have uploaded

Rules: a member's name, length and digest stand in the list, or it is refused; names have an
alphabet in which no path can leave the folder. Nothing is compressed, so nothing can swell.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgectl_server.errors import Refused

__all__ = [
    "BLOBS",
    "DATABASE",
    "FORMAT",
    "MAC",
    "MANIFEST",
    "MANIFEST_BYTES_MAX",
    "SEALED",
    "UPLOADS",
    "Backup",
    "Member",
    "Sealing",
    "blob_name",
    "decode_manifest",
    "encode_manifest",
    "is_blob",
    "members_of",
]

FORMAT = "edgectl-backup/1"
MANIFEST = "manifest.json"
MAC = "manifest.mac"
DATABASE = "database.sqlite"
SEALED = "keys.sealed"
BLOBS = "blobs"
UPLOADS = "uploads"
MANIFEST_BYTES_MAX = 64 * 1024**2
SEALED_BYTES_MAX = 16 * 1024**2
_MEMBERS_MAX = 500_000
_FILE_BYTES_MAX = 16 * 1024**2
"""Of a file of the data folder; the database may be as large as it is."""
_NAME = re.compile(r"(?:tuf|audit|pki)(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}){1,3}")

_Length = Annotated[int, Meta(ge=0, le=2**53)]
_Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a backup."""

    name: Annotated[str, Meta(max_length=256)]
    size: _Length
    sha256: _Hex
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o600


class Sealing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the passphrase becomes keys: scrypt (RFC 7914) with this salt."""

    salt: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]


class Backup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The list of one backup."""

    format: Annotated[str, Meta(max_length=64)]
    made_at: datetime
    made_by: Annotated[str, Meta(max_length=64)]
    """Version of edgectl."""
    revision: Annotated[str, Meta(max_length=64)]
    """Of the tables."""
    authority: Annotated[str, Meta(max_length=128)]
    """Fingerprint by which devices and logins know the server."""
    sealing: Sealing | None
    """None: without keys."""
    files: Annotated[list[Member], Meta(max_length=_MEMBERS_MAX)]
    blobs: Annotated[dict[_Hex, _Length], Meta(max_length=_MEMBERS_MAX)]
    uploads: Annotated[dict[_Hex, _Length], Meta(max_length=_MEMBERS_MAX)]


def blob_name(store: str, digest: str) -> str:
    """Return a blob's name in a backup; `digest` is hexadecimal."""
    return f"{store}/sha256/{digest[:2]}/{digest}"


def is_blob(name: str) -> bool:
    """Say whether a member is of a blob store."""
    return name.startswith((f"{BLOBS}/", f"{UPLOADS}/"))


def members_of(backup: Backup) -> dict[str, Member]:
    """Return everything that a backup holds beside its list, by name, in order."""
    members = {one.name: one for one in backup.files}
    for store, content in ((BLOBS, backup.blobs), (UPLOADS, backup.uploads)):
        for digest, size in content.items():
            name = blob_name(store, digest)
            members[name] = Member(name=name, size=size, sha256=digest)
    return members


def encode_manifest(backup: Backup) -> bytes:
    """Return the list as it is written."""
    return msgspec.json.format(msgspec.json.encode(backup), indent=1)


def decode_manifest(content: bytes) -> Backup:
    """Read a list that anybody may have written.

    Raises:
        Refused: ``backup.manifest``.
    """
    try:
        backup = msgspec.json.decode(content, type=Backup)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(f"cannot read it: {error}") from error
    if backup.format != FORMAT:
        raise _refused(f"its format is {backup.format!r}, expected {FORMAT!r}")
    if backup.made_at.tzinfo is None:
        raise _refused("its time has no zone")
    seen: set[str] = set()
    for one in backup.files:
        _check_file(one)
        if one.name in seen:
            raise _refused(f"it lists {one.name} twice")
        seen.add(one.name)
    if DATABASE not in seen:
        raise _refused("it lists no database")
    if (SEALED in seen) != (backup.sealing is not None):
        raise _refused("keys and passphrase do not go together")
    return backup


def _check_file(one: Member) -> None:
    if one.name == DATABASE:
        return
    largest = SEALED_BYTES_MAX if one.name == SEALED else _FILE_BYTES_MAX
    if one.name != SEALED and not _NAME.fullmatch(one.name):
        raise _refused(f"it lists {one.name!r}, which no server has")
    if one.size > largest:
        raise _refused(f"{one.name} has {one.size} bytes, at most {largest} are taken")


def _refused(problem: str) -> Refused:
    return Refused(
        "backup.manifest",
        f"this is no list of a backup of ours: {problem}",
        hint="name a file or folder that `edgectl server backup` has written, of this version",
    )
