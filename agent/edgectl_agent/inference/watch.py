"""What one loaded model is given and answers, counted on the edges that are signed with it.

Rules:

1. Rows are looked at and described as `describing` says, after the answer that completed them has
   gone out.
2. What applications have counted in their own processes is added, as far as it can be of rows that
   the policy allows: `_ADDED_MAX` times those of a window. What is more is counted as skipped.
3. One `Watch` belongs to one manifest, so that no window ever mixes two. Windows end at whole
   multiples of their length by the device's clock; how far that clock was set meanwhile is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from msgspec import structs

from edgectl_agent import clock
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.describing import Describing
from edgectl_agent.runtime import Tensor
from edgectl_protocol.watching import FeatureCounts, FeatureWindow, Watched, WatchPolicy

__all__ = ["Watch"]

_ENDED_MAX = 8
"""Windows that wait to be taken; the oldest gives way."""
_ADDED_MAX = 4
"""So many applications may look at as many rows as the policy allows each."""


class Watch:
    """Counts of one model; safe to use from several threads.

    Args:
        bundle: whose inputs and answers these are.
        watched: what is counted for that bundle.
        digest: of the file that says so.
        now: the time, in UTC.
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        bundle: Bundle,
        watched: Watched,
        digest: str,
        *,
        now: Callable[[], datetime] = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = (bundle.slot, bundle.version, bundle.manifest, digest)
        self._now, self._monotonic = now, monotonic
        self._lock = threading.Lock()
        self._ended: list[FeatureWindow] = []
        self._policy = WatchPolicy()
        self._describing = Describing(bundle.config, watched, self._policy.rows_per_s)
        self._begin()

    def _begin(self) -> None:
        """Begin a window now; the lock must be held, or nobody else be there yet."""
        self._start, self._start_s = self._now(), self._monotonic()
        length = self._policy.window_s
        self._end_s = self._start_s + length - self._start.timestamp() % length
        self._added = 0
        """Rows of this window that applications have described."""
        self._describing.clear()

    def offer(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> bool:
        """Take one row of what was asked and answered, if it is due.

        Returns:
            Whether there is something to `settle` now, after the answer has gone out.
        """
        describing = self._describing
        if not describing.rows_per_s:
            return False
        now_s = self._monotonic()
        taken = describing.offer(now_s, inputs, outputs)
        return taken and (describing.full() or now_s >= self._end_s)

    def add(self, counts: FeatureCounts) -> None:
        """Add what an application has counted, which must fit the reference."""
        with self._lock:
            policy = self._policy
            self._settle()
            if not policy.rows_per_s:
                return
            if self._added + counts.rows > _ADDED_MAX * policy.rows_per_s * policy.window_s:
                counts = _all_skipped(counts)
            self._added += counts.rows
            self._describing.add(counts)

    def settle(self) -> None:
        """Describe and count the rows that wait, and end the window if its time has come."""
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        self._describing.settle()
        if self._monotonic() >= self._end_s:
            self._end_window()

    def _end_window(self) -> None:
        wall, elapsed_s = self._now(), self._monotonic() - self._start_s
        shift_s = (wall - self._start).total_seconds() - elapsed_s
        slot, version, manifest, digest = self._window
        # Looked at late, it ends where it should have.
        due = self._start_s + elapsed_s >= self._end_s
        end = max(self._start, _floor(wall, self._policy.window_s) if due else wall)
        counts = self._describing.counts()
        if counts.rows or counts.skipped:
            self._ended = [
                *self._ended[1 - _ENDED_MAX :],
                FeatureWindow(
                    **structs.asdict(counts),
                    slot=slot,
                    version=version,
                    manifest=manifest,
                    reference=digest,
                    start=self._start,
                    end=end,
                    clock_shift_s=round(shift_s),
                ),
            ]
        self._begin()

    def take(self, policy: WatchPolicy, *, last: bool = False) -> tuple[FeatureWindow, ...]:
        """Return the windows that have ended since the last call.

        Args:
            policy: to go by from now on; another length ends the window.
            last: nothing comes any more: the window ends now.
        """
        with self._lock:
            self._settle()
            if last or policy.window_s != self._policy.window_s:
                self._end_window()
            if policy != self._policy:
                changed = policy.window_s != self._policy.window_s
                self._policy = policy
                self._describing.rows_per_s = policy.rows_per_s
                if changed:
                    self._begin()
            ended, self._ended = tuple(self._ended), []
        return ended


def _all_skipped(counts: FeatureCounts) -> FeatureCounts:
    """Return counts of no rows, whose rows are told as skipped."""
    nothing = tuple((0,) * len(one) for one in counts.histograms)
    return FeatureCounts(rows=0, skipped=counts.skipped + counts.rows, histograms=nothing)


def _floor(wall: datetime, length_s: int) -> datetime:
    """Return the last whole multiple of `length_s` since 1970."""
    seconds = wall.timestamp()
    return datetime.fromtimestamp(seconds - seconds % length_s, UTC)
