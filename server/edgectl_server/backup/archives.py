"""How a backup lies on a disk: one file, or a folder in which blobs are shared by all backups.

A file is a tar archive (POSIX ustar with GNU lengths, so that any ``tar`` can look into it), not
compressed. It is read by a reader of its own that takes plain files only: no link, no sparse file,
no extended header, which a library would believe before anybody can check it.

A folder has one folder a backup, named by its time, and one ``blobs`` and ``uploads`` for all: what
is there already, by its content, is not written again. A backup counts when its ``manifest.json``
is there; that is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from edgectl_server.backup.manifest import (
    MAC,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    Backup,
    Member,
    is_blob,
    members_of,
)
from edgectl_server.errors import NotFound, Refused, Unavailable
from edgectl_server.storage.files import make_private_directory, sync_directory, write_durably

__all__ = ["FileReader", "FileWriter", "FolderReader", "FolderWriter", "Reader", "Writer"]

_BLOCK = 512
_READ_BYTES = 1024**2
_MAC_BYTES_MAX = 128
_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_PLAIN = (b"0", b"\0")

Pieces = Iterable[bytes]


class Writer(Protocol):
    """Takes the members of one backup."""

    damaged: int
    """Blobs of earlier backups that `has` has found with other content than they had."""

    def begin(self, manifest: bytes, mac: bytes | None) -> None:
        """Take the list, before everything else."""

    def has(self, member: Member) -> bool:
        """Say whether a blob is there, whole, from an earlier backup."""

    def add(self, member: Member, pieces: Pieces) -> None:
        """Take one member; its bytes are as many as it says."""

    def finish(self) -> Path:
        """Make it durable, and give it its name; return that."""

    def discard(self) -> None:
        """Take away what was written; nothing after `finish`."""


class Reader(Protocol):
    """Gives the members of one backup, none of them checked."""

    def manifest(self) -> tuple[bytes, bytes | None]:
        """Return the list, and what vouches for it."""

    def members(self, backup: Backup) -> Iterator[tuple[str, int, Pieces]]:
        """Yield name, length and content; each content is read before the next is asked for."""

    def close(self) -> None:
        """Let go of what is open."""


class FileWriter:
    """Writes one file; it has its name when it is whole."""

    damaged = 0

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise Refused(
                "backup.exists",
                f"{path} is there already",
                hint="name another file, or a folder, which keeps many backups",
            )
        self._path = path
        self._beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Unavailable(
                "backup.write", f"cannot write {path}: {error.strerror}", hint="name another place"
            ) from error
        self._file = os.fdopen(descriptor, "wb")

    def begin(self, manifest: bytes, mac: bytes | None) -> None:
        """Take the list."""
        self._write(MANIFEST, len(manifest), 0o600, [manifest])
        if mac is not None:
            self._write(MAC, len(mac), 0o600, [mac])

    def has(self, member: Member) -> bool:  # noqa: ARG002 - a new file has nothing
        """Say no."""
        return False

    def add(self, member: Member, pieces: Pieces) -> None:
        """Take one member."""
        self._write(member.name, member.size, member.mode, pieces)

    def finish(self) -> Path:
        """Make it durable, and give it its name."""
        self._file.write(bytes(2 * _BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._beside.replace(self._path)
        sync_directory(self._path.parent)
        return self._path

    def discard(self) -> None:
        """Take away what was written."""
        self._file.close()
        self._beside.unlink(missing_ok=True)

    def _write(self, name: str, size: int, mode: int, pieces: Pieces) -> None:
        head = tarfile.TarInfo(name)
        head.size, head.mode = size, mode
        self._file.write(head.tobuf(tarfile.GNU_FORMAT))
        written = 0
        for piece in pieces:
            self._file.write(piece)
            written += len(piece)
        assert written == size, f"{name}: {written} bytes, said to be {size}"
        self._file.write(bytes(-size % _BLOCK))


class FolderWriter:
    """Writes one backup into a folder of many."""

    def __init__(self, directory: Path, stamp: str) -> None:
        assert _STAMP.fullmatch(stamp), stamp
        self._store = make_private_directory(directory)
        self._own = self._store / stamp
        if self._own.exists():
            raise Refused(
                "backup.exists", f"{self._own} is there already", hint="try again in a second"
            )
        make_private_directory(self._own)
        self._manifest: bytes = b""
        self.damaged = 0

    def begin(self, manifest: bytes, mac: bytes | None) -> None:
        """Take the list; it is written last."""
        self._manifest = manifest
        if mac is not None:
            write_durably(self._own / MAC, mac)

    def has(self, member: Member) -> bool:
        """Read a blob that is there from an earlier backup, and say whether it is whole."""
        path = self._path(member.name)
        if not is_blob(member.name) or not os.path.lexists(path):
            return False
        if not _is_whole(path, member):
            self.damaged += 1
            return False
        return True

    def add(self, member: Member, pieces: Pieces) -> None:
        """Take one member."""
        path = self._path(member.name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(path.parent)

    def finish(self) -> Path:
        """Write the list, by which the backup counts."""
        write_durably(self._own / MANIFEST, self._manifest)
        sync_directory(self._store)
        return self._own

    def discard(self) -> None:
        """Take away its own files; blobs stay, for the next one."""
        for path in sorted(self._own.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self._own.rmdir()

    def _path(self, name: str) -> Path:
        return (self._store if is_blob(name) else self._own) / name


class FileReader:
    """Reads one file, from the beginning to the end, once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open_plain(path)
        self._ahead: tuple[str, int] | None = None

    def manifest(self) -> tuple[bytes, bytes | None]:
        """Return the list, and what vouches for it."""
        head = self._head()
        if head is None or head[0] != MANIFEST or head[1] > MANIFEST_BYTES_MAX:
            raise _no_backup(self._path)
        manifest = b"".join(self._content(head[1]))
        self._ahead = self._head()
        if self._ahead is None or self._ahead[0] != MAC:
            return manifest, None
        size = self._ahead[1]
        self._ahead = None
        if size > _MAC_BYTES_MAX:
            raise _no_backup(self._path)
        return manifest, b"".join(self._content(size))

    def members(self, backup: Backup) -> Iterator[tuple[str, int, Pieces]]:  # noqa: ARG002 - see Reader
        """Yield what the file holds, in its order."""
        head = self._ahead or self._head()
        self._ahead = None
        while head is not None:
            name, size = head
            left = [size]
            yield name, size, self._content(size, left)
            if left[0]:
                raise AssertionError(f"{name} was not read")
            head = self._head()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _head(self) -> tuple[str, int] | None:
        """Return name and length of the next member; None at the end."""
        block = self._file.read(_BLOCK)
        if block == bytes(_BLOCK):
            return None
        try:
            head = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise _no_backup(self._path) from error
        if head.type not in _PLAIN or head.size < 0:
            raise Refused(
                "backup.forged",
                f"{self._path} holds {head.name[:80]!r}, which is no plain file",
                hint="no backup of ours does: look who has changed it, and take an older one",
            )
        return head.name, head.size

    def _content(self, size: int, left: list[int] | None = None) -> Iterator[bytes]:
        rest = size
        while rest:
            piece = self._file.read(min(rest, _READ_BYTES))
            if not piece:
                raise _cut_off(self._path)
            rest -= len(piece)
            if left is not None:
                left[0] = rest
            yield piece
        padding = -size % _BLOCK
        if len(self._file.read(padding)) != padding:
            raise _cut_off(self._path)


