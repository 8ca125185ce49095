"""Golden inputs and outputs: reading them with bounds, and replaying them through a model.

The first axis of every array counts the cases. Each case is run alone; where the model has a batch
axis, as a batch of one. A case passes when every output that has a tolerance is within it:
``|got - golden| <= atol + rtol * |golden|``; NaN equals NaN, an infinity only itself.
"""

from __future__ import annotations

import errno
import io
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from msgspec import Struct

from edgectl_agent.bundle import Bundle
from edgectl_agent.decryption import read_layer
from edgectl_agent.runtime import DTYPES, Model, Tensor, shape_fits
from edgectl_protocol.manifest import GOLDEN_FILE, TensorSpec, Tolerance

__all__ = ["Cases", "GoldenMalformed", "Replay", "compare", "read_golden", "replay"]

FILE_BYTES_MAX = 256 * 1024 * 1024
ARRAYS_MAX = 128
RUNS_MAX = 200
"""Timed runs of one replay, beyond one for each case."""


class GoldenMalformed(Exception):
    """``golden.npz`` is not what the bundle's contract says."""


class Cases:
    """Golden inputs and outputs, checked against the contract.

    Attributes:
        count: number of cases.
        outputs: by name, those that have a tolerance; first axis is the case.
    """

    def __init__(
        self, count: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> None:
        self.count = count
        self.outputs = outputs
        self._inputs = inputs

    def inputs(self, case: int) -> dict[str, Tensor]:
        """Return the arrays to feed for one case, by input name."""
        return {name: values[case] for name, values in self._inputs.items()}


class Replay(Struct, frozen=True, kw_only=True):
    """What a replay saw; latencies are of the model's run alone, in microseconds."""

    passed: int
    total: int
    max_abs_diff: float
    """Finite; a NaN or an infinity in the wrong place counts as the largest float."""
    latency_p50_us: float
    latency_p95_us: float
    first_failure: str
    runs: int
    """That the latencies are of."""


def read_golden(bundle: Bundle) -> Cases:
    """Read the bundle's ``golden.npz`` and check it against the contract.

    Raises:
        Undecipherable: it is encrypted and does not open with the bundle's key.
        GoldenMalformed: too large, a pickle, an array missing, or of another datatype or shape.
        OSError: the file cannot be read.
    """
    config = bundle.config
    golden = config.golden
    if not golden.tolerances:
        raise GoldenMalformed("the bundle names no tolerance, so that nothing would be compared")
    names = [f"input.{spec.name}" for spec in config.inputs]
    names += [f"output.{name}" for name in golden.tolerances]
    with _open(bundle) as file:
        arrays = _read_arrays(file, names)
    for name, values in arrays.items():
        if values.ndim == 0 or len(values) != golden.cases:
            raise GoldenMalformed(
                f"{name} has shape {list(values.shape)}, expected {golden.cases} cases"
            )
    inputs = {spec.name: _fit(arrays[f"input.{spec.name}"], spec) for spec in config.inputs}
    outputs = {name: arrays[f"output.{name}"] for name in golden.tolerances}
    return Cases(golden.cases, inputs, outputs)


def replay(model: Model, cases: Cases, *, seconds_max: float, runs_max: int = RUNS_MAX) -> Replay:
    """Run every case once and compare, then time more runs.

    Args:
        model: the candidate.
        cases: of the same contract.
        seconds_max: no further timed run is begun after this long.
        runs_max: timed runs, beyond one for each case.

    Raises:
        RunFailed: the model did not give its outputs for a golden input.
    """
    started = time.perf_counter()
    passed, largest, first_failure, latencies = 0, 0.0, "", list[float]()
    model.run(cases.inputs(0))  # the first run allocates; it is not timed
    for case in range(cases.count):
        inputs = cases.inputs(case)
        begin = time.perf_counter()
        got = model.run(inputs)
        latencies.append(time.perf_counter() - begin)
        agrees = True
        for name, tolerance in model.config.golden.tolerances.items():
            within, difference = compare(got[name], cases.outputs[name][case], tolerance)
            largest = max(largest, difference)
            if not within:
                agrees = False
                first_failure = first_failure or (
                    f"case {case}, output {name!r}: off by {difference:.6g}, "
                    f"allowed {tolerance.atol:g} + {tolerance.rtol:g} of the value"
                )
        passed += agrees
    for run in range(runs_max):
        if time.perf_counter() - started > seconds_max:
            break
        inputs = cases.inputs(run % cases.count)
        begin = time.perf_counter()
        model.run(inputs)
        latencies.append(time.perf_counter() - begin)
    return Replay(
        passed=passed,
        total=cases.count,
        max_abs_diff=largest,
        latency_p50_us=float(np.percentile(latencies, 50)) * 1e6,
        latency_p95_us=float(np.percentile(latencies, 95)) * 1e6,
        first_failure=first_failure,
        runs=len(latencies),
    )


def _open(bundle: Bundle) -> IO[bytes]:
    if bundle.key is None:
        return Path(bundle.golden).open("rb")
    return io.BytesIO(read_layer(bundle, bundle.golden, GOLDEN_FILE))


def _read_arrays(file: IO[bytes], names: list[str]) -> dict[str, Tensor]:
    """Read the named arrays; the sizes in the archive's directory are checked before any is."""
    try:
        return _parse_arrays(file, names)
    except (GoldenMalformed, MemoryError):
        raise
    except Exception as error:
        # Damaged archives and headers come out of NumPy and zipfile as a dozen types, from
        # BadZipFile to TokenError, and as OSError for a seek to nowhere.
        if isinstance(error, OSError) and error.errno == errno.EIO:
            raise  # the disk, not the data
        raise GoldenMalformed(f"golden.npz cannot be read: {str(error)[:200]}") from error


def _parse_arrays(file: IO[bytes], names: list[str]) -> dict[str, Tensor]:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > ARRAYS_MAX or sum(entry.file_size for entry in entries) > FILE_BYTES_MAX:
            raise GoldenMalformed(
                f"more than {ARRAYS_MAX} arrays or {FILE_BYTES_MAX} bytes of golden data"
            )
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        missing = sorted(set(names) - set(arrays.files))
        if missing:
            raise GoldenMalformed(f"no array {', '.join(missing)} in golden.npz")
        found = {name: arrays[name] for name in names}
    if not all(isinstance(array, np.ndarray) for array in found.values()):
        raise GoldenMalformed("golden.npz holds something else than arrays")
    return found


def _fit(values: Tensor, spec: TensorSpec) -> Tensor:
    """Return `values` so that ``values[case]`` can be fed for `spec`."""
    if spec.datatype == "BYTES" and values.dtype.kind in "US":
        text = values.astype(np.str_) if values.dtype.kind == "S" else values
        values = text.astype(np.object_)
    if values.dtype != DTYPES[spec.datatype]:
        raise GoldenMalformed(
            f"golden input {spec.name!r} is {values.dtype}, expected {spec.datatype}"
        )
    if values.ndim == len(spec.shape):
        values = values[:, np.newaxis]  # the case is the batch: a batch of one each
    if not shape_fits(values.shape[1:], spec):
        raise GoldenMalformed(
            f"golden input {spec.name!r} has cases of shape {list(values.shape[1:])}, "
            f"expected {list(spec.shape)}"
        )
    return values


def compare(got: Tensor, golden: Tensor, tolerance: Tolerance) -> tuple[bool, float]:
    """Return whether one output of one case is within tolerance, and its largest difference."""
    worst = sys.float_info.max
    if got.size != golden.size:
        return False, worst
    if got.dtype.kind in "OUS":
        same = [str(value) for value in got.ravel()] == [str(value) for value in golden.ravel()]
        return same, 0.0 if same else worst
    left, right = got.ravel().astype(np.float64), golden.ravel().astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    alike = (left == right) | (np.isnan(left) & np.isnan(right))
    if not np.all(finite | alike):
        return False, worst
    difference = np.abs(left[finite] - right[finite])
    if difference.size == 0:
        return True, 0.0
    allowed = tolerance.atol + tolerance.rtol * np.abs(right[finite])
    return bool(np.all(difference <= allowed)), float(difference.max())
