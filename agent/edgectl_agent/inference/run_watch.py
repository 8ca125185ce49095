"""The watch over runs on another thread: one that takes too long is stopped, or given up.

The event loop looks four times in the time that a run may take, and only while there is something
to look at. A run that does not end when it was told to, such as a loop in LiteRT, and goes on for
as long again, is given up: whoever watches says what that means.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgectl_agent.runtime import Stop

__all__ = ["RunWatch"]


class RunWatch:
    """Watches one thread, which runs one model at a time."""

    def __init__(
        self, seconds_max: float, *, wanted: Callable[[], bool], give_up: Callable[[], object]
    ) -> None:
        """Describe the watch; it begins with `begin`.

        Args:
            seconds_max: after which a run is stopped, and after as long again given up.
            wanted: says whether the thread has, or is to have, anything to run.
            give_up: called on the event loop, where the watch ends.
        """
        self._seconds_max = seconds_max
        self._wanted, self._give_up = wanted, give_up
        self._running: tuple[float, Stop] | None = None
        """When the present run began, by `time.monotonic`, and what ends it."""
        self._stopped_s = 0.0
        """When the present run was told to stop, if it was."""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    @contextmanager
    def under_way(self) -> Iterator[Stop]:
        """A run, on the thread that is watched."""
        stop = Stop()
        self._running = (time.monotonic(), stop)
        try:
            yield stop
        finally:
            self._running = None

    def begin(self) -> None:
        """Look from now on, as long as that is wanted; nothing happens where it looks already."""
        if self._timer is None and not self._ended:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds_max / 4, self._look)

    def end(self) -> None:
        """Stop the run under way and look no more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        running = self._running
        if running is not None:
            running[1].set()

    def _look(self) -> None:
        self._timer = None
        running = self._running  # once: the thread changes it at any time
        now = time.monotonic()
        if running is not None:
            began_s, stop = running
            if stop.is_set():
                if now - self._stopped_s > self._seconds_max:
                    self._ended = True
                    self._give_up()
            elif now - began_s > self._seconds_max:
                self._stopped_s = now
                stop.set()
        if self._wanted():
            self.begin()
