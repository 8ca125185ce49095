"""onnxruntime's default quantizations, each in a process of its own, as a script would make them.

    python -m benchmarks.pipeline.baselines dynamic|static MODEL CALIBRATION TARGET

``quantize_static`` after ``quant_pre_process``, as its documentation asks for, on all calibration
samples; everything else as the functions are called without arguments.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BASELINES", "Made", "make"]

ROOT = Path(__file__).parents[2]
BASELINES = ("dynamic", "static")
_BOUND_S = 600


@dataclass(frozen=True)
class Made:
    """A file and what it took, from the start of a process to its end; `failure` says why not."""

    path: Path
    seconds: float
    failure: str = ""


def make(kind: str, model: Path, calibration: Path, target: Path) -> Made:
    """Make `target` by one of `BASELINES`."""
    files = [str(path.resolve()) for path in (model, calibration, target)]
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pipeline.baselines", kind, *files],
        cwd=target.parent,  # quant_pre_process leaves a file in its folder when it fails
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=_BOUND_S,
        check=False,
    )
    seconds = time.monotonic() - begun
    lines = done.stderr.strip().splitlines() or ["no words"]
    failure = "" if done.returncode == 0 else f"exit code {done.returncode}: {lines[-1][:200]}"
    return Made(target, seconds, failure)


def main(arguments: list[str]) -> int:
    """Be the child."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kind, model, calibration, target = arguments
    if kind == "dynamic":
        quantize_dynamic(model, target)
        return 0

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            with np.load(calibration) as data:
                arrays = {name: data[name] for name in data if name != "label"}
            count = len(next(iter(arrays.values())))
            self.feeds: Iterator[dict[str, Any]] = (
                {name: array[at : at + 1] for name, array in arrays.items()} for at in range(count)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(model, prepared)
        except Exception:  # noqa: BLE001  # it raises just that, and names the option to use
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, target, Reader())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
