"""How often is a model right, where labels have come late? Counted, beside what was estimated.

Only samples that were taken at random tell it: those that were taken because the model was unsure
are wrong more often, by their choice. They are counted apart and claim nothing.

The interval is Wilson's (Journal of the American Statistical Association 22, 1927), 95 %: it stays
between 0 and 1, and holds for few rows. Rows count as independent; a day of samples is few enough.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["RANDOM", "LabelledAnswer", "TrueAccuracy", "true_accuracy", "wilson"]

RANDOM = "random"
"""Why a sample was taken that stands for all."""
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer of the model, and what was true.

    Attributes:
        reason: why the sample was taken.
        answer: number of the class that the model has said.
        label: number of the class that it was.
    """

    reason: str
    answer: int
    label: int


@dataclass(frozen=True)
class TrueAccuracy:
    """What labels tell.

    Attributes:
        rows: labelled samples that were taken at random.
        right: those of them that the model had right.
        low: lower end of the interval of the accuracy.
        high: upper end.
        chosen: labelled samples that were taken for another reason.
        chosen_right: those of them that the model had right.
    """

    rows: int
    right: int
    low: float
    high: float
    chosen: int
    chosen_right: int

    @property
    def accuracy(self) -> float | None:
        """None where nothing was taken at random."""
        return self.right / self.rows if self.rows else None


def true_accuracy(answers: Iterable[LabelledAnswer]) -> TrueAccuracy:
    """Count labelled answers of one model."""
    rows = right = chosen = chosen_right = 0
    for one in answers:
        is_right = one.answer == one.label
        if one.reason == RANDOM:
            rows, right = rows + 1, right + is_right
        else:
            chosen, chosen_right = chosen + 1, chosen_right + is_right
    return TrueAccuracy(rows, right, *wilson(right, rows), chosen, chosen_right)


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share; all there is, where nothing was counted."""
    if not rows:
        return 0.0, 1.0
    share, z2 = right / rows, _Z**2
    middle = share + z2 / (2 * rows)
    wide = _Z * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    scale = 1 + z2 / rows
    return max(0.0, (middle - wide) / scale), min(1.0, (middle + wide) / scale)
