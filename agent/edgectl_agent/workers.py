"""The threads in which the supervisor has things done: steps, and the check of what is signed.

What comes of it is handed to `done`, from the thread. A bug of ours in one of them is handed on as
`Crashed`: a thread that ended in silence would leave an agent that looks alive.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from edgectl_agent.benchmarks import Measure, Measurer
from edgectl_agent.core import steps
from edgectl_agent.core.requests import RequestRefused
from edgectl_agent.errors import AgentError, Refused, StepCancelled
from edgectl_agent.performer import Performer
from edgectl_agent.trust.process import Trust

__all__ = ["Crashed", "OrderDesk", "Worker"]

ORDER_RETRY_S = 5.0
JOIN_S = 5.0
REQUESTS_MAX = 4
"""One of each kind may be under way, and the end of a follow; whoever writes more has the oldest
forgotten."""
_log = logging.getLogger(__name__)

Done = Callable[[Any], None]
Job = steps.Step | steps.Collect | steps.Release | Measure


class Crashed(Struct, frozen=True):
    """A thread met a bug of ours; the agent ends, and whoever supervises it starts it again."""

    error: Exception


class Worker:
    """Runs steps, collections and measurements one after another in a thread of its own.

    A measurement ends early when a step has been submitted after it: updates go first.
    """

    def __init__(self, performer: Performer, measurer: Measurer | None, done: Done) -> None:
        self._performer = performer
        self._measurer = measurer
        self._done = done
        self._jobs: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()
        self._generation = 0
        self._steps = 0
        """Steps submitted so far, and cancellations."""
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Have it done after what was submitted before."""
        if not isinstance(job, steps.Collect | steps.Release | Measure):
            self._steps += 1
        self._jobs.put((job, self._steps if isinstance(job, Measure) else self._generation))

    def cancel(self) -> None:
        """Ask what was submitted until now to end early."""
        self._generation += 1
        self._steps += 1

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
            action, number = job
            if isinstance(action, steps.Collect):
                self._performer.collect(action.keep)
            elif isinstance(action, steps.Release):
                self._performer.release(action.slots)
            elif isinstance(action, Measure):
                assert self._measurer is not None, "nobody asks for measurements here"
                self._done(self._measurer.measure(action, self._when_overtaken(number)))
            else:
                self._done(self._performer.perform(action, self._when_cancelled(number)))

    def _when_cancelled(self, generation: int) -> Callable[[], bool]:
        return lambda: generation < self._generation

    def _when_overtaken(self, submitted: int) -> Callable[[], bool]:
        return lambda: submitted < self._steps


class OrderDesk:
    """Checks what comes as an order or a request; only the newest are of interest."""

    def __init__(self, trust: Trust, done: Done) -> None:
        self._trust = trust
        self._done = done
        self._payload: bytes | None = None
        self._look = False
        self._requests: deque[bytes] = deque(maxlen=REQUESTS_MAX)
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
            self.look_again()

    def put_request(self, _topic: str, payload: bytes) -> None:
        """Take what came on the topic of requests."""
        if payload:
            self._requests.append(payload)
            self._wake.set()

    def look_again(self) -> None:
        """Check the newest order once more: the clock may be right now."""
        self._look = True
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
            try:
                if self._look and not self._stopping.is_set():
                    self._look = False
                    self._check_order()
                while self._requests and not self._stopping.is_set():
                    self._check_request(self._requests.popleft())
            except StepCancelled:
                return

    def _check_order(self) -> None:
        payload = self._payload
        if payload is None:
            return
        try:
            arrived = self._trust.check_order(payload, self._stopping.is_set)
        except Refused as error:
            self._done(steps.OrderRefused(reason=error.reason))
        except StepCancelled:
            raise
        except (AgentError, OSError) as error:
            _log.warning("the order cannot be checked now: %s", error)
            if not self._stopping.wait(ORDER_RETRY_S):
                self.look_again()
        else:
            self._done(arrived)

    def _check_request(self, payload: bytes) -> None:
        """Check a request; one that cannot be checked now is left to whoever asks again."""
        try:
            arrived = self._trust.check_request(payload, self._stopping.is_set)
        except Refused as error:
            self._done(RequestRefused(reason=error.reason))
        except StepCancelled:
            raise
        except (AgentError, OSError) as error:
            _log.warning("a request cannot be checked now, and is dropped: %s", error)
        else:
            self._done(arrived)
