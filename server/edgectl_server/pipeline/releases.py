"""What is released: each variant as it was trained, or in small steps from what devices have.

With a budget for smaller updates, every published variant that the parent version has too is made
again in steps (`small_steps`), at each level in a task of its own. Levels are tried from the fewest
bytes on, and the first that passes is taken::

    levels by bytes ─► make, run on the data ─► gates and budget ─► deltas, latency, memory

What may be lost is the budget, against the variant as trained, by the same metric on the same
data, and at most half of what the update gains over the parent there: or the cheapest update would
be none at all. What is released is measured like every variant, and all gates hold for it. Whatever
goes wrong, the variant is released as trained, and the report says why.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from edgectl_server.deltas.encoder import encode
from edgectl_server.pipeline.costs import memory_of, with_latencies
from edgectl_server.pipeline.course import Course
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.evidence import collect
from edgectl_server.pipeline.execution import Runner
from edgectl_server.pipeline.gates import Evidence
from edgectl_server.pipeline.metrics import points
from edgectl_server.pipeline.processor import saturates
from edgectl_server.pipeline.recipes import STEPS_INFIX
from edgectl_server.pipeline.scoring import Yardstick
from edgectl_server.pipeline.small_steps import (
    Level,
    NothingToStep,
    estimate_levels,
    make_steps,
)
from edgectl_server.pipeline.spec import ParentVariant, Progress, SmallSteps, StepLevel, TrialRow
from edgectl_server.pipeline.tasks import Done, Task, run_all, run_one
from edgectl_server.pipeline.trials import Trials
from edgectl_server.pipeline.verdicts import judge_answers, judge_costs

__all__ = ["digest_of_parent", "release_small_steps"]

T = TypeVar("T")
_GAIN_KEPT = 0.5
_ROUNDING = 1e-9


class _AsTrained(Exception):
    """A variant is not released in small steps; the text says why."""


class _Levels(Struct, frozen=True):
    """Ways and bits with their bytes, the fewest first; or why there are none."""

    levels: tuple[tuple[str, float, int], ...] = ()
    reason: str = ""


class _Tried(Struct, frozen=True):
    size_bytes: int
    evidence: Evidence


class _Bytes(Struct, frozen=True):
    bytes: int


@dataclass
class _Release:
    """One variant on its way.

    Attributes:
        course: of the search.
        trained: the row of what was trained.
        parent: the variant that devices have.
        yardstick: how it is measured.
        found: what the report says.
        rows: by level: what would be released.
    """

    course: Course
    trained: TrialRow
    parent: ParentVariant
    yardstick: Yardstick
    found: SmallSteps
    rows: dict[str, TrialRow] = field(default_factory=dict)

    @property
    def trials(self) -> Trials:
        """Of the search."""
        return self.course.trials

    def recipe(self, level: str) -> str:
        """Return the name of what is released at a level."""
        return self.trained.recipe.removesuffix("-parent") + STEPS_INFIX + level

    def note(self, **changes: object) -> None:
        """Write down what is known now."""
        self.found = msgspec.structs.replace(self.found, **changes)


def release_small_steps(course: Course) -> None:
    """Put what is released in small steps in the place of what was trained, where that pays."""
    spec = course.subject.spec
    if spec.update_budget_points is None:
        return
    course.published = [_release(course, row) for row in course.published]


def digest_of_parent(trials: Trials, row: TrialRow) -> str | None:
    """Return the digest of the file from which a row's steps lead; None if it is as trained."""
    if STEPS_INFIX not in row.recipe:
        return None
    parent = next(one for one in trials.spec.parents if one.variant == row.variant)
    with parent.model.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _release(course: Course, row: TrialRow) -> TrialRow:
    """Return the row of what is released of a variant, and write into the report how that was."""
    trained = _trained(course, row)
    found = SmallSteps(
        variant=row.variant,
        trained=trained.recipe,
        size_bytes=trained.size_bytes,
        trained_value=trained.value,
    )
    yardstick = course.trials.baseline.yardstick
    parents = course.subject.spec.parents
    parent = next((one for one in parents if one.variant == row.variant), None)
    if parent is None or row.runtime != "onnxruntime" or yardstick is None:
        why = "no data to measure it on" if yardstick is None else "not of this kind of file"
        if parent is None:
            why = "the parent has no such variant that can be read"
        course.small_steps.append(msgspec.structs.replace(found, trained=row.recipe, reason=why))
        return row
    release = _Release(course, trained, parent, yardstick, found)
    try:
        released = _find(release)
    except _AsTrained as why:
        release.note(trained=row.recipe, trained_value=row.value, reason=str(why))
        released = row
    course.small_steps.append(release.found)
    return released


