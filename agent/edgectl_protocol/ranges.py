"""Byte ranges and conditions of a request: RFC 9110, 13 and 14.

One range is served, or the whole: a server may ignore ``Range``, and does so here where several
ranges are asked for, because answering those costs more than they save.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Span", "Unsatisfiable", "is_not_modified", "wanted_span"]

_RANGE = re.compile(r"bytes *= *([0-9]{0,19})-([0-9]{0,19})", re.IGNORECASE)
_TAGS_MAX = 32


class Span(NamedTuple):
    """Bytes from `start` to before `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.stop - self.start


class Unsatisfiable(Exception):
    """Nothing of what is there was asked for."""


def wanted_span(headers: Mapping[str, str], size: int, etag: str) -> Span | None:
    """Return which part of `size` bytes is asked for; None is the whole.

    Args:
        headers: of the request; looking one up ignores case.
        size: of the whole.
        etag: of the whole, strong, in quotes.

    Raises:
        Unsatisfiable: the range begins after the end, or is empty.
    """
    condition = headers.get("if-range")
    match = _RANGE.fullmatch(headers.get("range", "").strip())
    if match is None or (condition is not None and condition.strip() != etag):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return Span(size - length, size)
    start, end = int(first), int(last) if last else size - 1
    if last and end < start:
        return None  # no range at all, which is ignored
    if start >= size:
        raise Unsatisfiable
    return Span(start, min(end + 1, size))


def is_not_modified(headers: Mapping[str, str], etag: str) -> bool:
    """Say whether the client has it already."""
    known = headers.get("if-none-match", "").split(",")[:_TAGS_MAX]
    return any(one.strip().removeprefix("W/") in {etag, "*"} for one in known)
