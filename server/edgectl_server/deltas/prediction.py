"""How the elements of a changed tensor are predicted best: the trial behind each tensor.

A retrained layer is the old one plus noise, often with each channel scaled anew: batch
normalization folded into the weights, or a quantization scale of its own. So a multiplier by row is
fitted by least squares, for rows along the first axis and along the last, and kept where the
difference to come is smaller by more than the multiplier costs.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from edgectl_delta import elements as arithmetic
from edgectl_delta.elements import Array
from edgectl_protocol.deltas import KEYS, Elements, Kind, LowRank, Predictor
from edgectl_server.deltas.factors import Factors, candidates, factor_bits
from edgectl_server.deltas.matching import values
from edgectl_server.deltas.steps import Steps, find_steps
from edgectl_server.deltas.tensors import Tensor

__all__ = ["Effort", "Plan", "plan_product", "plan_tensor", "shifts_for"]

_ROW_ELEMENTS_MIN = 16
_SHIFT_ELEMENTS_MIN = 32
"""In a row, for a shift of its own."""
_MULTIPLIER_BITS = 12.0
_ROW_BITS = 4.0
"""Of a shift, as it is packed."""
_ONE = 1 << 14
_FLOATS = (Kind.F32, Kind.F16, Kind.BF16)
_FRACTION_BITS = {Kind.F32: 23, Kind.F16: 10, Kind.BF16: 7}
_INT32_KEY = 24
_NEAR_KEY = 8
_PRODUCT_SHARE_MIN = 0.8
_ROWS_MAX = 2**16
_MATRIX_DIMENSIONS = 2
_MATRIX_SIDE_MIN = 8
_MATRIX_ELEMENTS_MAX = 2**24
_CELL_BITS = 1.0
"""Of the tables, which tensors share, for each symbol of each context."""
_CLEARLY_LESS = 0.8
"""Of the bits of differences: then steps are what the file was made of."""
_WORSE_MAX = 2
"""Ranks in a row that save nothing, before no higher ones are tried."""


class Effort(IntEnum):
    """What is tried for a tensor: everything, no sums of products, or neither those nor rows."""

    ALL = 0
    ROWS = 1
    PLAIN = 2


class Plan(NamedTuple):
    """How a tensor is coded; `multipliers` is int16 by row, if there are some; `cost` in bits."""

    one: Elements
    multipliers: Array
    cost: float
    factors: Factors | None = None
    """Of what is added; `one.low_rank` refers to held bytes that begin with them."""
    steps: Array | None = None
    """Of STEPS, their number as uint8 bits."""


def plan_tensor(
    base: memoryview,
    before: Tensor,
    target: memoryview,
    after: Tensor,
    *,
    ratio: tuple[Tensor, Array, Array] | None = None,
    effort: Effort = Effort.ALL,
) -> Plan:
    """Return the best plan for a tensor whose predecessor is `before`.

    Args:
        base: the file.
        before: the tensor in it.
        target: the file.
        after: the tensor in it.
        ratio: scales in the base, and their values before and after, if the tensor has some. Where
            the target's are held is not known yet.
        effort: what is tried.
    """
    bits = base[before.offset : before.offset + before.length].tobytes()
    actual = _bits(target, after)
    plain = Elements(after.kind, Predictor.SAME, after.size, before.offset, after.size)
    shapes = _row_shapes(after)
    best = Plan(plain, np.zeros(0, np.int16), _cost(plain, bits, actual, None))
    stepped = None if effort is Effort.PLAIN else _plan_steps(plain, bits, actual, after, effort)
    if stepped is not None and stepped.cost < _CLEARLY_LESS * best.cost:
        return stepped
    for inner, rows in shapes if effort is not Effort.PLAIN else ():
        shaped = plain._replace(inner=inner, rows=rows)
        split = Plan(shaped, best.multipliers, best.cost - 1)  # a shift by row, if nothing else
        if best.one.rows == 1 and best.one.predictor is Predictor.SAME:
            best = split
        if after.kind is not Kind.BF16:
            fitted = _fit(shaped, bits, actual, values(base, before), values(target, after))
            best = min(best, fitted, key=_bits_of)
    if effort is Effort.ALL:
        best = _add_low_rank(
            best,
            bits,
            actual,
            before=values(base, before),
            after=values(target, after),
            tensor=after,
        )
    if ratio is not None:
        scaled = _plan_ratio(plain, bits, actual, after, ratio)
        if scaled is not None:
            best = min(best, scaled, key=_bits_of)
    return best if stepped is None else min(best, stepped, key=_bits_of)


def plan_product(known: Array, wanted: Array) -> int | None:
    """Return bits of the float32 by which `known` gives almost all of `wanted`, or None."""
    with np.errstate(all="ignore"):
        factors = wanted / known
        factor = np.float32(np.median(factors))
        if not np.isfinite(factor) or np.any(np.abs(factors - factor) > np.abs(factor) * 1e-5):
            return None
        middle = int(factor.view(np.uint32))
        tried = np.arange(middle - 2, middle + 3, dtype=np.uint32).view(np.float32)
        product = (known.astype(np.float64)[None] * tried.astype(np.float64)[:, None]).astype("<f4")
    hits = (product == wanted[None]).mean(axis=1)
    chosen = int(np.argmax(hits))
    return int(tried[chosen].view(np.uint32)) if hits[chosen] >= _PRODUCT_SHARE_MIN else None


def shifts_for(one: Elements, expected: Array, found: Array) -> Array:
    """Return the shift of each row, int16: from how large its differences are.

    Args:
        one: the elements.
        expected: bits.
        found: their differences, int64.
    """
    rows = arithmetic.row_numbers(one)
    count = np.bincount(rows, minlength=one.rows)
    if one.size < _SHIFT_ELEMENTS_MIN * one.rows:
        rows, count = np.zeros_like(rows), np.array([one.size])
    sizes = np.abs(found).astype(np.float64)
    if one.coded in _FLOATS:
        shift = _float_shifts(one.kind, expected, sizes, rows, count)
    else:
        mean = np.bincount(rows, sizes, len(count)) / count
        if one.predictor is Predictor.ZERO:
            shift = -np.clip(np.round(2 * np.log2(mean + 1 / 4)) + _NEAR_KEY, 0, KEYS - 1)
        elif one.coded is Kind.I32:
            shift = np.round(np.log2(mean + 1)) - _INT32_KEY
        else:
            shift = np.clip(np.round(2 * np.log2(mean + 1 / 16)) + _NEAR_KEY, 0, 15)
    whole: Array = np.broadcast_to(shift, (one.rows,)) if len(shift) == 1 else shift
    return whole.astype(np.int16)


def _float_shifts(kind: Kind, expected: Array, sizes: Array, rows: Array, count: Array) -> Array:
    """Return shifts so that key `_NEAR_KEY` means an element as large as the row's differences."""
    fraction = _FRACTION_BITS[kind]
    width = 32 if kind is Kind.F32 else 16
    exponent = (expected & ((1 << (width - 1)) - 1)).astype(np.float64) / (1 << (fraction - 1))
    # In half octaves: the size of the element, plus that of the difference in units of its last bit
    unit = 2 * np.floor(exponent / 2) - 2 * fraction
    changed = sizes > 0
    logs = np.where(changed, 2 * np.log2(np.maximum(sizes, 1)) + unit, 0.0)
    total = np.bincount(rows, logs, len(count))
    moved = np.bincount(rows, changed, len(count))
    mean = total / np.maximum(moved, 1)
    # A row that does not change at all has all its elements at the last key.
    return np.where(moved > 0, np.round(mean) - _NEAR_KEY, -KEYS)


