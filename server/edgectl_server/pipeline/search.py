"""The whole run, inside the child: check, clean, try every recipe, choose, write golden cases.

A recipe that fails is a row of the report with its reason, and the search goes on. What ends it is
a refusal of the model or of its data, or a limit of the process.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgectl_protocol.manifest import Evaluation, Quantization, Scores, TensorSpec
from edgectl_server.pipeline.checks import DATATYPES, ModelFacts, check_model, parse_model
from edgectl_server.pipeline.cleaning import clean
from edgectl_server.pipeline.data import Role, Samples, load_samples, random_samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import TOOL, Outputs, Runner, describe, measured_on
from edgectl_server.pipeline.golden import write_golden
from edgectl_server.pipeline.recipes import (
    RECIPES,
    NothingToQuantize,
    Recipe,
    check_quantizable,
    make,
)
from edgectl_server.pipeline.scoring import Yardstick, check_finite, choose_yardstick, find_scores
from edgectl_server.pipeline.selection import best_int8, check_int8, gate_reason, int8_first
from edgectl_server.pipeline.spec import (
    Candidate,
    PipelineResult,
    PipelineSpec,
    Precision,
    Progress,
    TensorRow,
    TrialReport,
    TrialRow,
    to_document,
)

__all__ = ["search"]

_OUTPUT_BYTES_MAX = 256 * 1024 * 1024
"""Outputs of the measured samples are kept in memory, those of fp32 and of one variant."""
_RANK_MAX = 8
_DATATYPE_NAMES = {dtype: name for name, dtype in DATATYPES.values()}


@dataclass(frozen=True)
class _Subject:
    """What is being worked on, once it has passed the checks."""

    spec: PipelineSpec
    directory: Path
    progress: Callable[[Progress], None]
    source: str
    facts: ModelFacts
    calibration: Samples | None
    evaluation: Samples | None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.facts.inputs

    @property
    def samples(self) -> Samples:
        """The best data there is: evaluation, calibration, made up."""
        made_up = random_samples(self.inputs, self.spec.limits.golden_cases, self.spec.seed)
        return self.evaluation or self.calibration or made_up


@dataclass(frozen=True)
class _Baseline:
    """The fp32 model, measured."""

    path: Path
    runner: Runner
    row: TrialRow
    outputs: tuple[TensorSpec, ...]
    scores: Scores | None
    yardstick: Yardstick | None
    warnings: tuple[str, ...]


def search(
    spec: PipelineSpec, directory: Path, progress: Callable[[Progress], None]
) -> PipelineResult:
    """Make and measure the variants of a model.

    Args:
        spec: what to do.
        directory: where files are made; those of a candidate in the folder named after it.
        progress: told of every step.

    Raises:
        PipelineRefused: ``data["report"]`` is there as soon as recipes have been tried.
        MemoryError: the checks or the fp32 model do not fit in the limit.
    """
    subject, model = _check(spec, directory, progress)
    progress(Progress(stage="clean", message="infer shapes, fold constants"))
    cleaned = clean(model, directory, subject.inputs, subject.samples)
    del model
    baseline = _measure_fp32(subject, cleaned.path, cleaned.warnings)
    trials = [baseline.row]
    used: dict[str, int] = {}
    if "int8" in spec.precisions:
        recipes = [recipe for recipe in RECIPES if not spec.recipes or recipe.name in spec.recipes]
        for number, recipe in enumerate(recipes):
            progress(
                Progress(stage="quantize", message=recipe.name, done=number, total=len(recipes))
            )
            row, used[recipe.name] = _try_recipe(subject, baseline, recipe)
            trials.append(row)
    warnings = list(baseline.warnings)
    chosen = best_int8(trials)
    if chosen is None and "int8" in spec.precisions:
        try:
            measured = baseline.yardstick is not None
            fp32_wanted = "fp32" in spec.precisions
            warnings.append(check_int8(trials, measured=measured, fp32_wanted=fp32_wanted))
        except PipelineRefused as error:
            error.data["report"] = to_document(_report(subject, baseline, trials, warnings))
            raise
    report = _report(subject, baseline, trials, warnings)
    candidates = _write_candidates(subject, baseline, chosen, used)
    return PipelineResult(source=subject.source, report=report, candidates=candidates)


def _check(
    spec: PipelineSpec, directory: Path, progress: Callable[[Progress], None]
) -> tuple[_Subject, object]:
    progress(Progress(stage="check", message="model file"))
    size = spec.source.stat().st_size
    with spec.source.open("rb") as file:
        content = file.read(min(size, spec.limits.source_bytes_max) + 1)
    model = parse_model(content, spec.limits)
    facts = check_model(model, spec.limits)
    source = "sha256:" + hashlib.sha256(content).hexdigest()

    def load(path: Path | None, role: Role) -> Samples | None:
        if path is None:
            return None
        progress(Progress(stage="check", message=f"{role} data"))
        return load_samples(path, role, facts.inputs, bytes_max=spec.limits.data_bytes_max)

    calibration = load(spec.calibration, "calibration")
    evaluation = load(spec.evaluation, "evaluation")
    subject = _Subject(
        spec=spec,
        directory=directory,
        progress=progress,
        source=source,
        facts=facts,
        calibration=calibration,
        evaluation=evaluation,
    )
    return subject, model


def _measure_fp32(subject: _Subject, path: Path, warnings: tuple[str, ...]) -> _Baseline:
    begun = time.monotonic()
    spec, limits = subject.spec, subject.spec.limits
    subject.progress(Progress(stage="evaluate", message="fp32"))
    runner = Runner(path, subject.inputs)
    samples = subject.samples
    first = runner.run(samples.choose(1, spec.seed))
    row_bytes = max(1, sum(array.nbytes for array in first.values()))
    fitting = max(1, min(limits.evaluation_samples_max, _OUTPUT_BYTES_MAX // row_bytes))
    samples = samples.choose(fitting, spec.seed)
    outputs = runner.run(samples)
    check_finite(outputs)
    scores = find_scores(outputs)
    warnings += _check_class_names(spec.labels, outputs, scores)
    yardstick = None
    if samples.role != "random":
        yardstick, more = choose_yardstick(samples, outputs, scores)
        warnings += more
    else:
        warnings += ("Golden cases are made of random numbers, for lack of data.",)
    latency = runner.latency(samples, limits)
    wanted = "fp32" in spec.precisions
    row = TrialRow(
        recipe="fp32",
        variant="fp32",
        precision="fp32",
        status="accepted",
        reason="" if wanted else "the reference; not asked for",
        size_bytes=path.stat().st_size,
        value=yardstick.reference if yardstick else None,
        drop_points=0.0 if yardstick else None,
        latency_p50_us=latency.p50_us,
        latency_p95_us=latency.p95_us,
        seconds=round(time.monotonic() - begun, 2),
    )
    return _Baseline(
        path=path,
        runner=runner,
        row=row,
        outputs=_output_specs(outputs, free_batch=runner.free_batch),
        scores=scores,
        yardstick=yardstick,
        warnings=warnings,
    )


def _check_class_names(
    labels: tuple[str, ...], outputs: Outputs, scores: Scores | None
) -> tuple[str, ...]:
    if not labels:
        return ()
    if scores is None:
        return ("The model has no output of class scores [N, C]: the class names are not used.",)
    classes = outputs[scores.output].shape[1]
    if len(labels) != classes:
        raise PipelineRefused(
            "model.labels",
            f"{len(labels)} class names were given, and output {scores.output!r} has {classes} "
            "classes.",
            "Give one name a class, in the order of the scores.",
        )
    return ()


def _output_specs(outputs: Outputs, *, free_batch: bool) -> tuple[TensorSpec, ...]:
    """Describe the outputs by what was seen: declared shapes are often incomplete."""
    specs = []
    for name, array in outputs.items():
        datatype = _DATATYPE_NAMES.get(array.dtype)
        if datatype is None or array.ndim > _RANK_MAX:
            raise PipelineRefused(
                "model.datatype",
                f"Output {name[:80]!r} is {array.dtype} with {array.ndim} axes; expected numbers "
                f"with at most {_RANK_MAX} axes.",
                "Export the model with tensors of numbers as its outputs.",
            )
        shape = (-1 if free_batch else 1, *array.shape[1:])
        specs.append(TensorSpec(name=name, datatype=datatype, shape=shape))  # type: ignore[arg-type]
    return tuple(specs)


def _try_recipe(subject: _Subject, baseline: _Baseline, recipe: Recipe) -> tuple[TrialRow, int]:
    """Make and measure one int8 variant; return its row and the calibration samples it used."""
    skipped = TrialRow(recipe=recipe.name, variant="int8", precision="int8", status="skipped")
    if baseline.yardstick is None:
        return _with_reason(skipped, "no data to measure it on"), 0
    if recipe.kind == "static" and subject.calibration is None:
        return _with_reason(skipped, "needs calibration data"), 0
    begun = time.monotonic()
    try:
        check_quantizable(baseline.path)
        return _measure_recipe(subject, baseline, baseline.yardstick, recipe, begun)
    except NothingToQuantize as error:
        return _with_reason(skipped, str(error)), 0
    except MemoryError:
        reason = "it does not fit in the memory limit"
    except PipelineRefused as error:
        reason = error.detail
    except Exception as error:  # noqa: BLE001  # onnxruntime's errors have no common base
        reason = f"{type(error).__name__}: {describe(error)}"
    gc.collect()
    seconds = round(time.monotonic() - begun, 2)
    failed = msgspec.structs.replace(skipped, status="failed", reason=reason, seconds=seconds)
    return failed, 0


def _with_reason(row: TrialRow, reason: str) -> TrialRow:
    return msgspec.structs.replace(row, reason=reason)


def _measure_recipe(
    subject: _Subject, baseline: _Baseline, yardstick: Yardstick, recipe: Recipe, begun: float
) -> tuple[TrialRow, int]:
    spec, limits = subject.spec, subject.spec.limits
    path = subject.directory / f"{recipe.name}.onnx"
    calibration = subject.calibration
    if calibration is not None:
        calibration = calibration.choose(limits.calibration_samples_max, spec.seed)
    used = make(recipe, baseline.path, path, calibration)
    runner = Runner(path, subject.inputs)
    value = yardstick.value(runner.run(yardstick.samples))
    latency = runner.latency(yardstick.samples, limits)
    reason = gate_reason(yardstick.metric, yardstick.reference, value, spec.max_drop_points)
    row = TrialRow(
        recipe=recipe.name,
        variant="int8",
        precision="int8",
        status="rejected" if reason else "accepted",
        reason=reason,
        size_bytes=path.stat().st_size,
        value=value,
        drop_points=round(100 * (yardstick.reference - value), 4),
        latency_p50_us=latency.p50_us,
        latency_p95_us=latency.p95_us,
        seconds=round(time.monotonic() - begun, 2),
    )
    return row, used


def _report(
    subject: _Subject, baseline: _Baseline, trials: list[TrialRow], warnings: list[str]
) -> TrialReport:
    yardstick = baseline.yardstick
    return TrialReport(
        metric=yardstick.metric if yardstick else None,
        metric_source=yardstick.source if yardstick else None,
        samples=yardstick.samples.count if yardstick else 0,
        reference=yardstick.reference if yardstick else None,
        max_drop_points=subject.spec.max_drop_points,
        opset=subject.facts.opset,
        nodes=subject.facts.nodes,
        parameters=subject.facts.parameters,
        inputs=_rows(subject.inputs),
        outputs=_rows(baseline.outputs),
        trials=tuple(trials),
        measured_on=measured_on(),
        warnings=tuple(warnings),
    )


def _rows(specs: tuple[TensorSpec, ...]) -> tuple[TensorRow, ...]:
    return tuple(
        TensorRow(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs
    )


def _write_candidates(
    subject: _Subject, baseline: _Baseline, int8: TrialRow | None, used: dict[str, int]
) -> tuple[Candidate, ...]:
    """Write the files of every variant to publish, in the order in which devices try them."""
    rows: list[TrialRow] = []
    if "fp32" in subject.spec.precisions:
        rows.append(baseline.row)
    if int8 is not None:
        rows.insert(0 if int8_first(int8, baseline.row) else len(rows), int8)
    cases = subject.samples.choose(subject.spec.limits.golden_cases, subject.spec.seed)
    candidates = []
    for rank, row in enumerate(rows):
        subject.progress(Progress(stage="golden", message=row.variant, done=rank, total=len(rows)))
        candidates.append(
            _write_candidate(subject, baseline, row, cases, rank=rank, used=used.get(row.recipe, 0))
        )
    return tuple(candidates)


def _write_candidate(
    subject: _Subject,
    baseline: _Baseline,
    row: TrialRow,
    cases: Samples,
    *,
    rank: int,
    used: int,
) -> Candidate:
    precision: Precision = "int8" if row.precision == "int8" else "fp32"
    folder = subject.directory / row.variant
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    made = baseline.path if precision == "fp32" else subject.directory / f"{row.recipe}.onnx"
    shutil.copyfile(made, path)
    runner = baseline.runner if precision == "fp32" else Runner(path, subject.inputs)
    golden, _ = write_golden(
        folder / "golden.npz",
        runner,
        cases,
        reference=None if precision == "fp32" else baseline.runner,
    )
    yardstick = baseline.yardstick
    evaluation = None
    if yardstick is not None and row.value is not None:
        evaluation = Evaluation(
            metric=yardstick.metric,
            reference=yardstick.reference,
            value=row.value,
            samples=yardstick.samples.count,
            dataset=yardstick.samples.digest,
        )
    calibration = subject.calibration if used else None
    return Candidate(
        variant=row.variant,
        precision=precision,
        rank=rank,
        inputs=subject.inputs,
        outputs=baseline.outputs,
        golden=golden,
        quantization=Quantization(
            recipe=row.recipe,
            calibration=calibration.digest if calibration else None,
            calibration_samples=used,
            tool=TOOL,
        ),
        trial=row,
        evaluation=evaluation,
        scores=baseline.scores,
    )
