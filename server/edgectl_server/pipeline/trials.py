"""The trials: every recipe made and measured in a task of its own, as many at a time as allowed.

A trial that fails is a row of the report with its reason, and the search goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.baseline import Baseline
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.evidence import collect
from edgectl_server.pipeline.execution import Runner, latencies
from edgectl_server.pipeline.flat_session import FLAT_SUFFIX
from edgectl_server.pipeline.gates import Evidence
from edgectl_server.pipeline.known import Measured, recall, remember
from edgectl_server.pipeline.pinned import estimate_update
from edgectl_server.pipeline.processor import saturates
from edgectl_server.pipeline.recipes import (
    NothingToQuantize,
    Ranges,
    Recipe,
    calibrate,
    check_quantizable,
    make,
)
from edgectl_server.pipeline.scoring import Yardstick
from edgectl_server.pipeline.sensitivity import SAMPLES_MAX, Group, measure_group
from edgectl_server.pipeline.spec import (
    LITERT_PREFIX,
    MICROCONTROLLER_PREFIX,
    LayerRow,
    PipelineSpec,
    Progress,
    TrialRow,
)
from edgectl_server.pipeline.tasks import Done, Task, run_all, run_one
from edgectl_server.pipeline.verdicts import judge_answers

__all__ = ["Trials"]

T = TypeVar("T")
_SLOWER_MAX = 3.0
"""A dynamic variant that is slower than fp32 by more than this is of no use to anybody."""
_FEW_RUNS = 9


class _Calibrated(Struct, frozen=True):
    samples: int


@dataclass
class Trials:
    """Makes variants of one model and remembers what came of it.

    Attributes:
        spec: what is asked for.
        directory: where files are made; a variant is ``<recipe>.onnx``, ``.tflite`` or ``.flat``.
        inputs: of the model.
        baseline: the fp32 model.
        calibration: data for static recipes, or None.
        progress: told of every step.
        deadline: no trial is begun later than this, by the monotonic clock.
        rows: one a recipe, in the order in which they were tried.
        recipes: by name, all that were tried.
        evidence: by recipe: what its answers prove.
    """

    spec: PipelineSpec
    directory: Path
    inputs: tuple[TensorSpec, ...]
    baseline: Baseline
    calibration: Samples | None
    progress: Callable[[Progress], None]
    deadline: float
    rows: list[TrialRow] = field(default_factory=list)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    _ranges: dict[str, int | str] = field(default_factory=dict)
    """By ranges: the number of samples that they are of, or why there are none."""

    def path(self, recipe: str) -> Path:
        """Return the file of a variant, or of the model that they are compared with."""
        if recipe == self.baseline.recipe:
            return self.baseline.path
        ending = ".onnx"
        if recipe.startswith(LITERT_PREFIX):
            ending = ".tflite"
        elif recipe.startswith(MICROCONTROLLER_PREFIX):
            ending = FLAT_SUFFIX
        return self.directory / f"{recipe}{ending}"

    def runner(self, recipe: str) -> Runner:
        """Load a variant, or the model that they are compared with."""
        return self.baseline.runner(self.path(recipe), self.inputs)

    def calibration_samples(self, recipe: Recipe) -> int:
        """Return how many samples the variant's ranges are of."""
        used = self._ranges.get(recipe.ranges) if recipe.kind == "static" else None
        return used if isinstance(used, int) else 0

    def find_ranges(self, ranges: Ranges) -> str:
        """Find the ranges, unless that has been done; return why there are none, or nothing."""
        self._calibrate(ranges)
        found = self._ranges[ranges]
        return found if isinstance(found, str) else ""

    def ranges_file(self, ranges: Ranges) -> Path:
        """Return the file in which the ranges are."""
        return self.directory / f"ranges-{ranges}.json"

    def run(self, recipes: Sequence[Recipe]) -> list[TrialRow]:
        """Try recipes and return their rows, in their order."""
        self.recipes |= {recipe.name: recipe for recipe in recipes}
        found = {recipe.name: row for recipe in recipes if (row := self._impossible(recipe))}
        for ranges in dict.fromkeys(one.ranges for one in recipes if one.kind == "static"):
            if any(one.kind == "static" and one.name not in found for one in recipes):
                self._calibrate(ranges)
        for recipe in recipes:
            missing = self._ranges.get(recipe.ranges)
            if recipe.kind == "static" and isinstance(missing, str) and recipe.name not in found:
                found[recipe.name] = _failed(recipe, missing, None)
        before = len(self.rows)
        tasks = self._tasks([one for one in recipes if one.name not in found])
        for done in self._run(tasks):
            recipe = self.recipes[done.task.name]
            found[recipe.name] = self._row(recipe, done)
            self.progress(
                Progress(
                    stage="quantize",
                    message=recipe.name,
                    done=before + len(found),
                    total=before + len(recipes),
                )
            )
        late = "the time for the search was up"
        rows = [found.get(one.name) or _skipped(one, late) for one in recipes]
        self.rows.extend(rows)
        return rows

    def sensitivity(self, recipe: Recipe, groups: Sequence[Group]) -> list[LayerRow | None]:
        """Return what each group loses when it alone is quantized; None where that failed."""
        samples = self.baseline.samples.choose(SAMPLES_MAX, self.spec.seed)
        found: dict[str, LayerRow | None] = {}

        def task(number: int, group: Group) -> Task[LayerRow]:
            def call() -> LayerRow:
                return measure_group(
                    group,
                    recipe,
                    source=self.baseline.path,
                    target=self.directory / f"sensitivity-{number}.onnx",
                    cache=self.ranges_file(recipe.ranges),
                    inputs=self.inputs,
                    samples=samples,
                    wanted=Runner(self.baseline.path, self.inputs).run(samples),
                )

            return Task(str(number), call, LayerRow)

        tasks = (task(number, group) for number, group in enumerate(groups))
        for done in self._run(tasks):
            found[done.task.name] = done.value
            self.progress(
                Progress(
                    stage="sensitivity", message=recipe.name, done=len(found), total=len(groups)
                )
            )
        return [found.get(str(number)) for number in range(len(groups))]

    def is_late(self) -> bool:
        """Say whether the time for the search is up."""
        return time.monotonic() > self.deadline

    # ------------------------------------------------------------ one recipe

    def _impossible(self, recipe: Recipe) -> TrialRow | None:
        if self.baseline.yardstick is None:
            return _skipped(recipe, "no data to measure it on")
        if recipe.kind == "static" and self.calibration is None:
            return _skipped(recipe, "needs calibration data")
        return None

    def _calibrate(self, ranges: Ranges) -> None:
        """Find the ranges, unless that has been done."""
        if ranges in self._ranges:
            return
        assert self.calibration is not None
        calibration = self.calibration.choose(
            self.spec.limits.calibration_samples_max, self.spec.seed
        )
        self.progress(Progress(stage="quantize", message=f"{ranges} ranges", done=len(self.rows)))

        def call() -> _Calibrated:
            try:
                check_quantizable(self.baseline.path)
            except NothingToQuantize:
                return _Calibrated(0)  # each recipe says it for itself
            return _Calibrated(
                calibrate(ranges, self.baseline.path, self.ranges_file(ranges), calibration)
            )

        limits = self.spec.limits
        try:
            task = Task(ranges, call, _Calibrated)
            done = run_one(task, limits, seconds_max=limits.trial_s_max)
        except (PipelineRefused, PipelineFailed) as error:
            self._ranges[ranges] = error.detail
        else:
            self._ranges[ranges] = done.samples

    def _tasks(self, recipes: Sequence[Recipe]) -> Iterator[Task[Measured]]:
        yardstick = self.baseline.yardstick

        def task(recipe: Recipe, yardstick: Yardstick) -> Task[Measured]:
            return Task(recipe.name, lambda: self._try(recipe, yardstick), Measured)

        for recipe in recipes:
            assert yardstick is not None
            yield task(recipe, yardstick)

    def _run(self, tasks: Iterator[Task[T]]) -> Iterator[Done[T]]:
        def in_time() -> Iterator[Task[T]]:
            for task in tasks:
                if self.is_late():
                    return
                yield task

        limits = self.spec.limits
        return run_all(in_time(), limits, workers=limits.workers, seconds_max=limits.trial_s_max)

    def _try(self, recipe: Recipe, yardstick: Yardstick) -> Measured:
        """Make and measure a variant, unless it is known; in a task."""
        target = self.path(recipe.name)
        known = recall(self.directory, recipe.name, target)
        return known or remember(self.directory, recipe.name, target, self._make(recipe, yardstick))

    def _make(self, recipe: Recipe, yardstick: Yardstick) -> Measured:
        target = self.path(recipe.name)
        try:
            if recipe.precision == "int8":
                check_quantizable(self.baseline.path)
            make(
                recipe,
                self.baseline.path,
                target,
                self.ranges_file(recipe.ranges),
                parent=self.spec.parent,
            )
        except NothingToQuantize as error:
            return Measured(skipped=str(error))
        exact = recipe.kind == "static" and not recipe.portable and saturates()
        # The ranges of a dynamic recipe are those of the batch; devices run samples one by one.
        runner = Runner(target, self.inputs, exact=exact, one_by_one=recipe.kind == "dynamic")
        if recipe.kind == "dynamic":
            times = self._times_slower(runner)
            if times > _SLOWER_MAX:
                return Measured(skipped=f"{times:.0f} times slower than fp32")
        outputs = runner.run(yardstick.samples)
        parent = self.spec.parent if recipe.precision == "int8" else None
        return Measured(
            size_bytes=target.stat().st_size,
            evidence=collect(yardstick, outputs, self.spec.requirements, self.baseline.parent),
            update_bytes=None if parent is None else estimate_update(parent, target),
        )

    def _times_slower(self, runner: Runner) -> float:
        few = msgspec.structs.replace(self.spec.limits, latency_runs_max=_FEW_RUNS)
        fp32 = Runner(self.baseline.path, self.inputs)
        ours, reference = latencies([runner, fp32], self.baseline.samples, few)
        return ours.p50_us / reference.p50_us

    def _row(self, recipe: Recipe, done: Done[Measured]) -> TrialRow:
        if done.error is not None:
            return _failed(recipe, done.error.detail, done.seconds)
        assert done.value is not None
        if done.value.skipped:
            skipped = _skipped(recipe, done.value.skipped)
            return msgspec.structs.replace(skipped, known=done.value.known)
        yardstick, evidence = self.baseline.yardstick, done.value.evidence
        assert yardstick is not None
        assert evidence is not None
        self.evidence[recipe.name] = evidence
        value = evidence.value
        row = msgspec.structs.replace(
            _skipped(recipe, ""),
            status="accepted",
            size_bytes=done.value.size_bytes,
            value=value,
            drop_points=None if value is None else round(yardstick.drop_points(value), 4),
            seconds=done.seconds,
            update_bytes=done.value.update_bytes,
            known=done.value.known,
        )
        return judge_answers(row, evidence, self.spec, yardstick)


def _skipped(recipe: Recipe, reason: str) -> TrialRow:
    return TrialRow(
        recipe=recipe.name,
        variant=recipe.precision,
        precision=recipe.precision,
        status="skipped",
        reason=reason,
        portable=recipe.portable,
        float_nodes=len(recipe.excluded),
    )


def _failed(recipe: Recipe, reason: str, seconds: float | None) -> TrialRow:
    return msgspec.structs.replace(_skipped(recipe, reason), status="failed", seconds=seconds)
