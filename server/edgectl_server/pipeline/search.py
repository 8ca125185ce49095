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
from pathlib import Path

from msgspec import Struct

from edgectl_server.pipeline.baseline import (
    Baseline,
    Facts,
    ParentNames,
    judge,
    read_parent,
    run_fp32,
    run_parent,
    run_tflite,
)
from edgectl_server.pipeline.candidates import write_candidates
from edgectl_server.pipeline.checks import check_model, parse_model
from edgectl_server.pipeline.converted import try_converted
from edgectl_server.pipeline.costs import memory_of, with_latencies
from edgectl_server.pipeline.course import Course, Findings, Subject
from edgectl_server.pipeline.data import Role, Samples, load_samples
from edgectl_server.pipeline.data_checks import check_data
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.evidence import Parent
from edgectl_server.pipeline.gates import Contract
from edgectl_server.pipeline.golden_cases import GoldenChoice, choose_golden, fitting_cases
from edgectl_server.pipeline.kept_golden import Cases, Judged, judge_kept, read_kept
from edgectl_server.pipeline.microcontroller import try_microcontroller
from edgectl_server.pipeline.planning import keeps_accuracy, mixed_counts, nearest, other_ranges
from edgectl_server.pipeline.processing import add_processing
from edgectl_server.pipeline.recipes import (
    RECIPES,
    Recipe,
    quantizable_nodes,
    recipe_of_parent,
)
from edgectl_server.pipeline.releases import release_small_steps
from edgectl_server.pipeline.selection import (
    check_int8,
    choose,
    comes_first,
    measured_rows,
    publish_order,
)
from edgectl_server.pipeline.sensitivity import Group, group_nodes
from edgectl_server.pipeline.spec import (
    LITERT_PREFIX,
    LayerRow,
    PipelineResult,
    PipelineSpec,
    Progress,
    TrialRow,
)
from edgectl_server.pipeline.tasks import Task, run_one
from edgectl_server.pipeline.tflite import TFLITE_FILE, check_pushed
from edgectl_server.pipeline.tflite_checks import is_tflite
from edgectl_server.pipeline.trials import Trials
from edgectl_server.pipeline.verdicts import (
    check_version,
    judge_costs,
    no_variant,
    refuse_version,
)

__all__ = ["search"]


class _Nodes(Struct, frozen=True):
    nodes: tuple[tuple[str, str], ...]


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
    subject = _check(spec, directory, progress)
    spec, limits = subject.spec, subject.spec.limits
    facts = _run_reference(subject, directory, progress)
    parent = _run_parent(subject, facts, directory)
    baseline = judge(spec, facts, directory, subject.samples, parent)
    trials = Trials(
        spec=spec,
        directory=directory,
        inputs=subject.inputs,
        baseline=baseline,
        calibration=subject.calibration,
        progress=progress,
        deadline=time.monotonic() + limits.search_s_max,
        evidence={"fp32": baseline.evidence, baseline.recipe: baseline.evidence},
    )
    golden = choose_golden(
        baseline.samples,
        baseline.outputs,
        baseline.scores,
        count=min(limits.golden_cases, fitting_cases(baseline.samples, baseline.outputs)),
        seed=spec.seed,
    )
    findings = _check_version(subject, baseline)
    course = Course(subject, trials, findings, begun, list(baseline.warnings))
    course.rows = [_reference_row(trials)]
    course.refuse(refuse_version(findings.gates, spec))
    cases, course.golden = _cases(trials, golden)
    if subject.tflite is None:
        if "onnxruntime" in spec.runtimes:
            course.layers = _try_recipes(trials)
        try_converted(trials)
        try_microcontroller(trials)
    course.rows = _with_latencies(trials)
    course.memory = memory_of(trials, course.rows)
    yardstick = baseline.yardstick
    course.rows = judge_costs(course.rows, trials.evidence, course.memory, spec, yardstick)
    course.published = _chosen(course)
    _check_published(course)
    release_small_steps(course)
    gates = {row.recipe: course.signed_gates(row) for row in course.published}
    candidates = write_candidates(trials, course.published, cases, gates)
    return PipelineResult(source=subject.source, report=course.report(), candidates=candidates)


def _cases(trials: Trials, golden: GoldenChoice) -> tuple[Samples, dict[str, int]]:
    """Return the golden inputs, and how many were chosen for which reason.

    Those of the parent are kept where they are as good.
    """
    spec, baseline = trials.spec, trials.baseline
    chosen = baseline.samples.take(golden.rows)
    if not spec.kept or baseline.samples.role == "random":
        return chosen, golden.kinds
    kept = read_kept(
        spec.kept[0].golden,
        baseline.samples,
        count=chosen.count,
        bytes_max=spec.limits.data_bytes_max,
    )
    if kept is None:
        return chosen, golden.kinds

    def judged() -> Judged:
        answers = baseline.runner(baseline.path, trials.inputs).run(kept)
        wanted = {name: array[golden.rows] for name, array in baseline.outputs.items()}
        return judge_kept(Cases(kept, answers), Cases(chosen, wanted), baseline.scores)

    task = Task("golden", judged, Judged)
    try:
        problem = run_one(task, spec.limits, seconds_max=spec.limits.trial_s_max).problem
    except (PipelineRefused, PipelineFailed):
        return chosen, golden.kinds
    return (chosen, golden.kinds) if problem else (kept, {"kept": kept.count})


