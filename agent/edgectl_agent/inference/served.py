"""One loaded, warm model, and how it is loaded and freed.

Loading computes in a thread of its own; everything else is of the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import numpy as np

from edgectl_agent.bundle import Bundle
from edgectl_agent.decryption import Undecipherable
from edgectl_agent.golden import GoldenMalformed, read_golden
from edgectl_agent.inference.batching import is_batchable
from edgectl_agent.inference.counts import Counts
from edgectl_agent.inference.errors import LoadFailed
from edgectl_agent.inference.mirror import Mirror
from edgectl_agent.inference.protocol import response_parameters
from edgectl_agent.inference.pulse import padded
from edgectl_agent.inference.reader import Reader
from edgectl_agent.inference.reference import open_reference
from edgectl_agent.inference.sampling import Sampler
from edgectl_agent.inference.statistics import Statistics
from edgectl_agent.inference.watch import Watch
from edgectl_agent.runtime import DTYPES, Model, ModelRefused, RunFailed, Stop, Tensor, free

__all__ = ["Served", "load_beside", "prepare"]

INLINE_SECONDS_MAX = 0.002
"""A model whose run takes longer gets the worker thread, so that the event loop stays free.

Handing a request to the thread and back costs some 45 µs of CPU (measured on x86-64), which a small
model's request would feel and a large one's does not."""
_WARM_UP_RUNS = 4
_WARM_UP_SECONDS_MAX = 0.05


class Served:
    """A loaded, warm model and what belongs to it.

    Attributes:
        reference: of its bundle; None where it has none that fits.
        watch: describes what the model is given and answers; None where nothing is watched.
        sampler: keeps single requests, where a policy asks for any.
        mirror: gets copies of what the model answers; None while nothing is mirrored.
        successor: done when another model serves in its place, or none does; requests wait for it,
            because memory forbids two models and this one has gone. None while it serves.
        rows_of: the input whose first size is the number of rows; None where that is always one.
        batchable: whether requests may be joined; those that may wait in `waiting`.
    """

    def __init__(self, model: Model, run_seconds: float, *, inline: bool = True) -> None:
        self.model = model
        self.bundle = model.bundle
        self.name = padded(model.bundle.manifest)
        self.counts = Counts(model.config)
        self.reader = Reader(model.config)
        self.statistics = Statistics()
        first = model.config.inputs[0]
        self.rows_of = first.name if first.shape[:1] == (-1,) else None
        self.batchable = is_batchable(model.config)
        self.waiting: deque[Any] = deque()
        opened = open_reference(model.bundle)
        self.reference = opened
        self.watch = None if opened is None else Watch(model.bundle, *opened)
        self.sampler = Sampler(model.bundle, None if opened is None else opened.watched)
        self.mirror: Mirror | None = None
        self.successor: asyncio.Future[None] | None = None
        self.inline = inline and run_seconds <= INLINE_SECONDS_MAX
        self.parameters = response_parameters(self.bundle, non_finite=False)
        self.parameters_non_finite = response_parameters(self.bundle, non_finite=True)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """Note that a request is in the model."""
        self._in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        """Note that a request has left the model."""
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until no request is in the model."""
        await self._idle.wait()


async def load_beside(bundle: Bundle, deadline: float, *, inline: bool = True) -> Served:
    """Load and warm up a model in a thread, beside what serves.

    Args:
        bundle: verified files.
        deadline: `time.monotonic` after which nobody wants it any more.
        inline: whether it may compute on the event loop, where it is fast.

    Raises:
        LoadFailed: with the bundle's slot; see `prepare`.
    """
    stop = Stop()
    late = asyncio.get_running_loop().call_later(deadline - time.monotonic(), stop.set)
    try:
        model, run_seconds = await asyncio.to_thread(prepare, bundle, stop)
    except LoadFailed as error:
        if time.monotonic() > deadline:
            raise _too_slow(bundle.slot) from error
        raise LoadFailed(error.code, error.detail, slot=bundle.slot) from error
    finally:
        late.cancel()
    if time.monotonic() > deadline:
        await asyncio.to_thread(free, model)
        raise _too_slow(bundle.slot)
    return Served(model, run_seconds, inline=inline)


def _too_slow(slot: str) -> LoadFailed:
    return LoadFailed("load.timeout", "the model took longer to load than was allowed", slot=slot)


def prepare(bundle: Bundle, stop: Stop) -> tuple[Model, float]:
    """Load and warm up a model; return it with the seconds that one run takes.

    The bundle's content key is forgotten, whatever comes of it.

    Args:
        bundle: verified files.
        stop: ends the warming up.

    Raises:
        LoadFailed: unreadable, not to be opened, refused by the runtime or the contract, or it
            fails its first run.
    """
    try:
        model = Model(bundle)
        inputs = _warm_up_inputs(bundle)
        started, seconds = time.perf_counter(), float("inf")
        for _ in range(_WARM_UP_RUNS):
            begin = time.perf_counter()
            model.run(inputs, stop)
            seconds = min(seconds, time.perf_counter() - begin)
            if time.perf_counter() - started > _WARM_UP_SECONDS_MAX:
                break
    except ModelRefused as error:
        raise LoadFailed(error.code, error.detail) from error
    except RunFailed as error:
        raise LoadFailed("load.warm_up", f"the model fails on a golden input: {error}") from error
    except MemoryError as error:
        raise LoadFailed("load.memory", "not enough memory to load the model") from error
    finally:
        bundle.forget_key()
    return model, seconds


def _warm_up_inputs(bundle: Bundle) -> dict[str, Tensor]:
    """Return the first golden input, or zeros where the golden file cannot be read."""
    try:
        return read_golden(bundle).inputs(0)
    except (GoldenMalformed, Undecipherable, OSError):
        # The trial is what judges golden data; here any input of the right shape will do.
        return {
            spec.name: np.full(
                [max(size, 1) for size in spec.shape],
                "" if spec.datatype == "BYTES" else 0,
                dtype=DTYPES[spec.datatype],
            )
            for spec in bundle.config.inputs
        }
