"""Running a candidate with its runtime: one thread, as devices do, and what it costs.

A ``.tflite`` file is run by LiteRT, a flat one by its reference, others by onnxruntime.
Every array has the batch as its first axis. Errors of the runtime become `PipelineRefused`
``model.unsupported`` (it cannot be loaded) or ``model.run`` (it cannot be run), except those that
say that memory has run out, which become `MemoryError`.
"""

from __future__ import annotations

import resource
import time
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgectl_protocol.manifest import Runtime, TensorSpec
from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.flat_session import FLAT_SUFFIX, FLAT_TOOL, FlatSession
from edgectl_server.pipeline.litert import LitertSession, litert_tool
from edgectl_server.pipeline.processor import processor_name
from edgectl_server.pipeline.spec import PipelineLimits

__all__ = [
    "TOOL",
    "Latency",
    "Outputs",
    "Runner",
    "describe",
    "latencies",
    "measured_on",
    "peak_bytes",
    "tool_of",
]

Outputs = dict[str, Array]
TOOL = f"onnxruntime {onnxruntime.__version__}"

_BATCH = 64
_WARM_UP_RUNS = 5
_ERRORS_ONLY = 3
_REASON_MAX = 400
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate", "out of memory")


@dataclass(frozen=True)
class Latency:
    """Of single samples, in microseconds."""

    p50_us: float
    p95_us: float


class Runner:
    """A model file, loaded with one thread."""

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        *,
        outputs: Sequence[str] = (),
        shapes: Mapping[str, tuple[int, ...]] = types.MappingProxyType({}),
        exact: bool = False,
        one_by_one: bool = False,
    ) -> None:
        """Load the model.

        Args:
            path: the file.
            inputs: of the model.
            outputs: names of those of a ``.tflite`` or flat file, in its order; ONNX says them.
            shapes: of the outputs of a flat file, by name.
            exact: compute what lies between DequantizeLinear and QuantizeLinear in float, as no
                processor's 8-bit products would saturate; slow, and only of use for accuracy.
            one_by_one: never run more than one sample at a time.

        Raises:
            PipelineRefused: ``model.unsupported``, ``model.opset``.
            MemoryError: it does not fit in the limit.
        """
        self._session: Any
        litert, flat = path.suffix == ".tflite", path.suffix == FLAT_SUFFIX
        self._runtime = "LiteRT" if litert else FLAT_TOOL if flat else "onnxruntime"
        try:
            if flat:
                self._session = FlatSession(path, inputs, {name: shapes[name] for name in outputs})
                self._names = list(outputs)
            elif litert:
                self._session = LitertSession(path, [spec.name for spec in inputs], outputs)
                self._names = list(outputs)
            else:
                self._session = _open_onnx(path, exact=exact)
                self._names = [output.name for output in self._session.get_outputs()]
        except Exception as error:  # the errors of a runtime have no common base
            raise _load_error(error, self._runtime) from error
        self._free_batch = all(spec.shape[0] < 0 for spec in inputs)
        self._batch = _BATCH if self._free_batch and not one_by_one and not litert else 1

    @property
    def free_batch(self) -> bool:
        """Say whether the model declares that it takes more than one sample at a time."""
        return self._free_batch

    def single(self, feeds: dict[str, Array]) -> Outputs:
        """Run a batch as given.

        Raises:
            PipelineRefused: ``model.run``.
            MemoryError: the run does not fit in the limit.
        """
        try:
            values = self._session.run(self._names, feeds)
        except Exception as error:  # the errors of a runtime have no common base
            raise _run_error(error, self._runtime) from error
        return dict(zip(self._names, values, strict=True))

    def run(self, samples: Samples) -> Outputs:
        """Run all samples and return the outputs, one row a sample.

        Batches are used where the model takes them and gives one row a sample; many exported
        models claim a free batch axis and hold a reshape to one sample.
        """
        if self._batch > 1 and samples.count > 1:
            try:
                return self._collect(samples, self._batch)
            except PipelineRefused:
                self._batch = 1
        return self._collect(samples, 1)

    def _collect(self, samples: Samples, batch: int) -> Outputs:
        collected: dict[str, list[Array]] = {name: [] for name in self._names}
        for feeds in samples.slices(batch):
            rows = next(iter(feeds.values())).shape[0]
            for name, value in self.single(feeds).items():
                _check_rows(name, value, rows)
                collected[name].append(value)
        try:
            return {name: np.concatenate(values) for name, values in collected.items()}
        except ValueError as error:
            raise PipelineRefused(
                "model.shape",
                "The size of an output changes from sample to sample.",
                "Export a model whose outputs have one size, such as a fixed number of boxes.",
            ) from error


