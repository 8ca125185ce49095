"""Where rows stand beside a reference: how far outside of it, and how far from one another.

Both are of numbers that `edgectl_statistics.features` has described, one for each feature of the
reference. What is no number stands nowhere: it is not outside, and its place is the lowest.

* `Yardstick.beyond`: how far the row is outside of the reference in the feature in which it is
  furthest, in units of that feature's range there: 0 within, 1 as far again as the reference is
  wide.
* `Yardstick.places`: the bin of each feature, from 0 for the first to 1 for the last. Bins lie on
  quantiles of the reference, so that a step is as likely in each feature and no single value,
  however large, counts for more than the last bin.
* `Recent.distance`: the root of the mean squared difference of places to the nearest row kept. To
  take the row that is furthest from all taken so far is the greedy way to a small set that covers
  many: Gonzalez, Theoretical Computer Science 38 (1985).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.watching import BINS_MAX, WatchedFeature

__all__ = ["RECENT_MAX", "Places", "Recent", "Yardstick"]

Places = npt.NDArray[np.float32]
RECENT_MAX = 128
"""Rows that are kept to compare with: 32 KiB with 64 features."""
_BEYOND_MAX = 1e12


class Yardstick:
    """A reference to measure rows with."""

    def __init__(self, features: Sequence[WatchedFeature]) -> None:
        self._edges = np.full((len(features), BINS_MAX - 1), np.inf)
        for row, one in zip(self._edges, features, strict=True):
            row[: len(one.edges)] = one.edges
        self._last_bin = np.array([len(one.edges) for one in features], np.float32)
        self._low = np.array([one.low for one in features])
        self._high = np.array([one.high for one in features])
        with np.errstate(over="ignore"):
            width = self._high - self._low
        constant = np.maximum(np.abs(self._high), 1.0)  # a feature of one value has no range
        self._width = np.where(width > 0, width, constant)

    def beyond(self, values: npt.NDArray[Any]) -> float:
        """Return how far the furthest of rows is outside of the reference.

        Args:
            values: float64 [rows, features], NaN where there is no number.

        Returns:
            0 where all are within, else more, and always finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            outside = np.maximum(self._low - values, values - self._high) / self._width
        furthest = float(np.fmax.reduce(outside, axis=None, initial=0.0))
        return min(furthest, _BEYOND_MAX)

    def places(self, values: npt.NDArray[Any]) -> Places:
        """Return the place of one row in each feature, from 0 to 1; `values` is [features]."""
        bins = (values[:, np.newaxis] >= self._edges).sum(axis=1, dtype=np.float32)
        places: Places = bins / self._last_bin
        return places


class Recent:
    """The places of rows that were taken lately: `RECENT_MAX` of them, then the oldest goes."""

    def __init__(self, features: int) -> None:
        self._rows: Places = np.zeros((RECENT_MAX, features), np.float32)
        self._count = 0

    def add(self, places: Places) -> None:
        """Keep one row."""
        self._rows[self._count % RECENT_MAX] = places
        self._count += 1

    def distance(self, places: Places) -> float:
        """Return how far a row is from the nearest one kept, 0 to 1; 1 where none is."""
        if not self._count:
            return 1.0
        kept = self._rows[: min(self._count, RECENT_MAX)]
        return float(np.sqrt(((kept - places) ** 2).mean(axis=1).min()))

    def clear(self) -> None:
        """Forget all rows."""
        self._count = 0
