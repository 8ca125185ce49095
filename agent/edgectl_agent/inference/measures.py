"""What makes one row of a model worth a sample, as a number: more is more.

`Measures` are those of rows against the bundle's signed reference and against what was taken
lately; `confidence_of` needs no reference. They are cheap: a row is described by some ten numbers,
and what was taken lately is `edgectl_statistics.places.RECENT_MAX` such rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from edgectl_agent.inference.counts import predictions_of
from edgectl_agent.inference.reference import Describer, Rows
from edgectl_agent.runtime import Tensor
from edgectl_protocol.manifest import BundleConfig, Scores
from edgectl_protocol.watching import Watched
from edgectl_statistics.places import Places, Recent, Yardstick

__all__ = ["Measured", "Measures", "confidence_of"]


class Measured(NamedTuple):
    """One row beside the reference."""

    beyond: float
    """How far outside it is; 0: within."""
    places: Places


class Measures:
    """Measures rows of one model; not safe to use from several threads at once."""

    def __init__(self, config: BundleConfig, watched: Watched) -> None:
        self._describer = Describer(config, watched)
        self._yardstick = Yardstick(watched.features)
        self._recent = Recent(len(watched.features))

    def measure(self, inputs: Rows, outputs: Rows) -> Measured:
        """Measure one row, of arrays [1, ...]; of more rows the first one has the place."""
        values, _ = self._describer.describe(inputs, outputs)
        return Measured(self._yardstick.beyond(values), self._yardstick.places(values[0]))

    def distance(self, measured: Measured) -> float:
        """Return how far a row is from the nearest one that was taken lately, 0 to 1."""
        return self._recent.distance(measured.places)

    def taken(self, measured: Measured) -> None:
        """Note that a row was taken."""
        self._recent.add(measured.places)

    def forget(self) -> None:
        """Forget what was taken."""
        self._recent.clear()


def confidence_of(outputs: Mapping[str, Tensor], scores: Scores | None) -> float:
    """Return the confidence of one row, [1, ...] or without an axis of rows; 1: nobody can tell."""
    found = [confidence for _, confidence in predictions_of(outputs, scores)]
    return min((one for one in found if math.isfinite(one)), default=1.0)
