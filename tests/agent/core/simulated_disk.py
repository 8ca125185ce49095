"""A disk that loses power, and fails.

What was not synchronized may be lost, kept or torn, and names and contents are lost independently,
as POSIX allows: a file may have its content and no name, or its new name and no content; a move
between folders may have left the one and not reached the other, or be in both. Every operation that
changes something is counted, and the power can be cut before any of them or, `within` it, when a
part of it was done.

`trouble` may fail an operation with an `OSError`, when a part of it was done. After a
synchronization that failed, the system takes what was to be written for written, as Linux does: the
next one succeeds, and only what is written anew reaches the disk.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from edgectl_agent.durable import Disk, folder_of

Survival = Literal["lost", "kept", "random"]
BLOCK = 512
UNLIMITED = 1 << 40


class PowerCut(BaseException):
    """The power is gone. No code under test may catch this."""

    def __init__(self, number: int, what: str, path: str, *, within: bool) -> None:
        super().__init__(f"{'within' if within else 'before'} operation {number}, {what} {path}")
        self.what = what
        self.path = path
        self.within = within


@dataclass
class Inode:
    """A file without its name."""

    content: bytes = b""
    durable: bytes = b""
    emptied: bool = False
    """It was cut to length 0 since it was synchronized: nothing of it is safe."""
    given_up: set[int] = field(default_factory=set)
    """Blocks that a failed synchronization has lost: they read well, and are not on the disk."""
    worn: bool = False
    """The disk does not give it back."""


@dataclass
class NameChange:
    """A change of names in a folder that has not been synchronized."""

    name: str
    inode: Inode | None
    """None: the name goes."""
    removed: str | None = None
    """A name in the same folder that goes in the same step."""


class SimulatedDisk(Disk):
    """In memory; `cut_at` is the number of the operation before or within which the power goes."""

    def __init__(self, *, capacity: int = UNLIMITED, within: bool = False) -> None:
        self.capacity = capacity
        self.within = within
        self.operations = 0
        self.damaged = False
        self.cut_at: int | None = None
        self.trail: list[str] = []
        self.trouble: Callable[[str, str], None] | None = None
        """Gets operation and path; raises `OSError` where that operation shall fail."""
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
            found.given_up.clear()
        self._names = dict(self._durable_names)
        self.cut_at = None

    def flip(self, path: str, offset: int = 0) -> None:
        """Damage one bit, as a worn-out card does."""
        self.damaged = True
        inode = self._names[path]
        content = bytearray(inode.content)
        content[offset] ^= 1
        inode.content = inode.durable = bytes(content)

    def wear_out(self, path: str) -> None:
        """Have this file not be read any more; one that is written in its place is."""
        self.damaged = True
        self._names[path].worn = True

    def heal(self, path: str) -> None:
        """Have it be read again."""
        self._names[path].worn = False

    def paths(self) -> list[str]:
        return sorted(self._names)

    def _count(
        self, what: str, path: str, part: Callable[[random.Random], None] = lambda _: None
    ) -> None:
        """Count an operation; `part` does a part of it where the power or the disk fails within."""
        self.operations += 1
        if self.operations == self.cut_at:
            if self.within:
                part(random.Random(self.operations))
            raise PowerCut(self.operations, what, path, within=self.within)
        self.trail.append(f"{what} {path}")
        if self.trouble is not None:
            try:
                self.trouble(what, path)
            except OSError:
                part(random.Random(self.operations))
                raise

    def _grow(self, added: int) -> None:
        if self.capacity != UNLIMITED and added > self.free_bytes():
            raise OSError(errno.ENOSPC, "No space left on device")

    # ------------------------------------------------------------ operations

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        def put(content: bytes) -> None:
            inode = self._link(path)
            inode.content, inode.emptied = content, True

        self._count("write", path, lambda chance: put(_beginning(content, chance)))
        inode = self._names.get(path)
        self._grow(len(content) - (len(inode.content) if inode else 0))
        put(content)

    def append(self, path: str, content: bytes) -> None:
        def put(content: bytes) -> None:
            inode = self._names.get(path) or self._link(path)
            inode.content += content

        self._count("append", path, lambda chance: put(_beginning(content, chance)))
        room = len(content) if self.capacity == UNLIMITED else self.free_bytes()
        if len(content) > room:
            put(content[: max(0, room)])
            raise OSError(errno.ENOSPC, "No space left on device")
        put(content)

    def allocate(self, path: str, length: int) -> None:
        def put(length: int) -> None:
            inode = self._names.get(path) or self._link(path)
            inode.content, inode.emptied = bytes(length), True
            inode.given_up.clear()

        self._count("allocate", path, lambda chance: put(chance.randint(0, length)))
        self._grow(length)
        put(length)

    def write_at(self, path: str, offset: int, content: bytes) -> None:
        def put(content: bytes) -> None:
            inode = self._file(path)
            old, end = inode.content, offset + len(content)
            inode.content = old[:offset] + content + old[end:]
            if inode.given_up:
                inode.given_up.difference_update(range(-(-offset // BLOCK), end // BLOCK))
                if end >= len(old):
                    inode.given_up.discard(end // BLOCK)

        self._count("write_at", path, lambda chance: put(_beginning(content, chance)))
        self._grow(max(0, offset + len(content) - len(self._file(path).content)))
        put(content)

    def sync(self, path: str) -> None:
        def give_up(chance: random.Random) -> None:
            """Some blocks reach the disk, the others are lost though they go on being read."""
            inode = self._file(path)
            whole = inode.content
            reached = _survivor(inode, "random", chance)
            inode.given_up = {
                at // BLOCK
                for at in range(0, len(whole), BLOCK)
                if whole[at : at + BLOCK] != reached[at : at + BLOCK]
            }
            inode.durable, inode.emptied = reached, False

        self._count("sync", path, give_up)
        inode = self._file(path)
        reached = inode.content
        if inode.given_up:
            blocks = bytearray(reached)
            for number in inode.given_up:
                part = inode.durable[number * BLOCK : (number + 1) * BLOCK]
                wide = len(blocks[number * BLOCK : (number + 1) * BLOCK])
                blocks[number * BLOCK : number * BLOCK + wide] = part.ljust(wide, b"\0")[:wide]
            reached = bytes(blocks)
        inode.durable, inode.emptied = reached, False

    def sync_directory(self, path: str) -> None:
        def some(chance: random.Random) -> None:
            for change in self._pending.get(path, []):
                if chance.random() < 0.5:
                    _apply(self._durable_names, change)

        self._count("sync_directory", path, some)
        for change in self._pending.pop(path, []):
            _apply(self._durable_names, change)

    def rename(self, old: str, new: str) -> None:
        self._count("rename", new)
        inode = self._file(old)
        del self._names[old]
        self._names[new] = inode
        there, here = folder_of(new), folder_of(old)
        moved = NameChange(new, inode, removed=old if there == here else None)
        self._pending.setdefault(there, []).append(moved)
        if there != here:
            self._pending.setdefault(here, []).append(NameChange(old, None))

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
        return self._readable(path).content[:limit]

    def blocks(self, path: str) -> Iterator[bytes]:
        yield self._readable(path).content

    def size(self, path: str) -> int | None:
        inode = self._names.get(path)
        return None if inode is None else len(inode.content)

    def free_bytes(self) -> int:
        return self.capacity - sum(len(inode.content) for inode in self._names.values())

    def locate(self, path: str) -> str:
        return "/simulated/" + path

    def read_located(self, path: str) -> bytes:
        """Read as another process does, by the absolute path."""
        return self.read(self.relative(path))

    def relative(self, path: str) -> str:
        """Return the path on the disk that `locate` has made absolute."""
        return path.removeprefix("/simulated/")

    def _file(self, path: str) -> Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return inode

    def _readable(self, path: str) -> Inode:
        inode = self._file(path)
        if inode.worn:
            raise OSError(errno.EIO, "Input/output error", path)
        return inode

    def _link(self, path: str) -> Inode:
        inode = self._names[path] = Inode()
        self._pending.setdefault(folder_of(path), []).append(NameChange(path, inode))
        return inode


def _beginning(content: bytes, chance: random.Random) -> bytes:
    """Return as much of it as was written."""
    return content[: chance.randint(0, len(content))]


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
