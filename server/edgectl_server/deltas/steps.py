"""Elements that are whole steps from those of the base, found from both files alone.

A version that is released in small steps (`edgectl_server.pipeline.small_steps`) differs from its
parent by a few whole steps of one size, or of one a row. The largest size is looked for of which
every difference is at most 127, by which the target comes out to the last bit; what differs as
training left it has none. See `edgectl_delta.elements.apply_steps` for the sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgectl_delta.elements import Array, apply_steps, numbers_of, row_numbers
from edgectl_protocol.deltas import Elements, Kind, Predictor

__all__ = ["Steps", "find_steps", "parameter_of", "step_size"]

_FLOATS = (Kind.F32, Kind.F16, Kind.BF16)
_STEPS_MAX = 127
_SIZES_TRIED = 17
"""From the largest difference down to the 128th part of it, two an octave."""
_SAMPLE_ELEMENTS = 4096
_PARAMETER_MIN = -250
_INTEGER_PARAMETER_MIN = 0
"""Of integers, one step of 1 is no other than the difference."""
_THREE_HALVES = 0.75


class Steps(NamedTuple):
    """How many steps each element is from its base.

    Attributes:
        inner: elements after which the next row begins.
        rows: after which the first comes again.
        parameters: int16 by row, of the size of a step.
        steps: int8.
    """

    inner: int
    rows: int
    parameters: Array
    steps: Array


def parameter_of(size: Array) -> Array:
    """Return the parameters, int64, of the largest steps that are not larger than `size`."""
    fraction, exponent = np.frexp(size)
    found = 2 * (exponent.astype(np.int64) - 2) + (fraction >= _THREE_HALVES)
    return np.asarray(np.where(size > 0, np.maximum(found, _PARAMETER_MIN), _PARAMETER_MIN))


def step_size(parameter: Array) -> Array:
    """Return the sizes, float64, that parameters mean."""
    return np.asarray(np.ldexp(2.0 + (parameter & 1), (parameter >> 1).astype(np.int32)))


def find_steps(
    kind: Kind, before: bytes, after: Array, shapes: list[tuple[int, int]]
) -> Steps | None:
    """Return the steps that lead from `before` to `after`, or None.

    Args:
        kind: of the elements.
        before: of the base.
        after: bits of the target's elements.
        shapes: (inner, rows) to try, if no size fits all elements.
    """
    bits = np.frombuffer(before, after.dtype)
    if kind in _FLOATS:
        with np.errstate(all="ignore"):
            difference = numbers_of(kind, after) - numbers_of(kind, bits)
        if not np.isfinite(difference).all():
            return None
    else:
        signed = after.dtype if kind is Kind.U8 else np.dtype(f"<i{after.itemsize}")
        difference = after.view(signed).astype(np.float64) - bits.view(signed)
    for inner, rows in [(len(after), 1), *shapes]:
        one = Elements(kind, Predictor.STEPS, len(after), inner=inner, rows=rows)
        found = _find(one, bits, after, difference)
        if found is not None:
            return found
    return None


def _find(one: Elements, bits: Array, after: Array, difference: Array) -> Steps | None:
    """Return the steps with a size for each row, or None."""
    sample = slice(0, min(one.size, _SAMPLE_ELEMENTS))
    few = one._replace(size=sample.stop)
    if _sizes(few, bits[sample], after[sample], difference[sample]) is None:
        return None
    parameters = _sizes(one, bits, after, difference)
    if parameters is None or not np.any(difference):
        return None
    sizes = step_size(parameters)[row_numbers(one)]
    steps = _count(one.kind, after, difference / sizes)
    return Steps(one.inner, one.rows, parameters.astype(np.int16), steps.astype(np.int8))


def _count(kind: Kind, after: Array, exact: Array) -> Array:
    """Return the number of steps; bfloat16 are cut, so that they end nearer to zero."""
    if kind is not Kind.BF16:
        return np.asarray(np.rint(exact))
    return np.asarray(np.where(after >> 15 != 0, np.floor(exact), np.ceil(exact)))


def _sizes(one: Elements, bits: Array, after: Array, difference: Array) -> Array | None:
    """Return the parameter of each row, or None if a row has none that fits."""
    numbers = row_numbers(one)
    largest = np.zeros(one.rows)
    np.maximum.at(largest, numbers, np.abs(difference))
    least = _PARAMETER_MIN if one.kind in _FLOATS else _INTEGER_PARAMETER_MIN
    top = parameter_of(largest) + 1
    chosen = np.full(one.rows, -1, np.int64)
    moved = largest > 0
    open_ = moved.copy()
    for down in range(_SIZES_TRIED):
        if not open_.any():
            break
        tried = top - down
        fits = open_ & (tried >= least)
        steps = _count(one.kind, after, difference / step_size(tried)[numbers])
        small = np.abs(steps) <= _STEPS_MAX
        made = apply_steps(one, bits.tobytes(), np.where(small, steps, 0).astype("i1"), tried)
        wrong = np.bincount(numbers, ~(small & (made == after)), one.rows)
        fits &= wrong == 0
        chosen[fits] = down
        open_ &= ~fits
    if open_.any():
        return None
    # A row that has not moved takes the size of its neighbour: so sizes are alike, and packed small
    known = np.flatnonzero(moved)
    parameters = top - chosen
    if len(known):
        near = np.clip(np.searchsorted(known, np.arange(one.rows)), 0, len(known) - 1)
        parameters = np.where(moved, parameters, parameters[known[near]])
    return np.asarray(parameters)
