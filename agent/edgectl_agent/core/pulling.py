"""What an HTTP answer to a question for a part of a blob is worth; without the network.

Formats: RFC 9110, 14 (ranges). Rules:

1. Bytes are cut at the borders of chunks, wherever the answer begins; each chunk is judged by its
   signed digest and by nothing that the answer says. Status and headers only decide whether it is
   worth reading.
2. An answer with the whole (200) instead of the part (206) is read from its beginning: what is here
   already is skipped. It is never taken for the part (an update of 115 % was seen elsewhere).
3. What contradicts the question (another part, another length, compressed) is not read at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from edgectl_protocol.chunks import CHUNK_BYTES, chunk_length

__all__ = ["BadAnswer", "Cutter", "Span", "next_span", "starts_at", "whole_length"]

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")
_LENGTH = re.compile(r"[0-9]{1,15}")
_OK = 200
_PARTIAL = 206


class BadAnswer(Exception):
    """The answer is not one to the question; the text says why."""


class Span(NamedTuple):
    """Bytes of a blob from `start` to before `stop`."""

    start: int
    stop: int


def next_span(missing: Sequence[int], length: int) -> Span:
    """Return the bytes of the first chunks that are missing one after the other.

    Args:
        missing: numbers of chunks, ascending, at least one.
        length: of the blob.
    """
    last = first = missing[0]
    for number in missing[1:]:
        if number != last + 1:
            break
        last = number
    return Span(first * CHUNK_BYTES, last * CHUNK_BYTES + chunk_length(length, last))


def starts_at(status: int, headers: Mapping[str, str], wanted: Span, length: int) -> int:
    """Return at which byte of the blob the answer's content begins.

    Args:
        status: of the answer, 200 or 206.
        headers: by name; looking one up ignores case.
        wanted: what was asked for.
        length: of the blob.

    Raises:
        BadAnswer: it is not worth reading.
    """
    _check_encoding(headers)
    announced = _announced(headers)
    if status == _OK:
        if announced not in {None, length}:
            raise BadAnswer(f"the whole has {announced} bytes there, signed are {length}")
        return 0
    if status != _PARTIAL:
        raise BadAnswer(f"status {status}")
    text = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadAnswer(f"Content-Range is {text[:80]!r}")
    first, last = int(match[1]), int(match[2])
    right = first == wanted.start and first <= last < wanted.stop
    if not right or match[3] not in {"*", str(length)}:
        raise BadAnswer(
            f"Content-Range is {text[:80]!r}, asked was for {wanted.start}-{wanted.stop - 1} of "
            f"{length}"
        )
    if announced not in {None, last - first + 1}:
        raise BadAnswer(f"{announced} bytes are announced for {text[:80]!r}")
    return first


def whole_length(headers: Mapping[str, str], bytes_max: int) -> None:
    """Check the headers of an answer that is to be read whole; raise `BadAnswer`."""
    _check_encoding(headers)
    announced = _announced(headers)
    if announced is not None and announced > bytes_max:
        raise BadAnswer(f"{announced} bytes are announced, at most {bytes_max} are taken")


def _check_encoding(headers: Mapping[str, str]) -> None:
    encoding = headers.get("Content-Encoding") or "identity"
    if encoding.strip().lower() != "identity":
        raise BadAnswer(f"it comes encoded as {encoding[:40]!r}, which was not asked for")


def _announced(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length")
    if text is None:
        return None
    if not _LENGTH.fullmatch(text.strip()):
        raise BadAnswer(f"Content-Length is {text[:40]!r}")
    return int(text)


class Cutter:
    """Cuts content that begins at `start` into the chunks of a blob of `length` bytes."""

    def __init__(self, length: int, start: int) -> None:
        assert start % CHUNK_BYTES == 0, start
        self._length = length
        self._number = start // CHUNK_BYTES
        self._pending = bytearray()

    def feed(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        """Take what came, and yield each chunk that is whole with its number.

        Content beyond the blob's end is ignored.
        """
        if not self._pending and len(content) == self._next_size():
            yield self._number, content  # as it came: this is most of them
            self._number += 1
            return
        self._pending += content
        while self._number * CHUNK_BYTES < self._length:
            size = self._next_size()
            if len(self._pending) < size:
                return
            yield self._number, bytes(self._pending[:size])
            del self._pending[:size]
            self._number += 1
        self._pending.clear()

    def _next_size(self) -> int:
        return chunk_length(self._length, self._number)
