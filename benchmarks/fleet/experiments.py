"""How often an experiment errs, beside tests at a fixed horizon that are looked at all the time.

    python -m benchmarks.fleet.experiments              # a minute or two, no server
    python -m benchmarks.fleet.experiments --fleets 5000

Three ways to compare an error rate of challengers and champions, looked at after each batch of
telemetry, on the same simulated answers of fleets whose devices differ:

* ours: `edgectl_server.domain.sequential`, by device, with bounds that hold at every look;
* peeking by device: Welch's t-test on the devices' rates, as if each look were the only one;
* peeking by request: the z-test of two proportions, which takes each request for an observation.

A false alarm: the challenger is not worse than the margin allows, and is said to be. A false pass:
it is worse by the margin, and is said not to be. Power: it is worse by three times the margin, and
is said to be. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from edgectl_server.domain.sequential import Bounds, bound_difference

ALPHA = 0.05
LOOKS = 100
REQUESTS = 50
"""Of each device between two looks."""
Array = NDArray[np.float64]
Arm = tuple[Array, Array]
Bound = Callable[[Arm, Arm, float], Bounds]


@dataclass(frozen=True)
class Fleet:
    """Devices of two arms, the champions' rate, and how much devices differ."""

    challengers: int
    champions: int
    rate: float
    correlation: float
    margin: float


FLEETS = (
    Fleet(10, 90, 0.01, 0.0, 0.01),
    Fleet(10, 90, 0.01, 0.005, 0.01),
    Fleet(20, 80, 0.05, 0.01, 0.025),
    Fleet(50, 50, 0.05, 0.02, 0.025),
)


def ours(challenger: Arm, champion: Arm, margin: float) -> Bounds:
    """Return our bounds."""
    return bound_difference(challenger, champion, margin=margin, alpha=ALPHA)


def by_device(challenger: Arm, champion: Arm, _margin: float) -> Bounds:
    """Return one-sided bounds of Welch's test, valid at one look."""
    rates = [wrong / total for wrong, total in (challenger, champion)]
    parts = [one.var(-1, ddof=1) / one.shape[-1] for one in rates]
    variance = np.maximum(parts[0] + parts[1], 1e-12)
    degrees = variance**2 / np.maximum(
        sum(part**2 / (one.shape[-1] - 1) for part, one in zip(parts, rates, strict=True)), 1e-30
    )
    difference = rates[0].mean(-1) - rates[1].mean(-1)
    half = stats.t.isf(ALPHA, degrees) * np.sqrt(variance)
    return Bounds(difference, difference - half, difference + half)


def by_request(challenger: Arm, champion: Arm, _margin: float) -> Bounds:
    """Return one-sided bounds of the z-test of two proportions, valid at one look."""
    sums = [(wrong.sum(-1), total.sum(-1)) for wrong, total in (challenger, champion)]
    rates = [wrong / total for wrong, total in sums]
    variance = sum(rate * (1 - rate) / total for rate, (_, total) in zip(rates, sums, strict=True))
    difference = rates[0] - rates[1]
    half = NormalDist().inv_cdf(1 - ALPHA) * np.sqrt(np.maximum(variance, 1e-12))
    return Bounds(difference, difference - half, difference + half)


BOUNDS: dict[str, Bound] = {
    "ours": ours,
    "peeking_by_device": by_device,
    "peeking_by_request": by_request,
}


@dataclass(frozen=True)
class Ends:
    """Share of fleets that ended so, and after how many looks half of them had."""

    failed: float
    passed: float
    looks: float | None


def play(random: Generator, fleet: Fleet, fleets: int, difference: float) -> dict[str, Ends]:
    """Return how each way ends on the same answers."""
    arms = [
        _rates(random, (fleets, fleet.challengers), fleet.rate + difference, fleet.correlation),
        _rates(random, (fleets, fleet.champions), fleet.rate, fleet.correlation),
    ]
    wrong = [np.zeros(one.shape) for one in arms]
    ended = {name: np.full(fleets, np.inf) for name in BOUNDS}
    verdict = {name: np.zeros(fleets, np.int8) for name in BOUNDS}
    for look in range(1, LOOKS + 1):
        wrong = [
            counts + random.binomial(REQUESTS, own) for counts, own in zip(wrong, arms, strict=True)
        ]
        challenger, champion = (
            (counts, np.full(counts.shape, float(look * REQUESTS))) for counts in wrong
        )
        for name, bound in BOUNDS.items():
            found = bound(challenger, champion, fleet.margin)
            said = np.where(found.low > fleet.margin, -1, np.where(found.high < fleet.margin, 1, 0))
            new = np.isinf(ended[name]) & (said != 0)
            verdict[name][new], ended[name][new] = said[new], look
    return {
        name: Ends(
            float((verdict[name] == -1).mean()),
            float((verdict[name] == 1).mean()),
            float(np.median(ended[name])) if np.isfinite(np.median(ended[name])) else None,
        )
        for name in BOUNDS
    }


def _rates(random: Generator, shape: tuple[int, int], mean: float, correlation: float) -> Array:
    if correlation == 0:
        return np.full(shape, mean)
    spread = 1 / correlation - 1
    return random.beta(mean * spread, (1 - mean) * spread, shape)


def main() -> None:
    """Play, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fleets", type=int, default=1000, help="simulated fleets of each kind")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    random = np.random.default_rng(asked.seed)
    began = time.process_time()
    results = []
    for fleet in FLEETS:
        print(f"\n{fleet}, {LOOKS} looks, alpha {ALPHA:g}")
        print(f"{'':20} {'false alarm':>12} {'false pass':>12} {'power':>8} {'looks to it':>12}")
        border = play(random, fleet, asked.fleets, fleet.margin)
        worse = play(random, fleet, asked.fleets, 3 * fleet.margin)
        for name in BOUNDS:
            looks = worse[name].looks
            told = "never" if looks is None else f"{looks:g}"
            print(
                f"{name:20} {border[name].failed:12.3f} {border[name].passed:12.3f}"
                f" {worse[name].failed:8.3f} {told:>12}"
            )
            results.append(
                {
                    **asdict(fleet),
                    "by": name,
                    "false_alarm": border[name].failed,
                    "false_pass": border[name].passed,
                    "power": worse[name].failed,
                    "looks": looks,
                }
            )
    taken = {"fleets": asked.fleets, "looks": LOOKS, "alpha": ALPHA, "results": results}
    print(json.dumps({**taken, "cpu_s": round(time.process_time() - began, 1)}))


if __name__ == "__main__":
    main()
