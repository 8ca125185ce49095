"""Two arms of devices compared on a rate, by bounds that hold however often they are looked at.

The unit is the device (or the site), never the request: requests of one camera are alike, so that a
thousand of them are no thousand observations. Each unit has one rate, of all that it has answered
so far, and each counts the same, however much it says.

Source: the difference of the arms' mean rates is, at information 1 / variance, a Brownian motion
with drift, also where units differ for good (Jennison and Turnbull, "Group-sequential analysis
incorporating covariate information", J. Amer. Statist. Assoc. 92, 1997). So the one-sided normal
mixture of Robbins bounds it at all times at once (Howard, Ramdas, McAuliffe, Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Ann. Statist. 49, 2021, section
3.2, in the closed form of Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central
limit theory and asymptotic confidence sequences", Ann. Statist. 52, 2024). It is asymptotic; for
few units four things are added, and what remains is simulated in tests:

* The bound is taken from Student's distribution at the same probability, with the degrees of
  freedom of Welch, by Wallace's transformation ("Bounds on normal approximations to Student's and
  the chi-square distributions", Ann. Math. Statist. 30, 1959).
* An arm's variance is at least that of independent requests at a rate smoothed by one answer of
  each kind: units that all have seen nothing go wrong do not prove that nothing ever does.
* Units of one arm differ at least as much as those of both together do: a few that are alike by
  chance would otherwise be believed too early.
* No unit counts for more than `WEIGHT_MAX` times the median's requests in that smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["WEIGHT_MAX", "Bounds", "bound_difference"]

WEIGHT_MAX = 10
_POWER = 0.8
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """Of the challenger's mean rate less the champion's; arrays where many trials were given."""

    difference: Array
    low: Array
    high: Array


def bound_difference(
    challenger: tuple[Any, Any], champion: tuple[Any, Any], *, margin: float, alpha: float
) -> Bounds:
    """Return the difference with its lower and upper bound, each wrong with at most `alpha`.

    Args:
        challenger: what went wrong and how much there was, counts of each unit in the last axis,
            two units at least, each with at least one; axes before are independent trials.
        champion: the same of those that it is compared with.
        margin: difference for which the bounds are made the closest.
        alpha: probability, over all looks together.
    """
    new, old = _read(*challenger), _read(*champion)
    pooled = (new.squares + old.squares) / (new.units + old.units - 2)
    variance_new, variance_old = _variance(new, pooled), _variance(old, pooled)
    variance = variance_new + variance_old
    parts = variance_new**2 / (new.units - 1) + variance_old**2 / (old.units - 1)
    deviations = _student(_mixture(1 / variance, margin, alpha), variance**2 / parts)
    difference = new.mean - old.mean
    half = deviations * np.sqrt(variance)
    return Bounds(difference, difference - half, difference + half)


class _Arm(NamedTuple):
    """What is known of one side."""

    units: int
    mean: Array
    squares: Array
    """Sum of the squared distances of the units' rates from their mean."""
    least: Array
    """Variance that the mean has where requests are independent."""


def _read(wrong: Any, total: Any) -> _Arm:
    wrong, total = np.asarray(wrong, np.float64), np.asarray(total, np.float64)
    rates = wrong / total
    units = rates.shape[-1]
    mean = rates.mean(-1)
    counted = np.minimum(total, WEIGHT_MAX * np.median(total, -1, keepdims=True))
    answers = counted.sum(-1)
    smoothed = (mean * answers + 1) / (answers + 2)
    least = smoothed * (1 - smoothed) * (1 / counted).mean(-1) / units
    return _Arm(units, mean, rates.var(-1) * units, least)


def _variance(arm: _Arm, pooled: Array) -> Array:
    """Return the variance of an arm's mean."""
    seen = np.maximum(arm.squares / (arm.units - 1), pooled)
    return np.maximum(seen / arm.units, arm.least)


def _mixture(information: Array, margin: float, alpha: float) -> Array:
    """Return the mixture's bound in standard deviations, at an information.

    The mixture is narrowest where a test at a fixed time would see `margin` with 80 % power.
    """
    normal = NormalDist()
    wanted = ((normal.inv_cdf(1 - alpha) + normal.inv_cdf(_POWER)) / margin) ** 2
    two_sided = -2 * np.log(2 * alpha)
    mixed = wanted / (two_sided + np.log1p(two_sided))
    tail = np.log1p(np.sqrt(1 + information / mixed) / (2 * alpha))
    return np.asarray(np.sqrt(2 * (1 + mixed / information) * tail))


def _student(deviations: Array, degrees: Array) -> Array:
    """Return the quantile of Student's distribution for a quantile of the normal one."""
    scaled = deviations * (8 * degrees + 3) / (8 * degrees + 1)
    return np.asarray(np.sqrt(degrees * np.expm1(np.minimum(scaled**2 / degrees, 500.0))))
