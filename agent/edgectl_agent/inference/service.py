"""What every transport of the endpoint shares: from a request for a model to its answer.

A transport finds the model (`Service.find`), then hands over the request's content with a `Codec`
that reads and writes its format (`Service.infer`). In between is one path for all: read and check
against the contract, compute, count, write.

A request runs on the event loop when its model and its content are small, else in the one worker
thread, so that health and small models answer while a large one computes. There a run is stopped
after `RUN_SECONDS_MAX`: a model that hangs on some input must not take the others with it, and the
failure must be counted. What cannot be stopped, such as a loop in LiteRT, and computes as long
again, ends this process: the pulse names the model, and the supervisor sees to it. On the event
loop nobody is left to stop a run: there the pulse names the model, falls silent, and the supervisor
ends the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

from msgspec import Struct

from edgectl_agent.inference.protocol import Call
from edgectl_agent.inference.pulse import Place, Pulse
from edgectl_agent.inference.refusals import Kind, Refused
from edgectl_agent.inference.served import Served
from edgectl_agent.inference.shared_memory import SharedMemory
from edgectl_agent.inference.slots import Slots
from edgectl_agent.inference.statistics import Spent
from edgectl_agent.runtime import RunFailed, Stop, Tensor

__all__ = ["Codec", "Computed", "Service", "Shares"]

INLINE_BODY_BYTES_MAX = 64 * 1024
RUN_SECONDS_MAX = 30.0
GAP_SECONDS_MAX = 30.0
"""Requests wait so long at most for a model that is loaded once the one before it has gone."""

Given = TypeVar("Given")
Written = TypeVar("Written")
Given_contra = TypeVar("Given_contra", contravariant=True)
Written_co = TypeVar("Written_co", covariant=True)


class Shares(Struct, frozen=True, kw_only=True):
    """How many requests may wait for the worker thread, also those whose clients have gone."""

    queue_max: int = 128
    client_max: int = 64
    """Of one client: an address, or a user of the Unix socket."""


class Computed(NamedTuple):
    """What a model has given."""

    outputs: Mapping[str, Tensor]
    finite: bool
    """Whether no output holds a NaN or an infinity."""


class Codec(Protocol[Given_contra, Written_co]):
    """A transport's format; every method is called on any thread."""

    def read(self, content: Given_contra, served: Served) -> Call:
        """Return the arrays of a request; raise `Refused` for what is outside the contract."""
        ...

    def write(self, call: Call, computed: Computed, served: Served) -> Written_co:
        """Return the answer; raise `Refused` where the outputs have no place in it."""
        ...

    def refuse(self, refused: Refused) -> Written_co:
        """Return the answer that says why there are no outputs."""
        ...


