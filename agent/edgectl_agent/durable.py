"""The only module that writes durably, and the disk as an interface.

Rules:

1. Every path is relative to the state directory, with ``/`` between levels, never absolute.
2. What must survive a power loss is written in four steps: a temporary file, its fsync, the rename
   over the final name, the fsync of the folder. Until the last one a reader may find the old
   content after a power loss, never a mixture.
3. `Disk` has the single operations; what is made of several of them is written once, on top, so
   that the crash simulation can count the operations, stop at each, and lose what had not been
   synchronized.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PRIVATE", "READABLE", "TEMPORARY_SUFFIX", "Disk", "OpenFile", "RealDisk", "folder_of"]

PRIVATE = 0o600
READABLE = 0o644
TEMPORARY_SUFFIX = ".tmp"
_READ_BYTES = 1024 * 1024


class Disk(ABC):
    """A folder tree that can lose power. All methods raise `OSError` as the system calls do."""

    # ------------------------------------------------------------ single operations

    @abstractmethod
    def write(self, path: str, content: bytes, mode: int = READABLE) -> None:
        """Write `content` as a new file in place of the one at `path`. Not durable.

        The file that was there is not changed: an interrupted rename may have left it under
        another name as well.
        """

    @abstractmethod
    def append(self, path: str, content: bytes) -> None:
        """Write `content` at the end of the file, which is created if need be. Not durable."""

    @abstractmethod
    def allocate(self, path: str, length: int) -> None:
        """Create the file at `path` with `length` zero bytes that are really there."""

    @abstractmethod
    def write_at(self, path: str, offset: int, content: bytes) -> None:
        """Write `content` into the existing file at `offset`. Not durable."""

    @abstractmethod
    def sync(self, path: str) -> None:
        """Return when the content of the file would survive a power loss."""

    @abstractmethod
    def sync_directory(self, path: str) -> None:
        """Return when the names in the folder would survive a power loss."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Give the file the name `new`, in one step, replacing what had it. Not durable."""

    @abstractmethod
    def unlink(self, path: str) -> None:
        """Remove the file; one that is not there is no error."""

    @abstractmethod
    def make_directory(self, path: str) -> None:
        """Create the folder and those above it, durably; existing ones are no error."""

    @abstractmethod
    def list(self, path: str) -> tuple[str, ...]:
        """Return the names in the folder, sorted; none for a folder that is not there."""

    @abstractmethod
    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return the content, at most its first `limit` bytes."""

    @abstractmethod
    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the content piece by piece, for hashing without holding it."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the length of the file in bytes, None if there is none."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return how many bytes may still be written."""

    @abstractmethod
    def locate(self, path: str) -> str:
        """Return the absolute path, for another process to read."""

    # ------------------------------------------------------------ made of several

    def opened(self, path: str) -> OpenFile:
        """Return the existing file at `path`, to be written into often, and closed."""
        return OpenFile(self, path)

    def write_atomic(self, path: str, content: bytes, mode: int = READABLE) -> None:
        """Replace the file at `path` durably, in one step as seen by every reader."""
        temporary = path + TEMPORARY_SUFFIX
        self.write(temporary, content, mode)
        self.sync(temporary)
        self.rename(temporary, path)
        self.sync_directory(folder_of(path))

    def append_durably(self, path: str, content: bytes) -> None:
        """Write `content` at the end of an existing file so that it survives a power loss."""
        self.append(path, content)
        self.sync(path)

    def rename_durably(self, old: str, new: str) -> None:
        """Move a file, whose content is already durable, to its final name."""
        self.rename(old, new)
        self.sync_directory(folder_of(new))
        if folder_of(old) != folder_of(new):
            self.sync_directory(folder_of(old))

    def unlink_durably(self, path: str) -> None:
        """Remove a file so that it does not come back."""
        if self.size(path) is not None:
            self.unlink(path)
            self.sync_directory(folder_of(path))