def _trained(course: Course, row: TrialRow) -> TrialRow:
    """Return what a variant's steps shall lead to: of int8, what keeps the parent's scales."""
    if row.precision != "int8":
        return row
    kept = [
        one
        for one in course.rows
        if one.recipe.endswith("-parent")
        and one.status == "accepted"
        and one.portable >= row.portable
    ]
    return msgspec.structs.replace(kept[0], variant=row.variant) if kept else row


def _find(release: _Release) -> TrialRow:
    """Return the row of what is released.

    Raises:
        _AsTrained: nothing in its place.
    """
    trials = release.trials
    levels = _levels(release)
    _measure_parent(release)
    release.note(
        levels=tuple(
            StepLevel(name=level.name, estimated_bytes=size, status="skipped")
            for level, size in levels
        )
    )
    passed = _try(release, [level for level, _ in levels])
    if passed is None:
        late = all(one.status == "skipped" for one in release.found.levels)
        raise _AsTrained("the time for the search was up" if late else "no steps keep enough of it")
    row = release.rows[passed]
    trained_bytes, released_bytes = _deltas(release, row)
    release.note(trained_bytes=trained_bytes, released_bytes=released_bytes)
    if released_bytes is None:
        raise _AsTrained("its delta was not made within the limits")
    if trained_bytes is not None and released_bytes >= trained_bytes:
        raise _AsTrained("as trained it takes no more bytes")
    _, measured = with_latencies(trials, [release.course.rows[0], row])
    memory = memory_of(trials, [measured])
    release.course.memory |= memory
    (judged,) = judge_costs(
        [msgspec.structs.replace(measured, update_bytes=released_bytes)],
        trials.evidence,
        release.course.memory,
        trials.spec,
        release.yardstick,
    )
    if judged.status != "accepted":
        raise _AsTrained(judged.reason)
    release.note(
        released=row.recipe,
        released_value=row.value,
        levels=tuple(
            msgspec.structs.replace(one, status="released") if one.name == passed else one
            for one in release.found.levels
        ),
    )
    release.course.rows.append(judged)
    return judged


def _run(task: Task[T], release: _Release) -> T:
    limits = release.trials.spec.limits
    try:
        return run_one(task, limits, seconds_max=limits.trial_s_max)
    except (PipelineRefused, PipelineFailed) as error:
        raise _AsTrained(error.detail) from error


def _levels(release: _Release) -> list[tuple[Level, int]]:
    """Return the levels with their bytes, the fewest first."""
    parent, trained = release.parent.model, release.trials.path(release.trained.recipe)

    def call() -> _Levels:
        try:
            found = estimate_levels(parent, trained)
        except NothingToStep as error:
            return _Levels(reason=str(error))
        return _Levels(tuple((level.way, level.bits, size) for level, size in found))

    done = _run(Task("levels", call, _Levels), release)
    if done.reason:
        raise _AsTrained(done.reason)
    return [(Level(way, bits), size) for way, bits, size in done.levels]


def _measure_parent(release: _Release) -> None:
    """Find out what the parent reaches on the data, and with it what may be lost."""
    path = release.parent.model
    task = Task("parent", functools.partial(_evidence, release, path), _Tried)
    done = _run(task, release)
    value, trained = done.evidence.value, release.trained.value
    allowed = release.trials.spec.update_budget_points
    assert allowed is not None
    if value is None or trained is None:
        raise _AsTrained("the parent cannot be measured on this data")
    better = release.yardstick.higher_is_better
    gain = points(trained, value, higher_is_better=better)
    if gain > 0:
        allowed = min(allowed, _GAIN_KEPT * gain)
    release.note(parent_value=value, allowed_points=round(allowed, 4))