class FolderReader:
    """Reads one backup out of a folder of many."""

    def __init__(self, directory: Path, stamp: str = "") -> None:
        """Take the backup named `stamp`, or the newest.

        Raises:
            NotFound: ``backup.unknown``.
        """
        found = [one.parent.name for one in directory.glob(f"*/{MANIFEST}")]
        stamps = sorted(one for one in found if _STAMP.fullmatch(one))
        if not stamps or (stamp and stamp not in stamps):
            raise NotFound(
                "backup.unknown",
                f"{directory} holds no backup {stamp}".rstrip(),
                hint=f"it holds: {', '.join(stamps) or 'none'}",
            )
        self._store = directory
        self._own = directory / (stamp or stamps[-1])

    def manifest(self) -> tuple[bytes, bytes | None]:
        """Return the list, and what vouches for it."""
        with _open_plain(self._own / MANIFEST) as file:
            content = file.read(MANIFEST_BYTES_MAX + 1)
        if len(content) > MANIFEST_BYTES_MAX:
            raise _no_backup(self._own)
        if not (self._own / MAC).exists():
            return content, None
        with _open_plain(self._own / MAC) as file:
            return content, file.read(_MAC_BYTES_MAX)

    def members(self, backup: Backup) -> Iterator[tuple[str, int, Pieces]]:
        """Yield what the list names."""
        for name in members_of(backup):
            path = (self._store if is_blob(name) else self._own) / name
            with _open_plain(path) as file:
                size = os.fstat(file.fileno()).st_size
                yield name, size, _pieces(file)

    def close(self) -> None:
        """Nothing stays open."""


def _is_whole(path: Path, member: Member) -> bool:
    try:
        with _open_plain(path) as file:
            if os.fstat(file.fileno()).st_size != member.size:
                return False
            state = hashlib.sha256()
            for piece in _pieces(file):
                state.update(piece)
            return state.hexdigest() == member.sha256
    except (Refused, OSError):  # no plain file, or the disk does not read it any more
        return False


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_READ_BYTES):
        yield piece


def _open_plain(path: Path) -> BinaryIO:
    """Open a file that is no link and no device; with a folder above that is one, bad luck."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(
            "backup.unreadable",
            f"cannot read {path}: {error.strerror}",
            hint="name a file or folder that `edgectl server backup` has written",
        ) from error
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, descriptor)
        if not os.path.isfile(f"/dev/fd/{descriptor}"):  # noqa: PTH113 - of what is open
            raise _no_backup(path)
        opened.pop_all()
    return os.fdopen(descriptor, "rb")


def _no_backup(path: Path) -> Refused:
    return Refused(
        "backup.manifest",
        f"{path} is no backup of ours",
        hint="name a file or folder that `edgectl server backup` has written",
    )


def _cut_off(path: Path) -> Refused:
    return Refused(
        "backup.damaged",
        f"{path} is cut off",
        hint="copy it again from where it was made, or take an older backup",
    )
