"""Measures one model file that is nobody's bundle: ``edgectl-agent bench FILE.onnx``.

``python -m edgectl_agent.bench_child FILE RUNS SECONDS``, a process of its own: whatever the file
does, it does it to this process. Inputs are random numbers of the shapes that the file names; a
free size is 1. One line of JSON on standard output: figures, or ``{"error": …}``.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_ELEMENTS_MAX = 64 * 1024 * 1024
_WARM_UP = 3
_ARGUMENTS = 3


def main(arguments: list[str]) -> int:
    """Measure; the exit code is 0 also where the model cannot be measured, which is said."""
    if len(arguments) != _ARGUMENTS:
        return 2
    file, runs, seconds = arguments[0], int(arguments[1]), float(arguments[2])
    limit = math.ceil(seconds * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        result = _measure(file, runs, seconds)
    except Exception as error:  # noqa: BLE001 - a runtime raises a dozen types
        result = {"error": str(error).splitlines()[0][:500] if str(error) else repr(error)}
    print(json.dumps(result), flush=True)
    return 0


def _measure(file: str, runs: int, seconds: float) -> dict[str, Any]:
    import numpy as np

    from edgectl_agent.onnx_session import OnnxSession
    from edgectl_agent.runtime import threads_for
    from edgectl_agent.session import DTYPES

    size = Path(file).stat().st_size
    threads = threads_for(size)
    began = time.perf_counter()
    session = OnnxSession(file, threads)
    load_ms = (time.perf_counter() - began) * 1000
    random = np.random.default_rng(0)
    inputs = {}
    for node in session.inputs:
        shape = tuple(1 if one is None else one for one in node.shape or ())
        kind = DTYPES.get(node.datatype)
        if kind is None or kind == np.object_ or math.prod(shape) > _ELEMENTS_MAX:
            raise ValueError(f"input {node.name!r} of {node.datatype} {shape} cannot be made up")
        values = random.standard_normal(shape) if np.dtype(kind).kind == "f" else np.zeros(shape)
        inputs[node.name] = values.astype(kind)
    outputs = tuple(node.name for node in session.outputs)
    for _ in range(_WARM_UP):
        session.run(outputs, inputs, None)
    times: list[float] = []
    end = time.perf_counter() + seconds / 2
    while len(times) < runs and (not times or time.perf_counter() < end):
        began = time.perf_counter()
        session.run(outputs, inputs, None)
        times.append(time.perf_counter() - began)
    times.sort()
    return {
        "runs": len(times),
        "load_ms": load_ms,
        "latency_p50_us": times[len(times) // 2] * 1e6,
        "latency_p95_us": times[min(len(times) - 1, int(len(times) * 0.95))] * 1e6,
        "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": threads,
        "bytes": size,
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
