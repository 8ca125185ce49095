"""The whole run, inside the child: check, clean, try recipes, choose, write golden cases.

What ends it is a refusal of the model or of its data, or a limit of the process; a recipe that
fails does not. Here files are parsed and rows are compared; whatever runs the model is a task in a
process of its own (`tasks`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.baseline import Baseline, Facts, judge, run_fp32
from edgectl_server.pipeline.candidates import write_candidates
from edgectl_server.pipeline.checks import ModelFacts, check_model, parse_model
from edgectl_server.pipeline.data import Role, Samples, load_samples, random_samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Runner, latencies, measured_on
from edgectl_server.pipeline.golden_cases import choose_golden
from edgectl_server.pipeline.planning import keeps_accuracy, mixed_counts, nearest, other_ranges
from edgectl_server.pipeline.processing import add_processing
from edgectl_server.pipeline.recipes import (
    RECIPES,
    Recipe,
    quantizable_nodes,
    recipe_of_parent,
)
from edgectl_server.pipeline.selection import (
    check_int8,
    choose,
    comes_first,
    measured_rows,
    publish_order,
)
from edgectl_server.pipeline.sensitivity import Group, group_nodes
from edgectl_server.pipeline.spec import (
    LayerRow,
    PipelineResult,
    PipelineSpec,
    Progress,
    TensorRow,
    TrialReport,
    TrialRow,
    to_document,
)
from edgectl_server.pipeline.tasks import Task, run_one
from edgectl_server.pipeline.trials import Trials

__all__ = ["search"]


class _Measured(Struct, frozen=True):
    """Latencies in microseconds, p50 and p95 of each model."""

    pairs: tuple[tuple[float, float], ...]


class _Nodes(Struct, frozen=True):
    nodes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Subject:
    """What is being worked on, once it has passed the checks."""

    spec: PipelineSpec
    source: str
    model: Any
    facts: ModelFacts
    processing: tuple[str, ...]
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
        PipelineFailed: the fp32 model does not run within the limits.
        MemoryError: the checks do not fit in the limit.
    """
    begun = time.monotonic()
    subject = _check(spec, progress)
    limits = spec.limits

    def run() -> Facts:
        return run_fp32(
            spec,
            subject.model,
            directory,
            inputs=subject.inputs,
            samples=subject.samples,
            progress=progress,
        )

    facts = run_one(Task("fp32", run, Facts), limits, seconds_max=limits.wall_s)
    baseline = judge(spec, facts, directory, subject.samples)
    trials = Trials(
        spec=spec,
        directory=directory,
        inputs=subject.inputs,
        baseline=baseline,
        calibration=subject.calibration,
        progress=progress,
        deadline=time.monotonic() + limits.search_s_max,
    )
    golden = choose_golden(
        baseline.samples,
        baseline.outputs,
        baseline.scores,
        count=limits.golden_cases,
        seed=spec.seed,
    )
    layers = _try_recipes(trials)
    rows = _with_latencies(trials)
    warnings = list(baseline.warnings)
    published = choose(rows, spec.precisions, spec.objective)

    def report() -> TrialReport:
        seconds = time.monotonic() - begun
        made = _report(subject, baseline, rows, layers, warnings=warnings, seconds=seconds)
        return msgspec.structs.replace(made, golden=golden.kinds)

    if "int8" in spec.precisions and not any(row.precision == "int8" for row in published):
        try:
            measured = baseline.yardstick is not None
            fp32_wanted = "fp32" in spec.precisions
            warnings.append(check_int8(rows, measured=measured, fp32_wanted=fp32_wanted))
        except PipelineRefused as error:
            error.data["report"] = to_document(report())
            raise
    cases = baseline.samples.take(golden.rows)
    candidates = write_candidates(trials, publish_order(published), cases)
    return PipelineResult(source=subject.source, report=report(), candidates=candidates)


def _check(spec: PipelineSpec, progress: Callable[[Progress], None]) -> _Subject:
    progress(Progress(stage="check", message="model file"))
    size = spec.source.stat().st_size
    with spec.source.open("rb") as file:
        content = file.read(min(size, spec.limits.source_bytes_max) + 1)
    model = parse_model(content, spec.limits)
    facts = check_model(model, spec.limits, input_shapes=spec.input_shapes)
    processing: tuple[str, ...] = ()
    if spec.processing is not None:
        processed = add_processing(model, facts.inputs, spec.processing)
        model, processing = processed.model, processed.lines
        checked = check_model(model, spec.limits, free_inputs=processed.free_inputs)
        facts = dataclasses.replace(facts, inputs=checked.inputs)
    source = "sha256:" + hashlib.sha256(content).hexdigest()

    def load(path: Path | None, role: Role) -> Samples | None:
        if path is None:
            return None
        progress(Progress(stage="check", message=f"{role} data"))
        return load_samples(path, role, facts.inputs, bytes_max=spec.limits.data_bytes_max)

    return _Subject(
        spec=spec,
        source=source,
        model=model,
        facts=facts,
        processing=processing,
        calibration=load(spec.calibration, "calibration"),
        evaluation=load(spec.evaluation, "evaluation"),
    )


