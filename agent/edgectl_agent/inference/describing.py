"""Rows of one model, described some at a time and counted on the edges of its reference.

Rules:

1. An answer pays for a copy of its row and no more. Rows wait until `settle`; what is described at
   once is bounded by elements, so that nothing waits long for it, and what waits by twice that.
2. No more rows a second are looked at than `rows_per_s`. What comes faster is skipped and counted
   as skipped; of a request with many rows one is looked at, in turn another one.
3. Nothing here keeps a row longer than it takes to describe it, and nothing but counts is given
   out.

Offering takes no lock; everything else is for one thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from edgectl_agent.inference.reference import Describer
from edgectl_agent.runtime import Tensor
from edgectl_protocol.manifest import BundleConfig
from edgectl_protocol.watching import ROWS_MAX, FeatureCounts, Watched
from edgectl_statistics.features import Bins

__all__ = ["Describing"]

_ROWS_AT_ONCE = 32
_ELEMENTS_AT_ONCE = 65_536
_log = logging.getLogger(__name__)
Rows = list[dict[str, Tensor]]


class Describing:
    """Counts of rows.

    Attributes:
        rows_per_s: rows that are looked at, at most; 0: none.
        described: rows that are counted.
        skipped: rows that are not.
    """

    def __init__(self, config: BundleConfig, watched: Watched, rows_per_s: float = 0) -> None:
        self.rows_per_s = rows_per_s
        self._describer = Describer(config, watched)
        self._inputs, self._outputs = self._describer.inputs, self._describer.outputs
        self._classes_known = watched.classes
        self._bins = Bins(watched.features)
        self._rows: Rows = []
        self._at_once = _ROWS_AT_ONCE
        self._turn = 0
        self._next_s = 0.0
        """From then on another row is looked at."""
        self.described = self.skipped = 0
        self.clear()

    def clear(self) -> None:
        """Count anew; rows that wait are counted then."""
        self.described = self.skipped = 0
        self._classes = np.zeros(self._classes_known, np.int64)
        self._bins.clear()

    def offer(
        self, now_s: float, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> bool:
        """Take one row of what was asked and answered, if it is due; say whether it was.

        Args:
            now_s: seconds of a clock that nobody sets.
            inputs: [N, ...] by name.
            outputs: [N, ...] by name.
        """
        rate = self.rows_per_s
        if not rate:
            return False
        if now_s < self._next_s or len(self._rows) >= 2 * self._at_once:
            self.skipped += len(inputs[self._inputs[0]]) if self._inputs else 1
            return False
        self._next_s = now_s + 1.0 / rate
        first = outputs[self._outputs[0]] if self._outputs else inputs[self._inputs[0]]
        count = len(first)
        self._turn += 1
        number = self._turn % count if count > 1 else 0
        row = {}
        for names, arrays in ((self._inputs, inputs), (self._outputs, outputs)):
            for name in names:
                row[name] = arrays[name][number : number + 1].copy()
        self.skipped += count - 1
        if not self._rows:
            size = sum(array.size for array in row.values())
            self._at_once = max(1, min(_ROWS_AT_ONCE, _ELEMENTS_AT_ONCE // max(1, size)))
        self._rows.append(row)
        return True

    def full(self) -> bool:
        """Say whether so many rows wait as are described at once."""
        return len(self._rows) >= self._at_once

    def settle(self) -> None:
        """Describe and count the rows that wait."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            self._count(rows)
        except (ValueError, KeyError, IndexError, MemoryError):
            # Rows of a shape that the reference does not know: nothing is worth a request.
            _log.exception("inputs cannot be described: nothing more is watched")
            self.rows_per_s = 0

    def _count(self, rows: Rows) -> None:
        """Count rows; those of one shape together."""
        shapes: dict[tuple[object, ...], Rows] = {}
        for row in rows:
            shapes.setdefault(tuple(array.shape for array in row.values()), []).append(row)
        for alike in shapes.values():
            arrays = {name: np.concatenate([row[name] for row in alike]) for name in alike[0]}
            values, classes = self._describer.describe(arrays, arrays)
            self._bins.add(values)
            self.described += len(alike)
            if len(self._classes):
                self._classes += np.bincount(classes, minlength=len(self._classes))

    def add(self, counts: FeatureCounts) -> None:
        """Add what was counted elsewhere, which must fit the reference."""
        self.described += counts.rows
        self.skipped = min(self.skipped + counts.skipped, ROWS_MAX)
        self._bins.add_counts(counts.histograms, counts.missing, counts.outside)
        self._classes[: len(counts.classes)] += np.asarray(counts.classes, np.int64)

    def counts(self) -> FeatureCounts:
        """Return what is counted."""
        missing, outside = self._bins.missing.tolist(), self._bins.outside.tolist()
        return FeatureCounts(
            rows=self.described,
            skipped=self.skipped,
            histograms=self._bins.histograms(),
            missing=tuple(missing) if any(missing) else (),
            outside=tuple(outside) if any(outside) else (),
            classes=tuple(self._classes.tolist()),
        )
