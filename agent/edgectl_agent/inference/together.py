"""Requests that wait for the worker thread, answered together where they are for the same model.

Each request is one call on the worker thread. The first of several takes what fits it of those
that wait, computes all of it in one run, and gives each its rows; the calls of those others find
nothing to do. Where the run fails, or does not give a row for each row, each is run alone, so that
one that fails fails alone. See `edgectl_agent.inference.batching` for what can be joined.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from edgectl_agent.inference.batching import join, joinable, rows_of, split
from edgectl_agent.inference.codec import Codec, Computed
from edgectl_agent.inference.protocol import Call
from edgectl_agent.inference.pulse import Place
from edgectl_agent.inference.refusals import Refused
from edgectl_agent.inference.served import Served
from edgectl_agent.runtime import RunFailed, Stop, Tensor

__all__ = ["Together"]


class Computing(Protocol):
    """How a model is run and counted."""

    def under_way(self) -> AbstractContextManager[Stop]:
        """A run that the event loop can stop."""

    def run(
        self, served: Served, inputs: Mapping[str, Tensor], place: int, stop: Stop | None
    ) -> tuple[dict[str, Tensor], float]:
        """Return the outputs, and the microseconds that the run took."""

    def count(
        self,
        served: Served,
        call: Call,
        outputs: Mapping[str, Tensor],
        latency_us: float,
    ) -> Computed:
        """Count one answered request."""

    def compute(self, served: Served, call: Call, place: int, stop: Stop | None = None) -> Computed:
        """Run and count one request; raise `Refused` where the model fails."""


class _Waiting:
    """A request that waits for its turn, or for others of the same model."""

    __slots__ = ("call", "came", "codec", "content", "future", "read_ns")

    def __init__(
        self, content: Any, codec: Codec[Any, Any], future: asyncio.Future[Any], came: int
    ) -> None:
        self.content, self.codec, self.future, self.came = content, codec, future, came
        self.call: Call | None = None
        self.read_ns = 0


class Together:
    """Answers requests on the worker thread, several in one run."""

    def __init__(self, computing: Computing, worker: ThreadPoolExecutor, *, rows_max: int) -> None:
        """Join up to `rows_max` rows; `worker` has one thread."""
        self._computing = computing
        self._worker = worker
        self._rows_max = rows_max

    def join(
        self, served: Served, content: Any, codec: Codec[Any, Any], came: int
    ) -> asyncio.Future[Any]:
        """Promise the answer of a request, on the event loop; `came` is on the counter of ns."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        served.waiting.append(_Waiting(content, codec, future, came))
        self._worker.submit(self._answer, served, loop)
        return future

    # ------------------------------------------------------------ on the worker thread

    def _answer(self, served: Served, loop: asyncio.AbstractEventLoop) -> None:
        begun = time.perf_counter_ns()
        batch = self._gather(served, loop)
        try:
            computed = self._compute(served, batch) if len(batch) > 1 else None
            run_ns = (time.perf_counter_ns() - begun) // max(1, len(batch))
            for number, waiting in enumerate(batch):
                if computed is None:
                    answer = self._alone(served, waiting, begun)
                else:
                    answer = _write(served, waiting, computed[number], begun, run_ns)
                _tell(loop, waiting, answer)
        except Exception as error:  # noqa: BLE001 - handed on to whoever waits
            for waiting in batch:
                _tell(loop, waiting, error)

    def _gather(self, served: Served, loop: asyncio.AbstractEventLoop) -> list[_Waiting]:
        """Take requests that wait and fit one another; the first one always fits."""
        batch: list[_Waiting] = []
        total = 0
        while served.waiting:
            waiting: _Waiting = served.waiting.popleft()
            call = waiting.call or _read(served, waiting, loop)
            if call is None:
                continue
            waiting.call = call
            rows = rows_of(call.inputs)
            fits = rows is not None and total + rows <= self._rows_max
            first = batch[0].call if batch else None
            if first is not None and not (fits and joinable(first.inputs, call.inputs)):
                served.waiting.appendleft(waiting)
                break
            batch.append(waiting)
            total += rows or self._rows_max
        return batch

    def _compute(self, served: Served, batch: list[_Waiting]) -> list[Computed] | None:
        """Run several requests as one; None where that fails."""
        calls = [waiting.call for waiting in batch if waiting.call is not None]
        requests = [call.inputs for call in calls]
        try:
            with self._computing.under_way() as stop:
                outputs, latency_us = self._computing.run(
                    served, join(requests), Place.WORKER, stop
                )
        except (RunFailed, MemoryError):
            return None
        parts = split(outputs, [len(next(iter(inputs.values()))) for inputs in requests])
        if parts is None:
            return None
        return [
            self._computing.count(served, call, part, latency_us)
            for call, part in zip(calls, parts, strict=True)
        ]

    def _alone(self, served: Served, waiting: _Waiting, begun: int) -> object:
        assert waiting.call is not None
        started = time.perf_counter_ns()
        try:
            with self._computing.under_way() as stop:
                computed = self._computing.compute(served, waiting.call, Place.WORKER, stop)
        except Refused as refused:
            served.statistics.failed(time.perf_counter_ns() - waiting.came)
            return waiting.codec.refuse(refused)
        return _write(served, waiting, computed, begun, time.perf_counter_ns() - started)


def _read(served: Served, waiting: _Waiting, loop: asyncio.AbstractEventLoop) -> Call | None:
    """Return the request's arrays; None where it has had its answer."""
    started = time.perf_counter_ns()
    try:
        call = waiting.codec.read(waiting.content, served)
    except Refused as refused:
        served.counts.refused()
        served.statistics.failed(time.perf_counter_ns() - waiting.came)
        _tell(loop, waiting, waiting.codec.refuse(refused))
        return None
    except Exception as error:  # noqa: BLE001 - handed on to whoever waits
        _tell(loop, waiting, error)
        return None
    waiting.read_ns = time.perf_counter_ns() - started
    return call


def _write(
    served: Served, waiting: _Waiting, computed: Computed, begun: int, run_ns: int
) -> object:
    """Return the answer, and note where its time went; of a joined run each has its part."""
    assert waiting.call is not None
    started = time.perf_counter_ns()
    try:
        answer = waiting.codec.write(waiting.call, computed, served)
    except Refused as refused:
        served.statistics.failed(time.perf_counter_ns() - waiting.came)
        return waiting.codec.refuse(refused)
    queue_ns = max(0, begun - waiting.came)
    served.statistics.answered(
        queue=queue_ns,
        read=waiting.read_ns,
        run=run_ns,
        write=time.perf_counter_ns() - started,
        rows=rows_of(waiting.call.inputs) or 1,
    )
    return answer


def _tell(loop: asyncio.AbstractEventLoop, waiting: _Waiting, answer: object) -> None:
    """Give an answer, or an error, to whoever waits for it on the event loop."""

    def tell() -> None:
        if waiting.future.done():
            return
        if isinstance(answer, Exception):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)

    with suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(tell)
