"""Whether two fleets of devices answer alike: mixtures of classes, or of bins, by device. Pure.

Two questions, of which a shift must answer both: is it larger than what is allowed (a distance),
and is it no chance (a test)? With many requests everything is "significant", with few anything is
"large".

Devices see different things, so that their counts differ by more than chance even where the model
is the same. Taking requests for independent would find a shift in every fleet. So the test is the
chi-square of Pearson with the correction of Rao and Scott ("The analysis of categorical data from
complex sample surveys", J. Amer. Statist. Assoc. 76, 1981): counts are divided by the design
effect, which comes from how far the devices of one side are from their own mean. It is estimated
as a correlation within devices, of both sides together, so that a side of one device has one too.
The statistic is judged as an F with the degrees of freedom of the devices (Thomas and Rao,
"Small-sample comparisons of level and power for simple goodness-of-fit statistics under cluster
sampling", J. Amer. Statist. Assoc. 82, 1987), by Paulson's approximation ("An approximate
normalization of the analysis of variance distribution", Ann. Math. Statist. 13, 1942).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEVICES_MIN", "Shift", "compare_bins", "compare_classes"]

DEVICES_MIN = 5
"""Devices of both sides together, below which nothing is known of how devices differ."""
_EXPECTED_MIN = 5.0
"""Counts that a class must be expected to have for the approximation; rarer ones are one class."""
Array = NDArray[np.float64]
Counts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Shift:
    """How far two mixtures are from each other."""

    distance: float
    p_value: float
    """Probability of a distance like this where both sides are alike."""


def compare_classes(new: Counts, reference: Counts) -> Shift | None:
    """Return the total variation distance of two mixtures of classes; None: not enough devices.

    Args:
        new: counts by class, a row for each device; rows may end early.
        reference: the same of the others.
    """
    sides = _read(new, reference)
    if sides is None:
        return None
    mixtures = [one.sum(0) / one.sum() for one in sides]
    distance = float(np.abs(mixtures[0] - mixtures[1]).sum() / 2)
    return Shift(distance, _p_value(*sides))


def compare_bins(new: Counts, reference: Counts) -> Shift | None:
    """Return the Kolmogorov-Smirnov distance of two histograms of the same edges.

    Args:
        new: counts by bin, ascending, a row for each device.
        reference: the same of the others.
    """
    sides = _read(new, reference)
    if sides is None:
        return None
    cumulated = [np.cumsum(one.sum(0)) / one.sum() for one in sides]
    return Shift(float(np.abs(cumulated[0] - cumulated[1]).max()), _p_value(*sides))


def _read(new: Counts, reference: Counts) -> tuple[Array, Array] | None:
    """Return both sides as arrays of the same width, without classes that nobody has seen."""
    heard = [[row for row in side if sum(row) > 0] for side in (new, reference)]
    if not all(heard) or sum(map(len, heard)) < DEVICES_MIN:
        return None
    width = max(len(row) for side in heard for row in side)
    sides = [
        np.asarray([[*row, *[0] * (width - len(row))] for row in side], np.float64)
        for side in heard
    ]
    seen = (sides[0].sum(0) + sides[1].sum(0)) > 0
    return sides[0][:, seen], sides[1][:, seen]


def _p_value(new: Array, reference: Array) -> float:
    degrees = len(new) + len(reference) - 2
    correlation = _correlation((new, reference))
    effective = [side.sum() / _design_effect(side, correlation) for side in (new, reference)]
    new_shares, reference_shares = (
        _merge_rare(side.sum(0) / side.sum(), _are_rare((new, reference), min(effective)))
        for side in (new, reference)
    )
    classes = len(new_shares)
    if classes < 2:  # noqa: PLR2004
        return 1.0
    pooled = (effective[0] * new_shares + effective[1] * reference_shares) / sum(effective)
    spread = 1 / effective[0] + 1 / effective[1]
    statistic = float(((new_shares - reference_shares) ** 2 / pooled).sum() / spread)
    return _beyond_f(statistic / (classes - 1), classes - 1, degrees * (classes - 1))


def _are_rare(sides: tuple[Array, Array], effective: float) -> NDArray[np.bool_]:
    together = sides[0].sum(0) + sides[1].sum(0)
    return np.asarray(together / together.sum() * effective < _EXPECTED_MIN)


def _merge_rare(shares: Array, rare: NDArray[np.bool_]) -> Array:
    if not rare.any():
        return shares
    return np.append(shares[~rare], shares[rare].sum())


def _correlation(sides: tuple[Array, Array]) -> float:
    """Return how alike requests of one device are, from 0 to 1; 0: as those of different ones.

    A side's design effect, Rao and Scott's mean over its classes, is one more than the correlation
    times the requests of a device less one (Kish). Sides count by their devices less one.
    """
    found, weights = 0.0, 0
    for side in sides:
        devices, classes = side.shape
        size = _size(side)
        if devices == 1 or classes == 1 or size <= 1:
            continue
        totals, shares = side.sum(1, keepdims=True), side.sum(0) / side.sum()
        seen = shares > 0
        squares = ((side - totals * shares) ** 2)[:, seen] / shares[seen]
        effect = squares.sum() * devices / (devices - 1) / side.sum() / (classes - 1)
        found += (devices - 1) * float((effect - 1) / (size - 1))
        weights += devices - 1
    return min(1.0, max(0.0, found / weights)) if weights else 0.0


def _size(side: Array) -> float:
    """Return the requests of a device, as a request sees it."""
    totals = side.sum(1)
    return float((totals**2).sum() / totals.sum())


def _design_effect(side: Array, correlation: float) -> float:
    return 1 + max(0.0, _size(side) - 1) * correlation


def _beyond_f(value: float, above: int, below: int) -> float:
    """Return the probability that an F of these degrees of freedom is larger (Paulson)."""
    root = math.cbrt(max(0.0, value))
    high, low = 2 / (9 * above), 2 / (9 * below)
    deviations = ((1 - low) * root - (1 - high)) / math.sqrt(low * root**2 + high)
    return NormalDist().cdf(-deviations)
