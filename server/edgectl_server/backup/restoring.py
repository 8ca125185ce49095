"""Restores a backup into an empty place.

Rules: everything is written into a folder of the place and checked there, and moves up last, so
that after a failure there is nothing; while that folder is there, no server starts. (Beside the
place a server's user may write nothing, where a package or a container has made it.) What was
restored starts with a mark in it (`edgectl_server.backup.resumption`), so that its first start goes
on where devices are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgectl_server.backup.archives import FileReader, FolderReader, Reader
from edgectl_server.backup.checking import check_members, read_backup
from edgectl_server.backup.manifest import (
    BLOBS,
    DATABASE,
    SEALED,
    UPLOADS,
    Backup,
    Member,
    members_of,
)
from edgectl_server.backup.newer import adopt_metadata, adopt_revocations
from edgectl_server.backup.resumption import UNFINISHED, Restored, ahead_of
from edgectl_server.backup.rows import check_empty, load_rows, revision_of
from edgectl_server.backup.sealing import Seal
from edgectl_server.backup.versions import versions_with
from edgectl_server.errors import Conflict, Refused, TooLarge
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import (
    make_private_directory,
    move_durably,
    sync_directory,
    write_durably,
)

__all__ = ["RestoreOptions", "RestoredServer", "check_backup", "open_backup", "restore_backup"]

_FREE_BYTES_MIN = 64 * 1024**2
_SHOWN_MAX = 10


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """How a backup is restored."""

    passphrase: bytes | None = None
    expected: str = ""
    """Digest of the list; empty: any."""
    carry_on: bool = False
    """Nothing has happened since the backup."""
    metadata: Path | None = None
    """A newer copy of the folder ``tuf``."""
    revocations: Path | None = None
    """A newer revocation list, PEM."""


@dataclass(frozen=True)
class RestoredServer:
    """What was restored."""

    data: str
    made_at: datetime
    authority: str
    files: int
    blobs: int
    with_keys: bool
    revoked: tuple[str, ...]
    """Devices that the newer revocation list has taken out."""


def open_backup(source: Path, snapshot: str = "") -> Reader:
    """Open a backup: a file, or the newest or the named one of a folder."""
    return FolderReader(source, snapshot) if source.is_dir() else FileReader(source)


def check_backup(reader: Reader, options: RestoreOptions) -> Backup:
    """Check a backup to its last byte, and restore nothing; return its list."""
    backup, seal = read_backup(reader, options.passphrase, options.expected)
    sealed = bytearray()

    def sink(member: Member) -> Callable[[bytes], object]:
        return sealed.extend if member.name == SEALED else lambda _: None

    for _ in check_members(reader, backup, sink):
        pass
    if seal is not None:
        seal.open(bytes(sealed))
    return backup


def restore_backup(
    reader: Reader, settings: Settings, options: RestoreOptions, now: datetime
) -> RestoredServer:
    """Restore a backup into the data folder, the database and the blob store of `settings`.

    Raises:
        Conflict: ``backup.not_empty``: there is something already.
        Refused: ``backup.…``: the backup is not what it should be.
        TooLarge: ``backup.space``: the disk is too small.
    """
    data = settings.data_path
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise Conflict(
            "backup.not_empty",
            f"{data} is not empty",
            hint="restore into an empty folder, or one that is not there; move what is there away",
        )
    database = Database(settings.database_url) if settings.database_url else None
    with contextlib.ExitStack() as closing:
        if database is not None:
            closing.callback(database.close)
            check_empty(database)
        backup, seal = read_backup(reader, options.passphrase, options.expected)
        if not data.exists():
            closing.callback(_remove_empty, data)
        make_private_directory(data)
        _check_space(backup, data)
        beside = make_private_directory(data / UNFINISHED)
        closing.callback(shutil.rmtree, beside, ignore_errors=True)
        _write_members(reader, backup, settings, beside, seal)
        rows = beside / "edgectl.sqlite"
        if revision_of(rows) != backup.revision:
            raise Refused(
                "backup.forged",
                "the tables in this backup are not of the version that its list says",
                hint="look who has changed it, and take an older one",
            )
        if options.metadata is not None:
            adopt_metadata(options.metadata, beside / "tuf")
        revoked: tuple[str, ...] = ()
        if options.revocations is not None:
            revoked = adopt_revocations(options.revocations, beside / "pki", rows, now)
        Restored(
            made_at=backup.made_at,
            restored_at=now,
            carry_on=options.carry_on,
            ahead=ahead_of(backup.made_at, now),
        ).write(beside)
        if database is not None:
            load_rows(rows, database)
            for path in beside.glob("edgectl.sqlite*"):
                path.unlink()
        _move_up(beside, data)
    return RestoredServer(
        data=str(data),
        made_at=backup.made_at,
        authority=f"sha256:{backup.authority}",
        files=len(backup.files),
        blobs=len(backup.blobs) + len(backup.uploads),
        with_keys=seal is not None,
        revoked=revoked,
    )


def _move_up(folder: Path, data: Path) -> None:
    """Give everything its place; the folder, which keeps servers from starting, goes last."""
    sync_directory(folder)
    for path in sorted(folder.iterdir()):
        path.rename(data / path.name)
    sync_directory(data)
    folder.rmdir()
    sync_directory(data)
    sync_directory(data.parent)


def _remove_empty(data: Path) -> None:
    with contextlib.suppress(OSError):
        data.rmdir()


def _write_members(
    reader: Reader, backup: Backup, settings: Settings, beside: Path, seal: Seal | None
) -> None:
    """Write everything to where it will lie below `beside`, or into another blob store."""
    inside = not settings.blobs_url
    stores = {BLOBS: str(beside / "blobs") if inside else settings.blobs_address}
    stores[UPLOADS] = f"{stores[BLOBS].rstrip('/')}/device-uploads"
    opened: dict[str, BlobStore] = {}
    damaged: list[Member] = []
    part = beside / "part"
    with contextlib.ExitStack() as files:

        def sink(_: Member) -> Callable[[bytes], object]:
            files.close()
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            return files.enter_context(os.fdopen(descriptor, "wb")).write

        def leave_out(member: Member) -> None:
            part.unlink()
            damaged.append(member)

        for member in check_members(reader, backup, sink, leave_out):
            files.close()
            store = member.name.partition("/")[0]
            if store in stores:
                if store not in opened:
                    opened[store] = BlobStore(stores[store])
                opened[store].add_file(part, expected=f"sha256:{member.sha256}", consume=True)
            elif member.name == DATABASE:
                move_durably(part, beside / "edgectl.sqlite")
            elif member.name == SEALED:
                if seal is not None:
                    _write_secrets(seal.open(part.read_bytes()), beside)
                part.unlink()
            else:
                path = beside / member.name
                _make_folders(path.parent, beside)
                part.chmod(member.mode & 0o644 | 0o600)
                move_durably(part, path)
    if damaged:
        raise _damaged(damaged, beside / "edgectl.sqlite", opened.get(BLOBS))


def _damaged(blobs: list[Member], rows: Path, store: BlobStore | None) -> Refused:
    """Say what an operator loses by them, by the tables and manifests that are whole."""
    named = {f"sha256:{one.sha256}" for one in blobs}
    versions = versions_with(named, rows, store)
    shown = ", ".join(versions[:_SHOWN_MAX]) + (" and more" if len(versions) > _SHOWN_MAX else "")
    return Refused(
        "backup.damaged",
        f"the backup is damaged: {len(blobs)} blobs have other content than when it was made, such "
        f"as {blobs[0].name}; they are of {shown or 'no version of a model'}",
        hint="copy it again from where it was made, back up again into its folder while the server "
        "runs, or take an older one",
        data={"blobs": sorted(named), "versions": versions},
    )


def _write_secrets(files: dict[str, bytes], beside: Path) -> None:
    for name, content in files.items():
        path = beside / name
        _make_folders(path.parent, beside)
        write_durably(path, content, mode=0o600)


def _make_folders(folder: Path, beside: Path) -> None:
    if folder != beside:
        _make_folders(folder.parent, beside)
        make_private_directory(folder)


def _check_space(backup: Backup, folder: Path) -> None:
    needed = sum(one.size for one in members_of(backup).values()) + _FREE_BYTES_MIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TooLarge(
            "backup.space",
            f"the backup needs {needed} bytes, {free} are free in {folder}",
            hint="make room, or restore to a larger disk",
        )
