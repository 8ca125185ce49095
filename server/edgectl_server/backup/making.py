"""Makes a backup beside the running server.

What is taken when, so that the pieces fit whatever happens meanwhile:

1. Heads of the audit log, then the tables: a head vouches for rows that are in the tables.
2. The tables, then the signed metadata: what the tables call published is signed for. Metadata and
   keys are taken under the lock of whoever changes them.
3. Blobs last: a blob is there before a row names it. One that was deleted since is not missed.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import msgspec

from edgectl_protocol.names import digest_of
from edgectl_server.backup.archives import FileReader, FileWriter, FolderReader, FolderWriter
from edgectl_server.backup.checking import check_members
from edgectl_server.backup.manifest import (
    BLOBS,
    DATABASE,
    FORMAT,
    SEALED,
    UPLOADS,
    Backup,
    Member,
    blob_name,
    decode_manifest,
    encode_manifest,
)
from edgectl_server.backup.rows import revision_of, save_rows
from edgectl_server.backup.sealing import Seal, is_secret_name
from edgectl_server.errors import NotFound, Refused
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import fingerprint_of_certificate
from edgectl_server.signing.folder import MetadataFolder
from edgectl_server.storage.blobs import BlobStore, file_digest
from edgectl_server.storage.database import Database

__all__ = ["Made", "make_backup"]

_READ_BYTES = 1024**2
_ATTEMPTS = 3
_TAKEN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")
"""Files of any other name are in the middle of being written, or locks."""


@dataclass(frozen=True)
class Made:
    """A backup that was made."""

    path: str
    manifest: str
    """Digest of its list, by which it is known again."""
    made_at: datetime
    files: int
    blobs: int
    written: int
    """Blobs that were not there, whole, from an earlier backup."""
    mended: int
    """Of these: that were there, and had become damaged."""
    size: int
    """Bytes of all that it holds."""
    with_keys: bool


def make_backup(
    settings: Settings,
    database: Database,
    target: Path,
    *,
    passphrase: bytes | None,
    with_uploads: bool,
    now: datetime,
) -> Made:
    """Make a backup of a server, running or not, and check what was written.

    Args:
        settings: of the server.
        database: of the server.
        target: an existing folder, which gets one more backup; or a file that is not there.
        passphrase: encrypts the keys and vouches for all; None: without keys.
        with_uploads: also what devices have uploaded.
        now: the time.

    Raises:
        Refused: ``backup.exists``, ``backup.passphrase``.
        Unavailable: ``backup.write``, ``blobs.…``.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _make(
                settings,
                database,
                target,
                passphrase=passphrase,
                with_uploads=with_uploads,
                made_at=now.astimezone(UTC).replace(microsecond=0),
            )
        except NotFound as error:
            # A blob was deleted after it was listed; next time it is not.
            if error.code != "blob.missing" or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _make(
    settings: Settings,
    database: Database,
    target: Path,
    *,
    passphrase: bytes | None,
    with_uploads: bool,
    made_at: datetime,
) -> Made:
    seal = None if passphrase is None else Seal(passphrase)
    is_folder = target.is_dir()
    writer = FolderWriter(target, f"{made_at:%Y%m%dT%H%M%SZ}") if is_folder else FileWriter(target)
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=settings.data_path) as staging:
            content = _gather(settings, database, Path(staging), seal, with_uploads=with_uploads)
            backup = content.backup(settings, seal, made_at)
            manifest = encode_manifest(backup)
            writer.begin(manifest, None if seal is None else seal.mac(manifest))
            written = _write_all(writer, backup, content)
            path = writer.finish()
    except BaseException:
        writer.discard()
        raise
    reader = FolderReader(target, path.name) if is_folder else FileReader(target)
    with contextlib.closing(reader):
        # What was there was read when it was found to be.
        listed = decode_manifest(reader.manifest()[0])
        fresh = msgspec.structs.replace(
            listed,
            blobs={digest: listed.blobs[digest] for digest in written[BLOBS]},
            uploads={digest: listed.uploads[digest] for digest in written[UPLOADS]},
        )
        for _ in check_members(reader, fresh):
            pass
    return Made(
        path=str(path),
        manifest=digest_of(manifest),
        made_at=made_at,
        files=len(backup.files),
        blobs=len(backup.blobs) + len(backup.uploads),
        written=len(written[BLOBS]) + len(written[UPLOADS]),
        mended=writer.damaged,
        size=sum(one.size for one in backup.files)
        + sum(backup.blobs.values())
        + sum(backup.uploads.values()),
        with_keys=seal is not None,
    )


