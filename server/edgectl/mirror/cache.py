"""The mirror's disk: content by its digest, in a bound, what was asked for longest ago goes first.

Rules:

1. What comes from upstream gets its name when its digest is right; until then it is in the folder
   ``incoming``.
2. What was there before this process is hashed before it is served the first time: a power loss may
   have left half of it.
3. One asks upstream for a digest, whoever else wants it waits for that.
4. A file that is served is open, so that taking its name away does it no harm.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from edgectl.errors import LocalError
from edgectl_protocol.names import hex_of

__all__ = ["Busy", "Cache"]

_NAME = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1024**2
Fetch = Callable[[Callable[[bytes], object]], None]
"""Writes content with what it is given; raises what is wrong with it."""


class Busy(Exception):
    """Somebody is bringing it, and it takes long."""


class Cache:
    """Files below a folder; may be used from any thread."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        """Take up what is there; raise `LocalError` ``mirror.folder``.

        Args:
            folder: it belongs to this mirror alone.
            bytes_max: of all content together.
        """
        self._blobs, self._incoming = folder / "blobs", folder / "incoming"
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._known_good: set[str] = set()
        self._bringing: dict[str, threading.Lock] = {}
        try:
            for made in (self._blobs, self._incoming):
                made.mkdir(parents=True, exist_ok=True, mode=0o700)
            for stale in self._incoming.iterdir():
                stale.unlink()
            found = [one for one in self._blobs.iterdir() if _NAME.fullmatch(one.name)]
            for file in sorted(found, key=lambda one: one.stat().st_mtime):
                self._sizes[file.name] = file.stat().st_size
            self._make_room(0)
        except OSError as error:
            raise LocalError("mirror.folder", f"{folder} cannot be used: {error}") from error

    @property
    def bytes_held(self) -> int:
        """How much is there."""
        with self._lock:
            return sum(self._sizes.values())

    def open(self, digest: str, fetch: Fetch, *, wait_s: float) -> BinaryIO:
        """Return the content, open for reading; bring it first where it is not there.

        Raises:
            Busy: somebody else has been bringing it for `wait_s` seconds.
            OSError: the disk.
        """
        name = hex_of(digest)
        held = self._open(name)
        if held is not None:
            return held
        with self._lock:
            bringing = self._bringing.setdefault(name, threading.Lock())
        if not bringing.acquire(timeout=wait_s):
            raise Busy
        try:
            held = self._open(name)  # somebody was first
            return held if held is not None else self._bring(name, fetch)
        finally:
            bringing.release()
            with self._lock:
                self._bringing.pop(name, None)

    def _open(self, name: str) -> BinaryIO | None:
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
            good = name in self._known_good
        path = self._blobs / name
        try:
            file = path.open("rb")
        except FileNotFoundError:
            self._forget(name)
            return None
        if not good and not _is_right(file, name):
            file.close()
            self._forget(name)
            return None
        with self._lock:
            self._known_good.add(name)
        with suppress(OSError):
            os.utime(path)  # the order survives a restart
        file.seek(0)
        return file

    def _bring(self, name: str, fetch: Fetch) -> BinaryIO:
        path = self._incoming / name
        try:
            with path.open("wb") as file:
                fetch(file.write)
            size = path.stat().st_size
            with self._lock:
                self._make_room(size)
                path.rename(self._blobs / name)
                self._sizes[name] = size
                self._known_good.add(name)
                return (self._blobs / name).open("rb")
        finally:
            path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Take away what was asked for longest ago; the caller has the lock, or is alone."""
        while self._sizes and sum(self._sizes.values()) + size > self._bytes_max:
            name, _ = self._sizes.popitem(last=False)
            self._known_good.discard(name)
            (self._blobs / name).unlink(missing_ok=True)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._sizes.pop(name, None)
            self._known_good.discard(name)
            (self._blobs / name).unlink(missing_ok=True)


def _is_right(file: BinaryIO, name: str) -> bool:
    state = hashlib.sha256()
    while piece := file.read(_READ_BYTES):
        state.update(piece)
    return state.hexdigest() == name
