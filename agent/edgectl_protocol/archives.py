"""Reads the file of an exported version, which may be anybody's: a tar, but never by a tar library.

Rules:

1. Only what `edgectl_protocol.offline` names may be in it, each name once. Entries are plain files
   with plain headers (POSIX ustar): links, devices, folders, sparse and extended headers are
   refused, because no exported version has any.
2. Nothing is ever extracted by its name: entries are read by their place, and what becomes of the
   bytes is decided by their digest.
3. Headers are read first, all of them, and nothing else: the number and the lengths of the entries
   are bounded before the first content is looked at. A compressed file is refused by its first
   bytes, so that nothing here can grow.
4. The file is read by position, so that whoever has handed it over may go on using it; it may
   change meanwhile, and then its digests do not fit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from edgectl_protocol.chunks import BLOB_BYTES_MAX, CHUNK_BYTES
from edgectl_protocol.errors import ArchiveRefused, ProtocolError
from edgectl_protocol.metadata import METADATA_BYTES_MAX
from edgectl_protocol.names import digest_of
from edgectl_protocol.offline import (
    ENTRIES_MAX,
    INDEX_BYTES_MAX,
    INDEX_FILE,
    LAYOUT_FILE,
    METADATA_FILES_MAX,
    METADATA_FOLDER,
    blob_file,
    check_entry,
)

__all__ = ["Archive"]

_BLOCK = 512
_NUMBER = re.compile(rb" *([0-7]{1,11})[ \0]*")
_PLAIN = frozenset({b"0", b"\0"})
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"x": "an extended header",
    b"g": "an extended header",
    b"L": "a long name",
    b"K": "a long name",
}
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


class _Place(NamedTuple):
    start: int
    length: int


class Archive:
    """One file, whose headers are good."""

    def __init__(self, read: Callable[[int, int], bytes], length: int) -> None:
        """Read the headers.

        Args:
            read: takes a position and a number of bytes, and returns those; fewer at the end.
            length: of the whole file, in bytes.

        Raises:
            ArchiveRefused: ``offline.compressed``, ``offline.truncated`` or ``offline.malformed``.
        """
        self._read_at = read
        self._length = length
        self._places = self._read_headers()
        for name in (LAYOUT_FILE, INDEX_FILE):
            if name not in self._places:
                raise _malformed(f"there is no {name} in it")

    def index(self) -> bytes:
        """Return the content of ``index.json``."""
        return self._read(INDEX_FILE, INDEX_BYTES_MAX)

    def metadata(self) -> dict[str, bytes]:
        """Return the files of metadata, by name."""
        names = [name for name in self._places if name.startswith(METADATA_FOLDER)]
        if len(names) > METADATA_FILES_MAX:
            raise _malformed(f"{len(names)} files of metadata, at most {METADATA_FILES_MAX}")
        return {
            name.removeprefix(METADATA_FOLDER): self._read(name, METADATA_BYTES_MAX)
            for name in names
        }

    def small_blob(self, digest: str, bytes_max: int) -> bytes:
        """Return a blob that is what its name says.

        Raises:
            ArchiveRefused: ``offline.damaged``: it is not; or it is not there, or too long.
        """
        content = self._read(blob_file(digest), bytes_max)
        if digest_of(content) != digest:
            raise _damaged(digest)
        return content

    def check_blob(self, digest: str, length: int) -> None:
        """Hash a blob; raise ``offline.damaged`` where it is not what its name says."""
        place = self._place(blob_file(digest))
        total = hashlib.sha256()
        for chunk in self._chunks(place):
            total.update(chunk)
        if place.length != length or "sha256:" + total.hexdigest() != digest:
            raise _damaged(digest)

    def chunks(self, digest: str) -> Iterator[bytes]:
        """Yield a blob in chunks of `CHUNK_BYTES`; what they are must be checked once more."""
        return self._chunks(self._place(blob_file(digest)))

    def has_blob(self, digest: str) -> bool:
        """Say whether there is an entry of that name."""
        return blob_file(digest) in self._places

    # ------------------------------------------------------------ the tar

    def _read_headers(self) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        at = 0
        while True:
            header = self._at(at, _BLOCK)
            if at == 0 and header.startswith(_COMPRESSED):
                raise ArchiveRefused(
                    "offline.compressed", "the file is compressed; an exported version is not"
                )
            if header == bytes(_BLOCK):
                return places
            name, length = _parse(header)
            if name in places:
                raise _malformed(f"{name} is in it twice")
            if len(places) >= ENTRIES_MAX:
                raise _malformed(f"it has more than {ENTRIES_MAX} entries")
            places[name] = _Place(at + _BLOCK, length)
            at += _BLOCK + -(-length // _BLOCK) * _BLOCK
            if at > self._length:
                raise _truncated()

    def _place(self, name: str) -> _Place:
        place = self._places.get(name)
        if place is None:
            raise _malformed(f"{name} is not in it")
        return place

    def _read(self, name: str, bytes_max: int) -> bytes:
        place = self._place(name)
        if place.length > bytes_max:
            raise _malformed(f"{name} has {place.length} bytes, at most {bytes_max}")
        return self._at(*place)

    def _chunks(self, place: _Place) -> Iterator[bytes]:
        for offset in range(0, place.length, CHUNK_BYTES):
            yield self._at(place.start + offset, min(CHUNK_BYTES, place.length - offset))

    def _at(self, start: int, length: int) -> bytes:
        content = bytearray()
        while len(content) < length:
            part = self._read_at(start + len(content), length - len(content))
            if not part:
                raise _truncated()
            content += part
        return bytes(content)


def _parse(header: bytes) -> tuple[str, int]:
    """Return name and length of the entry that a header announces."""
    number = _NUMBER.fullmatch(header[148:156])
    blank = header[:148] + b" " * 8 + header[156:]
    if header[257:262] != b"ustar" or number is None or int(number[1], 8) != sum(blank):
        raise ArchiveRefused("offline.malformed", "it is no tar file, or a damaged one")
    raw = header[:100].rstrip(b"\0")
    shown = raw[:80].decode("ascii", "backslashreplace")
    kind = header[156:157]
    if kind not in _PLAIN:
        raise _malformed(f"{shown} is {_KINDS.get(kind, f'of the kind {kind!r}')}")
    size = _NUMBER.fullmatch(header[124:136])
    if size is None or int(size[1], 8) > BLOB_BYTES_MAX:
        raise _malformed(f"{shown} has a length that no file of ours has")
    if header[157:257].strip(b"\0") or header[345:500].strip(b"\0"):
        raise _malformed(f"{shown} has a target or a prefix")
    try:
        name = check_entry(raw.decode("ascii"))
    except UnicodeDecodeError as error:
        raise _malformed(f"{shown} is no file of an exported version") from error
    except ProtocolError as error:
        raise _malformed(str(error)) from error
    return name, int(size[1], 8)


def _malformed(detail: str) -> ArchiveRefused:
    return ArchiveRefused("offline.malformed", f"not an exported version: {detail}")


def _truncated() -> ArchiveRefused:
    return ArchiveRefused("offline.truncated", "the file ends in the middle")


def _damaged(digest: str) -> ArchiveRefused:
    return ArchiveRefused("offline.damaged", f"{digest} in the file is not what its name says")
