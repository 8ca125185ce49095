"""A disk that loses power.

What was not synchronized may be lost, kept or torn, and names and contents are lost independently,
as POSIX allows: a file may have its content and no name, or its new name and no content. Every
operation that changes something is counted, and the power can be cut before any of them.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgectl_agent.durable import Disk, folder_of

Survival = Literal["lost", "kept", "random"]
BLOCK = 512


class PowerCut(BaseException):
    """The power is gone. No code under test may catch this."""


@dataclass
class Inode:
    """A file without its name."""

    content: bytes = b""
    durable: bytes = b""
    emptied: bool = False
    """It was cut to length 0 since it was synchronized: nothing of it is safe."""


@dataclass
class NameChange:
    """A change of names in a folder that has not been synchronized."""

    name: str
    inode: Inode | None
    removed: str | None = None


class SimulatedDisk(Disk):
    """In memory; `cut_at` is the number of the operation before which the power goes."""

    def __init__(self, *, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.operations = 0
        self.damaged = False
        self.cut_at: int | None = None
        self.trail: list[str] = []
        self._names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._pending: dict[str, list[NameChange]] = {}

    # ------------------------------------------------------------ faults

    def reboot(self, survival: Survival, generator: random.Random) -> None:
        """Come back after a power cut with what survived."""
        for changes in self._pending.values():
            for change in changes:
                if survival == "kept" or (survival == "random" and generator.random() < 0.5):
                    _apply(self._durable_names, change)
        self._pending.clear()
        for inode in set(map(id, self._durable_names.values())):
            found = next(one for one in self._durable_names.values() if id(one) == inode)
            found.content = found.durable = _survivor(found, survival, generator)
            found.emptied = False
        self._names = dict(self._durable_names)
        self.cut_at = None

    def flip(self, path: str, offset: int = 0) -> None:
        """Damage one bit, as a worn-out card does."""
        self.damaged = True
        inode = self._names[path]
        content = bytearray(inode.content)
        content[offset] ^= 1
        inode.content = inode.durable = bytes(content)

    def paths(self) -> list[str]:
        return sorted(self._names)

    def _count(self, what: str, path: str) -> None:
        self.operations += 1
        if self.operations == self.cut_at:
            raise PowerCut(f"before operation {self.operations}, {what} {path}")
        self.trail.append(f"{what} {path}")

    def _grow(self, added: int) -> None:
        if added > self.free_bytes():
            raise OSError(errno.ENOSPC, "No space left on device")

    # ------------------------------------------------------------ operations

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._count("write", path)
        inode = self._names.get(path)
        self._grow(len(content) - (len(inode.content) if inode else 0))
        if inode is None:
            inode = self._link(path)
        inode.content, inode.emptied = content, True

    def append(self, path: str, content: bytes) -> None:
        self._count("append", path)
        inode = self._names.get(path) or self._link(path)
        room = self.free_bytes()
        if len(content) > room:
            inode.content += content[: max(0, room)]
            raise OSError(errno.ENOSPC, "No space left on device")
        inode.content += content

    def allocate(self, path: str, length: int) -> None:
        self._count("allocate", path)
        self._grow(length)
        inode = self._names.get(path) or self._link(path)
        inode.content, inode.emptied = bytes(length), True

    def write_at(self, path: str, offset: int, content: bytes) -> None:
        self._count("write_at", path)
        inode = self._file(path)
        old = inode.content
        self._grow(max(0, offset + len(content) - len(old)))
        inode.content = old[:offset] + content + old[offset + len(content) :]

    def sync(self, path: str) -> None:
        self._count("sync", path)
        inode = self._file(path)
        inode.durable, inode.emptied = inode.content, False

    def sync_directory(self, path: str) -> None:
        self._count("sync_directory", path)
        for change in self._pending.pop(path, []):
            _apply(self._durable_names, change)

    def rename(self, old: str, new: str) -> None:
        self._count("rename", new)
        inode = self._file(old)
        del self._names[old]
        self._names[new] = inode
        assert folder_of(old) == folder_of(new) or old.startswith("partial/"), (old, new)
        self._pending.setdefault(folder_of(new), []).append(NameChange(new, inode, removed=old))

    def unlink(self, path: str) -> None:
        if self._names.get(path) is None:
            return
        self._count("unlink", path)
        del self._names[path]
        self._pending.setdefault(folder_of(path), []).append(NameChange(path, None))

    def make_directory(self, path: str) -> None:
        pass  # durable by contract; folders have no content of their own here

    def list(self, path: str) -> tuple[str, ...]:
        return tuple(
            sorted(name.rpartition("/")[2] for name in self._names if folder_of(name) == path)
        )

    def read(self, path: str, limit: int | None = None) -> bytes:
        return self._file(path).content[:limit]

    def blocks(self, path: str) -> Iterator[bytes]:
        yield self._file(path).content

    def size(self, path: str) -> int | None:
        inode = self._names.get(path)
        return None if inode is None else len(inode.content)

    def free_bytes(self) -> int:
        return self.capacity - sum(len(inode.content) for inode in self._names.values())

    def locate(self, path: str) -> str:
        return "/simulated/" + path

    def read_located(self, path: str) -> bytes:
        """Read as another process does, by the absolute path."""
        return self.read(path.removeprefix("/simulated/"))

    def _file(self, path: str) -> Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return inode

    def _link(self, path: str) -> Inode:
        inode = self._names[path] = Inode()
        self._pending.setdefault(folder_of(path), []).append(NameChange(path, inode))
        return inode


def _apply(names: dict[str, Inode], change: NameChange) -> None:
    if change.removed is not None:
        names.pop(change.removed, None)
    if change.inode is None:
        names.pop(change.name, None)
    else:
        names[change.name] = change.inode


def _survivor(inode: Inode, survival: Survival, generator: random.Random) -> bytes:
    """Return what is left of a file. Sectors are written whole or not at all."""
    old, new = inode.durable, inode.content
    if survival == "lost":
        return b"" if inode.emptied else old
    if old == new and not inode.emptied:
        return old
    if survival == "kept":
        return new
    kind = generator.choice(("lost", "kept", "torn", "torn"))
    if kind != "torn":
        return old if kind == "lost" else new
    shortest = 0 if inode.emptied else min(len(old), len(new))
    length = generator.choice((shortest, len(new), generator.randint(shortest, len(new))))
    result = bytearray(length)
    for at in range(0, length, BLOCK):
        choices = [new[at : at + BLOCK]]
        if not inode.emptied:
            choices.append(old[at : at + BLOCK])
        if inode.emptied or at >= len(old):
            choices.append(b"")  # allocated and never written: zeros
        block = generator.choice(choices)[: length - at]
        result[at : at + len(block)] = block
    return bytes(result)
