"""False alarms among rows that resemble their neighbours: how long the likeness, how many windows.

No shift anywhere. As `neighbours` of the main benchmark, with blocks of other lengths, windows of
other numbers of parts, features of which one half is in random order, and a reference whose rows
were shuffled, so that it does not show that they resemble one another.

    python -m benchmarks.drift.neighbours [FOLDER] [RUNS]

Ends with one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.drift.populations import Array, populations
from benchmarks.drift.rules import LEVEL, Case, counts

WINDOW_ROWS = 500
RUNS = 200
HERE = Path(__file__).resolve().parents[2] / "tests" / "data"


class Likeness(NamedTuple):
    """How rows resemble one another.

    Attributes:
        block_rows: so many neighbours stay together.
        parts: windows of the device.
        half: only every other feature does.
        shuffled: the reference does not show it.
    """

    block_rows: int
    parts: int = 6
    half: bool = False
    shuffled: bool = False

    def __str__(self) -> str:
        more = [
            "half of the features" if self.half else "",
            "reference shuffled" if self.shuffled else "",
        ]
        return ", ".join(
            [f"blocks of {self.block_rows}", f"{self.parts} windows", *filter(None, more)]
        )


LIKENESSES = (
    *(Likeness(rows) for rows in (2, 5, 10, 25, 50, 100)),
    Likeness(25, parts=3),
    Likeness(25, parts=12),
    Likeness(25, half=True),
    *(Likeness(rows, shuffled=True) for rows in (2, 5, 25)),
)


def main(arguments: list[str]) -> int:
    """Measure, print shares of false alarms, end with one line of JSON."""
    folder = Path(arguments[0]) if arguments else HERE
    runs = int(arguments[1]) if len(arguments) > 1 else RUNS
    table: dict[str, dict[str, float]] = {}
    for population in populations(folder):
        if population.name == "images":  # its rows have no order
            continue
        for likeness in LIKENESSES:
            ours = rows_ks = 0
            for old, new in _pairs(population.plain, likeness, runs):
                case = Case(old, new, likeness.parts)
                ours += counts(case)
                rows_ks += min(case.ks) <= LEVEL / old.shape[1]
            name = f"{population.name}, {likeness}"
            table[name] = {"edgectl": ours / runs, "rows KS": rows_ks / runs}
            print(f"{name:60}{ours / runs:7.3f}{rows_ks / runs:7.3f}", flush=True)
    print(json.dumps({"runs": runs, "false_alarms": table}))
    return 0


def _pairs(plain: Array, likeness: Likeness, runs: int) -> Iterator[tuple[Array, Array]]:
    random = np.random.default_rng(4)
    if likeness.half:
        plain = plain.copy()
        plain[:, ::2] = plain[random.permutation(len(plain))][:, ::2]
    blocks = len(plain) // likeness.block_rows
    inside = np.arange(likeness.block_rows)
    half = blocks // 2
    wanted = half + WINDOW_ROWS // likeness.block_rows
    for _ in range(runs):
        places = random.permutation(blocks)[:, np.newaxis] * likeness.block_rows + inside
        old, new = plain[places[:half].ravel()], plain[places[half:wanted].ravel()]
        yield (old[random.permutation(len(old))] if likeness.shuffled else old), new


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
