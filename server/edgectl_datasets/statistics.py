"""What is in a dataset, in numbers: of each input and split, and of each class and split.

Means and variances are joined as Chan, Golub and LeVeque do (Updating formulae and a pairwise
algorithm for computing sample variances, 1979), so that nothing is held but one sample at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_datasets.documents import SPLITS, InputStatistics, Row, SplitName, Statistics
from edgectl_datasets.samples import Arrays

__all__ = ["Counting", "count_rows"]

_INPUT = "input."


@dataclass
class _Moments:
    elements: int = 0
    finite: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    low: float = math.inf
    high: float = -math.inf

    def join(self, other: _Moments) -> None:
        """Take in what was counted elsewhere."""
        self.elements += other.elements
        if not other.finite:
            return
        count = self.finite + other.finite
        apart = other.mean - self.mean
        self.squares += other.squares + apart * apart * self.finite * other.finite / count
        self.mean += apart * other.finite / count
        self.finite = count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


class Counting:
    """Adds up the inputs of samples, whose splits are known only when all of them are."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, _Moments]] = {}

    def add(self, sample: str, arrays: Arrays) -> None:
        """Count one sample."""
        self._of[sample] = {
            name.removeprefix(_INPUT): _moments(array)
            for name, array in arrays.items()
            if name.startswith(_INPUT)
        }

    def statistics(self, rows: Sequence[Row], classes: int) -> Statistics:
        """Return what is in `rows`, each of which was added."""
        joined: dict[tuple[str, SplitName], _Moments] = {}
        for row in rows:
            for name, moments in self._of[row.sample].items():
                joined.setdefault((name, row.split), _Moments()).join(moments)
        inputs = tuple(_of_input(name, split, one) for (name, split), one in sorted(joined.items()))
        return count_rows(rows, classes, inputs)


def count_rows(
    rows: Sequence[Row], classes: int, inputs: tuple[InputStatistics, ...] = ()
) -> Statistics:
    """Return what rows say: classes, labels and devices by split."""
    by_class: dict[SplitName, tuple[int, ...]] = {}
    unlabelled: dict[SplitName, int] = {}
    devices: dict[SplitName, int] = {}
    for split in SPLITS:
        here = [row for row in rows if row.split == split]
        counted = Counter(row.number for row in here)
        by_class[split] = tuple(counted[number] for number in range(classes))
        unlabelled[split] = counted[-1]
        devices[split] = len({row.device for row in here})
    return Statistics(inputs=inputs, classes=by_class, unlabelled=unlabelled, devices=devices)


def _moments(array: npt.NDArray[Any]) -> _Moments:
    values = array.astype(np.float64).ravel()
    one = _Moments(elements=values.size)
    values = values[np.isfinite(values)]
    if not values.size:
        return one
    with np.errstate(over="ignore", invalid="ignore"):  # squares of what FP64 can just hold
        one.mean = float(values.mean())
        one.squares = float(np.square(values - one.mean).sum())
    one.finite = values.size
    one.low, one.high = float(values.min()), float(values.max())
    return one


def _of_input(name: str, split: SplitName, one: _Moments) -> InputStatistics:
    missing = 1 - one.finite / one.elements if one.elements else 0.0
    std = math.sqrt(one.squares / one.finite) if one.finite else math.inf
    if not math.isfinite(std + one.mean):
        return InputStatistics(
            input=name, split=split, mean=None, std=None, low=None, high=None, missing=missing
        )
    return InputStatistics(
        input=name,
        split=split,
        mean=one.mean,
        std=std,
        low=one.low,
        high=one.high,
        missing=missing,
    )
