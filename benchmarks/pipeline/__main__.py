"""The pipeline's choice beside fp32 and onnxruntime's default quantizations, on real models.

For each model, in one run: plain ``quantize_dynamic``, plain ``quantize_static``, and the whole
search of the pipeline, each from the start of its process to its end; then size, accuracy on all
evaluation data, and latency of all of them in turns, on this machine's own 8-bit products. Ours is
what a device with this processor gets: where sums of 8-bit products saturate, the first portable
variant (``docs/pipeline.md``). It is called worse when it is outside the
budget of one point, or when fp32 or a default inside the budget is better in time or size and not
worse in the other.

    python -m benchmarks.pipeline [FOLDER] [CACHE]

FOLDER holds ``digits-speech`` and ``images`` with their models and data; without it, only the
models of the repository. CACHE keeps what is made of it (default: a folder that is removed).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.pipeline.baselines import BASELINES, Made, make
from benchmarks.pipeline.measuring import Measured, measure
from benchmarks.pipeline.models import Model, catalogue
from edgectl_server.pipeline.errors import PipelineError
from edgectl_server.pipeline.processor import saturates
from edgectl_server.pipeline.runner import run_pipeline
from edgectl_server.pipeline.spec import PipelineLimits, PipelineResult, PipelineSpec

BUDGET_POINTS = 1.0
EQUALLY_FAST, EQUALLY_SMALL = 1.05, 1.02
"""As in ``edgectl_server.pipeline.selection``."""
_WORKERS = (2, 1)
_METRICS = {"auc"} if "metric" in PipelineSpec.__struct_fields__ else set()
"""Those that a push can ask for; accuracy is what it takes by itself."""


@dataclass(frozen=True)
class Search:
    """One run of our search: its choice for this processor, and what it took."""

    seconds: float
    recipe: str = ""
    path: Path | None = None
    trials: int = 0
    refusal: str = ""


def main(arguments: list[str]) -> int:
    """Measure all models, print tables, end with one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as name:
        scratch = Path(name)
        assets = Path(arguments[0]) if arguments else None
        cache = Path(arguments[1]) if len(arguments) > 1 else scratch / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        print(
            f"budget {BUDGET_POINTS:g} point; onnxruntime {onnxruntime.__version__}, 1 thread; "
            f"{platform.machine()} {'without' if saturates() else 'with'} VNNI, "
            f"{os.cpu_count()} processors"
        )
        results = []
        for model in catalogue(assets, cache):
            folder = scratch / model.name
            folder.mkdir()
            results.append(_compare(model, folder))
    worse = [row["model"] for row in results if row["worse"]]
    print(f"\nworse than fp32 or a default inside the budget: {', '.join(worse) or 'none'}")
    print(json.dumps({"benchmark": "pipeline", "budget_points": BUDGET_POINTS, "models": results}))
    return 0


def _compare(model: Model, folder: Path) -> dict[str, Any]:
    made = {
        kind: make(kind, model.path, model.calibration, folder / f"{kind}.onnx")
        for kind in BASELINES
    }
    searches = {
        f"{workers} workers": _search(model, folder / f"workers-{workers}", workers)
        for workers in _WORKERS
    }
    ours = next(iter(searches.values()))
    files = {"fp32": model.path} | {kind: one.path for kind, one in made.items() if not one.failure}
    if ours.path is not None:
        files["edgectl"] = ours.path
    measured = measure(model, files)
    worse = _worse(measured)
    _print(model, made, searches, measured, worse)
    reference = measured["fp32"].value
    return {
        "model": model.name,
        "kind": model.kind,
        "metric": model.metric,
        "recipe": ours.recipe,
        "refusal": ours.refusal,
        "trials": ours.trials,
        "sides": {
            name: {
                "bytes": one.size,
                "value": round(one.value, 4),
                "drop_points": round(100 * (reference - one.value), 2),
                "p50_us": round(one.p50_us, 1),
            }
            for name, one in measured.items()
        },
        "failures": {kind: one.failure for kind, one in made.items() if one.failure},
        "seconds": {kind: round(one.seconds, 2) for kind, one in made.items()}
        | {f"edgectl, {name}": round(one.seconds, 2) for name, one in searches.items()},
        "times_static": {
            name: round(one.seconds / made["static"].seconds, 1) for name, one in searches.items()
        },
        "worse": worse,
    }


