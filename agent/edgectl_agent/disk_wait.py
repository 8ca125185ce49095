"""While the journal cannot be written the update machine stands still, in the middle of an event.

What serves is looked after meanwhile. Events that come are kept, and heard in their order once the
journal has been written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edgectl_agent.clock import moment
from edgectl_agent.core import steps

__all__ = ["DiskWait"]

RETRY_S = 5.0
_POLL_S = 0.25
_log = logging.getLogger(__name__)


class DiskWait:
    """The wait of one run; used by the main thread."""

    def __init__(self, stopping: threading.Event, look_after: Callable[[float], None]) -> None:
        """Take what ends it, and what is called meanwhile, with the elapsed seconds."""
        self._stopping = stopping
        self._look_after = look_after
        self._waiting = False
        self._deferred: list[steps.Event] = []

    def wait(self, error: OSError) -> bool:
        """Wait until the journal may be tried again; False: the agent stops."""
        _log.error("the journal cannot be written, updates wait: %s", error)
        self._waiting = True
        try:
            again_s = moment().elapsed_s + RETRY_S
            while (elapsed_s := moment().elapsed_s) < again_s:
                if self._stopping.wait(_POLL_S):
                    return False
                self._look_after(elapsed_s)
        finally:
            self._waiting = False
        return True

    def defer(self, event: steps.Event) -> bool:
        """Keep `event` for later, if the machine waits; say whether it does."""
        if self._waiting:
            self._deferred.append(event)
        return self._waiting

    def due(self) -> list[steps.Event]:
        """Return what has been kept, once; in the order in which it came."""
        deferred, self._deferred = self._deferred, []
        return deferred
