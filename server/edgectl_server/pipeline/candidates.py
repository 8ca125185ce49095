"""The variants that are published: their files, their golden cases, and what describes them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence

import msgspec

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import FORMATS, MODEL_FILES, Evaluation, GateResult, Quantization
from edgectl_protocol.watching import REFERENCE_FILE, Reference, decode_reference
from edgectl_server.pipeline.baseline import Baseline
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.execution import peak_bytes, tool_of
from edgectl_server.pipeline.flat_golden import write_unsigned
from edgectl_server.pipeline.flat_session import FLAT_SUFFIX
from edgectl_server.pipeline.golden import write_golden
from edgectl_server.pipeline.reference import write_reference
from edgectl_server.pipeline.releases import digest_of_parent
from edgectl_server.pipeline.spec import (
    LITERT_PREFIX,
    Candidate,
    PipelineSpec,
    Progress,
    TrialRow,
)
from edgectl_server.pipeline.tasks import Task, run_one
from edgectl_server.pipeline.trials import Trials

__all__ = ["write_candidates"]

CALIBRATION_MAX = 128
"""Samples of which the converter to TFLite takes the ranges (`converters.foreign.to_tflite`)."""


def write_candidates(
    trials: Trials,
    rows: Sequence[TrialRow],
    cases: Samples,
    gates: Mapping[str, tuple[GateResult, ...]],
) -> tuple[Candidate, ...]:
    """Write the files of every variant to publish, each in a folder named after it.

    Args:
        trials: what was made.
        rows: what is published, in the order in which devices try it.
        cases: inputs of the golden cases.
        gates: by recipe: what is signed of its gates.
    """
    candidates = []
    limits = trials.spec.limits
    for rank, row in enumerate(rows):
        trials.progress(Progress(stage="golden", message=row.variant, done=rank, total=len(rows)))
        write = functools.partial(_write, trials, row, cases, rank)
        task = Task(row.variant, write, Candidate)
        made = run_one(task, limits, seconds_max=limits.trial_s_max)
        candidates.append(msgspec.structs.replace(made, gates=gates[row.recipe]))
    return tuple(candidates)


def _write(trials: Trials, row: TrialRow, cases: Samples, rank: int) -> Candidate:
    """Write one; in a task, so that its memory is that of this variant alone."""
    baseline = trials.baseline
    recipe = trials.recipes.get(row.recipe)
    folder = trials.directory / row.variant
    folder.mkdir(exist_ok=True)
    path = folder / MODEL_FILES[FORMATS[row.runtime]]
    if row.runtime == "cortex-m":
        path = path.with_suffix(FLAT_SUFFIX)
    shutil.copyfile(trials.path(row.recipe), path)
    before = peak_bytes()
    runner = baseline.runner(path, trials.inputs)
    runner.run(cases.choose(1, 0))
    rss_bytes = max(0, peak_bytes() - before)
    reference = None if row.precision == "fp32" else trials.runner(baseline.recipe)
    golden, _ = write_golden(
        folder / "golden.npz", runner, cases, reference=reference, scaled=baseline.scaled
    )
    if row.runtime == "cortex-m":
        write_unsigned(folder / MODEL_FILES["flat"], path.read_bytes(), cases)
    watched = write_reference(
        folder / REFERENCE_FILE,
        runner,
        baseline.samples,
        inputs=trials.inputs,
        outputs=baseline.specs,
        scores=baseline.scores,
        seed=trials.spec.seed,
        before=_reference_before(trials.spec, row.variant),
    )
    used = 0 if recipe is None else trials.calibration_samples(recipe)
    if row.recipe == f"{LITERT_PREFIX}int8" and trials.calibration is not None:
        used = min(CALIBRATION_MAX, trials.calibration.count)
    calibration = trials.calibration if used else None
    return Candidate(
        variant=row.variant,
        precision=row.precision,
        rank=rank,
        inputs=trials.inputs,
        outputs=baseline.specs,
        golden=golden,
        quantization=Quantization(
            recipe=row.recipe,
            calibration=calibration.digest if calibration else None,
            calibration_samples=used,
            tool=tool_of(row.runtime),
            float_nodes=() if recipe is None else recipe.excluded,
        ),
        trial=row,
        evaluation=_evaluation(baseline, row),
        scores=baseline.scores,
        runtime=row.runtime,
        steps_from=digest_of_parent(trials, row),
        rss_bytes=rss_bytes,
        watched=watched,
    )


def _reference_before(spec: PipelineSpec, variant: str) -> Reference | None:
    """Return the reference of the parent's variant, if it has one that can be read."""
    path = next((one.reference for one in spec.kept if one.variant == variant), None)
    try:
        return None if path is None else decode_reference(path.read_bytes())
    except (OSError, ProtocolError):
        return None


def _evaluation(baseline: Baseline, row: TrialRow) -> Evaluation | None:
    yardstick = baseline.yardstick
    if yardstick is None or row.value is None:
        return None
    return Evaluation(
        metric=yardstick.metric,
        reference=yardstick.reference,
        value=row.value,
        samples=yardstick.samples.count,
        dataset=yardstick.samples.digest,
    )