class Service:
    """Answers requests from `slots`, whatever transport they came by."""

    def __init__(
        self,
        slots: Slots,
        worker: ThreadPoolExecutor,
        *,
        shares: Shares | None = None,
        memory: SharedMemory | None = None,
        pulse: Pulse | None = None,
        run_seconds_max: float = RUN_SECONDS_MAX,
        gap_seconds_max: float = GAP_SECONDS_MAX,
        give_up: Callable[[], object] = os.abort,
    ) -> None:
        """Answer from `slots`.

        Args:
            slots: the models.
            worker: has one thread.
            shares: bounds of its queue.
            memory: shared memory; None where it is not switched on.
            pulse: shows what computes.
            run_seconds_max: after which a run on the worker thread is stopped.
            gap_seconds_max: how long a request waits for a model that is being replaced.
            give_up: ends the process when a run does not let itself be stopped.
        """
        self.slots = slots
        self.memory = memory
        self._shares = shares or Shares()
        self._pulse = pulse or Pulse()
        self._worker = worker
        self._run_seconds_max = run_seconds_max
        self._gap_seconds_max = gap_seconds_max
        self._give_up = give_up
        self._stopped_s = 0.0
        """When the present run was told to stop, if it was."""
        self._waiting: Counter[Hashable] = Counter()
        """Requests in the queue and in the worker, by client."""
        self._running: tuple[float, Stop] | None = None
        """When the worker's present run began, by `time.monotonic`, and what ends it."""
        self._watching: asyncio.TimerHandle | None = None

    def ready(self) -> bool:
        """Say whether any model serves."""
        return len(self.slots) > 0

    def find(self, name: str, version: str = "", *, to_infer: bool = False) -> Served:
        """Return the model that serves under `name`; raise `Refused` where none does.

        Args:
            name: of the slot.
            version: any if empty, else that very one, because a slot serves exactly one.
            to_infer: a client that wants outputs is told to ask again while nothing serves yet.
        """
        served = self.slots.get(name)
        if served is None:
            if to_infer and not self.ready():
                raise Refused("not ready: no model is loaded yet", Kind.BUSY)
            raise Refused(f"no model {name[:64]!r} is loaded", Kind.UNKNOWN)
        serves = served.bundle.version
        if version and version != serves:
            raise Refused(
                f"version {version[:64]!r} is not loaded: {serves!r} serves", Kind.UNKNOWN
            )
        if version and served.successor is not None:
            raise Refused(f"version {serves!r} is being replaced: ask again", Kind.BUSY)
        return served

    def infer(
        self,
        served: Served,
        content: Given,
        codec: Codec[Given, Written],
        *,
        size: int,
        client: Hashable,
    ) -> Written | asyncio.Future[Written]:
        """Answer a request at once, or promise to.

        Args:
            served: from `find`.
            content: what `codec` reads.
            codec: the transport's.
            size: bytes of the content.
            client: whose share of the queue it takes.
        """
        if served.successor is not None:
            return self._infer_later(served, content, codec, size=size, client=client)
        came = time.perf_counter_ns()
        if served.inline and size <= INLINE_BODY_BYTES_MAX:
            return self._answer(served, content, codec, came, place=Place.LOOP)
        try:
            self._admit(client)
        except Refused as refused:
            return codec.refuse(refused)
        served.enter()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._worker, self._on_worker, served, content, codec, came)
        future.add_done_callback(lambda _: self._done(served, client))
        if self._watching is None:
            self._watching = loop.call_later(self._run_seconds_max / 4, self._stop_overdue)
        return future

    def _infer_later(
        self,
        served: Served,
        content: Given,
        codec: Codec[Given, Written],
        *,
        size: int,
        client: Hashable,
    ) -> Written | asyncio.Future[Written]:
        """Promise an answer of what follows `served`, which had to go before that is loaded."""
        successor = served.successor
        assert successor is not None
        try:
            self._admit(client)
        except Refused as refused:
            return codec.refuse(refused)

        async def answer() -> Written:
            try:
                async with asyncio.timeout(self._gap_seconds_max):
                    await asyncio.shield(successor)
            except TimeoutError:
                return codec.refuse(Refused("the model is being replaced: try again", Kind.BUSY))
            finally:
                self._forget(client)
            try:
                following = self.find(served.bundle.slot)
            except Refused as refused:
                return codec.refuse(refused)
            outcome = self.infer(following, content, codec, size=size, client=client)
            return await outcome if isinstance(outcome, asyncio.Future) else outcome

        return asyncio.ensure_future(answer())

    def _admit(self, client: Hashable) -> None:
        """Give `client` a place in the queue; raise `Refused` when there is none for it."""
        if self._waiting.total() >= self._shares.queue_max:
            raise Refused(
                f"{self._shares.queue_max} requests are waiting: try again later", Kind.FULL
            )
        if self._waiting[client] >= self._shares.client_max:
            raise Refused(
                f"{self._shares.client_max} requests of this client are waiting: "
                "wait for their answers",
                Kind.FULL,
            )
        self._waiting[client] += 1

    def _done(self, served: Served, client: Hashable) -> None:
        self._forget(client)
        served.leave()

    def _forget(self, client: Hashable) -> None:
        """Take back the place of `client` in the queue."""
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client]

    def _on_worker(
        self, served: Served, content: Given, codec: Codec[Given, Written], came: int
    ) -> Written:
        """Answer on the worker thread, in a run that the event loop can stop."""
        stop = Stop()
        self._running = (time.monotonic(), stop)
        try:
            return self._answer(served, content, codec, came, place=Place.WORKER, stop=stop)
        finally:
            self._running = None

    def _answer(
        self,
        served: Served,
        content: Given,
        codec: Codec[Given, Written],
        came: int,
        *,
        place: int,
        stop: Stop | None = None,
    ) -> Written:
        """Answer one request that came at `came`, on whatever thread `place` says."""
        begun = time.perf_counter_ns()
        try:
            try:
                call = codec.read(content, served)
            except Refused:
                served.counts.refused()
                raise
            read = time.perf_counter_ns()
            computed = self.compute(served, call.inputs, place, stop)
            ran = time.perf_counter_ns()
            written = codec.write(call, computed, served)
        except Refused as refused:
            served.statistics.failed(time.perf_counter_ns() - came)
            return codec.refuse(refused)
        spent = Spent(begun - came, read - begun, ran - read, time.perf_counter_ns() - ran)
        served.statistics.answered(spent, _rows(call, served))
        return written

    def compute(
        self, served: Served, inputs: Mapping[str, Tensor], place: int, stop: Stop | None = None
    ) -> Computed:
        """Run a model on inputs that fit its contract, and count it.

        Args:
            served: the model.
            inputs: one array for each of its inputs.
            place: the thread that this is called on.
            stop: by which the event loop ends a run on the worker thread.

        Raises:
            Refused: the model failed.
        """
        self._pulse.begin(place, served.name)
        started = time.perf_counter_ns()
        try:
            outputs = served.model.run(inputs, stop)
        except (RunFailed, MemoryError) as error:
            served.counts.failed()
            if stop is not None and stop.is_set():
                sentence = "the model did not finish in time on this input"
            else:
                sentence = f"the model failed on this input: {error}"
            raise Refused(sentence, Kind.FAILED) from error
        finally:
            self._pulse.end(place)
        latency_us = (time.perf_counter_ns() - started) / 1000
        finite = served.counts.served(latency_us, outputs, inputs)
        mirror = served.mirror  # once: the event loop changes it at any time
        if mirror is not None:
            mirror.offer(inputs, outputs, finite=finite)
        return Computed(outputs, finite)

    def _stop_overdue(self) -> None:
        running = self._running  # once: the worker changes it at any time
        now = time.monotonic()
        if running is not None and not running[1].is_set():
            if now - running[0] > self._run_seconds_max:
                self._stopped_s = now
                running[1].set()
        elif running is not None and now - self._stopped_s > self._run_seconds_max:
            self._give_up()
        self._watching = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._watching = loop.call_later(self._run_seconds_max / 4, self._stop_overdue)


def _rows(call: Call, served: Served) -> int:
    """Return how many rows a batch has; 1 where the model takes none."""
    spec = served.bundle.config.inputs[0]
    if not spec.shape or spec.shape[0] != -1:
        return 1
    return int(call.inputs[spec.name].shape[0])
