"""A prediction of the SDK beside onnxruntime alone, in one process, in turns.

Both run the same file in the same onnxruntime with the same options (one thread, no arena), and get
the same array. The SDK's side checks the input, counts class, confidence and latency, tells them to
the agent once a second and follows hot swaps; the other side is ``session.run``. What the SDK costs
is the difference: of the smallest and of the median times, and of the processor time of the whole
process, which sees also what is done for many predictions at once, or in the background.

    python -m benchmarks.device.sdk
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import onnxruntime

from benchmarks.device.cases import Case, activity, image, tiny
from edgectl_agent import Model
from edgectl_agent.inference.process import InferenceProcess

__all__ = ["main", "measure"]

ROUNDS = 60
RUNS = 500
WARM_UP = 200
_SIDES = ("onnxruntime alone", "SDK")
_NS = 1000
"""Nanoseconds of a microsecond."""


def main() -> int:
    """Measure, print the comparison, end with one line of JSON."""
    results = measure()
    print(
        f"{ROUNDS} rounds of {RUNS} predictions in turns, in one process; onnxruntime "
        f"{onnxruntime.__version__}, 1 thread, {platform.machine()}, "
        f"Python {platform.python_version()}\n"
    )
    for name, rows in results.items():
        print(f"{name:<28}{'min us':>9}{'median us':>11}{'CPU us':>9}")
        for side in (*_SIDES, "SDK over onnxruntime"):
            row = rows[side]
            shown = f"{row['min_us']:>9.2f}{row['median_us']:>11.2f}{row['cpu_us']:>9.2f}"
            print(f"  {side:<26}{shown}")
        print()
    print(json.dumps({"benchmark": "sdk", "models": results}))
    return 0


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """Return by model, then by side, in us: smallest and median time, and processor time."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        hub = folder / "models.sock"
        process = InferenceProcess(host="127.0.0.1", port=0, socket=None, hub=hub)
        process.start()
        stack.callback(process.stop)
        results = {}
        for case in (tiny(folder), image(folder), activity(folder)):
            process.load(case.bundle)
            with Model(case.name, socket=hub) as model:
                results[f"{case.name} ({case.input.nbytes} bytes)"] = _compare(case, model)
        return results


def _compare(case: Case, model: Model) -> dict[str, dict[str, float]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # as the agent's own sessions
    session = onnxruntime.InferenceSession(
        case.bundle.model, options, providers=["CPUExecutionProvider"]
    )
    outputs = [spec.name for spec in case.bundle.config.outputs]
    values = case.input

    def alone() -> object:
        return session.run(outputs, {"input": values})

    def ours() -> object:
        return model.predict(values)

    assert model.in_process
    sides: dict[str, Callable[[], object]] = dict(zip(_SIDES, (alone, ours), strict=True))
    times: dict[str, list[int]] = {side: [] for side in sides}
    processor_us: dict[str, list[float]] = {side: [] for side in sides}
    for run in sides.values():
        for _ in range(WARM_UP):
            run()
    for _ in range(ROUNDS):
        for side, run in sides.items():
            taken, began = times[side], time.process_time_ns()
            for _ in range(RUNS):
                begin = time.perf_counter_ns()
                run()
                taken.append(time.perf_counter_ns() - begin)
            processor_us[side].append((time.process_time_ns() - began) / RUNS / _NS)
    rows = {
        side: {
            "min_us": min(taken) / _NS,
            "median_us": statistics.median(taken) / _NS,
            "cpu_us": statistics.median(processor_us[side]),
        }
        for side, taken in times.items()
    }
    rows["SDK over onnxruntime"] = {
        figure: rows["SDK"][figure] - rows["onnxruntime alone"][figure] for figure in rows["SDK"]
    }
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
