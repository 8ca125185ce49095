"""Tensors in shared memory of this machine: a camera's frames need not travel.

Source: triton-inference-server/server, ``docs/protocol/extension_shared_memory.md``, for system
shared memory. Only where it is switched on.

Rules:

1. A region is a file directly in ``/dev/shm``; no link, and nothing but a regular file.
2. A region belongs to the user who registered it, who must own the file or be allowed by its mode;
   no other user can name it. Who cannot be told from others has none: that is everybody on another
   machine.
3. What lies in a region is copied with pread(2) and pwrite(2), never mapped: its owner may cut the
   file at any time, and a mapped page that is gone would end this process (SIGBUS).
4. The bounds are checked at every use, against what was registered and against the file.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

from msgspec import Struct

from edgectl_agent.inference.protocol import Extent
from edgectl_agent.inference.refusals import Kind, Refused

__all__ = ["REGIONS_MAX", "Register", "SharedMemory", "Status"]

REGIONS_MAX = 64
_FOLDER = Path("/dev/shm")  # noqa: S108  # where shm_open(3) keeps its objects
_KEY = re.compile(r"/?([A-Za-z0-9_][A-Za-z0-9._-]{0,199})")
_NAME_LENGTH_MAX = 256
_READ, _WRITE = 4, 2


class Register(Struct, frozen=True):
    """What is asked of a region."""

    key: str
    byte_size: int
    offset: int = 0


class Status(Struct, frozen=True):
    """A region, as its owner is told."""

    name: str
    key: str
    offset: int
    byte_size: int


class _Region:
    """An open file; used from any thread."""

    def __init__(self, status: Status, user: int, descriptor: int, *, writable: bool) -> None:
        self.status = status
        self.user = user
        self._descriptor = descriptor
        self._writable = writable
        self._lock = threading.Lock()
        """Held while the descriptor is used, so that its number is not another file's by then."""

    def read(self, extent: Extent) -> memoryview:
        at = self._position(extent)
        content = bytearray(extent.size)
        with self._lock:
            self._check_open()
            found = os.preadv(self._descriptor, [content], at)
        if found != extent.size:
            raise Refused(
                f"region {extent.region!r} was cut: {found} of {extent.size} bytes are left"
            )
        return memoryview(content)

    def write(self, extent: Extent, content: bytes | memoryview) -> None:
        at = self._position(extent)
        if not self._writable:
            raise Refused(f"region {extent.region!r} cannot be written", Kind.FORBIDDEN)
        with self._lock:
            self._check_open()
            if os.fstat(self._descriptor).st_size < at + len(content):
                raise Refused(f"region {extent.region!r} was cut: the output has no room")
            try:
                written = os.pwrite(self._descriptor, content, at)
            except OSError as error:
                raise Refused(
                    f"cannot write region {extent.region!r}: {error.strerror}", Kind.BUSY
                ) from error
        if written != len(content):
            raise Refused(f"region {extent.region!r} took {written} bytes", Kind.BUSY)

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1

    def _check_open(self) -> None:
        if self._descriptor < 0:
            raise _unknown(self.status.name)

    def _position(self, extent: Extent) -> int:
        if extent.offset + extent.size > self.status.byte_size:
            raise Refused(
                f"offset {extent.offset} and {extent.size} bytes go beyond region "
                f"{extent.region!r} of {self.status.byte_size}"
            )
        return self.status.offset + extent.offset


class _Share:
    """The regions of one user, within one request."""

    def __init__(self, memory: SharedMemory, user: int, bytes_max: int) -> None:
        self._memory, self._user = memory, user
        self._left = bytes_max

    def read(self, extent: Extent) -> memoryview:
        self._left -= extent.size
        if self._left < 0:
            raise Refused("the inputs in shared memory are larger than a request body may be")
        return self._memory.find(extent.region, self._user).read(extent)

    def write(self, extent: Extent, content: bytes | memoryview) -> None:
        self._memory.find(extent.region, self._user).write(extent, content)


