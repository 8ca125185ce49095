"""The model for microcontrollers: quantized like any variant, made flat, measured by its reference.

What cannot be made is a row of the report, with a reason, as with `converted`. Latency and memory
here say nothing about a microcontroller: they are not measured.
"""

from __future__ import annotations

import msgspec
import onnx
from msgspec import Struct

from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.evidence import collect
from edgectl_server.pipeline.flat_export import to_flat
from edgectl_server.pipeline.flat_format import FlatInvalid
from edgectl_server.pipeline.flat_shapes import FlatUnsupported
from edgectl_server.pipeline.flat_writing import encode_flat
from edgectl_server.pipeline.gates import Evidence
from edgectl_server.pipeline.recipes import NothingToQuantize, Recipe, check_quantizable, make
from edgectl_server.pipeline.scoring import Yardstick
from edgectl_server.pipeline.spec import MICROCONTROLLER_PREFIX, Progress, TrialRow
from edgectl_server.pipeline.tasks import Done, Task, run_all
from edgectl_server.pipeline.trials import Trials
from edgectl_server.pipeline.verdicts import judge_answers

__all__ = ["FLAT_RECIPE", "try_microcontroller"]

FLAT_RECIPE = Recipe(f"{MICROCONTROLLER_PREFIX}int8", "static", per_channel=True, activations="s8")
"""Sums have 32 bits there, so that weights of 8 bits do not saturate."""


class _Proved(Struct, frozen=True):
    """What a trial gives."""

    size_bytes: int
    evidence: Evidence


def try_microcontroller(trials: Trials) -> None:
    """Make and measure the flat model, if it was asked for, and add its row."""
    if "cortex-m" not in trials.spec.runtimes:
        return
    yardstick = trials.baseline.yardstick
    reason = ""
    if "int8" not in trials.spec.precisions:
        reason = "it is int8, which was not asked for"
    elif yardstick is None:
        reason = "no data to measure it on"
    elif trials.calibration is None:
        reason = "needs calibration data"
    row = _row_without(reason)
    if not reason and yardstick is not None:
        row = _tried(trials, yardstick)
    trials.progress(Progress(stage="quantize", message=row.recipe, done=len(trials.rows)))
    trials.rows.append(row)


def _tried(trials: Trials, yardstick: Yardstick) -> TrialRow:
    missing = trials.find_ranges(FLAT_RECIPE.ranges)
    if missing:
        return msgspec.structs.replace(_row_without(missing), status="failed")
    trials.recipes[FLAT_RECIPE.name] = FLAT_RECIPE
    limits = trials.spec.limits
    task = Task(FLAT_RECIPE.name, lambda: _make(trials, yardstick), _Proved)
    (done,) = run_all([task], limits, workers=1, seconds_max=limits.trial_s_max)
    return _row(trials, yardstick, done)


def _make(trials: Trials, yardstick: Yardstick) -> _Proved:
    """Make the file and measure it; in a task."""
    quantized = trials.directory / f"{FLAT_RECIPE.name}.onnx"
    source = trials.baseline.path
    try:
        check_quantizable(source)
        make(FLAT_RECIPE, source, quantized, trials.ranges_file(FLAT_RECIPE.ranges))
        content = encode_flat(to_flat(onnx.load(quantized)))
    except (NothingToQuantize, FlatUnsupported, FlatInvalid) as error:
        raise PipelineRefused(
            "model.unsupported",
            f"It cannot be made flat: {error}.",
            "docs/firmware-format.md says which operators a microcontroller's model may have.",
        ) from error
    trials.path(FLAT_RECIPE.name).write_bytes(content)
    outputs = trials.runner(FLAT_RECIPE.name).run(yardstick.samples)
    evidence = collect(yardstick, outputs, trials.spec.requirements, trials.baseline.parent)
    return _Proved(len(content), evidence)


def _row_without(reason: str) -> TrialRow:
    return TrialRow(
        recipe=FLAT_RECIPE.name,
        variant=FLAT_RECIPE.name,
        precision="int8",
        runtime="cortex-m",
        status="skipped",
        reason=reason,
    )


def _row(trials: Trials, yardstick: Yardstick, done: Done[_Proved]) -> TrialRow:
    row = _row_without("")
    if done.error is not None or done.value is None:
        reason = "" if done.error is None else done.error.detail
        return msgspec.structs.replace(row, status="failed", reason=reason, seconds=done.seconds)
    evidence = done.value.evidence
    trials.evidence[FLAT_RECIPE.name] = evidence
    value = evidence.value
    measured = msgspec.structs.replace(
        row,
        status="accepted",
        size_bytes=done.value.size_bytes,
        value=value,
        drop_points=None if value is None else round(yardstick.drop_points(value), 4),
        seconds=done.seconds,
    )
    return judge_answers(measured, evidence, trials.spec, yardstick)
