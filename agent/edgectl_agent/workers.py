"""The threads in which the supervisor has things done: steps, and the check of orders.

What comes of it is handed to `done`, from the thread. A bug of ours in one of them is handed on as
`Crashed`: a thread that ended in silence would leave an agent that looks alive.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from edgectl_agent.core import steps
from edgectl_agent.errors import AgentError, Refused, StepCancelled
from edgectl_agent.performer import Performer
from edgectl_agent.trust.process import Trust

__all__ = ["Crashed", "OrderDesk", "Worker"]

ORDER_RETRY_S = 5.0
JOIN_S = 5.0
_log = logging.getLogger(__name__)

Done = Callable[[Any], None]


class Crashed(Struct, frozen=True):
    """A thread met a bug of ours; the agent ends, and whoever supervises it starts it again."""

    error: Exception


class Worker:
    """Runs steps and collections one after another in a thread of its own."""

    def __init__(self, performer: Performer, done: Done) -> None:
        self._performer = performer
        self._done = done
        self._jobs: queue.SimpleQueue[tuple[steps.Step | steps.Collect, int] | None] = (
            queue.SimpleQueue()
        )
        self._generation = 0
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, job: steps.Step | steps.Collect) -> None:
        """Have it done after what was submitted before."""
        self._jobs.put((job, self._generation))

    def cancel(self) -> None:
        """Ask what was submitted until now to end early."""
        self._generation += 1

    def stop(self) -> None:
        """End; what is under way is asked to end early, and waited for a while."""
        self.cancel()
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - passed on whole
            self._done(Crashed(error))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            action, generation = job
            if isinstance(action, steps.Collect):
                self._performer.collect(action.keep)
                continue
            self._done(
                self._performer.perform(action, lambda made=generation: made < self._generation)  # type: ignore[misc]
            )


class OrderDesk:
    """Checks what comes as an order; only the newest is of interest."""

    def __init__(self, trust: Trust, done: Done) -> None:
        self._trust = trust
        self._done = done
        self._payload: bytes | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, _topic: str, payload: bytes) -> None:
        """Take what came on the topic of the order."""
        if payload:  # a cleared topic says nothing
            self._payload = payload
            self._wake.set()

    def look_again(self) -> None:
        """Check the newest order once more: the clock may be right now."""
        self._wake.set()

    def stop(self) -> None:
        """End; what is under way is asked to end early, and waited for a while."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - passed on whole
            self._done(Crashed(error))

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            payload = self._payload
            if payload is None or self._stopping.is_set():
                continue
            try:
                arrived = self._trust.check_order(payload, self._stopping.is_set)
            except Refused as error:
                self._done(steps.OrderRefused(reason=error.reason))
            except StepCancelled:
                return
            except (AgentError, OSError) as error:
                _log.warning("the order cannot be checked now: %s", error)
                if not self._stopping.wait(ORDER_RETRY_S):
                    self._wake.set()
            else:
                self._done(arrived)
