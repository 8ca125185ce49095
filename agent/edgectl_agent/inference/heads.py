"""Heads of requests that were parsed and admitted before, byte for byte.

A client that asks again and again sends the same head. To parse it anew and to check its names and
its token is a fifth of what a small request costs, so that an admitted one is remembered, with what
came of it. Only for a request that comes whole and alone: all else is the parser's.

The same bytes at the beginning of a message mean the same. What was decided about them (the names,
the token) depends on nothing but the listener, so that each has heads of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from edgectl_agent.inference.exchange import Request
from edgectl_agent.inference.peer import NOBODY

__all__ = ["HEADS_MAX", "HEAD_BYTES_MAX", "Heads", "Known"]

HEADS_MAX = 256
HEAD_BYTES_MAX = 1024
_END = b"\r\n\r\n"


class Known(NamedTuple):
    """What a head means: a request without its body, and the body's length."""

    head: bytes
    request: Request
    length: int


class Heads:
    """The heads of one listener."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}
        self._last: Known | None = None
        """The one that was found last: a client's next request is nearly always the same again."""

    def find(self, received: memoryview, nbytes: int) -> Known | None:
        """Return what the head means if the first `nbytes` received are one known request."""
        last = self._last
        # A head ends with the first empty line, so that what begins with it has no other one.
        if (
            last is not None
            and nbytes == len(last.head) + last.length
            and _whole(received).startswith(last.head)
        ):
            return last
        end = _end(received, nbytes)
        known = self._known.get(bytes(received[:end]))
        if known is None or known.length != nbytes - end:
            return None
        self._last = known
        return known

    def learn(self, received: memoryview, request: Request) -> None:
        """Remember the head of an admitted request, if `received` is that request and no more."""
        end = _end(received, len(received))
        length = len(request.body)
        # What follows a head is longer than the body when that came in chunks.
        if not end or length != len(received) - end:
            return
        if request.expect is None and request.keep_alive:
            if len(self._known) >= HEADS_MAX:
                self._known.clear()
            head = bytes(received[:end])
            self._known[head] = Known(head, request.again(b"", NOBODY), length)

    def forget(self) -> None:
        """Forget all of them: what is admitted has changed."""
        self._known.clear()
        self._last = None


def _whole(received: memoryview) -> bytearray:
    whole = received.obj
    assert isinstance(whole, bytearray)
    return whole


def _end(received: memoryview, nbytes: int) -> int:
    """Return where the first head ends; 0 for one that does not, or is too long to remember."""
    at = _whole(received).find(_END, 0, min(nbytes, HEAD_BYTES_MAX))
    return at + len(_END) if at > 0 else 0
