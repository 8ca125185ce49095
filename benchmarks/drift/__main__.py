"""Drift from counts beside raw rows, rules of thumb and sketches, on real data, shifted.

For each data set, each kind and size of a shift, and each run: the rows are divided at random, one
half is the reference, 500 of the other half are the window, which a device would send in six parts.
Every rule says whether the window has drifted. Without a shift that is a false alarm. `neighbours`
is no shift either: blocks of 25 neighbouring rows, in the data's own order, for reference and
window alike; neighbouring rows of a sensor resemble one another. There Kolmogorov-Smirnov on rows
is nearly always sure, so that one more column has its threshold set by those very runs, to be wrong
in 1 % of them: what is left of its power where it may be used. Images have no order: there it keeps
its level.

    python -m benchmarks.drift [FOLDER] [RUNS]

FOLDER holds ``activity``, ``occupancy`` and ``images`` (without it: what is in the repository);
RUNS is 1000. Ends with one line of JSON. Times are of the processor, on this machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.drift.cost import cost_of
from benchmarks.drift.populations import Array, Population, populations
from benchmarks.drift.rules import LEVEL, RULES, Case

WINDOW_ROWS = 500
PARTS = 6
BLOCK_ROWS = 25
RUNS = 1000
POWER_OF_KS = 0.95
POWER_MIN = 0.1
"""Below it Kolmogorov-Smirnov sees nothing that one could compare with."""
MATCHED = "rows KS, matched"
GOALS = ("edgectl", "rows KS")
FALSE_ALARMS_MAX = 0.01
HERE = Path(__file__).resolve().parents[2] / "tests" / "data"


class Setting(NamedTuple):
    """What is measured: rows as they are and as they come, and how runs choose of both."""

    kind: str
    plain: Array
    shifted: Array
    pairs: Callable[[Array, Array, int], Iterator[tuple[Array, Array]]]


def main(arguments: list[str]) -> int:
    """Measure, print tables, end with one line of JSON; 1 where a goal is missed."""
    folder = Path(arguments[0]) if arguments else HERE
    runs = int(arguments[1]) if len(arguments) > 1 else RUNS
    table: dict[str, dict[str, float]] = {}
    costs = {}
    for population in populations(folder):
        settings = _settings(population)
        p_values: dict[str, list[float]] = {}
        with ProcessPoolExecutor(mp_context=get_context("fork")) as workers:
            measured = workers.map(partial(_measure, runs=runs), settings)
            for setting, (hits, found) in zip(settings, measured, strict=True):
                name = f"{population.name} {setting.kind}"
                p_values[name] = found
                table[name] = {rule: hits[rule] / runs for rule in RULES}
                shown = "  ".join(f"{share:6.3f}" for share in table[name].values())
                print(f"{name:32}{shown}", flush=True)
        calm = p_values.get(f"{population.name} neighbours")
        level = LEVEL / len(population.names) if calm is None else _level_of(calm)
        print(f"{MATCHED}: {level:.1e}")
        for name, found in p_values.items():
            table[name][MATCHED] = float((np.array(found) <= level).mean())
            print(f"{name:32}{table[name][MATCHED]:6.3f}", flush=True)
        costs[population.name] = cost_of(population)._asdict()
    print()
    print("rules:", ", ".join(RULES))
    for name, cost in costs.items():
        print(
            f"{name}: {cost['features']} features, {cost['watched_us']:.1f} µs an inference that "
            f"is described, {cost['skipped_us']:.2f} µs one that is not, "
            f"{cost['looked_at_us']['all']:.1f} µs one that is looked at for a sample, "
            f"{cost['not_looked_at_us']:.2f} µs one that is not, "
            f"{cost['bytes_a_day'] / 1000:.0f} kB a day"
        )
    summary = _summary(table)
    print(json.dumps({"runs": runs, "detected": table, "cost": costs, **summary}))
    return 0 if summary["goals_met"] else 1


def _level_of(calm: list[float]) -> float:
    """Return the largest level at which no more of these runs than allowed are false alarms."""
    allowed = int(FALSE_ALARMS_MAX * len(calm))
    return float(np.nextafter(sorted(calm)[allowed], 0.0))


def _settings(population: Population) -> list[Setting]:
    settings = [Setting("none", population.plain, population.plain, _pairs)]
    if population.name != "images":  # its rows have no order
        settings.append(Setting("neighbours", population.plain, population.plain, _neighbours))
        for shift in population.shifts[-1:]:
            kind = f"neighbours, {shift.kind} {shift.size:g}"
            settings.append(Setting(kind, population.plain, shift.values, _neighbours))
    for shift in population.shifts:
        kind = f"{shift.kind} {shift.size:g}"
        settings.append(Setting(kind, population.plain, shift.values, _pairs))
    return settings


def _measure(setting: Setting, runs: int) -> tuple[dict[str, int], list[float]]:
    """Return how often each rule says drift, and the least p-value of each run's rows."""
    hits = dict.fromkeys(RULES, 0)
    p_values = []
    for old, new in setting.pairs(setting.plain, setting.shifted, runs):
        case = Case(old, new, PARTS)
        for rule, decides in RULES.items():
            hits[rule] += decides(case)
        p_values.append(min(case.ks))
    return hits, p_values


def _pairs(plain: Array, shifted: Array, runs: int) -> Iterator[tuple[Array, Array]]:
    random = np.random.default_rng(2)
    half = len(plain) // 2
    for _ in range(runs):
        places = random.permutation(len(plain))
        yield plain[places[:half]], shifted[places[half : half + WINDOW_ROWS]]


def _neighbours(plain: Array, shifted: Array, runs: int) -> Iterator[tuple[Array, Array]]:
    random = np.random.default_rng(3)
    blocks = len(plain) // BLOCK_ROWS
    half = blocks // 2
    inside = np.arange(BLOCK_ROWS)
    for _ in range(runs):
        places = random.permutation(blocks)[:, np.newaxis] * BLOCK_ROWS + inside
        wanted = places[half : half + WINDOW_ROWS // BLOCK_ROWS]
        yield plain[places[:half].ravel()], shifted[wanted.ravel()]


def _summary(table: dict[str, dict[str, float]]) -> dict[str, float | bool]:
    calm = [row for name, row in table.items() if name.endswith((" none", " neighbours"))]
    moved = [
        row
        for name, row in table.items()
        if "neighbours" not in name and not name.endswith(" none")
    ]
    false_alarms = max(row["edgectl"] for row in calm)
    power = sum(row["edgectl"] for row in moved) / len(moved)
    power_of_ks = sum(row["rows KS"] for row in moved) / len(moved)
    worst = min(row["edgectl"] / row["rows KS"] for row in moved if row["rows KS"] >= POWER_MIN)
    return {
        "false_alarms": false_alarms,
        "power": round(power, 4),
        "power_of_rows_ks": round(power_of_ks, 4),
        "worst_ratio_to_rows_ks": round(worst, 4),
        "goals_met": false_alarms <= FALSE_ALARMS_MAX and worst >= POWER_OF_KS,
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
