"""The fp32 model: cleaned, run, and what its answers are worth. All else is measured against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from edgectl_protocol.manifest import Runtime, Scores, TensorSpec
from edgectl_server.pipeline.checks import DATATYPES
from edgectl_server.pipeline.cleaning import TOLERANCE, clean, not_repeatable
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.evidence import Parent, collect, without_data
from edgectl_server.pipeline.execution import Outputs, Runner
from edgectl_server.pipeline.gates import Evidence
from edgectl_server.pipeline.own_metric import OwnMetric, read_source
from edgectl_server.pipeline.scoring import (
    Yardstick,
    check_finite,
    choose_yardstick,
    find_scores,
    same_outputs,
)
from edgectl_server.pipeline.spec import PipelineSpec, Precision, Progress
from edgectl_server.pipeline.tflite_checks import TfliteFacts

__all__ = [
    "AS_PUSHED",
    "OUTPUTS_FILE",
    "Baseline",
    "Facts",
    "ParentNames",
    "judge",
    "read_parent",
    "run_fp32",
    "run_parent",
    "run_tflite",
]

AS_PUSHED = "as-pushed"
"""The recipe of a ``.tflite`` file, which is published as it is."""
_PROBES_MAX = 16
OUTPUTS_FILE = "fp32.npz"
PARENT_FILE = "replaced.npz"
_OUTPUT_BYTES_MAX = 256 * 1024 * 1024
"""Outputs of the measured samples are kept in memory, those of fp32 and of one variant."""
_RANK_MAX = 8
_DATATYPE_NAMES = {dtype: name for name, dtype in DATATYPES.values()}


class Facts(Struct, frozen=True, kw_only=True):
    """What comes back from running the fp32 model; its outputs are in `OUTPUTS_FILE`."""

    file: str
    """``cleaned.onnx``, or ``source.onnx`` where cleaning was not possible."""
    outputs: tuple[TensorSpec, ...]
    samples: int
    """How many of the samples were run."""
    warnings: tuple[str, ...]
    runtime: Runtime = "onnxruntime"
    precision: Precision = "fp32"
    scalings: dict[str, tuple[float, int]] = {}
    """Scale and zero point of each output of integers that stand for numbers; what is in the file
    are the numbers."""


@dataclass(frozen=True)
class Baseline:
    """The fp32 model, measured.

    Attributes:
        path: the file.
        samples: what it was run on.
        outputs: its outputs for them.
        specs: their names, datatypes and shapes.
        scores: the output of class scores, if there is one.
        yardstick: how variants are measured; None where there is no data.
        evidence: what its own answers prove.
        parent: the answers of the version that is replaced.
        warnings: for the report.
        runtime: what runs it.
        precision: ``fp32``, unless it is a ``.tflite`` file.
        scaled: outputs whose integers stand for numbers; in `outputs` are the numbers.
    """

    path: Path
    samples: Samples
    outputs: Outputs
    specs: tuple[TensorSpec, ...]
    scores: Scores | None
    yardstick: Yardstick | None
    evidence: Evidence
    parent: Parent
    warnings: tuple[str, ...]
    runtime: Runtime = "onnxruntime"
    precision: Precision = "fp32"
    scaled: frozenset[str] = frozenset()

    @property
    def recipe(self) -> str:
        """Its name among the trials."""
        return "fp32" if self.runtime == "onnxruntime" else AS_PUSHED

    def runner(self, path: Path, inputs: tuple[TensorSpec, ...]) -> Runner:
        """Load a model with these inputs and the outputs of this one."""
        shapes = {one.name: one.shape for one in self.specs}
        return Runner(path, inputs, outputs=list(shapes), shapes=shapes)


def run_fp32(
    spec: PipelineSpec,
    model: Any,
    directory: Path,
    *,
    inputs: tuple[TensorSpec, ...],
    samples: Samples,
    progress: Callable[[Progress], None],
) -> Facts:
    """Clean the model and run it on the samples; for a task.

    Args:
        spec: what is asked for.
        model: the checked ``onnx.ModelProto``.
        directory: where files are made.
        inputs: of the model.
        samples: the best data there is.
        progress: told of every step.

    Raises:
        PipelineRefused: it cannot be loaded or run, or an output is not what devices can use.
    """
    progress(Progress(stage="clean", message="infer shapes, fold constants"))
    cleaned = clean(model, directory, inputs, samples)
    progress(Progress(stage="evaluate", message="fp32"))
    runner = Runner(cleaned.path, inputs)
    outputs, count = _run_fitting(runner, samples, spec)
    specs = _output_specs(outputs, free_batch=runner.free_batch)
    np.savez(directory / OUTPUTS_FILE, *(outputs[one.name] for one in specs))
    return Facts(file=cleaned.path.name, outputs=specs, samples=count, warnings=cleaned.warnings)


def run_tflite(
    spec: PipelineSpec,
    path: Path,
    *,
    facts: TfliteFacts,
    samples: Samples,
    progress: Callable[[Progress], None],
) -> Facts:
    """Run a ``.tflite`` file, as it was pushed, on the samples; for a task.

    Args:
        spec: what is asked for.
        path: the file, in the folder where files are made.
        facts: what its checks have found.
        samples: the best data there is.
        progress: told of every step.

    Raises:
        PipelineRefused: as `run_fp32`, and ``model.not_repeatable``.
    """
    progress(Progress(stage="evaluate", message=facts.precision))
    runner = Runner(path, facts.inputs, outputs=facts.outputs)
    probes = samples.choose(_PROBES_MAX, spec.seed)
    if not same_outputs(runner.run(probes), runner.run(probes), TOLERANCE):
        raise not_repeatable()
    outputs, count = _run_fitting(runner, samples, spec)
    specs = _output_specs(outputs, free_batch=runner.free_batch)
    scalings = {name: one for name, one in facts.scalings.items() if name in facts.outputs}
    for name, one in scalings.items():
        outputs[name] = one.numbers(outputs[name])
    np.savez(path.parent / OUTPUTS_FILE, *(outputs[one.name] for one in specs))
    return Facts(
        file=path.name,
        outputs=specs,
        samples=count,
        warnings=(),
        runtime="litert",
        precision=facts.precision,
        scalings={name: (one.scale, one.zero_point) for name, one in scalings.items()},
    )


def _run_fitting(runner: Runner, samples: Samples, spec: PipelineSpec) -> tuple[Outputs, int]:
    """Run as many samples as there is room for their outputs; return these, and how many."""
    first = runner.run(samples.choose(1, spec.seed))
    row_bytes = max(1, sum(array.nbytes for array in first.values()))
    fitting = max(1, min(spec.limits.evaluation_samples_max, _OUTPUT_BYTES_MAX // row_bytes))
    outputs = runner.run(samples.choose(fitting, spec.seed))
    check_finite(outputs)
    return outputs, min(fitting, samples.count)


def judge(
    spec: PipelineSpec, facts: Facts, directory: Path, samples: Samples, parent: Parent
) -> Baseline:
    """Say what the answers of the fp32 model are worth, and how variants are measured.

    Raises:
        PipelineRefused: ``data.label``, ``model.labels``, ``pipeline.metric``, ``metric.…``.
    """
    samples = samples.choose(facts.samples, spec.seed)
    with np.load(directory / OUTPUTS_FILE, allow_pickle=False) as arrays:
        outputs = {one.name: arrays[f"arr_{n}"] for n, one in enumerate(facts.outputs)}
    (directory / OUTPUTS_FILE).unlink()
    scores = find_scores(outputs, samples.inputs)
    if scores is not None and scores.output in facts.scalings:
        scale, zero_point = facts.scalings[scores.output]
        scores = msgspec.structs.replace(scores, scale=scale, zero_point=zero_point)
    warnings = facts.warnings + _check_class_names(spec.labels, outputs, scores)
    yardstick = None
    evidence = without_data(spec.requirements)
    if samples.role != "random":
        own = None
        if spec.own_metric is not None:
            own = OwnMetric(read_source(spec.own_metric), spec.limits.metric_s_max)
        yardstick, more = choose_yardstick(samples, outputs, scores, metric=spec.metric, own=own)
        evidence = collect(yardstick, outputs, spec.requirements, parent)
        warnings += more
    else:
        warnings += ("Golden cases are made of random numbers, for lack of data.",)
    return Baseline(
        path=directory / facts.file,
        samples=samples,
        outputs=outputs,
        specs=facts.outputs,
        scores=scores,
        yardstick=yardstick,
        evidence=evidence,
        parent=parent,
        warnings=warnings,
        runtime=facts.runtime,
        precision=facts.precision,
        scaled=frozenset(facts.scalings),
    )


class ParentNames(Struct, frozen=True):
    """Names of the outputs in `PARENT_FILE`, in their order."""

    names: tuple[str, ...]


def run_parent(
    path: Path,
    directory: Path,
    inputs: tuple[TensorSpec, ...],
    samples: Samples,
    outputs: Sequence[str],
) -> ParentNames:
    """Run the version that is replaced on the samples; for a task.

    Raises:
        PipelineRefused: it does not load or run, such as with other inputs.
    """
    found = Runner(path, inputs, outputs=outputs).run(samples)
    np.savez(directory / PARENT_FILE, *found.values())
    return ParentNames(tuple(found))


def read_parent(directory: Path, found: ParentNames) -> Parent:
    """Return what `run_parent` left."""
    path = directory / PARENT_FILE
    with np.load(path, allow_pickle=False) as arrays:
        outputs = {name: arrays[f"arr_{n}"] for n, name in enumerate(found.names)}
    path.unlink()
    return Parent(outputs, "")


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
