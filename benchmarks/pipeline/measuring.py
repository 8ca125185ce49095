"""Accuracy, size and latency of several files of one model, side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.pipeline.models import Array, Model, load, score

__all__ = ["Measured", "measure"]

_CALLS_MAX = 2000
_SECONDS_MAX = 4.0
_WARM_UP = 10
_SAMPLES = 32


@dataclass(frozen=True)
class Measured:
    """What one file is worth; latency in microseconds, median of single calls on one thread."""

    size: int
    value: float
    p50_us: float


def measure(model: Model, files: dict[str, Path]) -> dict[str, Measured]:
    """Score each file on all evaluation data, then time one call of each in turn, many times.

    One sample a call, as a device gets them: dynamic quantization takes its range from the whole
    batch, so that its answers depend on what else is in it. In turn, so that a machine that slows
    down does so for all alike.
    """
    inputs, label = load(model.evaluation)
    assert label is not None, model.evaluation
    sessions = {name: _session(path) for name, path in files.items()}
    values = {
        name: score(model.metric, inputs, _outputs(session, inputs), label)
        for name, session in sessions.items()
    }
    count = min(_SAMPLES, len(label))
    feeds = [{name: array[at : at + 1] for name, array in inputs.items()} for at in range(count)]
    taken: dict[str, list[int]] = {name: [] for name in sessions}
    end = time.monotonic() + _SECONDS_MAX * len(sessions)
    for turn in range(_CALLS_MAX + _WARM_UP):
        feed = feeds[turn % count]
        for name, session in sessions.items():
            begun = time.perf_counter_ns()
            session.run(None, feed)
            taken[name].append(time.perf_counter_ns() - begun)
        if time.monotonic() > end and turn > 2 * _WARM_UP:
            break
    return {
        name: Measured(
            size=path.stat().st_size,
            value=values[name],
            p50_us=float(np.median(taken[name][_WARM_UP:])) / 1000,
        )
        for name, path in files.items()
    }


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _outputs(session: onnxruntime.InferenceSession, inputs: dict[str, Array]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(inputs.values())))
    rows = []
    for at in range(count):
        feed = {name: array[at : at + 1] for name, array in inputs.items()}
        rows.append(session.run(names, feed))
    return {
        name: np.concatenate([row[number] for row in rows]) for number, name in enumerate(names)
    }
