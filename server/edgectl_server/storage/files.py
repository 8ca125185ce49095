"""Durable files: the only module of the server that replaces a file.

Rule: what is at the final name is whole. Content is written beside it, synchronised, renamed over
it, and the folder is synchronised; after a power loss there is the old file or the new one.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = [
    "make_private_directory",
    "move_durably",
    "sync_directory",
    "sync_file",
    "write_durably",
]


def write_durably(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write `content` to `path` atomically and durably.

    Args:
        path: the final name; its folder exists.
        content: the whole file.
        mode: permissions of the file, before the first byte is in it.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def move_durably(source: Path, target: Path) -> None:
    """Give the file `source` the name `target`, durably; both are on one file system.

    The content is synchronised before it gets the name.
    """
    sync_file(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    sync_directory(target.parent)
    sync_directory(target.parent.parent)


def sync_file(path: Path) -> None:
    """Make the content of the file `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in the folder `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_directory(path: Path) -> Path:
    """Make the folder `path` (and those above) if it is not there, close it to others."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path
