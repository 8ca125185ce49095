"""A request to the local endpoint beside the runtime alone, Starlette and MLServer.

Every side serves the same models with the same onnxruntime and one thread, and sees the same input,
in turns, in one run, with client and server on one processor and on two: see `placement`. The
processor time is that of the serving process, all of its threads, as the kernel's scheduler counts
it; the latency is the client's smallest and median.

    python -m benchmarks.device.serving
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import onnxruntime

from benchmarks.device import peers
from benchmarks.device.asking import ask, binary_request, connect, json_request, processor_s
from benchmarks.device.cases import Case, activity, image, tiny
from benchmarks.device.placement import placed, placements
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.runtime import Model

__all__ = ["main", "measure"]

ROUNDS = 12
"""Many short ones: what else the machine does is to meet all sides alike."""
REQUESTS = 200
WARM_UP = 50
_RAW = "onnxruntime alone"
_FIGURES = {"cpu_us": "CPU us", "min_us": "min us", "median_us": "median us"}

Row = dict[str, dict[str, float]]
"""The figures of one side, by placement."""


class Side(NamedTuple):
    """One way to get the same answer."""

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]
    """Connects, for one round: others close a connection that waits for its turn."""
    clock: Callable[[], float]
    """Processor seconds of who computes it."""
    pid: int
    """The process that does."""


def main() -> int:
    """Measure, print the comparison, end with one line of JSON."""
    results = measure()
    print(
        f"{REQUESTS} requests a round, {ROUNDS} rounds in turns, one after another on one "
        f"connection;\nCPU: median of the rounds; onnxruntime {onnxruntime.__version__}, 1 thread, "
        f"{platform.machine()}, Python {platform.python_version()}\n"
    )
    for name, rows in results.items():
        _show(name, rows)
    print(json.dumps({"benchmark": "serving", "models": results}))
    return 0


def _show(name: str, rows: dict[str, Row]) -> None:
    for where, raw in rows[_RAW].items():
        head = "".join(f"{title:>11}" for title in _FIGURES.values())
        print(f"{f'{name}, {where}':<28}{head}{'CPU x raw':>11}")
        for side, row in rows.items():
            figures = "".join(f"{row[where][figure]:>11.1f}" for figure in _FIGURES)
            print(f"  {side:<26}{figures}{row[where]['cpu_us'] / raw['cpu_us']:>11.1f}")
        print()


def measure() -> dict[str, dict[str, Row]]:
    """Return by model, then by side: processor time, smallest and median latency, all in us."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        cases = [tiny(folder), image(folder), activity(folder)]
        unix = folder / "inference.sock"
        process = InferenceProcess(host="127.0.0.1", port=0, socket=unix)
        process.start()
        stack.callback(process.stop)
        for case in cases:
            process.load(case.bundle)
        others = [
            stack.enter_context(peers.starlette(folder, cases)),
            stack.enter_context(peers.mlserver(folder, cases)),
        ]
        return {case.name: _measure(_sides(case, process, unix, others)) for case in cases}


def _sides(
    case: Case,
    process: InferenceProcess,
    unix: Path,
    others: list[peers.Peer],
) -> list[Side]:
    raw = Model(case.bundle, threads=1)
    inputs = {"input": case.input}
    assert process._child is not None  # noqa: SLF001  # whose time is measured
    ours = process._child.pid  # noqa: SLF001
    port = int(process.endpoint.rpartition(":")[2])

    def ask_raw() -> object:
        return raw.run(inputs)

    sides = [Side(_RAW, lambda: contextlib.nullcontext(ask_raw), time.process_time, os.getpid())]
    for name, where, request, pid in (
        ("edgectl, JSON", port, json_request(case), ours),
        ("edgectl, JSON, Unix", str(unix), json_request(case), ours),
        ("edgectl, binary", port, binary_request(case), ours),
        ("edgectl, binary, Unix", str(unix), binary_request(case), ours),
        *((f"{peer.name}, JSON", peer.port, json_request(case), peer.pid) for peer in others),
    ):
        sides.append(Side(name, _opener(where, request), _clock(pid), pid))
    return sides


def _measure(sides: list[Side]) -> dict[str, Row]:
    cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    where = placements()
    for _ in range(ROUNDS):
        for side, placement in itertools.product(sides, where):
            key = side.name, placement.name
            with placed(placement, side.pid), side.open() as ask_once:
                for _ in range(WARM_UP):
                    ask_once()
                before = side.clock()
                for _ in range(REQUESTS):
                    began = time.perf_counter()
                    ask_once()
                    took[key].append(time.perf_counter() - began)
                cpu[key].append((side.clock() - before) / REQUESTS)
    return {
        side.name: {
            placement.name: _figures(
                cpu[side.name, placement.name], took[side.name, placement.name]
            )
            for placement in where
        }
        for side in sides
    }


def _figures(cpu: list[float], took: list[float]) -> dict[str, float]:
    found = {
        "cpu_us": statistics.median(cpu),
        "min_us": min(took),
        "median_us": statistics.median(took),
    }
    return {name: round(seconds * 1e6, 1) for name, seconds in found.items()}


def _opener(
    where: str | int, request: bytes
) -> Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[], object]]:
        with connect(where) as connection:
            yield lambda: ask(connection, request)

    return opened


def _clock(pid: int) -> Callable[[], float]:
    return lambda: processor_s(pid)


if __name__ == "__main__":
    raise SystemExit(main())