class OpenFile:
    """A file that is written into piece by piece."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path

    def write_at(self, offset: int, content: bytes) -> None:
        """As `Disk.write_at`."""
        self._disk.write_at(self._path, offset, content)

    def close(self) -> None:
        """Write no more; done twice it does no harm."""


def folder_of(path: str) -> str:
    """Return the folder of a relative path; ``.`` for the state directory itself."""
    return path.rpartition("/")[0] or "."


class RealDisk(Disk):
    """The file system below a state directory, which is created with mode 0700."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._root_text = str(self._root).rstrip("/")
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, path: str, content: bytes, mode: int = READABLE) -> None:
        """Create the file, with `mode` from its first moment on."""
        target = self._path(path)
        target.unlink(missing_ok=True)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        _write_all(handle, content)

    def append(self, path: str, content: bytes) -> None:
        """Write at the end."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        _write_all(os.open(self._path(path), flags, PRIVATE), content)

    def allocate(self, path: str, length: int) -> None:
        """Reserve the blocks now, so that a full disk shows before anything is transferred."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        handle = os.open(self._path(path), flags, READABLE)
        try:
            if length:
                os.posix_fallocate(handle, 0, length)
        finally:
            os.close(handle)

    def write_at(self, path: str, offset: int, content: bytes) -> None:
        """Write at `offset`."""
        with contextlib.closing(self.opened(path)) as file:
            file.write_at(offset, content)

    def opened(self, path: str) -> OpenFile:
        """Return the file, which has one handle until it is closed."""
        return _RealFile(self._text(path))

    def sync(self, path: str) -> None:
        """Fdatasync: length and content, without the time stamps."""
        handle = os.open(self._path(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def sync_directory(self, path: str) -> None:
        """Fsync of the folder."""
        handle = os.open(self._path(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: str, new: str) -> None:
        """Rename within the state directory."""
        self._path(old).replace(self._path(new))

    def unlink(self, path: str) -> None:
        """Remove."""
        self._path(path).unlink(missing_ok=True)

    def make_directory(self, path: str) -> None:
        """Create level by level, each synchronized with its parent."""
        target = self._path(path)
        missing = []
        while not target.is_dir():
            missing.append(target)
            target = target.parent
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def list(self, path: str) -> tuple[str, ...]:
        """Return the names."""
        try:
            return tuple(sorted(entry.name for entry in os.scandir(self._path(path))))
        except FileNotFoundError:
            return ()

    def read(self, path: str, limit: int | None = None) -> bytes:
        """Read the file."""
        with self._path(path).open("rb") as file:
            return file.read(-1 if limit is None else limit)

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield megabytes."""
        with self._path(path).open("rb") as file:
            while block := file.read(_READ_BYTES):
                yield block

    def size(self, path: str) -> int | None:
        """Return the length."""
        try:
            return self._path(path).stat().st_size
        except FileNotFoundError:
            return None

    def free_bytes(self) -> int:
        """Return what an ordinary user may still write."""
        return shutil.disk_usage(self._root).free

    def locate(self, path: str) -> str:
        """Return the absolute path."""
        return str(self._path(path))

    def _path(self, path: str) -> Path:
        return Path(self._text(path))

    def _text(self, path: str) -> str:
        """Return the absolute path, without the cost of a `Path`: for what is done a lot."""
        assert not path.startswith("/"), path
        assert ".." not in path.split("/"), path
        return f"{self._root_text}/{path}"


class _RealFile(OpenFile):
    def __init__(self, path: str) -> None:
        self._file = io.FileIO(path, "r+")

    def write_at(self, offset: int, content: bytes) -> None:
        handle = self._file.fileno()
        done = os.pwrite(handle, content, offset)
        while done < len(content):
            done += os.pwrite(handle, memoryview(content)[done:], offset + done)

    def close(self) -> None:
        self._file.close()


def _write_all(handle: int, content: bytes) -> None:
    try:
        done = 0
        while done < len(content):
            done += os.write(handle, memoryview(content)[done:])
    finally:
        os.close(handle)
