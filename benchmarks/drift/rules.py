"""Rules by which a window is said to have drifted: ours on counts, the others on rows.

All get the same rows. Where a rule has a significance level, it gets the same one for the whole
window, divided by the number of features; rules of thumb are as their authors have them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import datasketches
import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special, stats

from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Feature, Reference
from edgectl_server.domain.drift import Limits, Window, evaluate
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.reference import make_reference
from edgectl_statistics.features import Bins, Described

__all__ = ["LEVEL", "RULES", "Case", "Rule"]

Array = npt.NDArray[Any]

LEVEL = 0.01
_DECILES = np.arange(1, 10) / 10
_SMALL = 1e-4
_HALF_PERCENTS = np.arange(1, 200) / 200


class Case:
    """A reference, a window, and what several rules need of both, worked out once.

    Attributes:
        old: reference rows [rows, features].
        new: rows of the window.
        parts: into how many windows a device would divide it.
    """

    def __init__(self, old: Array, new: Array, parts: int) -> None:
        self.old, self.new, self.parts = old, new, parts
        self.level = LEVEL / old.shape[1]
        """Significance of one feature."""

    @cached_property
    def pairs(self) -> list[tuple[Array, Array]]:
        """The rows of each feature."""
        return list(zip(self.old.T, self.new.T, strict=True))

    @cached_property
    def reference_features(self) -> tuple[Feature, ...]:
        """Our counts of the reference."""
        names = tuple(f"x.{number}" for number in range(self.old.shape[1]))
        samples = Samples(role="evaluation", inputs={"x": self.old})
        return make_reference(names, Described(self.old, np.zeros(0, np.int64)), samples)

    @cached_property
    def ks(self) -> list[float]:
        """SciPy's asymptotic p-values of Kolmogorov-Smirnov, of all features at once."""
        n, m = len(self.old), len(self.new)
        apart = [_ks_distance(*pair) for pair in self.pairs]
        found = stats.kstwo.sf(apart, round(n * m / (n + m)))
        return [float(one) for one in found]

    @cached_property
    def deciles(self) -> list[tuple[Array, Array]]:
        """Counts of both in the deciles of the reference."""
        return [_in_deciles(*pair) for pair in self.pairs]

    @cached_property
    def psi(self) -> float:
        """The largest population stability index of a feature."""
        return max(_psi(*pair) for pair in self.deciles)

    @cached_property
    def evidently(self) -> int:
        """How many columns drift by Evidently's documented default, written again here.

        Up to 1,000 rows of reference Kolmogorov-Smirnov below 0.05, else the Wasserstein distance
        over the reference's standard deviation from 0.1 on.
        """
        if len(self.old) <= 1000:
            return sum(value < 0.05 for value in self.ks)
        return sum(
            bool(stats.wasserstein_distance(old, new) / max(float(old.std()), 0.001) >= 0.1)
            for old, new in self.pairs
        )


Rule = Callable[[Case], bool]


def counts(case: Case) -> bool:
    """Ours, one device: the windows that it sends, judged with all levels in one budget."""
    return _judge(case.reference_features, case, case.parts)


def counts_uncorrected(case: Case) -> bool:
    """Ours with every row taken as independent: what the correction is worth."""
    features = tuple(
        msgspec.structs.replace(one, design_effect=1.0) for one in case.reference_features
    )
    return _judge(features, case, 1)


def _judge(features: tuple[Feature, ...], case: Case, parts: int) -> bool:
    reference = Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b""),
        rows=len(case.old),
        inputs=(),
        features=features,
    )
    windows = []
    bins = Bins(features)
    for part in np.array_split(case.new, parts):
        bins.clear()
        bins.add(part)
        windows.append(Window("device", "site", len(part), bins.histograms(), ()))
    judged = evaluate(reference, windows, Limits(false_alarms=LEVEL))
    return any(one.shifted for one in judged)


def rows_chi2(case: Case) -> bool:
    """Chi² of two samples, of the rows in deciles of the reference."""
    for pair in case.deciles:
        table = np.stack(pair)
        table = table[:, table.sum(axis=0) > 0]
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
        statistic = float(((table - expected) ** 2 / expected).sum())
        freedom = table.shape[1] - 1
        if freedom and special.chdtrc(freedom, statistic) <= case.level:
            return True
    return False


def sketches_ks(case: Case) -> bool:
    """Kolmogorov-Smirnov of KLL sketches (k = 200), those of the window's parts merged."""
    n, m = len(case.new), len(case.old)
    for old, new in case.pairs:
        left = datasketches.kll_floats_sketch(200)
        left.update(old.astype(np.float32))
        right = datasketches.kll_floats_sketch(200)
        for part in np.array_split(new.astype(np.float32), case.parts):
            sketch = datasketches.kll_floats_sketch(200)
            sketch.update(part)
            right.merge(sketch)
        both = np.concatenate([old, new])
        points = np.unique(np.quantile(both, _HALF_PERCENTS).astype(np.float32))
        apart = np.abs(np.subtract(left.get_cdf(points), right.get_cdf(points))).max()
        if stats.kstwobign.sf(apart * np.sqrt(n * m / (n + m))) <= case.level:
            return True
    return False


def _ks_distance(old: Array, new: Array) -> float:
    old, new = np.sort(old), np.sort(new)
    points = np.concatenate([old, new])
    below = np.searchsorted(old, points, "right") / len(old)
    return float(np.abs(below - np.searchsorted(new, points, "right") / len(new)).max())


def _psi(was: Array, is_now: Array) -> float:
    p = np.maximum(was / was.sum(), _SMALL)
    q = np.maximum(is_now / is_now.sum(), _SMALL)
    return float(((q - p) * np.log(q / p)).sum())


def _in_deciles(old: Array, new: Array) -> tuple[Array, Array]:
    edges = np.unique(np.quantile(old, _DECILES))
    bins = len(edges) + 1
    return (
        np.bincount(np.searchsorted(edges, old, "right"), minlength=bins),
        np.bincount(np.searchsorted(edges, new, "right"), minlength=bins),
    )


RULES: dict[str, Rule] = {
    "edgectl": counts,
    "edgectl, rows independent": counts_uncorrected,
    "rows KS": lambda case: min(case.ks) <= case.level,
    "rows chi2": rows_chi2,
    "PSI > 0.1": lambda case: case.psi > 0.1,
    "PSI > 0.2": lambda case: case.psi > 0.2,
    "Evidently, a column": lambda case: case.evidently > 0,
    "Evidently, data set": lambda case: case.evidently >= 0.5 * case.old.shape[1],
    "KLL sketches KS": sketches_ks,
}