@dataclass(frozen=True)
class _Content:
    """Everything, before it is listed."""

    database: Path
    files: Mapping[str, tuple[bytes, int]]
    """Content and mode, by name."""
    sealed: bytes | None
    stores: Mapping[str, BlobStore]
    blobs: Mapping[str, Mapping[str, int]]
    """Length by digest, by store."""

    def backup(self, settings: Settings, seal: Seal | None, made_at: datetime) -> Backup:
        """List it."""
        files = [_member(name, content, mode) for name, (content, mode) in self.files.items()]
        if self.sealed is not None:
            files.append(_member(SEALED, self.sealed, 0o600))
        size, digest = self.database.stat().st_size, file_digest(self.database)
        rows = Member(name=DATABASE, size=size, sha256=digest.partition(":")[2])
        return Backup(
            format=FORMAT,
            made_at=made_at,
            made_by=version("edgectl"),
            revision=revision_of(self.database),
            authority=fingerprint_of_certificate(settings.data_path / "pki/authority.pem"),
            sealing=None if seal is None else seal.sealing,
            files=[rows, *files],
            blobs=dict(self.blobs[BLOBS]),
            uploads=dict(self.blobs[UPLOADS]),
        )


def _gather(
    settings: Settings,
    database: Database,
    staging: Path,
    seal: Seal | None,
    *,
    with_uploads: bool,
) -> _Content:
    data = settings.data_path
    files = _files_of(data, "audit")
    rows = staging / "rows.sqlite"
    save_rows(database, rows)
    with MetadataFolder(data / "tuf").locked():
        for folder in ("tuf", "keys", "pki"):
            files.update(_files_of(data, folder))
    first_password = data / "admin-password"
    if first_password.exists():
        files["admin-password"] = (first_password.read_bytes(), 0o600)
    secret = {name: content for name, (content, _) in files.items() if is_secret_name(name)}
    stores = {BLOBS: BlobStore(settings.blobs_address)}
    blobs: dict[str, Mapping[str, int]] = {BLOBS: stores[BLOBS].sizes(), UPLOADS: {}}
    if with_uploads:
        stores[UPLOADS] = BlobStore(settings.device_uploads_address)
        blobs[UPLOADS] = stores[UPLOADS].sizes()
    return _Content(
        database=rows,
        files={name: one for name, one in sorted(files.items()) if name not in secret},
        sealed=None if seal is None else seal.close(secret),
        stores=stores,
        blobs=blobs,
    )


def _files_of(data: Path, folder: str) -> dict[str, tuple[bytes, int]]:
    """Return the files of a folder, content and mode by name."""
    found = {}
    for path in sorted((data / folder).rglob("*")):
        if path.is_dir() or not _TAKEN.fullmatch(path.name):
            continue
        if path.is_symlink():
            raise Refused(
                "backup.link",
                f"{path} is a link; a backup would not hold what it leads to",
                hint="put the file itself there",
            )
        name = path.relative_to(data).as_posix()
        found[name] = (path.read_bytes(), path.stat().st_mode & 0o777)
    return found


def _write_all(
    writer: FileWriter | FolderWriter, backup: Backup, content: _Content
) -> dict[str, list[str]]:
    """Write what is listed; return the blobs that were not there, by store."""
    for one in backup.files:
        if one.name == DATABASE:
            writer.add(one, _pieces(content.database))
        elif one.name == SEALED:
            assert content.sealed is not None
            writer.add(one, [content.sealed])
        else:
            writer.add(one, [content.files[one.name][0]])
    written: dict[str, list[str]] = {BLOBS: [], UPLOADS: []}
    for store, blobs in ((BLOBS, backup.blobs), (UPLOADS, backup.uploads)):
        for digest, size in blobs.items():
            member = Member(name=blob_name(store, digest), size=size, sha256=digest)
            if not writer.has(member):
                writer.add(member, content.stores[store].stream(f"sha256:{digest}", _READ_BYTES))
                written[store].append(digest)
    return written


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece


def _member(name: str, content: bytes, mode: int) -> Member:
    return Member(name=name, size=len(content), sha256=sha256(content).hexdigest(), mode=mode)