def _evidence(release: _Release, path: Path) -> _Tried:
    """Run a model on the data; in a task."""
    trials, recipe = release.trials, release.trials.recipes.get(release.trained.recipe)
    static = recipe is not None and recipe.kind == "static"
    exact = static and recipe is not None and not recipe.portable and saturates()
    one_by_one = recipe is not None and recipe.kind == "dynamic"
    runner = Runner(path, trials.inputs, exact=exact, one_by_one=one_by_one)
    outputs = runner.run(release.yardstick.samples)
    evidence = collect(release.yardstick, outputs, trials.spec.requirements, trials.baseline.parent)
    return _Tried(path.stat().st_size, evidence)


def _try(release: _Release, levels: list[Level]) -> str | None:
    """Try levels until one passes; return the name of the one of the fewest bytes that has."""
    trials = release.trials
    passed: set[str] = set()
    results: dict[str, StepLevel] = {one.name: one for one in release.found.levels}

    def tasks() -> Iterator[Task[_Tried]]:
        for level in levels:
            if passed or trials.is_late():
                return
            yield Task(level.name, _maker(release, level), _Tried)

    limits = trials.spec.limits
    for done in run_all(tasks(), limits, workers=limits.workers, seconds_max=limits.trial_s_max):
        result = _judge(release, done, results[done.task.name])
        results[result.name] = result
        release.note(levels=tuple(results.values()))
        if result.status == "accepted":
            passed.add(result.name)
        tried = sum(one.status != "skipped" for one in results.values())
        message = f"{release.found.variant}, {result.name}"
        trials.progress(Progress(stage="release", message=message, done=tried, total=len(levels)))
    return next((level.name for level in levels if level.name in passed), None)


def _maker(release: _Release, level: Level) -> Callable[[], _Tried]:
    trials = release.trials
    target = trials.path(release.recipe(level.name))

    def call() -> _Tried:
        make_steps(release.parent.model, trials.path(release.trained.recipe), target, level)
        return _evidence(release, target)

    return call


def _judge(release: _Release, done: Done[_Tried], level: StepLevel) -> StepLevel:
    """Return what came of a level; if it passes, its row and evidence are kept."""
    if done.error is not None or done.value is None:
        reason = "" if done.error is None else done.error.detail
        return msgspec.structs.replace(level, status="failed", reason=reason)
    trials, yardstick, trained = release.trials, release.yardstick, release.trained
    value = done.value.evidence.value
    if value is None or trained.value is None:
        return msgspec.structs.replace(level, status="rejected", reason="it cannot be measured")
    lost = points(trained.value, value, higher_is_better=yardstick.higher_is_better)
    level = msgspec.structs.replace(level, value=value, lost_points=round(lost, 4))
    recipe = release.recipe(level.name)
    row = judge_answers(
        msgspec.structs.replace(
            trained,
            recipe=recipe,
            size_bytes=done.value.size_bytes,
            value=value,
            drop_points=round(yardstick.drop_points(value), 4),
            seconds=done.seconds,
            known=False,
        ),
        done.value.evidence,
        trials.spec,
        yardstick,
    )
    allowed = release.found.allowed_points
    assert allowed is not None
    if row.status != "accepted":
        return msgspec.structs.replace(level, status="rejected", reason=row.reason)
    if lost > allowed + _ROUNDING:
        reason = f"loses {lost:.2f} points of what was trained, allowed are {allowed:g}"
        return msgspec.structs.replace(level, status="rejected", reason=reason)
    release.rows[level.name] = row
    trials.evidence[recipe] = done.value.evidence
    base = trials.recipes.get(trained.recipe)
    if base is not None:
        trials.recipes[recipe] = replace(base, name=recipe)
    return msgspec.structs.replace(level, status="accepted")


def _deltas(release: _Release, row: TrialRow) -> tuple[int | None, int | None]:
    """Return the bytes of the deltas to what was trained and to what is released."""
    trials = release.trials
    base = release.parent.model

    def task(recipe: str) -> Task[_Bytes]:
        path = trials.path(recipe)
        return Task(
            recipe,
            lambda: _Bytes(len(encode(base.read_bytes(), path.read_bytes()).content)),
            _Bytes,
        )

    trials.progress(Progress(stage="release", message=f"{release.found.variant}, deltas"))
    limits = trials.spec.limits
    recipes = (release.trained.recipe, row.recipe)
    found = {
        done.task.name: done.value.bytes
        for done in run_all(
            map(task, recipes), limits, workers=limits.workers, seconds_max=limits.trial_s_max
        )
        if done.value is not None
    }
    return found.get(recipes[0]), found.get(recipes[1])
