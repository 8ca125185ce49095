"""The model for LiteRT: what a converter has made of it, checked and measured like any variant.

The converter ran on a hostile model, so that its file goes through the checks of a pushed one, and
must take and give what the model does. A file that does not is a row of the report, with a reason.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.evidence import collect
from edgectl_server.pipeline.gates import Evidence
from edgectl_server.pipeline.scoring import Yardstick
from edgectl_server.pipeline.spec import Converted, Progress, TrialRow
from edgectl_server.pipeline.tasks import Done, Task, run_all
from edgectl_server.pipeline.tflite_checks import TfliteFacts, check_tflite, is_tflite
from edgectl_server.pipeline.trials import Trials
from edgectl_server.pipeline.verdicts import judge_answers

__all__ = ["try_converted"]


class _Proved(Struct, frozen=True):
    """What a trial gives."""

    size_bytes: int
    evidence: Evidence


def try_converted(trials: Trials) -> None:
    """Measure every converted file that there is, and add a row for each that was wanted."""
    spec, yardstick = trials.spec, trials.baseline.yardstick
    rows = {one.recipe: _row_without(one) for one in spec.converted}
    by_recipe = {one.recipe: one for one in spec.converted if one.path is not None}
    if yardstick is None:
        by_recipe = {}
    tasks = [_task(trials, one, yardstick) for one in by_recipe.values() if yardstick is not None]
    limits = spec.limits
    for done in run_all(tasks, limits, workers=limits.workers, seconds_max=limits.trial_s_max):
        one = by_recipe[done.task.name]
        rows[one.recipe] = _row(trials, one, done)
        trials.progress(Progress(stage="quantize", message=one.recipe, done=len(trials.rows)))
    trials.rows.extend(rows.values())


def _task(trials: Trials, one: Converted, yardstick: Yardstick) -> Task[_Proved]:
    def call() -> _Proved:
        assert one.path is not None
        limits = trials.spec.limits
        with one.path.open("rb") as file:
            content = file.read(limits.source_bytes_max + 1)
        if not is_tflite(content):
            raise _unlike("it is no .tflite file")
        _check_contract(check_tflite(content, limits), trials)
        target = trials.path(one.recipe)
        target.write_bytes(content)
        outputs = trials.runner(one.recipe).run(yardstick.samples)
        for spec in trials.baseline.specs:
            wanted, got = trials.baseline.outputs[spec.name], outputs[spec.name]
            if (got.dtype, got.shape[1:]) != (wanted.dtype, wanted.shape[1:]):
                raise _unlike(f"output {spec.name[:80]!r} is {got.dtype} {list(got.shape[1:])}")
        parent = trials.baseline.parent
        evidence = collect(yardstick, outputs, trials.spec.requirements, parent)
        return _Proved(len(content), evidence)

    return Task(one.recipe, call, _Proved)


def _check_contract(facts: TfliteFacts, trials: Trials) -> None:
    """Compare the inputs, in their order, with those of the model; names do not matter."""
    shapes = [(one.datatype, one.shape[1:]) for one in facts.inputs]
    if shapes != [(one.datatype, one.shape[1:]) for one in trials.inputs]:
        raise _unlike(f"its inputs are {_shown(facts.inputs)}, not {_shown(trials.inputs)}")


def _shown(inputs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{one.datatype} {list(one.shape[1:])}" for one in inputs)


def _unlike(what: str) -> PipelineRefused:
    return PipelineRefused(
        "model.tflite",
        f"What the converter has made is not the model: {what}.",
        "Publish it for onnxruntime alone.",
    )


def _row_without(one: Converted) -> TrialRow:
    return TrialRow(
        recipe=one.recipe,
        variant=one.recipe,
        precision=one.precision,
        runtime="litert",
        status="failed" if one.path is None and one.tried else "skipped",
        reason=one.reason or "no data to measure it on",
    )


def _row(trials: Trials, one: Converted, done: Done[_Proved]) -> TrialRow:
    row = _row_without(one)
    if done.error is not None or done.value is None:
        reason = "" if done.error is None else done.error.detail
        return msgspec.structs.replace(row, status="failed", reason=reason, seconds=done.seconds)
    yardstick, evidence = trials.baseline.yardstick, done.value.evidence
    assert yardstick is not None
    trials.evidence[one.recipe] = evidence
    value = evidence.value
    measured = msgspec.structs.replace(
        row,
        status="accepted",
        reason="",
        size_bytes=done.value.size_bytes,
        value=value,
        drop_points=None if value is None else round(yardstick.drop_points(value), 4),
        seconds=done.seconds,
    )
    return judge_answers(measured, evidence, trials.spec, yardstick)
