"""Which single requests of one loaded model are kept as samples, where a policy asks for any.

Rules:

1. Without a policy nothing is copied; that is how it begins. A policy that goes takes with it what
   was kept.
2. The budget of a day is spread over the day: one sample is taken in each interval, so that a
   morning of requests does not spend what the evening needs.
3. Which request that is, `choosing` decides.
4. No more than `_LOOKS_PER_S` requests a second are looked at, one row of each, and looking takes
   no more than `_LOOKING_MAX` of the time. What an application asks for is looked at beyond that,
   once an interval.

Texts are never sampled: a model with an input or an output of BYTES gives none.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from math import prod

import numpy as np

from edgectl_agent import clock
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.choosing import Asked, Chooser, Chosen, Row
from edgectl_agent.inference.control import Taken
from edgectl_agent.inference.differences import Difference
from edgectl_agent.runtime import DTYPES, Tensor
from edgectl_protocol.errors import LimitExceeded
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SampleNote,
    SamplePolicy,
    SampleReason,
    SampleTensor,
    encode_sample,
    sample_datatype,
)
from edgectl_protocol.watching import Watched

__all__ = ["Sampler"]

INTERVAL_S_MIN = 1.0
_LOOKS_PER_S = 20.0
_LOOKING_MAX = 0.01
"""Share of the time, which on one processor is that of a core."""
_DAY_S = 86400.0
_HEAD_BYTES = 512
_NAME = re.compile(r"[\x21-\x7e]{0,64}")
"""Of a request; others are not told."""
_log = logging.getLogger(__name__)


class Sampler:
    """Samples of one model; safe to use from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        reference: Watched | None = None,
        *,
        now: Callable[[], datetime] = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Begin without a policy.

        Args:
            bundle: whose inputs and answers these are.
            reference: of that bundle; None where it has none.
            now: the time, in UTC.
            monotonic: seconds of a clock that nobody sets.
            draw: a number from 0 to below 1.
        """
        config = bundle.config
        self.on = False
        """Whether requests are to be offered; read without the lock."""
        self._bundle = bundle
        self._inputs, self._outputs = config.inputs, config.outputs
        first = config.inputs[0]
        self._rows_of = first.name if first.shape[:1] == (-1,) else None
        self._possible = all(
            sample_datatype(spec.datatype) for spec in (*config.inputs, *config.outputs)
        )
        self._now, self._monotonic = now, monotonic
        self._chooser = Chooser(config, reference, copy=self._copy, draw=draw)
        self._lock = threading.Lock()
        self._policy = SamplePolicy()
        self._size = _HEAD_BYTES + sum(map(_row_bytes, (*config.inputs, *config.outputs)))
        """Of a file: what is expected first, then what the last one had."""
        self._ready: list[Taken] = []
        self._next_look_s = 0.0
        self._given_s = 0.0
        """From then on an application may give a sample."""

    def offer(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        request: str = "",
        *,
        wanted: bool = False,
    ) -> None:
        """Look at one row of what was asked and answered, if it is due; call it only while `on`.

        Args:
            inputs: by name.
            outputs: by name.
            request: as the application has named it; empty: it has not.
            wanted: whether the application asks for this one to be kept.
        """
        now_s = self._monotonic()
        if now_s < self._next_look_s and not (wanted and self._chooser.heeds_asking()):
            return
        with self._lock:
            if not self.on:
                return
            asked = Asked(inputs, outputs, request)
            self._guarded(lambda: self._chooser.look(asked, now_s, self._interval_s, wanted=wanted))
            looked_s = self._monotonic() - now_s
            self._next_look_s = now_s + max(1.0 / _LOOKS_PER_S, looked_s / _LOOKING_MAX)

    def disagreed(self, difference: Difference, asked: Asked) -> None:
        """Be told that a candidate answers a request otherwise; from the thread of copies."""
        now_s = self._monotonic()
        with self._lock:
            if self.on:
                self._guarded(
                    lambda: self._chooser.disagreed(difference, asked, now_s, self._interval_s)
                )

    def _guarded(self, choose: Callable[[], list[Chosen]]) -> None:
        """Keep what is chosen; whatever is odd about it, no sample is worth a request."""
        try:
            for reason, row in choose():
                self._keep(reason, row)
        except (KeyError, ValueError, IndexError, MemoryError):
            _log.exception("%s cannot be sampled: nothing more is taken", self._bundle.slot)
            self.on = False

    def take(self, policy: SamplePolicy) -> list[Taken]:
        """Return what was taken since the last call, and go by `policy` from now on."""
        with self._lock:
            if policy != self._policy:
                self._policy = policy
                fits = self._size <= policy.bytes_per_day
                finds = self._chooser.change(policy, self._monotonic(), self._interval_s)
                self.on = policy.on and self._possible and fits and finds
                self._ready = []
            if self.on:
                now_s = self._monotonic()
                self._guarded(lambda: self._chooser.go_on(now_s, self._interval_s))
            ready, self._ready = self._ready, []
        return ready

    def give(self, content: bytes, reason: SampleReason) -> bool:
        """Take a sample that an application has taken of this model; say whether it is kept.

        All applications together give one in an interval, whatever is taken here.

        Args:
            content: the file, checked.
            reason: as it says.
        """
        now_s = self._monotonic()
        with self._lock:
            room = self.waiting_bytes + len(content) <= SAMPLE_BYTES_MAX
            allowed = self.on and reason in self._policy.reasons
            if not allowed or not room or now_s < self._given_s:
                return False
            interval_s = _DAY_S * len(content) / max(1, self._policy.bytes_per_day)
            # Theirs end at other moments: a little early is no more in a day.
            self._given_s = now_s + max(INTERVAL_S_MIN, interval_s) / 2
            self._ready.append(Taken(content=content))
        return True

    @property
    def waiting_bytes(self) -> int:
        """Length of what `take` would return."""
        return sum(len(one.content) for one in self._ready)

    @property
    def _interval_s(self) -> float:
        """Length of an interval: so many samples of this size are in a day's budget."""
        return max(INTERVAL_S_MIN, _DAY_S * self._size / max(1, self._policy.bytes_per_day))

    def _copy(self, asked: Asked, number: int) -> Row:
        """Return one row of a request, in arrays of its own."""
        rows = 1 if self._rows_of is None else len(asked.inputs[self._rows_of])
        name = f"{asked.name}:{number}" if asked.name and rows > 1 else asked.name
        return Row(
            self._now(),
            self._copies(self._inputs, asked.inputs, number),
            self._copies(self._outputs, asked.outputs, number),
            name if _NAME.fullmatch(name) else "",
        )

    def _copies(
        self, specs: tuple[TensorSpec, ...], given: Mapping[str, Tensor], number: int
    ) -> dict[str, Tensor]:
        arrays = {}
        for spec in specs:
            array = given[spec.name]
            if self._rows_of is not None and spec.shape[:1] == (-1,):
                array = array[number : number + 1]
            arrays[spec.name] = array.copy()
        return arrays

    def _keep(self, reason: SampleReason, row: Row) -> None:
        """Encode a row; what has no room until it is taken away is not kept."""
        bundle = self._bundle
        note = SampleNote(
            model=bundle.slot,
            version=bundle.version,
            manifest=bundle.manifest,
            reason=reason,
            taken_at=row.taken_at,
            request=row.request,
        )
        tensors = [
            *(_encoded("input", spec, row.inputs[spec.name]) for spec in self._inputs),
            *(_encoded("output", spec, row.outputs[spec.name]) for spec in self._outputs),
        ]
        try:
            content = encode_sample(note, tensors)
        except LimitExceeded as error:
            _log.warning("%s is not sampled: %s", bundle.slot, error)
            self.on = False
            return
        self._size = len(content)
        if self.waiting_bytes + len(content) <= SAMPLE_BYTES_MAX:
            self._ready.append(Taken(content=content))


def _encoded(kind: str, spec: TensorSpec, array: Tensor) -> tuple[SampleTensor, bytes]:
    datatype = sample_datatype(spec.datatype)
    assert datatype is not None, "else nothing is offered"
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return SampleTensor(f"{kind}.{spec.name}", datatype, array.shape), little.tobytes()


def _row_bytes(spec: TensorSpec) -> int:
    """Return the bytes of one row; a size that is not known counts as one."""
    if spec.datatype == "BYTES":
        return 0
    elements = prod(max(1, size) for size in spec.shape)
    return int(elements * np.dtype(DTYPES[spec.datatype]).itemsize)
