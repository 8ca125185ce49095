"""A request to the local endpoint beside the runtime alone, Starlette and MLServer.

Every side serves the same models with the same onnxruntime and one thread, and sees the same input,
in turns, in one run. The processor time is that of the serving process, all of its threads, as the
kernel's scheduler counts it; the latency is the client's smallest and median.

    python -m benchmarks.device.serving
"""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import onnxruntime

from benchmarks.device import peers
from benchmarks.device.asking import ask, binary_request, connect, json_request, processor_s
from benchmarks.device.cases import Case, activity, image, tiny
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.runtime import Model

__all__ = ["main", "measure"]

ROUNDS = 5
REQUESTS = 1000
WARM_UP = 100
_RAW = "onnxruntime alone"


class Side(NamedTuple):
    """One way to get the same answer."""

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]
    """Connects, for one round: others close a connection that waits for its turn."""
    clock: Callable[[], float]
    """Processor seconds of who computes it."""


def main() -> int:
    """Measure, print the comparison, end with one line of JSON."""
    results = measure()
    print(
        f"{REQUESTS} requests a round, {ROUNDS} rounds in turns, one after another on one "
        f"connection;\nCPU: median of the rounds; onnxruntime {onnxruntime.__version__}, 1 thread, "
        f"{platform.machine()}, Python {platform.python_version()}\n"
    )
    for name, rows in results.items():
        raw = rows[_RAW]["cpu_us"]
        print(f"{name:<28}{'CPU us':>9}{'x raw':>8}{'min us':>9}{'median us':>11}")
        for side, row in rows.items():
            print(
                f"  {side:<26}{row['cpu_us']:>9.1f}{row['cpu_us'] / raw:>8.1f}"
                f"{row['min_us']:>9.1f}{row['median_us']:>11.1f}"
            )
        print()
    print(json.dumps({"benchmark": "serving", "models": results}))
    return 0


def measure() -> dict[str, dict[str, dict[str, float]]]:
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

    sides = [Side(_RAW, lambda: contextlib.nullcontext(ask_raw), time.process_time)]
    for name, where, request, pid in (
        ("edgectl, JSON", port, json_request(case), ours),
        ("edgectl, JSON, Unix", str(unix), json_request(case), ours),
        ("edgectl, binary", port, binary_request(case), ours),
        ("edgectl, binary, Unix", str(unix), binary_request(case), ours),
        *((f"{peer.name}, JSON", peer.port, json_request(case), peer.pid) for peer in others),
    ):
        sides.append(Side(name, _opener(where, request), _clock(pid)))
    return sides


def _measure(sides: list[Side]) -> dict[str, dict[str, float]]:
    cpu: dict[str, list[float]] = {side.name: [] for side in sides}
    took: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(ROUNDS):
        for side in sides:
            with side.open() as ask_once:
                for _ in range(WARM_UP):
                    ask_once()
                before = side.clock()
                for _ in range(REQUESTS):
                    began = time.perf_counter()
                    ask_once()
                    took[side.name].append(time.perf_counter() - began)
                cpu[side.name].append((side.clock() - before) / REQUESTS)
    return {
        side.name: {
            "cpu_us": round(statistics.median(cpu[side.name]) * 1e6, 1),
            "min_us": round(min(took[side.name]) * 1e6, 1),
            "median_us": round(statistics.median(took[side.name]) * 1e6, 1),
        }
        for side in sides
    }


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
