"""Copies of live requests for the companion of a model that serves, after they were answered.

Rules:

1. A copy never delays an answer. It is handed over by the event loop a moment after the answer, to
   a thread of lower priority; what that thread cannot take now is skipped, and counted.
2. Copies cost no more than `cpu_max` of one processor core, by the processor time that they took:
   time that is not used up is saved for a second at most.
3. A companion that fails says nothing about the model that serves: it is counted here alone. One
   that crashes takes the process with it, and is named on the pulse's page. One that hangs is
   stopped; where it does not let itself be stopped, its thread is left behind and mirroring ends.
4. Who gives the same answer: the same best class in every row, where both have scores and the same
   labels; otherwise outputs within the tolerances of the companion's golden data. Who does not is
   told with the request, for `sampling`.

The thread is only a little nice: it holds Python's lock for moments, and a thread that is hardly
ever scheduled would hold it for long, and the event loop would wait.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np

from edgectl_agent.core.evidence import Copies
from edgectl_agent.inference.choosing import Asked
from edgectl_agent.inference.counts import Counts, predictions_of
from edgectl_agent.inference.differences import (
    Difference,
    difference_of_classes,
    difference_of_finite,
    difference_of_numbers,
)
from edgectl_agent.inference.pulse import Place, Pulse
from edgectl_agent.inference.run_watch import RunWatch
from edgectl_agent.runtime import Model, RunFailed, Tensor
from edgectl_protocol.histograms import LATENCY_EDGES_US, bin_of
from edgectl_protocol.manifest import BundleConfig

__all__ = ["Mirror", "comparable"]

QUEUE_MAX = 4
"""Copies that wait for the thread, or are in it."""
COPY_BYTES_MAX = 8 * 1024 * 1024
"""Inputs and outputs of one request; larger ones are skipped."""
AFTER_S = 0.002
"""A copy is handed over so long after its request was computed: its answer is on the way then."""
SAVED_S_MAX = 1.0
RUN_SECONDS_MAX = 10.0
"""A run of a copy that takes longer is stopped."""
_NICE = 10


class Answering(Protocol):
    """A loaded model, as it is needed here."""

    model: Model
    counts: Counts
    name: bytes


class _Copy(NamedTuple):
    inputs: dict[str, Tensor]
    outputs: Mapping[str, Tensor]
    finite: bool
    request: str


class Mirror:
    """Mirrors requests of one model to another one. Made, asked and closed on the event loop."""

    def __init__(
        self,
        serving: Answering,
        companion: Answering,
        pulse: Pulse,
        *,
        share: float,
        cpu_max: float,
        run_seconds_max: float = RUN_SECONDS_MAX,
        disagreed: Callable[[Difference, Asked], object] = lambda *_: None,
    ) -> None:
        """Begin.

        Args:
            serving: whose requests are copied.
            companion: who gets the copies.
            pulse: shows what the companion computes.
            share: of the requests, from 0 to 1, chosen at random.
            cpu_max: share of one processor core.
            run_seconds_max: a run that takes longer is stopped; one that goes on for as long again
                is left behind.
            disagreed: called in the thread of copies with what is answered otherwise.
        """
        self._companion = companion
        self._model = companion.model
        self._config = companion.model.config
        self._pulse = pulse
        self._disagreed = disagreed
        self._share, self._cpu_max = share, cpu_max
        self._fits = _same_inputs(serving.model.config, self._config)
        self._classes = comparable(serving.model.config, self._config)
        self._serving_scores = serving.model.config.scores
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._queue: queue.SimpleQueue[_Copy | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._credit_s, self._credited_s = min(cpu_max, 0.05) * SAVED_S_MAX, time.monotonic()
        self._waiting = 0
        self._closed = False
        self._hung = False
        self._counts = dict.fromkeys(("runs", "errors", "non_finite", "agreed", "skipped"), 0)
        self._latency = [0] * (len(LATENCY_EDGES_US) + 1)
        self._class_counts: list[int] = []
        self._ended = threading.Event()
        threading.Thread(target=self._work, name="mirror", daemon=True).start()
        self._watch = RunWatch(
            run_seconds_max, wanted=lambda: self._waiting > 0, give_up=self._give_up
        )

    def offer(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        request: str = "",
        *,
        finite: bool,
    ) -> None:
        """Copy a request that has just been computed, if it is chosen; from any thread.

        Args:
            inputs: as the model got them.
            outputs: as it gave them.
            request: as the application has named it.
            finite: whether these are.
        """
        if self._closed or random.random() >= self._share:  # noqa: S311 - a sample, no secret
            return
        arrays = (*inputs.values(), *outputs.values())
        wanted = self._fits and not self._hung
        if not wanted or sum(one.nbytes for one in arrays) > COPY_BYTES_MAX or not self._take():
            with self._lock:
                self._counts["skipped"] += 1
            return
        owned = {name: _owned(one) for name, one in inputs.items()}
        copy = _Copy(owned, outputs, finite, request)
        if threading.get_ident() == self._loop_thread:
            self._hand_over_soon(copy)  # waking the loop from the loop would cost a system call
            return
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._hand_over_soon, copy)

    def copies(self) -> Copies:
        """Return what the copies have shown."""
        with self._lock:
            return Copies(
                **self._counts,
                hung=self._hung,
                latency=tuple(self._latency),
                classes=tuple(self._class_counts),
            )

    async def close(self, wait_s: float) -> bool:
        """Copy nothing more, and end the run under way; say whether that succeeded in time."""
        self._closed = True
        self._watch.end()
        self._queue.put(None)
        if self._hung:
            return False
        return await asyncio.to_thread(self._ended.wait, wait_s)

    def _take(self) -> bool:
        """Take a place for a copy, if one is free and the budget allows a run.

        A run may overdraw the budget, and later ones wait until that is earned.
        """
        with self._lock:
            now = time.monotonic()
            earned = (now - self._credited_s) * self._cpu_max
            self._credit_s = min(self._credit_s + earned, self._cpu_max * SAVED_S_MAX)
            self._credited_s = now
            if self._credit_s <= 0 or self._waiting >= QUEUE_MAX:
                return False
            self._waiting += 1
            return True

    # ------------------------------------------------------------ the thread

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (copy := self._queue.get()) is not None and not self._closed:
            began, began_cpu = time.monotonic(), time.thread_time()
            self._run(copy)
            spent_s = time.thread_time() - began_cpu
            if self._model.threads > 1:  # its other threads are not seen from here
                spent_s = max(spent_s, (time.monotonic() - began) * self._model.threads)
            with self._lock:
                self._credit_s -= spent_s
                self._waiting -= 1
        self._ended.set()

    def _run(self, copy: _Copy) -> None:
        """Run one copy and compare."""
        begin, begin_cpu = time.monotonic(), time.thread_time()
        self._pulse.begin(Place.MIRROR, self._companion.name)
        try:
            with self._watch.under_way() as stop:
                outputs = self._model.run(copy.inputs, stop)
        except (RunFailed, MemoryError):
            if not self._closed:
                self._count(errors=1)
            return
        finally:
            self._pulse.end(Place.MIRROR)
        seconds = time.monotonic() - begin
        if self._model.threads == 1:  # without the time in which more important threads ran
            seconds = time.thread_time() - begin_cpu
        finite = self._companion.counts.finite(outputs)
        if finite == copy.finite:
            difference = self._difference(copy.outputs, outputs)
        else:
            difference = difference_of_finite(copy.outputs, outputs)
        with self._lock:
            self._latency[bin_of(LATENCY_EDGES_US, seconds * 1e6)] += 1
            for index, _ in predictions_of(outputs, self._config.scores) if finite else ():
                if index >= len(self._class_counts):
                    self._class_counts.extend([0] * (index + 1 - len(self._class_counts)))
                self._class_counts[index] += 1
        self._count(agreed=difference is None, non_finite=copy.finite and not finite)
        if difference is not None:
            self._disagreed(difference, Asked(copy.inputs, copy.outputs, copy.request))

    def _difference(
        self, live: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> Difference | None:
        """Return in which row the companion answers otherwise; None where it does not."""
        if self._classes and self._serving_scores is not None:
            ours = predictions_of(live, self._serving_scores)
            theirs = predictions_of(own, self._config.scores)
            return difference_of_classes(ours, theirs, len(live[self._serving_scores.output]))
        return difference_of_numbers(live, own, self._config.golden.tolerances)

    def _count(self, *, errors: int = 0, agreed: int = 0, non_finite: int = 0) -> None:
        with self._lock:
            self._counts["runs"] += 1
            self._counts["errors"] += errors
            self._counts["agreed"] += agreed
            self._counts["non_finite"] += non_finite

    # ------------------------------------------------------------ the event loop

    def _hand_over_soon(self, copy: _Copy) -> None:
        self._loop.call_later(AFTER_S, self._queue.put, copy)
        self._watch.begin()

    def _give_up(self) -> None:
        self._hung = True
        self._count(errors=1)


def comparable(one: BundleConfig, other: BundleConfig) -> bool:
    """Say whether the classes of two models mean the same."""
    scored = one.scores is not None and other.scores is not None
    return scored and bool(one.labels) and one.labels == other.labels


def _same_inputs(serving: BundleConfig, companion: BundleConfig) -> bool:
    """Say whether whatever fits the inputs of one model fits those of the other."""
    theirs = {spec.name: spec for spec in companion.inputs}
    return set(theirs) == {spec.name for spec in serving.inputs} and all(
        spec.datatype == theirs[spec.name].datatype
        and len(spec.shape) == len(theirs[spec.name].shape)
        and all(
            wanted in {-1, got}
            for got, wanted in zip(spec.shape, theirs[spec.name].shape, strict=True)
        )
        for spec in serving.inputs
    )


def _owned(array: Tensor) -> Tensor:
    """Return an array that nobody changes: the same one, unless its memory is somebody else's."""
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return array if isinstance(base, np.ndarray | bytes | bytearray) else array.copy()
