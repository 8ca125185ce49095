"""Which of several fits of a head is taken: the most cautious one that is as good as the best.

Fits are compared row by row, as they answered the same rows: what they have in common takes no part
in the error of the difference, so that a few hundred rows can tell them apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgectl_server.training.heads import Weights

__all__ = ["Tried", "choose"]

Rows = npt.NDArray[np.bool_]


class Tried(NamedTuple):
    """A fit, and what it is worth."""

    weights: Weights
    right: Rows
    """Of each new row [N], whether a fit to others answers it rightly."""
    kept: Rows
    """Of each old row [M], whether it is answered rightly, or as before where it has no label."""


def choose(served: Tried, tried: list[Tried], drop_points_max: float) -> Tried:
    """Return the most cautious fit that is as good on new rows as the best one.

    "As good" is within one standard error of the difference (Breiman et al., "Classification and
    Regression Trees", 1984, the rule of one standard error). Fits whose loss of old rows may be
    beyond the bound, by the same measure, are out, unless all of them are.

    Args:
        served: the head as it is.
        tried: at least one fit, from cautious to bold.
        drop_points_max: bound on what old rows may lose, in points of accuracy.
    """
    bound = drop_points_max / 100
    fits = [one for one in tried if sum(_lead(served.kept, one.kept)) <= bound] or tried
    best = max(fits, key=lambda one: int(one.right.sum()))

    def is_as_good(one: Tried) -> bool:
        lead, error = _lead(best.right, one.right)
        return lead <= error

    return next(one for one in fits if is_as_good(one))


def _lead(first: Rows, other: Rows) -> tuple[float, float]:
    """Return by what share of the same rows the first is better, and the standard error of that.

    The error is the one of equals (McNemar, "Note on the sampling error of the difference between
    correlated proportions", Psychometrika 12, 1947): the root of the number of rows that differ.
    """
    rows = max(1, len(first))
    lead = (int(first.sum()) - int(other.sum())) / rows
    return lead, float(np.sqrt((first != other).sum())) / rows