def _bits(content: memoryview, tensor: Tensor) -> Array:
    size = tensor.length // tensor.size
    return np.frombuffer(content, f"<u{size}", tensor.size, tensor.offset)


def _row_shapes(tensor: Tensor) -> list[tuple[int, int]]:
    """Return inner and rows for channels along the first and along the last axis."""
    dims = tensor.dims
    shapes = []
    if len(dims) > 1:
        for inner, rows in ((tensor.size // dims[0], dims[0]), (1, dims[-1])):
            if 1 < rows <= min(tensor.size // _ROW_ELEMENTS_MIN, _ROWS_MAX):
                shapes.append((inner, rows))
    return shapes


def _cost(one: Elements, bits: bytes, actual: Array, multiplier: Array | None) -> float:
    """Return about how many bits the differences take."""
    expected, quarter = arithmetic.predict(one, bits, multiplier)
    return _total(one, expected, quarter, arithmetic.residuals(one.kind, expected, actual))


def _total(one: Elements, expected: Array, quarter: Array, found: Array) -> float:
    """Return about how many bits all differences take."""
    if one.coded not in (Kind.I8, Kind.U8):
        return float(_costs(one.kind, found).sum())
    shift = shifts_for(one, expected, found).astype(np.int64)[arithmetic.row_numbers(one)]
    keys = arithmetic.contexts(one.coded, expected, quarter, shift)
    cells = np.bincount(keys * 512 + found + 256, minlength=KEYS * 512).reshape(KEYS, 512)
    totals = cells.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(cells > 0, cells * np.log2(totals / cells), 0.0)
    return float(bits.sum()) + _CELL_BITS * int(np.count_nonzero(cells))


def _costs(kind: Kind, found: Array) -> Array:
    """Return about how many bits each difference takes."""
    sizes = np.abs(found).astype(np.float64)
    if kind in (Kind.I8, Kind.U8):
        histogram = np.bincount(found + 256, minlength=512)
        share = histogram / max(len(found), 1)
        with np.errstate(divide="ignore"):
            price = np.where(histogram > 0, -np.log2(share), 0.0)
        priced: Array = price[found + 256]
        return priced
    logs: Array = np.log2(sizes + 1) + np.minimum(sizes, 2)
    return logs


def _fit(shaped: Elements, bits: bytes, actual: Array, before: Array, after: Array) -> Plan:
    """Fit one multiplier a row, and keep it where it pays."""
    rows = arithmetic.row_numbers(shaped)
    with np.errstate(all="ignore"):
        x, y = before.astype(np.float64), after.astype(np.float64)
        fitted = np.bincount(rows, x * y, shaped.rows) / np.bincount(rows, x * x, shaped.rows)
        wanted = np.round((fitted - 1) * _ONE)
    parameters = np.where(np.abs(wanted) < 2**15, wanted, 0).astype(np.int16)
    one = shaped._replace(predictor=Predictor.ROWS)
    plain, _ = arithmetic.predict(one, bits, None)
    scaled, _ = arithmetic.predict(one, bits, arithmetic.multiplier_of(parameters)[rows])
    without = _costs(one.kind, arithmetic.residuals(one.kind, plain, actual))
    with_it = _costs(one.kind, arithmetic.residuals(one.kind, scaled, actual))
    gain = np.bincount(rows, without - with_it, one.rows)
    parameters[gain < _MULTIPLIER_BITS] = 0
    cost = _cost(one, bits, actual, arithmetic.multiplier_of(parameters)[rows])
    return Plan(one, parameters, cost + _MULTIPLIER_BITS * int(np.count_nonzero(parameters)))


def _add_low_rank(
    plan: Plan, bits: bytes, actual: Array, *, before: Array, after: Array, tensor: Tensor
) -> Plan:
    """Return the plan with the sum of products that saves most, if one does."""
    rows = tensor.dims[0] if tensor.dims else 0
    if (
        len(tensor.dims) < _MATRIX_DIMENSIONS
        or rows < _MATRIX_SIDE_MIN
        or plan.one.kind is Kind.BF16
    ):
        return plan
    columns = tensor.size // rows
    if columns < _MATRIX_SIDE_MIN or tensor.size > _MATRIX_ELEMENTS_MAX:
        return plan
    parameters = plan.multipliers
    if plan.one.predictor is not Predictor.ROWS or plan.one.rows != rows or plan.one.inner == 1:
        parameters = np.zeros(rows, np.int16)
    one = plan.one._replace(predictor=Predictor.ROWS, inner=columns, rows=rows)
    multiplier = arithmetic.multiplier_of(parameters)[:, None]
    with np.errstate(all="ignore"):
        scaled = before.reshape(rows, columns).astype(np.float64) * multiplier
        difference = after.reshape(rows, columns).astype(np.float64) - scaled
    start = Plan(one, parameters, _MULTIPLIER_BITS * int(np.count_nonzero(parameters)))
    spread = np.repeat(multiplier.ravel(), columns)
    lower = _lower(start, plan.cost, difference, bits=bits, actual=actual, spread=spread)
    return min(plan, lower, key=_bits_of)


def _bits_of(plan: Plan) -> float:
    return plan.cost


def _lower(
    start: Plan, limit: float, difference: Array, *, bits: bytes, actual: Array,
    spread: Array | None = None,
) -> Plan:  # fmt: skip
    """Return the plan with the sum of products that saves most; of infinite cost if none does.

    Args:
        start: without one; its cost is that of its parameters.
        limit: the cost that has to be less.
        difference: float64 [rows, columns], what the sum shall be like.
        bits: of the base.
        actual: bits of what is coded.
        spread: multiplier of each element.
    """
    one = start.one
    best, worse = start._replace(cost=np.inf), 0
    for factors in candidates(difference):
        low_rank = LowRank(0, 0, len(difference), factors.exponent, factors.shifts)
        tried = one._replace(low_rank=low_rank)
        added = arithmetic.correction(tried, factors.held())
        expected, quarter = arithmetic.predict(tried, bits, spread, added)
        found = arithmetic.residuals(one.coded, expected, actual)
        cost = _total(one, expected, quarter, found) + factor_bits(factors) + start.cost
        worse = worse + 1 if cost >= min(best.cost, limit) else 0
        if cost < best.cost:
            best = start._replace(one=tried, cost=cost, factors=factors)
        if worse >= _WORSE_MAX:
            break
    return best


def _plan_steps(
    plain: Elements, bits: bytes, actual: Array, after: Tensor, effort: Effort
) -> Plan | None:
    """Plan in steps, if the elements are some from those of the base."""
    dims = after.dims or (after.size,)
    shapes = [(after.size // dims[0], dims[0]), (1, dims[-1])] if len(dims) > 1 else []
    found = find_steps(plain.kind, bits, actual, [one for one in shapes if one[1] <= _ROWS_MAX])
    if found is None:
        return None
    best = _step_plan(plain, found)
    if found.rows == 1:  # a row may still have a shift of its own
        for inner, rows in _row_shapes(after):
            shaped = Steps(inner, rows, np.repeat(found.parameters, rows), found.steps)
            best = min(best, _step_plan(plain, shaped), key=_bits_of)
    rows = dims[0]
    matrix = len(dims) >= _MATRIX_DIMENSIONS and rows >= _MATRIX_SIDE_MIN
    columns = after.size // rows
    if effort is Effort.ALL and matrix and columns >= _MATRIX_SIDE_MIN:
        if found.rows not in (1, rows) or after.size > _MATRIX_ELEMENTS_MAX:
            return best
        parameters = np.broadcast_to(found.parameters, (rows,))
        start = best._replace(
            one=best.one._replace(inner=columns, rows=rows),
            multipliers=parameters,
            cost=_ROW_BITS * rows,
        )
        wanted = found.steps.astype(np.float64).reshape(rows, columns)
        lower = _lower(start, best.cost, wanted, bits=b"", actual=found.steps.view("u1"))
        best = min(best, lower, key=_bits_of)
    return best


def _step_plan(plain: Elements, found: Steps) -> Plan:
    one = plain._replace(predictor=Predictor.STEPS, inner=found.inner, rows=found.rows)
    steps = found.steps.view("u1")
    expected, quarter = arithmetic.predict(one, b"", None)
    cost = _total(one, expected, quarter, arithmetic.residuals(one.coded, expected, steps))
    return Plan(one, found.parameters, cost + _ROW_BITS * found.rows, steps=steps)


def _plan_ratio(
    plain: Elements,
    bits: bytes,
    actual: Array,
    after: Tensor,
    ratio: tuple[Tensor, Array, Array],
) -> Plan | None:
    """Plan with the scales' ratio as the multiplier, if they are one a channel and have changed."""
    scale, old, new = ratio
    if len(old) != len(new) or np.array_equal(old, new):
        return None
    rows = len(old)
    dims = after.dims
    if rows == dims[0]:
        inner = after.size // rows
    elif rows == dims[-1]:
        inner = 1
    else:
        return None
    one = plain._replace(predictor=Predictor.RATIO, inner=inner, rows=rows, scale=scale.offset)
    with np.errstate(all="ignore"):
        multiplier = old.astype(np.float64) / new.astype(np.float64)
    cost = _cost(one, bits, actual, multiplier[arithmetic.row_numbers(one)])
    return Plan(one, np.zeros(0, np.int16), cost)
