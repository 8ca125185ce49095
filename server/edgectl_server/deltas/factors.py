"""Low rank: what fine-tuning adds to a matrix is to a large part a sum of few outer products.

Gradients of a layer are sums of outer products of what goes in and what comes back, so a weight
matrix that was trained further differs from what it was by few of them and noise. Those that pay
are found by a truncated singular value decomposition (randomized: N. Halko, P. Martinsson,
J. Tropp, arXiv:0909.4061), rounded to integers of the precision that the noise asks for, and sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edgectl_delta.elements import Array
from edgectl_protocol.deltas import FACTORS_MAX, RANK_MAX, RANK_SHIFT_MAX

__all__ = ["Factors", "candidates", "factor_bits"]

_NOISE_SHARE = 0.02
"""Of the variance that is left, the part that rounding adds, for either factor."""
_OVERSAMPLING = 8
_POWER_ITERATIONS = 3
_GRAM_SIDE_MAX = 1024
_RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LARGEST = 2**15 - 1
_COMPONENT_ELEMENTS_MIN = 256
_EXPONENT_MAX = 200


class Factors(NamedTuple):
    """Integers, and the powers of two that they are multiplied by; see `LowRank`."""

    exponents: Array
    """int16 [rows]."""
    by_row: Array
    """int16 [rank, rows]."""
    by_column: Array
    """int16 [rank, columns]."""
    exponent: int
    shifts: tuple[int, ...]

    def held(self) -> bytes:
        """Return the bytes that a device holds."""
        return b"".join(
            part.astype("<i2").tobytes() for part in (self.exponents, self.by_row, self.by_column)
        )


def candidates(difference: Array) -> Iterator[Factors]:
    """Yield approximations of a matrix, of growing rank.

    Args:
        difference: float64 [rows, columns].
    """
    rows, columns = difference.shape
    largest = min(RANK_MAX, rows // 2, columns // 2, FACTORS_MAX // (rows + columns))
    if (
        largest < 1
        or difference.size < _COMPONENT_ELEMENTS_MIN
        or not np.isfinite(difference).all()
    ):
        return
    sizes = np.abs(difference).mean(axis=1)
    if not sizes.any():
        return
    logs = np.log2(np.where(sizes > 0, sizes, 1.0))
    middle = int(np.round(np.median(logs[sizes > 0])))
    if abs(middle) > _EXPONENT_MAX:
        return
    exponents = np.where(sizes > 0, np.clip(np.round(logs) - middle, -20, 20), 0).astype(np.int16)
    scaled = difference / np.exp2(exponents.astype(np.float64) + middle)[:, None]
    left, values, right = _decompose(scaled, largest)
    energy = float((scaled**2).sum())
    for rank in _RANKS:
        if rank > largest or values[rank - 1] <= 0:
            return
        noise = max(energy - float((values[:rank] ** 2).sum()), energy * 1e-6) / scaled.size
        made = _round(left, values, right, rank, noise)
        if made is not None:
            by_row, by_column, powers = made
            lowest = min(powers)
            shifts = tuple(power - lowest for power in powers)
            if max(shifts) <= RANK_SHIFT_MAX and abs(lowest + middle) <= _EXPONENT_MAX:
                yield Factors(exponents, by_row, by_column, lowest + middle, shifts)


def factor_bits(factors: Factors) -> float:
    """Return about how many bits they take."""
    numbers = np.concatenate([factors.by_row.ravel(), factors.by_column.ravel()])
    sizes = np.log2(np.abs(numbers.astype(np.float64)) + 1).sum()
    return float(sizes) + 1.7 * len(numbers) + 2.0 * len(factors.exponents)


def _decompose(matrix: Array, rank: int) -> tuple[Array, Array, Array]:
    """Return the first singular vectors and values, by way of the smaller Gram matrix.

    Small singular values lose half of their digits that way, and are not wanted. A matrix that is
    large in both directions is projected to a few of its columns' combinations first.
    """
    if matrix.shape[0] < matrix.shape[1]:
        right, values, left = _decompose(matrix.T, rank)
        return left.T, values, right.T
    columns = matrix.shape[1]
    if columns <= _GRAM_SIDE_MAX:
        return _by_gram(matrix, rank)
    found = np.random.default_rng(0).standard_normal((columns, rank + _OVERSAMPLING))
    for _ in range(_POWER_ITERATIONS):
        found, _values, _right = _by_gram(matrix.T @ (matrix @ found), rank + _OVERSAMPLING)
    left, values, inner = _by_gram(matrix @ found, rank)
    return left, values, inner @ found.T


def _by_gram(matrix: Array, rank: int) -> tuple[Array, Array, Array]:
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    chosen = vectors[:, ::-1][:, :rank]
    values = np.sqrt(np.maximum(squares[::-1][:rank], 0.0))
    with np.errstate(all="ignore"):
        left = np.where(values > 0, matrix @ chosen / values, 0.0)
    return left, values, chosen.T


def _round(
    left: Array, values: Array, right: Array, rank: int, noise: float
) -> tuple[Array, Array, list[int]] | None:
    """Return integer factors, and the power of two of each product."""
    by_row, by_column, powers = [], [], []
    for number in range(rank):
        value = values[number]
        row_step = np.sqrt(12 * right.shape[1] * _NOISE_SHARE * noise / rank)
        column_step = np.sqrt(12 * left.shape[0] * _NOISE_SHARE * noise / rank)
        power = int(np.round(np.log2(row_step * column_step / value)))
        stretch = np.sqrt(2.0**power * value / (row_step * column_step))
        by_row.append(np.round(left[:, number] * value / (row_step * stretch)))
        by_column.append(np.round(right[number] * value / (column_step * stretch)))
        powers.append(power)
    rows, columns = np.array(by_row), np.array(by_column)
    if max(np.abs(rows).max(), np.abs(columns).max()) > _LARGEST:
        return None
    return rows.astype(np.int16), columns.astype(np.int16), powers