def _open_onnx(path: Path, *, exact: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def latencies(runners: Sequence[Runner], samples: Samples, limits: PipelineLimits) -> list[Latency]:
    """Measure single samples on several models, one call of each in turn.

    So a machine that is slower for a while is slower for all of them. It ends after
    `latency_runs_max` rounds or `latency_s_max` seconds for each model, whichever comes first.
    """
    feeds = list(samples.choose(_BATCH, 0).slices(1))
    for runner in runners:
        for _ in range(_WARM_UP_RUNS):
            runner.single(feeds[0])
    taken: list[list[int]] = [[] for _ in runners]
    deadline = time.perf_counter_ns() + limits.latency_s_max * 1e9 * len(runners)
    for number in range(limits.latency_runs_max):
        feed = feeds[number % len(feeds)]
        for runner, times in zip(runners, taken, strict=True):
            start = time.perf_counter_ns()
            runner.single(feed)
            times.append(time.perf_counter_ns() - start)
        if time.perf_counter_ns() > deadline:
            break
    return [_latency_of(times) for times in taken]


def _latency_of(times_ns: list[int]) -> Latency:
    p50, p95 = np.percentile(np.array(times_ns) / 1000.0, [50, 95])
    return Latency(p50_us=round(float(p50), 1), p95_us=round(float(p95), 1))


def peak_bytes() -> int:
    """Return the most resident memory that this process has had; of a fork, since the fork."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_on(runtimes: Collection[Runtime]) -> str:
    """Name the processor and the runtimes of the measurements."""
    tools = ", ".join(tool_of(one) for one in sorted(set(runtimes), reverse=True))
    return f"{processor_name()}, {tools}, 1 thread"


def tool_of(runtime: Runtime) -> str:
    """Return name and version of a runtime."""
    if runtime == "cortex-m":
        return FLAT_TOOL
    return litert_tool() if runtime == "litert" else TOOL


def _check_rows(name: str, value: object, rows: int) -> None:
    if not isinstance(value, np.ndarray) or value.ndim < 1 or value.shape[0] != rows:
        got = list(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
        raise PipelineRefused(
            "model.shape",
            f"Output {name[:80]!r} has the shape {got} for {rows} samples; its first axis must be "
            "the batch.",
            "Export the model with the batch as the first axis of every output.",
        )


def describe(error: Exception) -> str:
    """Return the error's text for a report: on one line, bounded, without paths of this machine."""
    text = " ".join(str(error).split()).replace(f"{Path.cwd()}/", "")
    return text[:_REASON_MAX]


def _reason(error: Exception) -> str:
    text = describe(error)
    if isinstance(error, MemoryError) or any(mark in text.lower() for mark in _OUT_OF_MEMORY):
        raise MemoryError(text) from error
    return text


def _load_error(error: Exception, runtime: str) -> PipelineRefused:
    reason = _reason(error)
    if runtime == "LiteRT":
        return PipelineRefused(
            "model.unsupported",
            f"LiteRT cannot load the model: {reason}",
            "Load it with ai_edge_litert.interpreter.Interpreter on your machine, and convert it "
            "again with a newer TensorFlow.",
        )
    if "ValidateOpset" in reason or "opset" in reason.lower():
        return PipelineRefused(
            "model.opset",
            f"onnxruntime does not support the model's operator set: {reason}",
            "Export it with opset_version=17.",
        )
    return PipelineRefused(
        "model.unsupported",
        f"onnxruntime cannot load the model: {reason}",
        "Load it with onnxruntime.InferenceSession on your machine, and export it again.",
    )


def _run_error(error: Exception, runtime: str) -> PipelineRefused:
    return PipelineRefused(
        "model.run",
        f"The model loads but does not run: {_reason(error)}",
        f"Run it with {runtime} on one of your samples; push calibration data if it needs "
        "particular inputs.",
    )
