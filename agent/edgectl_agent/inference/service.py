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
from contextlib import AbstractContextManager
from typing import TypeVar

from msgspec import Struct

from edgectl_agent.inference.codec import Codec, Computed
from edgectl_agent.inference.protocol import Call
from edgectl_agent.inference.pulse import Place, Pulse
from edgectl_agent.inference.refusals import Kind, Refused
from edgectl_agent.inference.run_watch import RunWatch
from edgectl_agent.inference.served import Served
from edgectl_agent.inference.shared_memory import SharedMemory
from edgectl_agent.inference.slots import Slots
from edgectl_agent.inference.together import Together
from edgectl_agent.runtime import RunFailed, Stop, Tensor

__all__ = ["Codec", "Computed", "Service", "Shares"]

INLINE_BODY_BYTES_MAX = 64 * 1024
RUN_SECONDS_MAX = 30.0
GAP_SECONDS_MAX = 30.0
"""Requests wait so long at most for a model that is loaded once the one before it has gone."""

Given = TypeVar("Given")
Written = TypeVar("Written")


class Shares(Struct, frozen=True, kw_only=True):
    """How many requests may wait for the worker thread, also those whose clients have gone."""

    queue_max: int = 128
    client_max: int = 64
    """Of one client: an address, or a user of the Unix socket."""


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
        batch_rows_max: int = 1,
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
            batch_rows_max: rows of waiting requests that are computed as one; 1 joins none.
            run_seconds_max: after which a run on the worker thread is stopped.
            gap_seconds_max: how long a request waits for a model that is being replaced.
            give_up: ends the process when a run does not let itself be stopped.
        """
        self.slots = slots
        self.memory = memory
        self._shares = shares or Shares()
        self._pulse = pulse or Pulse()
        self._worker = worker
        self._together: Together | None = None
        if batch_rows_max > 1:
            self._together = Together(self, worker, rows_max=batch_rows_max)
        self._gap_seconds_max = gap_seconds_max
        self._waiting: Counter[Hashable] = Counter()
        """Requests in the queue and in the worker, by client."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where requests come in; None before the first."""
        self._watch = RunWatch(run_seconds_max, wanted=lambda: bool(self._waiting), give_up=give_up)

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
        came = time.perf_counter_ns()
        self._loop = asyncio.get_running_loop()
        waits = served.successor is not None
        if not waits and self._at_once(served, size):
            return self._answer(served, content, codec, came, place=Place.LOOP)
        try:
            self._admit(client)
        except Refused as refused:
            return codec.refuse(refused)
        future: asyncio.Future[Written]
        if waits:
            later = self._after_gap(served, content, codec, came, size)
            future = asyncio.ensure_future(later)
        else:
            future = self._on_worker(served, content, codec, came)
        future.add_done_callback(lambda _: self._forget(client))
        return future

    async def _after_gap(
        self, served: Served, content: Given, codec: Codec[Given, Written], came: int, size: int
    ) -> Written:
        """Answer with what follows `served`, which had to go before that is loaded."""
        try:
            async with asyncio.timeout(self._gap_seconds_max):
                while served.successor is not None:
                    await asyncio.shield(served.successor)
                    served = self.find(served.bundle.slot)
        except TimeoutError:
            return codec.refuse(Refused("the model is being replaced: try again", Kind.BUSY))
        except Refused as refused:
            return codec.refuse(refused)
        if self._at_once(served, size):
            return self._answer(served, content, codec, came, place=Place.LOOP)
        return await self._on_worker(served, content, codec, came)

    def _at_once(self, served: Served, size: int) -> bool:
        """Say whether a request is answered on the event loop."""
        return served.inline and size <= INLINE_BODY_BYTES_MAX

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

    def _forget(self, client: Hashable) -> None:
        """Take back the place of `client` in the queue."""
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client]

    def _on_worker(
        self, served: Served, content: Given, codec: Codec[Given, Written], came: int
    ) -> asyncio.Future[Written]:
        """Promise an answer of the worker thread, in a run that the event loop can stop."""

        def answer() -> Written:
            with self.under_way() as stop:
                return self._answer(served, content, codec, came, place=Place.WORKER, stop=stop)

        served.enter()
        future: asyncio.Future[Written]
        if self._together is not None and served.batchable:
            future = self._together.join(served, content, codec, came)
        else:
            future = asyncio.get_running_loop().run_in_executor(self._worker, answer)
        future.add_done_callback(lambda _: served.leave())
        self._watch.begin()
        return future

    def under_way(self) -> AbstractContextManager[Stop]:
        """A run on the worker thread that the event loop can stop."""
        return self._watch.under_way()

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
            computed = self.compute(served, call, place, stop)
            ran = time.perf_counter_ns()
            written = codec.write(call, computed, served)
        except Refused as refused:
            served.statistics.failed(time.perf_counter_ns() - came)
            return codec.refuse(refused)
        served.statistics.answered(
            queue=begun - came,
            read=read - begun,
            run=ran - read,
            write=time.perf_counter_ns() - ran,
            rows=1 if served.rows_of is None else len(call.inputs[served.rows_of]),
        )
        return written

    def compute(self, served: Served, call: Call, place: int, stop: Stop | None = None) -> Computed:
        """Run a model on inputs that fit its contract, and count it.

        Args:
            served: the model.
            call: one array for each of its inputs.
            place: the thread that this is called on.
            stop: by which the event loop ends a run on the worker thread.

        Raises:
            Refused: the model failed.
        """
        try:
            outputs, latency_us = self.run(served, call.inputs, place, stop)
        except (RunFailed, MemoryError) as error:
            served.counts.failed()
            if stop is not None and stop.is_set():
                sentence = "the model did not finish in time on this input"
            else:
                sentence = f"the model failed on this input: {error}"
            raise Refused(sentence, Kind.FAILED) from error
        return self.count(served, call, outputs, latency_us)

    def run(
        self, served: Served, inputs: Mapping[str, Tensor], place: int, stop: Stop | None
    ) -> tuple[dict[str, Tensor], float]:
        """Return the outputs, and the microseconds that the run took; count nothing."""
        self._pulse.begin(place, served.name)
        started = time.perf_counter_ns()
        try:
            outputs = served.model.run(inputs, stop)
        finally:
            self._pulse.end(place)
        return outputs, (time.perf_counter_ns() - started) / 1000

    def count(
        self,
        served: Served,
        call: Call,
        outputs: Mapping[str, Tensor],
        latency_us: float,
    ) -> Computed:
        """Count one answered request, describe it where it is due, copy it where it is chosen."""
        inputs = call.inputs
        finite = served.counts.served(latency_us, outputs, inputs)
        watch = served.watch
        if watch is not None and watch.offer(inputs, outputs) and self._loop is not None:
            self._loop.call_soon_threadsafe(watch.settle)  # after the answer has gone out
        if served.sampler.on:
            served.sampler.offer(inputs, outputs, call.name, wanted=call.keep)
        mirror = served.mirror  # once: the event loop changes it at any time
        if mirror is not None:
            mirror.offer(inputs, outputs, call.name, finite=finite)
        return Computed(outputs, finite)