class SharedMemory:
    """The registered regions."""

    def __init__(self, bytes_max: int, folder: Path = _FOLDER) -> None:
        """Begin with none; the inputs of one request have at most `bytes_max`."""
        self._bytes_max = bytes_max
        self._folder = folder
        self._regions: dict[str, _Region] = {}

    @property
    def largest(self) -> int:
        """Bytes of the largest region."""
        return max((region.status.byte_size for region in self._regions.values()), default=0)

    def register(self, name: str, wanted: Register, user: int | None) -> None:
        """Open a region for `user`; raise `Refused`."""
        user = _known(user)
        key = _KEY.fullmatch(wanted.key)
        if key is None or not 0 < len(name) <= _NAME_LENGTH_MAX:
            raise Refused(
                f"{wanted.key[:64]!r} is no key of shared memory: a name directly in {self._folder}"
            )
        if wanted.byte_size < 1 or wanted.offset < 0:
            raise Refused("a region has at least one byte, and an offset from 0")
        if name in self._regions:
            raise Refused(f"region {name[:64]!r} is registered already: unregister it first")
        if len(self._regions) >= REGIONS_MAX:
            raise Refused(f"{REGIONS_MAX} regions are registered: unregister some", Kind.FULL)
        status = Status(name, wanted.key, wanted.offset, wanted.byte_size)
        descriptor, writable = self._open(key[1], user)
        size = os.fstat(descriptor).st_size
        if wanted.offset + wanted.byte_size > size:
            os.close(descriptor)
            raise Refused(
                f"offset {wanted.offset} and {wanted.byte_size} bytes go beyond "
                f"{wanted.key!r}, which has {size}"
            )
        self._regions[name] = _Region(status, user, descriptor, writable=writable)

    def unregister(self, name: str, user: int | None) -> None:
        """Close a region of `user`, or all of them where `name` is empty; raise `Refused`."""
        user = _known(user)
        if name:
            self.find(name, user)
        for found, region in tuple(self._regions.items()):
            if region.user == user and name in {"", found}:
                del self._regions[found]
                region.close()

    def status(self, name: str, user: int | None) -> list[Status]:
        """Return a region of `user`, or all of them where `name` is empty; raise `Refused`."""
        user = _known(user)
        if name:
            return [self.find(name, user).status]
        return [region.status for region in self._regions.values() if region.user == user]

    def of(self, user: int | None) -> _Share:
        """Return the regions that a request of `user` may name; raise `Refused`."""
        return _Share(self, _known(user), self._bytes_max)

    def find(self, name: str, user: int) -> _Region:
        """Return a region of `user`; raise `Refused`."""
        region = self._regions.get(name)
        if region is None or region.user != user:
            raise _unknown(name)
        return region

    def close(self) -> None:
        """Close all regions."""
        for region in self._regions.values():
            region.close()
        self._regions.clear()

    def _open(self, key: str, user: int) -> tuple[int, bool]:
        """Return a descriptor of what `user` may read, and whether it may be written as well."""
        flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        path = self._folder / key
        writable = True
        try:
            try:
                descriptor = os.open(path, os.O_RDWR | flags)
            except PermissionError:
                writable = False
                descriptor = os.open(path, os.O_RDONLY | flags)
        except OSError as error:
            raise Refused(f"cannot open {path}: {error.strerror}") from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _may(user, found, _READ):
            os.close(descriptor)
            raise Refused(f"{path} is not for this user to read", Kind.FORBIDDEN)
        return descriptor, writable and _may(user, found, _WRITE)


def _may(user: int, found: os.stat_result, what: int) -> bool:
    """Say whether the mode of a file lets a user do `what`; groups are not looked up."""
    if user == 0:
        return True
    return bool(found.st_mode >> (6 if found.st_uid == user else 0) & what)


def _known(user: int | None) -> int:
    if user is None:
        raise Refused("shared memory is for clients on this machine", Kind.FORBIDDEN)
    return user


def _unknown(name: str) -> Refused:
    return Refused(f"no region {name[:64]!r} is registered", Kind.UNKNOWN)