def _check_version(subject: Subject, baseline: Baseline) -> Findings:
    """Ask what needs no recipe: is the data worth anything, do applications still work."""
    spec, scores = subject.spec, baseline.scores
    classes = None
    if scores is not None:
        classes = baseline.outputs[scores.output].shape[1]
    yardstick = baseline.yardstick
    data_checks = check_data(
        subject.calibration,
        subject.evaluation,
        classes=classes,
        classifies=yardstick is not None and yardstick.metric not in {"rmse", "map"},
    )
    labels = spec.labels if scores is not None else ()
    contract = Contract(subject.inputs, baseline.specs, scores, labels)
    return Findings(check_version(contract, data_checks, spec), data_checks)


def _chosen(course: Course) -> list[TrialRow]:
    """Return the rows to publish, in the order in which devices try them."""
    spec = course.subject.spec
    flat = [row for row in course.rows if row.runtime == "cortex-m"]
    converted = [row for row in course.rows if row.recipe.startswith(LITERT_PREFIX)]
    own = [row for row in course.rows if row not in converted and row not in flat]
    if course.subject.tflite is None and "onnxruntime" not in spec.runtimes:
        own = []
    chosen = choose(own, spec.precisions, spec.objective)
    ordered = publish_order([*chosen, *(row for row in converted if row.status == "accepted")])
    # No other device takes those for microcontrollers, and these take no other.
    return [*ordered, *(row for row in flat if row.status == "accepted")]


def _check_published(course: Course) -> None:
    """Refuse the push if what was asked for is not published; note what is left out."""
    spec, rows = course.subject.spec, course.rows
    int8 = any(row.precision == "int8" for row in course.published)
    if not course.published or ("int8" in spec.precisions and not int8):
        looked_at = [row for row in rows if row.precision == "int8"] if course.published else rows
        course.refuse(no_variant(looked_at, course.gates))
    if "int8" in spec.precisions and not int8:
        try:
            measured = course.trials.baseline.yardstick is not None
            fp32_wanted = "fp32" in spec.precisions
            course.warnings.append(check_int8(rows, measured=measured, fp32_wanted=fp32_wanted))
        except PipelineRefused as error:
            course.refuse(error)
    course.warnings += [
        f"fp32 is not published: {row.reason}."
        for row in rows
        if row.precision == "fp32" and row.status == "rejected"
    ]


def _run_parent(subject: Subject, facts: Facts, directory: Path) -> Parent:
    """Return the answers of the version that is replaced, if they are needed and can be had."""
    spec = subject.spec
    if spec.replaced is None or subject.samples.role == "random":
        return Parent()
    if all(one.name != "parent_agreement" for one in spec.requirements):
        return Parent(None, "it was not asked for")
    path = spec.replaced.model
    if path is None:
        return Parent(None, f"the model of version {spec.replaced.version} cannot be read")
    samples = subject.samples.choose(facts.samples, spec.seed)
    inputs = subject.inputs if path.suffix == ".onnx" else spec.replaced.inputs
    outputs = [one.name for one in spec.replaced.outputs]

    def run() -> ParentNames:
        return run_parent(path, directory, inputs, samples, outputs)

    try:
        task = Task("replaced", run, ParentNames)
        found = run_one(task, spec.limits, seconds_max=spec.limits.trial_s_max)
    except (PipelineRefused, PipelineFailed) as error:
        return Parent(
            None, f"version {spec.replaced.version} does not take this data: {error.detail}"
        )
    return read_parent(directory, found)


def _run_reference(
    subject: Subject, directory: Path, progress: Callable[[Progress], None]
) -> Facts:
    """Run what all is compared with on the samples."""
    spec, tflite = subject.spec, subject.tflite

    def run() -> Facts:
        if tflite is not None:
            path = directory / TFLITE_FILE
            return run_tflite(spec, path, facts=tflite, samples=subject.samples, progress=progress)
        return run_fp32(
            spec,
            subject.model,
            directory,
            inputs=subject.inputs,
            samples=subject.samples,
            progress=progress,
        )

    return run_one(Task("fp32", run, Facts), spec.limits, seconds_max=spec.limits.wall_s)


def _check(spec: PipelineSpec, directory: Path, progress: Callable[[Progress], None]) -> Subject:
    progress(Progress(stage="check", message="model file"))
    size = spec.source.stat().st_size
    with spec.source.open("rb") as file:
        content = file.read(min(size, spec.limits.source_bytes_max) + 1)
    if is_tflite(content):
        return check_pushed(content, spec, directory, progress)
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

    return Subject(
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
    trials.run(first[spec.part :: spec.parts])
    if (
        spec.parts > 1
        or spec.recipes
        or trials.calibration is None
        or "int8" not in spec.precisions
    ):
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


def _reference_row(trials: Trials) -> TrialRow:
    """Return the row of what all is compared with, its latencies still to be measured."""
    baseline = trials.baseline
    yardstick = baseline.yardstick
    wanted = baseline.precision in trials.spec.precisions
    return TrialRow(
        recipe=baseline.recipe,
        variant=baseline.precision,
        precision=baseline.precision,
        runtime=baseline.runtime,
        status="accepted",
        reason="" if wanted else "the reference; not asked for",
        size_bytes=baseline.path.stat().st_size,
        value=yardstick.reference if yardstick else None,
        drop_points=0.0 if yardstick else None,
    )


def _with_latencies(trials: Trials) -> list[TrialRow]:
    """Return all rows, fp32 first, with the latencies of those that may be published.

    Those for microcontrollers have none: they do not run here.
    """
    here = [row for row in trials.rows if row.runtime != "cortex-m"]
    chosen = {row.recipe for row in measured_rows(here)}
    rows = [_reference_row(trials), *trials.rows]
    measured = iter(
        with_latencies(trials, [one for one in rows if one is rows[0] or one.recipe in chosen])
    )
    return [next(measured) if one is rows[0] or one.recipe in chosen else one for one in rows]
