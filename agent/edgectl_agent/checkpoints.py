"""When what has come of a blob is made durable, so that a power loss costs little of it.

A checkpoint waits for the disk for as long as a megabyte takes on a fast link. So it is done beside
the download where there is a thread for it: what comes meanwhile is written, and is the next one's.
Only when `FAST` times as much as usual has been written meanwhile does the download wait for the
disk, so that what a power loss may cost, and what waits in memory to be written, stay bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor, Future

from edgectl_agent.store import Partial

__all__ = ["CHECKPOINT_CHUNKS", "Checkpoints"]

CHECKPOINT_CHUNKS = 16
"""Chunks between two checkpoints of the bitmap, fewer where the transport pauses: at most 1 MiB is
fetched again after a power loss."""
CHECKPOINT_S = 0.5
"""Sooner than so long after the last one, the next waits for `FAST` times as many chunks."""
FAST = 16
"""At most 16 MiB are fetched again where that much comes in less than half a second."""


class Checkpoints:
    """The checkpoints of one download; used by the thread that writes."""

    def __init__(
        self,
        partial: Partial,
        *,
        chunks: int,
        elapsed: Callable[[], float],
        background: Executor | None,
    ) -> None:
        """Begin.

        Args:
            partial: what is coming.
            chunks: how many are written between two checkpoints.
            elapsed: seconds of a clock that only goes forward.
            background: waits for the disk; None: the caller does.
        """
        self._partial = partial
        self._chunks = chunks
        self._elapsed = elapsed
        self._background = background
        self._under_way: Future[None] | None = None
        self._kept_s = -math.inf

    def wrote(self) -> None:
        """Make one if it is time; call it after each chunk; raise `OSError` of the disk."""
        count, now_s = self._partial.unsynchronized, self._elapsed()
        if count < self._chunks:
            return
        if count < FAST * self._chunks and now_s - self._kept_s < CHECKPOINT_S:
            return
        if self._is_busy() and count < FAST * self._chunks:
            return
        self._begin()
        self._kept_s = now_s

    def pause(self) -> None:
        """Make one if there is anything to keep, because nothing comes now; raise `OSError`."""
        if self._partial.unsynchronized and not self._is_busy():
            self._begin()

    def wait(self) -> None:
        """Return when the one that is under way is done; raise its `OSError`."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _is_busy(self) -> bool:
        return self._under_way is not None and not self._under_way.done()

    def _begin(self) -> None:
        self.wait()
        if self._background is None:
            self._partial.checkpoint()
        else:
            noted = self._partial.note()
            self._under_way = self._background.submit(self._partial.checkpoint, noted)
