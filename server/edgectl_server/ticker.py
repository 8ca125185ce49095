"""The server's heartbeat: one thread that moves on everything that is due.

Each duty has its own period and may fail alone: what fails is logged and tried at its next turn.
Order matters within a beat: a rollout decides, then its chunks go to the broker, then the orders,
so that a device that gets an order finds what it names. A duty that took long rests for as long,
however often it is wanted meanwhile: the database's lock is for others too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgectl_server.errors import Unavailable

__all__ = ["Duty", "Ticker"]

_REST_S_MAX = 2.0

logger = logging.getLogger(__name__)


@dataclass
class Duty:
    """Something to do every `period_s` seconds."""

    name: str
    period_s: float
    work: Callable[[], object]
    due: float = 0.0
    rested: float = 0.0
    """When it may be done again; by a clock that only goes forward, as `due` is."""
    failed: bool = False


class Ticker:
    """Does its duties until closed."""

    def __init__(self) -> None:
        self._duties: list[Duty] = []
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self, duties: list[Duty]) -> None:
        """Begin, with every duty at once.

        Args:
            duties: at least one, in the order in which they are done in a beat.
        """
        self._duties = duties
        self._thread.start()

    def wake(self) -> None:
        """Do the duties of every beat once they have rested. Any thread; returns at once."""
        self._wanted.set()

    def close(self) -> None:
        """Stop after the duty that is being done. Idempotent."""
        self._closing.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        shortest = min(duty.period_s for duty in self._duties)
        while not self._closing.is_set():
            woken = self._wanted.is_set()
            self._wanted.clear()
            for duty in self._duties:
                if self._closing.is_set():
                    return
                if woken and duty.period_s == shortest:
                    duty.due = min(duty.due, duty.rested)
                began = time.monotonic()
                if began >= duty.due:
                    self._do(duty)
                    ended = time.monotonic()
                    duty.rested = ended + min(ended - began, _REST_S_MAX)
                    duty.due = max(began + duty.period_s, duty.rested)
            until = min(duty.due for duty in self._duties)
            self._wanted.wait(max(0.0, until - time.monotonic()))

    def _do(self, duty: Duty) -> None:
        try:
            duty.work()
        except Unavailable as error:  # its cause is known, and said once
            if not duty.failed:
                logger.warning("%s waits: %s", duty.name, error.detail)
            duty.failed = True
        except Exception:  # one failing duty must not stop the others
            logger.exception("%s has failed", duty.name)
            duty.failed = True
        else:
            duty.failed = False
