"""Elements: what each is expected to be, how the difference is written, and in which context.

docs/deltas.md states all of it in scalar arithmetic; here it is for whole arrays. Real arithmetic
is binary64, each operation rounded, none fused, so that every machine comes to the same bits.

Differences are of integers: floats are mapped to integers of the same order (their bits, with
negative ones turned round), so that a small step of a weight is a small number, also across zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.deltas import ITEM_BYTES, KEYS, Elements, Kind, Predictor

__all__ = [
    "Array",
    "apply_residuals",
    "apply_steps",
    "contexts",
    "correction",
    "multiplier_of",
    "numbers_of",
    "predict",
    "raw_bits",
    "read_raw",
    "residuals",
    "row_numbers",
    "split_code",
    "to_code",
    "write_raw",
]

Array = npt.NDArray[Any]

_FLOATS = {Kind.F32: (32, 23), Kind.F16: (16, 10), Kind.BF16: (16, 7)}
"""Bits in all, and of the fraction."""
_UNSIGNED: dict[int, Any] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_SIGNED: dict[int, Any] = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4")}
_RATIO_MAX = 65536.0
_ADDED_MAX = 2.0**40
_EXPONENT_MAX = 256
_MULTIPLIER_ONE = 16384.0
_QUARTERS = 4
_ROW_CLASSES = 16
_HALF = 0.5
_STEP_MIN, _STEP_MAX = -256, 58
"""Of the parameters of steps: then an integer of so many steps has less than 64 bits."""


def multiplier_of(parameter: Array) -> Array:
    """Return the multipliers that int16 parameters mean: 1 + parameter / 2^14."""
    return 1.0 + parameter.astype(np.float64) / _MULTIPLIER_ONE


def row_numbers(one: Elements) -> Array:
    """Return the row of each element."""
    if one.rows == 1:
        return np.zeros(one.size, np.int64)
    return np.arange(one.size, dtype=np.int64) // one.inner % one.rows


def correction(one: Elements, held: bytes | memoryview) -> Array | None:
    """Return what a sum of products adds to each element; None if there is none.

    Products and their sums are integers below 2^53: exact, in whatever order they are added.

    Args:
        one: the elements.
        held: what its sum refers to.
    """
    low_rank = one.low_rank
    if low_rank is None:
        return None
    numbers = np.frombuffer(held, "<i2")
    rank, rows = len(low_rank.shifts), low_rank.rows
    exponents, by_row, by_column = np.split(numbers, [rows, rows * (1 + rank)])
    chosen = slice(low_rank.first, low_rank.first + one.rows)
    left = by_row.reshape(rank, rows)[:, chosen].T.astype(np.float64)
    left *= np.exp2(np.array(low_rank.shifts, np.float64))
    sums = left @ by_column.reshape(rank, one.inner).astype(np.float64)
    exponent = (
        np.clip(exponents[chosen].astype(np.int64), -_EXPONENT_MAX, _EXPONENT_MAX)
        + low_rank.exponent
    )
    added: Array = np.ldexp(sums, exponent.astype(np.int32)[:, None]).ravel()
    return added


def predict(
    one: Elements, base: bytes, multiplier: Array | None, added: Array | None = None
) -> tuple[Array, Array]:
    """Return what is expected, as unsigned bits, and where between two integers it lay.

    Of STEPS that is the number of steps, as int8.

    Args:
        one: the elements.
        base: of the base; of the held bytes for PRODUCT.
        multiplier: of each element; None: 1.
        added: see `correction`.
    """
    size = ITEM_BYTES[one.coded]
    middle = np.full(1, _QUARTERS // 2, np.int64)
    if one.predictor is Predictor.ZERO or (one.predictor is Predictor.STEPS and added is None):
        return np.zeros(one.size, _UNSIGNED[size]), middle
    if one.predictor is Predictor.STEPS:
        bits, multiplier = np.zeros(one.size, _UNSIGNED[size]), np.ones(1)
    else:
        bits = np.frombuffer(base, _UNSIGNED[size])
    if one.predictor is Predictor.PRODUCT:
        multiplier = np.frombuffer(one.factor.to_bytes(4, "little"), "<f4").astype(np.float64)
    if multiplier is None:
        return bits, middle
    with np.errstate(all="ignore"):
        if one.coded in _FLOATS:
            return _scaled_floats(one.kind, bits, multiplier, added), middle
        multiplier = np.where(np.abs(multiplier) <= _RATIO_MAX, multiplier, 1.0)
        values = bits if one.coded is Kind.U8 else bits.view(_SIGNED[size])
        exact = values * multiplier
        if added is not None:
            exact = exact + np.where(np.abs(added) <= _ADDED_MAX, added, 0.0)
        exact = exact + _HALF
        whole = np.floor(exact)
        quarter = np.floor((exact - whole) * _QUARTERS).astype(np.int64)
        return whole.astype(np.int64).astype(_UNSIGNED[size]), quarter


def _scaled_floats(kind: Kind, bits: Array, multiplier: Array, added: Array | None) -> Array:
    """Return the products; the element itself where it, or the product, is not finite."""
    product = numbers_of(kind, bits) * multiplier
    if added is not None:
        product = product + added
    return _rounded(kind, bits, product)


def numbers_of(kind: Kind, bits: Array) -> Array:
    """Return what the bits of floats mean, as float64."""
    if kind is Kind.BF16:
        return (bits.astype("<u4") << np.uint32(16)).view("<f4").astype(np.float64)
    return bits.view("<f4" if kind is Kind.F32 else "<f2").astype(np.float64)


def _rounded(kind: Kind, bits: Array, product: Array) -> Array:
    """Return the bits of numbers as floats of a kind; `bits` where either is not finite."""
    width, fraction = _FLOATS[kind]
    exponents = ((1 << (width - 1 - fraction)) - 1) << fraction
    if kind is Kind.F16:
        scaled = product.astype("<f2").view("<u2")
    else:
        scaled = product.astype("<f4").view("<u4")
        if kind is Kind.BF16:
            scaled = (scaled >> np.uint32(16)).astype("<u2")
    infinite = ((bits & exponents) == exponents) | ((scaled & exponents) == exponents)
    chosen: Array = np.where(infinite, bits, scaled)
    return chosen


def apply_steps(one: Elements, base: bytes, steps: Array, parameters: Array) -> Array:
    """Return the bits of the elements that are so many steps from those of the base.

    A step is (2 + p mod 2) * 2^floor(p / 2), where p is the parameter of its row: each is about
    1.4 times the one before, and a small integer times a power of two, so that any number of them
    is exact, and adding them is the only rounding.

    Args:
        one: the elements, of STEPS.
        base: of the base.
        steps: int8, how many.
        parameters: int16 by row.
    """
    bounded = np.clip(parameters.astype(np.int32), _STEP_MIN, _STEP_MAX)
    sizes = np.ldexp(2.0 + (bounded & 1), bounded >> 1)
    bits = np.frombuffer(base, _UNSIGNED[ITEM_BYTES[one.kind]])
    moved = steps.view(np.int8).astype(np.float64) * sizes[row_numbers(one)]
    if one.kind not in _FLOATS:
        return np.asarray(bits + np.floor(moved).astype(np.int64).astype(bits.dtype))
    with np.errstate(all="ignore"):
        return _rounded(one.kind, bits, numbers_of(one.kind, bits) + moved)


def contexts(kind: Kind, expected: Array, quarter: Array, shift: Array) -> Array:
    """Return the key of each element, 0 to `KEYS` - 1.

    Args:
        kind: of the elements.
        expected: bits.
        quarter: where between two integers the exact value lay.
        shift: int64, of each element's row.
    """
    if kind in _FLOATS:
        width, fraction = _FLOATS[kind]
        halves = (expected & ((1 << (width - 1)) - 1)).astype(np.int64) >> (fraction - 1)
        return np.asarray(np.clip(halves - shift, 0, KEYS - 1))
    if kind in (Kind.I32, Kind.I16):
        size = np.frexp(np.abs(expected.view(_SIGNED[ITEM_BYTES[kind]]).astype(np.float64)))[1]
        return np.asarray(np.clip(size - shift, 0, KEYS - 1))
    return np.asarray(shift % _ROW_CLASSES * _QUARTERS + quarter)


def _ordered(kind: Kind, bits: Array) -> tuple[Array, Array]:
    """Return integers in the order of the floats, and which are negative."""
    width = _FLOATS[kind][0]
    negative = bits >> (width - 1) != 0
    top = bits.dtype.type(1 << (width - 1))
    return np.where(negative, ~bits, bits | top), negative


def residuals(kind: Kind, expected: Array, actual: Array) -> Array:
    """Return the differences as int64; of floats, away from zero is positive."""
    size = ITEM_BYTES[kind]
    if kind not in _FLOATS:
        return np.asarray((actual - expected).view(_SIGNED[size]).astype(np.int64))
    before, negative = _ordered(kind, expected)
    after, _ = _ordered(kind, actual)
    difference = after - before
    return np.asarray(
        np.where(negative, -difference, difference).view(_SIGNED[size]).astype(np.int64)
    )


def apply_residuals(kind: Kind, expected: Array, found: Array) -> Array:
    """Return the bits of the elements, given int64 differences."""
    unsigned = _UNSIGNED[ITEM_BYTES[kind]]
    difference = found.astype(unsigned)
    if kind not in _FLOATS:
        return np.asarray(expected + difference)
    before, negative = _ordered(kind, expected)
    after = before + np.where(negative, -difference, difference)
    top = unsigned.type(1 << (_FLOATS[kind][0] - 1))
    return np.asarray(np.where(after & top, after ^ top, ~after))


def to_code(kind: Kind, found: Array) -> tuple[Array, Array, Array]:
    """Return symbol, number of raw bits and the raw bits of each difference."""
    if ITEM_BYTES[kind] == 1:
        zero = np.zeros(len(found), np.int64)
        return np.asarray((found << 1) ^ (found >> 63)), zero, zero
    size = np.abs(found)
    length = np.frexp(size.astype(np.float64))[1].astype(np.int64)
    count = np.maximum(length - 2, 0)
    top = (size >> count) & 1 & (length > 1)
    symbol = np.where(length > 0, 1 + (((length - 1) * 2 + top) * 2) + (found < 0), 0)
    return symbol, count, size & ((1 << count) - 1)


def raw_bits(kind: Kind, symbols: Array) -> Array:
    """Return how many raw bits each symbol has."""
    if ITEM_BYTES[kind] == 1:
        return np.zeros(len(symbols), np.int64)
    return np.asarray(np.maximum(((symbols.astype(np.int64) - 1) >> 2) - 1, 0))


def split_code(kind: Kind, symbols: Array, raw: Array) -> Array:
    """Return the differences, given symbols and their raw bits."""
    if ITEM_BYTES[kind] == 1:
        wide = symbols.astype(np.int64)
        return np.asarray((wide >> 1) ^ -(wide & 1))
    wide = symbols.astype(np.int64) - 1
    length = (wide >> 2) + 1
    count = np.maximum(length - 2, 0)
    size = np.where(length > 1, (2 + (wide >> 1 & 1)) << count | raw, 1)
    size[wide < 0] = 0
    return np.asarray(np.where(wide & 1, -size, size))


def write_raw(counts: Array, values: Array) -> bytes:
    """Return bits, least significant first, one value after the other."""
    total = int(counts.sum())
    starts = np.cumsum(counts) - counts
    out = np.zeros((total + 7) // 8 + 8, np.uint64)
    place, shift = starts >> 3, (starts & 7).astype(np.uint64)
    spread = values.astype(np.uint64) << shift
    for byte in range(5):  # at most 30 bits and a shift of 7
        part = spread >> np.uint64(8 * byte) & np.uint64(255)
        np.bitwise_or.at(out, place + byte, part)
    return out[: (total + 7) // 8].astype(np.uint8).tobytes()


def read_raw(content: bytes, counts: Array) -> Array:
    """Return the values that `write_raw` has written; the length has been checked."""
    padded = np.frombuffer(content + bytes(8), np.uint8)
    starts = np.cumsum(counts) - counts
    place = starts >> 3
    values = np.zeros(len(counts), np.int64)
    for byte in range(5):
        values |= padded[place + byte].astype(np.int64) << (8 * byte)
    values >>= starts & 7
    return np.asarray(values & ((1 << counts) - 1))
