"""How much more counts vary from block to block than those of independent rows would.

Neighbouring rows of a sensor resemble one another: a thousand of them may say no more than fifty.
A test that takes them as independent cries wolf. The design effect is by how much: n rows are worth
n / effect independent ones. Rules:

1. It is found from the variation between blocks of rows (windows of a device, devices of a site) of
   the cumulative shares at each edge, against the variation p (1 - p) / n of independent rows. All
   edges count alike. Cumulative shares instead of bins, because what varies slowly moves many
   neighbouring bins the same way.
2. Few blocks know it badly, many features together better: each feature's own is drawn towards the
   mean of all, as far as the features do not differ by more than chance.
3. What is above 1 is enlarged as Student's t is wider than the normal distribution, far out where
   corrected tests decide.

Sources: Kish, Survey Sampling (1965), 8.2; Rao and Scott, The Annals of Statistics 12 (1984), which
divides chi² by the mean design effect; Anderson and Darling, The Annals of Mathematical Statistics
23 (1952): independent rows vary over many edges in 2 / Var(A²) = 3.45 ways; Bühlmann and Straub,
Mitteilungen der Vereinigung schweizerischer Versicherungsmathematiker 70 (1970), whose credibility
2. is. Smyth (2004) does the same with the variances of genes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Dispersion", "design_effects", "dispersion"]

_SQUARE = 30.0
"""Square of the normal quantile of p = 4e-8: one percent shared by some thousand questions, three
tests, thirty edges."""
Numbers = npt.NDArray[np.float64]


class Dispersion(NamedTuple):
    """Variation between the blocks of one feature; adds up over groups of blocks.

    Attributes:
        found: mean over the edges, sum over the blocks; as many as `freedom` of independent rows.
        freedom: blocks less groups.
        variance: of `found`, had the rows been independent.
    """

    found: float = 0.0
    freedom: float = 0.0
    variance: float = 0.0


def dispersion(blocks: npt.NDArray[Any]) -> Dispersion:
    """Return the variation between the blocks of one group.

    Args:
        blocks: counts [blocks, bins]; empty ones say nothing.
    """
    rows = blocks.sum(axis=1)
    blocks, rows = blocks[rows > 0], rows[rows > 0].astype(np.float64)
    if len(rows) < 2:  # noqa: PLR2004  # one block does not vary
        return Dispersion()
    below = np.cumsum(blocks, axis=1)[:, :-1]
    total = below.sum(axis=0)
    inside = (total > 0) & (total < rows.sum())
    if not inside.any():  # all rows are in one bin
        return Dispersion()
    below, share = below[:, inside], total[inside] / rows.sum()
    squares = (below - rows[:, np.newaxis] * share) ** 2 / rows[:, np.newaxis]
    found = float((squares.sum(axis=0) / (share * (1 - share))).mean())
    freedom = len(rows) - 1
    return Dispersion(found, freedom, 2 * freedom * _resemblance(share))


def _resemblance(shares: Numbers) -> float:
    """Return the mean squared correlation of two edges, each with any, itself too.

    The square for cumulative shares p below q is p (1 - q) / (q (1 - p)). Its inverse is in how
    many ways the shares vary.
    """
    odds = shares / (1 - shares)  # ascending
    before = np.cumsum(odds) - odds
    edges = len(odds)
    return float((edges + 2 * (before / odds).sum()) / edges**2)


def design_effects(features: Sequence[Iterable[Dispersion]]) -> list[float]:
    """Return how many rows are worth one independent row; at least 1, also where nothing is known.

    Args:
        features: of each feature the groups of blocks, each varying around its own mean. What its
            blocks do not tell of a feature is taken from the others.
    """
    sums = np.array(
        [[sum(values) for values in zip(Dispersion(), *groups, strict=True)] for groups in features]
    ).reshape(-1, 3)
    known = sums[:, 1] > 0
    if not known.any():
        return [1.0] * len(sums)
    found, freedom, variance = sums[known].T
    own = found / freedom
    chance = variance / freedom**2
    mean = float((own / chance).sum() / (1 / chance).sum())
    differing = _differing(own / mean, chance) if mean > 0 else 0.0
    trust = differing / (differing + chance)
    drawn = np.full(len(sums), mean)
    drawn[known] = trust * own + (1 - trust) * mean
    uncertain = np.full(len(sums), chance.mean())
    uncertain[known] = trust**2 * chance + (1 - trust) ** 2 * chance.mean()
    effects = 1 + np.maximum(0.0, drawn - 1) * _student(uncertain)
    return [float(one) for one in effects]


def _differing(relative: Numbers, chance: Numbers) -> float:
    """Return the squared relative deviation between features that chance does not explain."""
    count = len(relative)
    if count < 2:  # noqa: PLR2004  # its own is the mean
        return 0.0
    squares = (relative - 1) ** 2 * count / (count - 1)
    return max(0.0, float(((squares - chance) / (1 + chance)).mean()))


def _student(uncertain: Numbers) -> Numbers:
    """Return the square of Student's quantile by that of the normal one, about 1 + (z² + 1) / 2f.

    Source: Cornish and Fisher; Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.

    Args:
        uncertain: relative variance of a variance, 2 / f with f degrees of freedom.
    """
    return 1 + (_SQUARE + 1) / 4 * uncertain
