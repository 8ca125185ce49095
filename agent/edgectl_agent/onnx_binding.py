"""Memory that is bound to an onnxruntime session once, for the small runs of one row.

For every run onnxruntime asks what the arrays are, wraps them and makes arrays for the outputs. For
a small model that costs more than to copy a few bytes in and out, most of all where others have
used the processor's caches since the run before.

Rules:

* Only for what is worth it: sizes that the model leaves open are 1, elements are numbers, inputs
  and outputs together are few bytes. All else is the session's own run.
* One run at a time: a second thread does not wait, it takes the session's own run.
* What it gives are copies, and nothing keeps the arrays that it was given.
* It is believed only after it has given, byte for byte, what the session's own run gave.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from edgectl_agent.session import DTYPES, Node, Tensor

__all__ = ["BOUND_BYTES_MAX", "Bound", "bind", "row_of"]

BOUND_BYTES_MAX = 64 * 1024
"""Inputs and outputs together."""
_NUMBERS = "biuf"
_UNWRITTEN = 0xA5

Shape = tuple[int, ...]
Bound = Callable[[tuple[str, ...], Mapping[str, Tensor]], list[Tensor] | None]
"""Takes what `Session.run` takes. Returns the outputs, or None for inputs that do not fit and while
another run is under way; raises what the runtime raises."""


def row_of(inputs: Sequence[Node]) -> dict[str, Shape] | None:
    """Return the shapes of the runs that memory may be bound for; None where it may be for none."""
    shapes, size = {}, 0
    for node in inputs:
        kind = DTYPES.get(node.datatype)
        if node.shape is None or kind is None or kind.kind not in _NUMBERS:
            return None
        shapes[node.name] = shape = tuple(1 if one is None else one for one in node.shape)
        size += math.prod(shape) * kind.itemsize
    return shapes if size <= BOUND_BYTES_MAX else None


def bind(
    session: Any,
    outputs: tuple[str, ...],
    inputs: Mapping[str, Tensor],
    values: Sequence[Any],
) -> Bound | None:
    """Return what runs `session` through bound memory, or None where that is not worth it or fails.

    Args:
        session: an `onnxruntime.InferenceSession` on the processor.
        outputs: those to compute.
        inputs: of a run of the session's own; see `row_of`.
        values: what that has given; not always arrays.
    """
    if not all(isinstance(one, np.ndarray) and one.dtype.kind in _NUMBERS for one in values):
        return None
    sizes = [one.nbytes for one in (*inputs.values(), *values)]
    if not all(sizes) or sum(sizes) > BOUND_BYTES_MAX:
        return None
    binding = session.io_binding()
    taken = {name: np.array(array, order="C") for name, array in inputs.items()}
    given = [np.empty_like(array, order="C") for array in values]
    for array in given:
        array.reshape(-1).view(np.uint8).fill(_UNWRITTEN)
    try:
        for name, array in taken.items():
            binding.bind_input(name, *_place(array))
        for name, array in zip(outputs, given, strict=True):
            binding.bind_output(name, *_place(array))
        bound = _bound(session, binding, outputs, taken, given)
        again = bound(outputs, inputs)
    except Exception:  # noqa: BLE001 - the runtime raises a dozen unrelated types
        return None
    assert again is not None, "nobody else has it yet"
    same = all(a.tobytes() == b.tobytes() for a, b in zip(again, values, strict=True))
    return bound if same else None


def _bound(
    session: Any,
    binding: Any,
    outputs: tuple[str, ...],
    inputs: Mapping[str, Tensor],
    values: Sequence[Tensor],
) -> Bound:
    # A closure, past the wrapper, with options made once: after others have used the caches, each
    # object that a run touches counts.
    run, inner = session._sess.run_with_iobinding, binding._iobinding  # noqa: SLF001
    options = onnxruntime.RunOptions()
    places = tuple((name, array, array.shape, array.dtype) for name, array in inputs.items())
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release

    def bound(names: tuple[str, ...], arrays: Mapping[str, Tensor]) -> list[Tensor] | None:
        if names != outputs or len(arrays) != len(places) or not acquire(blocking=False):
            return None
        try:
            for name, memory, shape, kind in places:
                array = arrays[name]
                if array.shape != shape or array.dtype != kind:
                    return None
                memory[...] = array
            run(inner, options)
            return [memory.copy() for memory in values]
        finally:
            release()

    return bound


def _place(array: Tensor) -> tuple[str, int, type, Shape, int]:
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