# ------------------------------------------------------------ trying


def _try_recipes(trials: Trials) -> tuple[LayerRow, ...]:
    """Try recipes as `planning` says; return what was learnt about the operators."""
    spec = trials.spec
    first = [
        recipe
        for recipe in RECIPES
        if recipe.precision in spec.precisions and (not spec.recipes or recipe.name in spec.recipes)
    ]
    inherited = recipe_of_parent(spec.parent_recipe, spec.parent_float_nodes)
    if spec.parent is not None and inherited is not None and "int8" in spec.precisions:
        first.append(inherited)
    trials.run(first)
    if spec.recipes or trials.calibration is None or "int8" not in spec.precisions:
        return ()
    more = other_ranges(trials.rows, list(trials.recipes.values()))
    if more:
        trials.run(more)
    best = nearest(trials.rows, list(trials.recipes.values()))
    if not best or _one_is_fast(trials):
        return ()
    return _try_mixed(trials, best[0])


def _one_is_fast(trials: Trials) -> bool:
    """Say whether a static recipe keeps the accuracy and is not slower than fp32."""
    if not keeps_accuracy(trials.rows):
        return False
    fp32, *others = _with_latencies(trials)
    return any(keeps_accuracy([row]) and comes_first(row, fp32, by_size=False) for row in others)


def _try_mixed(trials: Trials, base: Recipe) -> tuple[LayerRow, ...]:
    """Leave operators in float, those that lose most first, until the accuracy is kept."""
    limits = trials.spec.limits
    path = trials.baseline.path
    listing = Task("nodes", lambda: _Nodes(quantizable_nodes(path)), _Nodes)
    groups = group_nodes(run_one(listing, limits, seconds_max=limits.trial_s_max).nodes)
    losses = trials.sensitivity(base, groups)
    known = [(row, group) for row, group in zip(losses, groups, strict=True) if row is not None]
    known.sort(key=lambda pair: -pair[0].loss)
    order = [group for _, group in known]
    verdicts: dict[int, bool] = {}
    while counts := mixed_counts(len(order), verdicts, limits.workers):
        rows = trials.run([base.mixed(_names(order[:count])) for count in counts])
        verdicts |= {
            count: row.status == "accepted" for count, row in zip(counts, rows, strict=True)
        }
    return tuple(row for row, _ in known)


def _names(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group.nodes)


# ------------------------------------------------------------ measuring


def _with_latencies(trials: Trials) -> list[TrialRow]:
    """Return all rows, fp32 first, with the latencies of those that may be published."""
    limits, baseline = trials.spec.limits, trials.baseline
    yardstick = baseline.yardstick
    fp32 = TrialRow(
        recipe="fp32",
        variant="fp32",
        precision="fp32",
        status="accepted",
        reason="" if "fp32" in trials.spec.precisions else "the reference; not asked for",
        size_bytes=baseline.path.stat().st_size,
        value=yardstick.reference if yardstick else None,
        drop_points=0.0 if yardstick else None,
    )
    chosen = measured_rows(trials.rows)
    paths = [baseline.path, *(trials.path(row.recipe) for row in chosen)]
    trials.progress(Progress(stage="latency", message=f"{len(paths)} variants"))

    def call() -> _Measured:
        runners = [Runner(path, trials.inputs) for path in paths]
        found = latencies(runners, baseline.samples, limits)
        return _Measured(tuple((one.p50_us, one.p95_us) for one in found))

    done = run_one(Task("latency", call, _Measured), limits, seconds_max=limits.trial_s_max)
    by_recipe = dict(zip(["fp32", *(row.recipe for row in chosen)], done.pairs, strict=True))

    def with_latency(row: TrialRow) -> TrialRow:
        p50_us, p95_us = by_recipe.get(row.recipe, (None, None))
        return msgspec.structs.replace(row, latency_p50_us=p50_us, latency_p95_us=p95_us)

    return [with_latency(row) for row in (fp32, *trials.rows)]


def _report(
    subject: _Subject,
    baseline: Baseline,
    rows: Sequence[TrialRow],
    layers: tuple[LayerRow, ...],
    *,
    warnings: Sequence[str],
    seconds: float,
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
        inputs=_tensor_rows(subject.inputs),
        outputs=_tensor_rows(baseline.specs),
        trials=tuple(rows),
        measured_on=measured_on(),
        warnings=tuple(warnings),
        sensitivity=layers,
        search_s=round(seconds, 2),
        processing=subject.processing,
    )


def _tensor_rows(specs: tuple[TensorSpec, ...]) -> tuple[TensorRow, ...]:
    return tuple(
        TensorRow(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs
    )
