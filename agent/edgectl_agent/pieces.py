"""What is wanted of a blob, and what brings it: the same for every transport.

A source asks for what is missing and gives whatever comes to `Want.take`, which alone decides what
is believed. So sources can take turns in the middle of a blob, and what one has brought the next
one need not bring again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Protocol

from edgectl_protocol.chunks import chunk_length
from edgectl_protocol.messages import Reason

__all__ = ["INDEX", "BadPiece", "Source", "SourceFailed", "Want"]

INDEX = -1
"""Number of the chunk index, which is fetched like a chunk."""


class BadPiece(StrEnum):
    """What can be wrong with a piece that comes; counted, and reported with telemetry.

    Only `OVERTAKING` ones are kept: they are right, and came before one that was asked for earlier.
    """

    ALTERED = "altered"
    """Of the right length, or of an unknown one, and not the signed content: of another digest or
    number, say, or a chunk index that was not signed."""
    ANSWER = "answer"
    """An HTTP answer to something else than was asked, or with a length that cannot be."""
    DUPLICATE = "duplicate"
    EMPTY = "empty"
    """A topic that was cleared."""
    OVERSIZED = "oversized"
    OVERTAKING = "overtaking"
    TRUNCATED = "truncated"
    UNASKED = "unasked"
    """A message on a topic that nobody has subscribed to, or of a blob that nobody waits for."""


class SourceFailed(Exception):
    """A source cannot go on now; what it has brought is kept."""

    def __init__(self, reason: Reason, *, waits: bool = False) -> None:
        """Say why.

        Args:
            reason: as it is reported where no other source can go on.
            waits: it had no connection at all, and would have waited if there were no other.
        """
        super().__init__(f"{reason.code}: {reason.detail}")
        self.reason = reason
        self.waits = waits


class Want:
    """Some pieces of one blob."""

    def __init__(
        self,
        blob: str,
        *,
        path: str,
        length: int,
        missing: Iterable[int],
        expected: Callable[[int], bytes],
        accept: Callable[[int, bytes], None],
        whole: bool = False,
    ) -> None:
        """Begin.

        Args:
            blob: content address of the blob that the pieces are of.
            path: where it is on an HTTP server, or where the only piece is.
            length: bytes of what is there; of a whole, the most that it may be.
            missing: numbers of the pieces.
            expected: number to the raw SHA-256 of the piece.
            accept: keeps a piece that is right.
            whole: the only piece is all that is at `path`.
        """
        self.blob = blob
        self.path = path
        self.length = length
        self.whole = whole
        self.expected = expected
        self._missing = dict.fromkeys(missing)
        self._accept = accept
        self.bytes_taken = 0
        """Payload bytes that were right."""

    @property
    def missing(self) -> Sequence[int]:
        """The numbers that have not come, ascending."""
        return tuple(self._missing)

    @property
    def done(self) -> bool:
        """Whether all have come."""
        return not self._missing

    def is_missing(self, number: int) -> bool:
        """Say whether a piece is still wanted."""
        return number in self._missing

    def is_right(self, number: int, payload: bytes) -> bool:
        """Say whether a piece is what was signed."""
        return hashlib.sha256(payload).digest() == self.expected(number)

    def fault(self, number: int, payload: bytes) -> BadPiece:
        """Say what is wrong with a piece that is not right."""
        exact = not self.whole and number != INDEX
        length = chunk_length(self.length, number) if exact else self.length
        if len(payload) > length:
            return BadPiece.OVERSIZED
        return BadPiece.TRUNCATED if exact and len(payload) < length else BadPiece.ALTERED

    def take(self, number: int, payload: bytes) -> None:
        """Keep a piece that is missing and right."""
        del self._missing[number]
        self.bytes_taken += len(payload)
        self._accept(number, payload)


class Source(Protocol):
    """A transport, as the downloader sees it; used by one thread."""

    @property
    def name(self) -> str:
        """For logs: ``mqtt``, or an address."""

    @property
    def bytes_received(self) -> int:
        """Payload bytes since the start, also of those not believed."""

    @property
    def bad_pieces(self) -> Counter[str]:
        """What came and was not wanted, since the start, by `BadPiece`."""

    def fetch(
        self, want: Want, *, alone: bool, cancelled: Callable[[], bool], pause: Callable[[], None]
    ) -> None:
        """Bring everything that is missing.

        Args:
            want: what.
            alone: no other source can go on instead, so that waiting is better than failing.
            cancelled: whether to give up.
            pause: called when nothing comes for a moment.

        Raises:
            SourceFailed: it cannot now.
            StepCancelled: `cancelled` said so.
        """