def _search(model: Model, folder: Path, workers: int) -> Search:
    folder.mkdir()
    fields: dict[str, Any] = {"metric": model.metric} if model.metric in _METRICS else {}
    spec = PipelineSpec(
        model=model.name,
        version="1",
        source=model.path,
        calibration=model.calibration,
        evaluation=model.evaluation,
        max_drop_points=BUDGET_POINTS,
        limits=PipelineLimits(workers=workers),
        **fields,
    )
    begun = time.monotonic()
    try:
        result: PipelineResult = run_pipeline(
            spec, folder, on_progress=lambda _: None, cancelled=lambda: False
        )
    except PipelineError as error:
        return Search(time.monotonic() - begun, refusal=str(error)[:300])
    first = min(
        (one for one in result.candidates if one.trial.portable or not saturates()),
        key=lambda candidate: candidate.rank,
    )
    return Search(
        time.monotonic() - begun,
        recipe=first.quantization.recipe,
        path=folder / first.variant / "model.onnx",
        trials=len(result.report.trials),
    )


def _worse(measured: dict[str, Measured]) -> list[str]:
    """Return in what our choice is worse than another side; empty if in nothing."""
    fp32, ours = measured["fp32"], measured.get("edgectl")
    if ours is None:
        return ["refused"]
    found = []
    if 100 * (fp32.value - ours.value) > BUDGET_POINTS:
        found.append(f"loses {100 * (fp32.value - ours.value):.2f} points")
    for name, one in measured.items():
        if name == "edgectl" or 100 * (fp32.value - one.value) > BUDGET_POINTS:
            continue
        faster, smaller = ours.p50_us / one.p50_us, ours.size / one.size
        if faster * EQUALLY_FAST < 1.0 or smaller * EQUALLY_SMALL < 1.0:
            continue  # ours is clearly faster or clearly smaller
        if faster > EQUALLY_FAST or smaller > EQUALLY_SMALL:
            found.append(f"{name} is better: {faster:.2f} of its time, {smaller:.2f} of its size")
    return found


def _print(
    model: Model,
    made: dict[str, Made],
    searches: dict[str, Search],
    measured: dict[str, Measured],
    worse: list[str],
) -> None:
    print(f"\n{model.name} ({model.kind}), {model.path.stat().st_size:,} bytes, {model.metric}")
    print(f"  {'':<10}{'bytes':>12}{'value':>9}{'drop':>8}{'p50 us':>10}{'seconds':>9}")
    reference = measured["fp32"].value
    took = {name: one.seconds for name, one in made.items()}
    took["edgectl"] = next(iter(searches.values())).seconds
    for name, one in measured.items():
        seconds = f"{took[name]:9.1f}" if name in took else f"{'-':>9}"
        print(
            f"  {name:<10}{one.size:>12,}{one.value:>9.4f}{100 * (reference - one.value):>+8.2f}"
            f"{one.p50_us:>10.1f}{seconds}"
        )
    for name, made_one in made.items():
        if made_one.failure:
            print(f"  {name} could not be made: {made_one.failure}")
    for name, search in searches.items():
        what = search.recipe or f"refused: {search.refusal}"
        times = search.seconds / made["static"].seconds
        print(f"  edgectl, {name}: {what}; {search.seconds:.1f} s, {times:.1f} times static")
    print(f"  {'worse: ' + ', '.join(worse) if worse else 'not worse than fp32 and the defaults'}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
