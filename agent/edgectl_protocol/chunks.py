"""How a blob travels: chunks of one size, an index of their digests, a bitmap of what has come.

A blob of ``length`` bytes is cut into ``chunk_count(length)`` chunks of `CHUNK_BYTES`, the last one
shorter. The index is the SHA-256 digests of the chunks, 32 raw bytes each, in order. The digest of
the index is signed, in the annotation `INDEX_ANNOTATION` of the blob's descriptor in the bundle
manifest, so that every chunk can be checked before it is written. A blob of one chunk needs no
index: the chunk's digest is the blob's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.names import digest_of

__all__ = [
    "BLOB_BYTES_MAX",
    "CHUNK_BYTES",
    "INDEX_ANNOTATION",
    "Bitmap",
    "chunk_count",
    "chunk_length",
    "make_index",
    "parse_index",
]

CHUNK_BYTES = 64 * 1024
BLOB_BYTES_MAX = 4096 * CHUNK_BYTES
"""256 MiB: the index of a longer blob would not fit into one message of 128 KiB."""
INDEX_ANNOTATION = "io.edgectl.chunks"
"""Descriptor annotation: ``sha256:…`` of the chunk index, for chunks of `CHUNK_BYTES`."""
_DIGEST_BYTES = 32


def chunk_count(length: int) -> int:
    """Return the number of chunks of a blob of `length` bytes; an empty blob has one, empty."""
    if not 0 <= length <= BLOB_BYTES_MAX:
        raise LimitExceeded(f"a blob of {length} bytes, at most {BLOB_BYTES_MAX}")
    return max(1, -(-length // CHUNK_BYTES))


def chunk_length(length: int, number: int) -> int:
    """Return the bytes of chunk `number` of a blob of `length` bytes."""
    return min(CHUNK_BYTES, length - number * CHUNK_BYTES)


def make_index(chunks: Iterable[bytes]) -> bytes:
    """Return the chunk index of a blob, given its chunks in order."""
    return b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)


def parse_index(index: bytes, *, digest: str, length: int) -> tuple[bytes, ...]:
    """Check a chunk index and return the raw SHA-256 digest of each chunk.

    Args:
        index: as received.
        digest: the signed digest of the index.
        length: the signed length of the blob in bytes.

    Raises:
        MalformedMessage: the index is not the signed one.
    """
    if len(index) != chunk_count(length) * _DIGEST_BYTES or digest_of(index) != digest:
        raise MalformedMessage(f"the chunk index is not {digest}")
    return tuple(index[at : at + _DIGEST_BYTES] for at in range(0, len(index), _DIGEST_BYTES))


class Bitmap:
    """Which chunks of a blob have come; one bit a chunk, least significant bit first."""

    def __init__(self, count: int, content: bytes = b"") -> None:
        """Start empty, or from `content` as `to_bytes` made it; wrong content means empty."""
        self._count = count
        usable = len(content) == (count + 7) // 8
        self._bits = int.from_bytes(content, "little") & ((1 << count) - 1) if usable else 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return bool(self._bits >> number & 1)

    def add(self, number: int) -> None:
        """Note that chunk `number` is there."""
        assert 0 <= number < self._count, number
        self._bits |= 1 << number

    def done(self) -> int:
        """Return how many chunks are there."""
        return self._bits.bit_count()

    def complete(self) -> bool:
        """Say whether all are there."""
        return self.done() == self._count

    def missing(self) -> Iterator[int]:
        """Yield the numbers of the chunks that are not there, ascending."""
        return (number for number in range(self._count) if number not in self)

    def to_bytes(self) -> bytes:
        """Return the bitmap as it is stored."""
        return self._bits.to_bytes((self._count + 7) // 8, "little")
