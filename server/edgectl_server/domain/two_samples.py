"""Are two histograms of the same bins from one distribution? Three tests, for different changes.

- Split: the rows below each edge against those above, by the likelihood ratio (Berk and Jones,
  Zeitschrift für Wahrscheinlichkeitstheorie 47, 1979; of two samples it is the G-test of Woolf,
  Annals of Human Genetics 21, 1957), whose tail is that of chi² with one degree of freedom. The
  smallest p-value counts as often as there are edges (Bonferroni). Kolmogorov-Smirnov takes the
  largest distance of the cumulative shares, whatever its variance, which is largest in the middle:
  it sees late what moves a tail.
- Rank sum (Mann-Whitney, with ties: Conover, Practical Nonparametric Statistics, 5.1): a shift of
  the middle, which it sees sooner than the others.
- Pearson's chi² of two samples: anything else, such as a few rows far outside. The two-sample form,
  because the reference is a sample too: taken as exact, it cries wolf.

Rows that resemble one another count for fewer: n rows of design effect d are taken as n / d
(`edgectl_statistics.dispersion`). The three tests look at one change, so that the smallest p-value
counts three times (Bonferroni).

Pure: counts in, numbers out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "compare"]

_EXPECTED_MIN = 5.0
"""Neighbouring bins are joined until this many rows are expected in each sample (Cochran 1954). The
likelihood ratio of a split holds with fewer."""
_TESTS = 3
_NO_SHARE = 1e-9
"""Sums of divided counts are not exact: so near to 0 or 1 all rows are on one side of an edge."""
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What two histograms say.

    Attributes:
        p_value: how often samples of one distribution differ as much, by any of the tests.
        distance: largest difference of the cumulative shares, 0 to 1.
        spread: Cohen's w over the bins, freed of what chance adds; 0.1 is small, 0.5 large.
        shift: share of pairs in which the new row is above the reference's, less a half.
    """

    p_value: float
    distance: float
    spread: float
    shift: float


def compare(
    reference: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    *,
    reference_effect: float = 1.0,
    effect: float = 1.0,
    ordered: bool = True,
) -> Comparison:
    """Compare new counts with those of the reference.

    Args:
        reference: rows in each bin.
        counts: rows in each bin.
        reference_effect: design effect of the reference.
        effect: design effect of the counts.
        ordered: whether the bins have an order; classes have none, and chi² alone counts.
    """
    old, new = reference / reference_effect, counts / effect
    if old.sum() <= 1 or new.sum() <= 1:
        return Comparison(1.0, 0.0, 0.0, 0.0)
    chi2_p, spread = _chi2(old, new)
    if not ordered:
        return Comparison(chi2_p, 0.0, spread, 0.0)
    split_p, distance = _split(old, new)
    rank_p, shift = _rank_sum(old, new)
    return Comparison(min(1.0, _TESTS * min(chi2_p, split_p, rank_p)), distance, spread, shift)


def _split(old: Numbers, new: Numbers) -> tuple[float, float]:
    n, m = new.sum(), old.sum()
    below, before = np.cumsum(new)[:-1], np.cumsum(old)[:-1]
    distance = float(np.abs(below / n - before / m).max(initial=0.0))
    pooled = (below + before) / (n + m)
    inside = (pooled > _NO_SHARE) & (pooled < 1 - _NO_SHARE)
    if not inside.any():
        return 1.0, distance
    pooled = pooled[inside]
    ratio = _unlikely(below[inside], n, pooled) + _unlikely(before[inside], m, pooled)
    return min(1.0, len(pooled) * math.erfc(math.sqrt(max(0.0, float(ratio.max()))))), distance


def _unlikely(below: Numbers, rows: float, share: Numbers) -> Numbers:
    """Return how much likelier the rows below are with their own share: half of G."""
    below = np.clip(below, 0.0, rows)
    above = rows - below
    return _times_log(below, rows * share) + _times_log(above, rows * (1 - share))


def _times_log(found: Numbers, expected: Numbers) -> Numbers:
    """Return found * log(found / expected); 0 where nothing was found."""
    return found * np.log(np.where(found > 0, found, expected) / expected)


def _rank_sum(old: Numbers, new: Numbers) -> tuple[float, float]:
    n, m = float(new.sum()), float(old.sum())
    total = old + new
    middle = np.cumsum(total) - total / 2  # mean rank of each bin, but for a half
    shift = float((new * middle).sum() / n - (old * middle).sum() / m) / (n + m)
    ties = 1.0 - float(((total / (n + m)) ** 3).sum())
    if ties <= 0:
        return 1.0, 0.0
    deviation = math.sqrt((n + m) * ties / (12 * n * m))
    return math.erfc(abs(shift) / deviation / math.sqrt(2)), shift


def _chi2(old: Numbers, new: Numbers) -> tuple[float, float]:
    old, new = _joined(old, new)
    freedom = len(old) - 1
    if freedom < 1:
        return 1.0, 0.0
    n, m = float(new.sum()), float(old.sum())
    pooled = (old + new) / (n + m)
    differing = float((((new / n) - (old / m)) ** 2 / pooled).sum())
    by_chance = freedom * (1 / n + 1 / m)
    statistic = differing * n * m / (n + m)
    return chi2_tail(statistic, freedom), math.sqrt(max(0.0, differing - by_chance))


def _joined(old: Numbers, new: Numbers) -> tuple[Numbers, Numbers]:
    """Join neighbouring bins where so few rows are expected that chi² would not hold."""
    n, m = new.sum(), old.sum()
    expected = (old + new) * min(n, m) / (n + m)
    if expected.min() >= _EXPECTED_MIN:
        return old, new
    starts, room = [0], 0.0
    for number, value in enumerate(expected):
        if room >= _EXPECTED_MIN:
            starts.append(number)
            room = 0.0
        room += float(value)
    if room < _EXPECTED_MIN and len(starts) > 1:
        starts.pop()
    return np.add.reduceat(old, starts), np.add.reduceat(new, starts)


def chi2_tail(value: float, freedom: int) -> float:
    """Return the probability that chi² of so many degrees of freedom exceeds `value`.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4.4 and 26.4.5: finite
    sums for whole degrees of freedom.
    """
    half = value / 2
    if half > 700:  # noqa: PLR2004  # smaller than any number that a float can hold
        return 0.0
    if freedom % 2 == 0:
        term, total = math.exp(-half), 0.0
        for number in range(freedom // 2):
            if number:
                term *= half / number
            total += term
        return min(1.0, total)
    total = math.erfc(math.sqrt(half))
    term = math.exp(-half) / math.sqrt(math.pi * half) if half > 0 else 0.0
    for number in range(1, (freedom - 1) // 2 + 1):
        term *= half / (number - 0.5)
        total += term
    return min(1.0, total)
