"""Random worlds with power cuts and a swarm of other faults, many of them, from seeds.

A world is the real machine, journal, store, transfer and serving on a simulated disk, in simulated
time: it draws its orders, its bad models and its faults from its seed, checks what must always hold
while they last, and must come to the right end when they are over. There are two kinds, played in
turn: `tests/agent/core/random_worlds.py` is hard on the disk, which also fails operations, in part,
and `tests/agent/core/worlds.py` on the course of updates, with holds, windows, shadows, coupled
slots and wishes of a person at the device. Printed are the speed, at which operations of the disk
the power was cut of all that there are, and how many worlds had the power cut in which state of the
update together with which fault.

    python -m benchmarks.device.simulation --worlds 100000 --workers 2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from agent.core import worlds as course
from agent.core.random_worlds import FAULTS, Outcome, play_random_world
from edgectl_protocol.update import ENDED

BLOCK = 50
FAILURES_SHOWN_MAX = 10
COLUMNS = 8
SAY_S = 30.0
STATES_LAST = ("idle", "boot")


@dataclass
class Seen:
    """What many worlds have seen together; a sum of them."""

    worlds: int = 0
    operations: int = 0
    boots: int = 0
    cuts: int = 0
    kinds: set[str] = field(default_factory=set)
    cut_at: Counter[str] = field(default_factory=Counter)
    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        """Take in what others have seen."""
        self.worlds += other.worlds
        self.operations += other.operations
        self.boots += other.boots
        self.cuts += other.cuts
        self.kinds |= other.kinds
        self.failures += other.failures
        for mine, theirs in (
            (self.cut_at, other.cut_at),
            (self.table, other.table),
            (self.struck, other.struck),
            (self.ended, other.ended),
        ):
            mine.update(theirs)


def play(seeds: Iterable[int]) -> Seen:
    """Play worlds; a failure does not end it."""
    logging.disable(logging.CRITICAL)  # damage is logged, and is what is wanted here
    seen = Seen()
    for seed in seeds:
        seen.worlds += 1
        try:
            outcome = play_one(seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it has to be told with its seed
            seen.failures.append((seed, f"{type(error).__name__}: {error}"))
            continue
        seen.operations += outcome.operations
        seen.boots += outcome.boots
        seen.cuts += outcome.cut_at.total()
        seen.kinds |= outcome.seen
        seen.cut_at += outcome.cut_at
        seen.table.update(outcome.cuts)
        seen.struck.update(outcome.struck)
        seen.ended.update(outcome.ended)
    return seen


def play_one(seed: int) -> Outcome:
    """Play the world of a seed: of the disk where it is even, of the course where it is odd."""
    if seed % 2 == 0:
        return play_random_world(seed)
    trace = course.run_world(seed)
    met = set(trace.met) | ({"cuts"} if trace.cuts else set())
    at: Counter[str] = Counter()
    for (_, what), count in trace.cuts.items():
        at[f"{what} (course of updates)"] += count
    return Outcome(
        seed,
        operations=trace.operations,
        boots=trace.boots,
        cuts={(state, fault) for state, _ in trace.cuts for fault in met},
        cut_at=at,
        seen=set(at),
        struck=met,
        ended={str(after) for *_, after in trace.transitions if after in ENDED},
    )


def blocks(first: int, worlds: int) -> Iterator[range]:
    """Yield the seeds in portions for the workers."""
    for start in range(first, first + worlds, BLOCK):
        yield range(start, min(start + BLOCK, first + worlds))


def play_all(first: int, worlds: int, workers: int) -> Seen:
    """Play them in `workers` processes, and say now and then how far it has come."""
    total = Seen()
    began = said = time.monotonic()
    with (
        multiprocessing.get_context("spawn").Pool(workers) as pool,
        contextlib.suppress(KeyboardInterrupt),  # what was played until then is shown
    ):
        for seen in pool.imap_unordered(play, blocks(first, worlds)):
            total.add(seen)
            for seed, text in seen.failures:
                print(f"  seed {seed}: {text}", file=sys.stderr, flush=True)
            if time.monotonic() - said > SAY_S:
                said = time.monotonic()
                rate = total.worlds / (said - began)
                print(
                    f"  {total.worlds:,} worlds, {rate:.0f} a second", file=sys.stderr, flush=True
                )
    return total


def show(seen: Seen, took_s: float) -> dict[str, Any]:
    """Print what was seen; return it for the last line."""
    rate = seen.worlds / took_s
    print(
        f"{seen.worlds:,} worlds in {took_s:.0f} s, {rate:.0f} a second; {seen.boots:,} boots, "
        f"{seen.operations:,} operations of the disk, {seen.cuts:,} power cuts and kills\n"
    )
    print(f"power cut at {len(seen.cut_at)} of {len(seen.kinds)} kinds of operation and file")
    for kind in sorted(seen.kinds):
        print(f"  {seen.cut_at[kind]:>9,}  {kind}")
    states = sorted({state for state, _ in seen.table}, key=lambda one: (one in STATES_LAST, one))
    print("\nworlds in which the power was cut in a state and a fault happened")
    columns = list(dict.fromkeys((*FAULTS, *(one for one in course.FAULTS if seen.struck[one]))))
    for first in range(0, len(columns), COLUMNS):
        part = columns[first : first + COLUMNS]
        print("\n" + " " * 14 + "".join(f"{fault[:15]:>16}" for fault in part))
        for state in states:
            counts = "".join(f"{seen.table[state, fault]:>16,}" for fault in part)
            print(f"  {state:<12}{counts}")
    print("\nupdates ended: " + ", ".join(f"{k} {v:,}" for k, v in sorted(seen.ended.items())))
    for seed, text in seen.failures[:FAILURES_SHOWN_MAX]:
        print(f"\nseed {seed}: {text}")
        print(f"  replay: python -m benchmarks.device.simulation --worlds 1 --seed {seed}")
    print(f"\n{len(seen.failures)} worlds failed")
    return {
        "benchmark": "device.simulation",
        "worlds": seen.worlds,
        "seconds": round(took_s, 1),
        "worlds_per_s": round(rate, 1),
        "boots": seen.boots,
        "operations": seen.operations,
        "cuts": seen.cuts,
        "kinds": len(seen.kinds),
        "kinds_cut": len(seen.cut_at),
        "struck": dict(sorted(seen.struck.items())),
        "table": {
            state: {fault: seen.table[state, fault] for fault in columns} for state in states
        },
        "ended": dict(sorted(seen.ended.items())),
        "failures": [seed for seed, _ in seen.failures],
    }


def main(arguments: list[str] | None = None) -> int:
    """Play, print, end with one line of JSON; 1 where a world has failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    print(
        f"{options.workers} processes; {platform.machine()}, {os.cpu_count()} processors, "
        f"Python {platform.python_version()}"
    )
    began = time.monotonic()
    seen = play_all(options.seed, options.worlds, options.workers)
    result = show(seen, time.monotonic() - began)
    print(json.dumps(result))
    return 1 if seen.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
