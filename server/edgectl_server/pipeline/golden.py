"""Golden cases: inputs with the outputs of this very variant, which a device has to reproduce.

Each case is run alone, as the device will. Tolerances are wide enough for another processor and
narrow enough to catch a wrong file, a wrong kernel or a broken build:

- float outputs of fp32: ``rtol`` 1e-3 (more for FP16), ``atol`` 1e-4 of the largest value of a
  typical case, so that one extreme case does not loosen the others;
- float outputs of int8: processors round and saturate 8-bit products differently, so that another
  processor's answer differs from ours by about as much as ours from fp32: ``atol`` is the larger of
  5 % of the range of the output and the 90th percentile of that difference, and one case in ten may
  be further off;
- integers that stand for numbers: as float outputs of int8, and at least one step;
- other integer outputs (classes) are compared exactly; a class may change on a close call, so that
  one case in ten may differ.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from edgectl_protocol.manifest import Golden, Tolerance
from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.execution import Outputs, Runner

__all__ = ["INT8_ATOL_OF_RANGE", "write_golden"]

_RTOL = 1e-3
_ATOL_OF_LARGEST = 1e-4
INT8_ATOL_OF_RANGE = 0.05
_INT8_PERCENTILE = 90
_EPSILONS = 8
_TYPICAL_OF_LARGEST = 0.01
_AGREEMENT_MIN = 0.9
_SMALLEST = 1e-6


def write_golden(
    path: Path,
    runner: Runner,
    cases: Samples,
    *,
    reference: Runner | None = None,
    scaled: Collection[str] = (),
) -> tuple[Golden, Outputs]:
    """Run the cases, write ``golden.npz``, and return its description and the outputs.

    Args:
        path: the file; the same cases and outputs give the same bytes.
        runner: the variant.
        cases: the inputs, one case a row.
        reference: the fp32 model, for a variant of another precision.
        scaled: outputs whose integers stand for numbers.
    """
    outputs = _run_alone(runner, cases)
    wanted = None if reference is None else _run_alone(reference, cases)
    arrays = {f"input.{name}": array for name, array in cases.inputs.items()}
    arrays |= {f"output.{name}": array for name, array in outputs.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    tolerances = {
        name: _tolerance(array, None if wanted is None else wanted[name], scaled=name in scaled)
        for name, array in outputs.items()
    }
    exact = all(array.dtype.kind == "f" for array in outputs.values())
    return (
        Golden(
            cases=cases.count,
            tolerances=tolerances,
            agreement_min=1.0 if exact and reference is None else _AGREEMENT_MIN,
        ),
        outputs,
    )


def _run_alone(runner: Runner, cases: Samples) -> Outputs:
    rows = [runner.single(feeds) for feeds in cases.slices(1)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _tolerance(array: Array, wanted: Array | None, *, scaled: bool) -> Tolerance:
    if array.dtype.kind != "f" and not scaled:
        return Tolerance(atol=0.0, rtol=0.0)
    values = array.astype(np.float64)
    smallest = 1.0 if scaled else _SMALLEST
    if wanted is None and not scaled:
        of_cases = np.abs(values.reshape(len(values), -1)).max(axis=1, initial=0.0)
        typical = max(float(np.median(of_cases)), _TYPICAL_OF_LARGEST * float(of_cases.max()))
        largest = max(_SMALLEST, typical)
        rtol = max(_RTOL, _EPSILONS * float(np.finfo(array.dtype).eps))
        return Tolerance(atol=_ATOL_OF_LARGEST * largest * (rtol / _RTOL), rtol=rtol)
    spread = float(values.max(initial=0.0) - values.min(initial=0.0))
    difference = 0.0
    if wanted is not None:
        difference = float(np.percentile(np.abs(values - wanted), _INT8_PERCENTILE))
    return Tolerance(atol=max(smallest, INT8_ATOL_OF_RANGE * spread, difference), rtol=0.0)
