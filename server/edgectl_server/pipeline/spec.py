"""What the parent asks the pipeline's child to do, and what comes back: files of JSON.

The child handles hostile files, so that what it writes is decoded with bounds and types, and names
no path: every file of a candidate has a fixed place below the working directory
(``<variant>/model.onnx`` or ``model.tflite``, ``<variant>/golden.npz``, and, where there is data,
``<variant>/reference.json``).

`TrialRow` and `TrialReport` have the fields of ``schemas.Trial`` and ``schemas.Report``;
a test keeps them equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_protocol.chunks import BLOB_BYTES_MAX
from edgectl_protocol.manifest import (
    Evaluation,
    GateResult,
    Golden,
    Quantization,
    Runtime,
    Scores,
    TensorSpec,
)
from edgectl_protocol.names import Digest, ModelName, Variant, Version
from edgectl_protocol.requirements import Requirement
from edgectl_server.pipeline.steps import Processing

__all__ = [
    "LITERT_PREFIX",
    "MICROCONTROLLER_PREFIX",
    "OUTCOME_BYTES_MAX",
    "REFUSAL_FILE",
    "RESULT_FILE",
    "SPEC_FILE",
    "Candidate",
    "Confusion",
    "Converted",
    "DataCheckRow",
    "Disagreement",
    "Ending",
    "GateRow",
    "KeptVariant",
    "LayerRow",
    "Objective",
    "ParentVariant",
    "PipelineLimits",
    "PipelineResult",
    "PipelineSpec",
    "Precision",
    "Progress",
    "Replaced",
    "SmallSteps",
    "StepLevel",
    "TensorRow",
    "TrialReport",
    "TrialRow",
    "decode_spec",
    "encode",
    "to_document",
]

SPEC_FILE = "spec.json"
RESULT_FILE = "result.json"
REFUSAL_FILE = "refusal.json"
OUTCOME_BYTES_MAX = 4 * 1024 * 1024

LITERT_PREFIX = "litert-"
"""Of the recipes, and variants, that are an ONNX model converted for LiteRT."""
MICROCONTROLLER_PREFIX = "cortex-m-"
"""Of the recipes, and variants, that are an ONNX model made flat."""
Precision = Literal["fp32", "fp16", "int8"]
Objective = Literal["latency", "size"]
"""What the choice between variants that keep the accuracy looks at first."""
Status = Literal["accepted", "rejected", "failed", "skipped"]
MiB = 1024**2


class PipelineLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one run. The first five are enforced by the kernel or the parent."""

    memory_bytes: Annotated[int, Meta(ge=256 * MiB)] = 8192 * MiB
    """Address space of the child, not resident memory: onnxruntime reserves more than it uses."""
    cpu_s: Annotated[int, Meta(ge=1)] = 3600
    """Processor time of the child, all threads together."""
    wall_s: Annotated[float, Meta(gt=0)] = 3600.0
    file_bytes_max: Annotated[int, Meta(ge=1)] = 4096 * MiB
    """Largest file that the child may write."""
    files_max: Annotated[int, Meta(ge=64)] = 256
    """Open files of the child."""

    source_bytes_max: Annotated[int, Meta(ge=1, le=BLOB_BYTES_MAX)] = BLOB_BYTES_MAX - 16 * MiB
    """Largest model file: what a device can fetch, with room for what cleaning adds."""
    data_bytes_max: Annotated[int, Meta(ge=1)] = 1024 * MiB
    """Largest calibration or evaluation data, unpacked."""
    nodes_max: Annotated[int, Meta(ge=1)] = 50_000
    """Nodes of the graph and of all its subgraphs."""
    tensors_max: Annotated[int, Meta(ge=1)] = 50_000
    """Initializers and attribute tensors."""
    depth_max: Annotated[int, Meta(ge=1, le=30)] = 16
    """Nesting of subgraphs (If, Loop, Scan)."""

    calibration_samples_max: Annotated[int, Meta(ge=1)] = 256
    evaluation_samples_max: Annotated[int, Meta(ge=1)] = 10_000
    golden_cases: Annotated[int, Meta(ge=1, le=1024)] = 16
    latency_runs_max: Annotated[int, Meta(ge=1)] = 200
    latency_s_max: Annotated[float, Meta(gt=0)] = 0.5
    """Of each variant's latency measurement."""

    workers: Annotated[int, Meta(ge=1, le=64)] = 2
    """Trials at a time."""
    trial_s_max: Annotated[float, Meta(gt=0)] = 600.0
    """Of one trial, by the clock."""
    search_s_max: Annotated[float, Meta(gt=0)] = 1800.0
    """No trial is begun later than this after the first."""
    metric_s_max: Annotated[float, Meta(gt=0)] = 60.0
    """Of one measurement by a pushed ``metric.py``."""


class Replaced(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The version that a new one replaces, as applications know it."""

    version: Version
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scores: Scores | None = None
    labels: tuple[str, ...] = ()
    model: Path | None = None
    """Its ONNX file, for comparison; None: it cannot be read, such as an encrypted one."""


class Converted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model as a ``.tflite`` file, by a converter; it is believed as little as a pushed one."""

    precision: Literal["fp32", "int8"]
    path: Path | None = None
    reason: str = ""
    """Why there is no file."""
    tried: bool = True
    """Whether the converter was asked."""

    @property
    def recipe(self) -> str:
        """Its name in the report, and as a variant."""
        return f"{LITERT_PREFIX}{self.precision}"


class ParentVariant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant of the parent version, as devices have it."""

    variant: Variant
    precision: Precision
    model: Path
    """Its ONNX file."""


class KeptVariant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a variant of the parent version is proved and watched by."""

    variant: Variant
    golden: Path
    """Its ``golden.npz``."""
    reference: Path | None = None
    """Its ``reference.json``, if it has one."""


class PipelineSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the pipeline."""

    model: ModelName
    version: Version
    source: Path
    """The ONNX file as it was pushed."""
    calibration: Path | None = None
    evaluation: Path | None = None
    max_drop_points: Annotated[float, Meta(ge=0, le=100)] = 1.0
    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1)] = ("fp32", "int8")
    labels: tuple[str, ...] = ()
    """Name of each class, in the order of the scores; empty: unnamed."""
    input_shapes: dict[str, tuple[int, ...]] = {}
    """Shapes to fix, by input of the pushed model; -1 first leaves the batch free."""
    processing: Processing | None = None
    """Steps that become part of the model; calibration and evaluation data are before them."""
    recipes: tuple[str, ...] = ()
    """Names of the recipes to try, and no others; empty: as the search goes."""
    objective: Objective = "latency"
    runtimes: tuple[Runtime, ...] = ("onnxruntime",)
    """For which variants are published; a ``.tflite`` file is for LiteRT in any case."""
    converted: tuple[Converted, ...] = ()
    """The model for LiteRT, to be measured beside the others."""
    parent: Path | None = None
    """The int8 model of the version that this one comes after, whose scales may be kept."""
    parent_recipe: str = ""
    """By which it was made."""
    parent_float_nodes: tuple[str, ...] = ()
    """What it left in float."""
    update_budget_points: Annotated[float, Meta(ge=0, le=100)] | None = None
    """What a version in small steps from its parent may cost; None: it is released as trained."""
    parents: tuple[ParentVariant, ...] = ()
    """From what the small steps may lead."""
    kept: tuple[KeptVariant, ...] = ()
    """Of the parent version: what is as good as new stays as it is, so that devices need not fetch
    it again. The one that devices try first is the first."""
    metric: str = ""
    """Name of a metric; empty: as the data says."""
    own_metric: Path | None = None
    """A ``metric.py``, in its place."""
    requirements: tuple[Requirement, ...] = ()
    allowed: tuple[str, ...] = ()
    """Gates that are overridden."""
    allowed_by: str = ""
    replaced: Replaced | None = None
    seed: int = 0
    part: Annotated[int, Meta(ge=0)] = 0
    """Which of `parts` of the table of recipes is tried, and no more than that; see `parts`."""
    parts: Annotated[int, Meta(ge=1, le=64)] = 1
    """1: the whole search. More: another machine does the rest, and this run is for its trials."""
    limits: PipelineLimits = PipelineLimits()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        replaced = self.replaced.model if self.replaced is not None else None
        named = (
            self.source,
            self.calibration,
            self.evaluation,
            self.own_metric,
            self.parent,
            replaced,
            *(one.path for one in self.converted),
            *(one.model for one in self.parents),
            *(one.golden for one in self.kept),
            *(one.reference for one in self.kept),
        )
        return tuple(path for path in named if path is not None)


class Progress(Struct, frozen=True, kw_only=True):
    """How far the child is; fields as in ``schemas.JobProgress``."""

    stage: Annotated[str, Meta(max_length=64)]
    """In this order: ``check``, ``clean``, ``evaluate``, ``quantize``, ``sensitivity``,
    ``latency``, ``release``, ``golden``."""
    message: Annotated[str, Meta(max_length=512)] = ""
    done: int = 0
    total: int = 0


class TensorRow(Struct, frozen=True, kw_only=True):
    """An input or output; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class TrialRow(Struct, frozen=True, kw_only=True):
    """One recipe that was tried."""

    recipe: str
    variant: str
    precision: Literal["fp32", "fp16", "int8"]
    status: Status
    reason: str = ""
    size_bytes: int | None = None
    value: float | None = None
    drop_points: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    seconds: float | None = None
    portable: bool = True
    """Whether its 8-bit products are right on processors whose sums of them saturate."""
    float_nodes: int = 0
    """Operators that stay in float by choice: mixed precision."""
    update_bytes: int | None = None
    """About how many bytes lead to it from the parent's int8 variant."""
    known: bool = False
    """It was made before, of the same files in the same way."""
    runtime: Runtime = "onnxruntime"
    """What runs it on devices."""


class LayerRow(Struct, frozen=True, kw_only=True):
    """What one operator, or a group of neighbours, loses when it alone is quantized."""

    node: str
    operator: str
    loss: float
    """Share of the outputs' variance that is lost: 1 - R² against fp32."""
    nodes: int = 1
    """How many operators they are."""


class GateRow(Struct, frozen=True, kw_only=True):
    """A gate and how a variant stands to it; see `edgectl_protocol.manifest.GateResult`."""

    variant: str
    """Empty: the version as a whole."""
    name: str
    status: Literal["passed", "failed", "not_enough_data", "overridden"]
    measured: float | None = None
    bound: float | None = None
    direction: Literal["<=", ">=", ""] = ""
    unit: Literal["share", "points", "number", "bytes", "time", ""] = ""
    detail: str = ""
    overridden_by: str = ""


class DataCheckRow(Struct, frozen=True, kw_only=True):
    """Something remarkable about the data; see `edgectl_server.pipeline.data_checks`."""

    name: str
    severity: Literal["info", "warning", "error"]
    detail: str
    hint: str = ""


class Confusion(Struct, frozen=True, kw_only=True):
    """How often which class was named: rows are true classes, columns those that were named."""

    variant: str
    before: tuple[tuple[int, ...], ...]
    """By fp32."""
    after: tuple[tuple[int, ...], ...]
    """By the variant."""


class Disagreement(Struct, frozen=True, kw_only=True):
    """A sample of which a variant says another class than fp32."""

    index: int
    """Of the sample in the measured data."""
    label: int | None
    reference_class: int
    reference_score: float
    """What fp32 gives its class."""
    variant_class: int
    variant_score: float


class StepLevel(Struct, frozen=True, kw_only=True):
    """Small steps of one size, and what they cost."""

    name: str
    """See `small_steps.Level`."""
    estimated_bytes: int
    """Of the numbers of steps."""
    status: Literal["released", "accepted", "rejected", "failed", "skipped"]
    value: float | None = None
    lost_points: float | None = None
    """Against what was trained."""
    reason: str = ""


class SmallSteps(Struct, frozen=True, kw_only=True):
    """A variant as it was trained, and as it is released: near to what devices have."""

    variant: str
    trained: str
    """Recipe of what was trained."""
    released: str = ""
    """Recipe of what is released in its place; empty: it is released as trained."""
    reason: str = ""
    """Why it is released as trained."""
    size_bytes: int | None = None
    """Of the file."""
    trained_bytes: int | None = None
    """Of the delta from the parent to what was trained; None: none was made."""
    released_bytes: int | None = None
    """Of the delta to what is released."""
    parent_value: float | None = None
    trained_value: float | None = None
    released_value: float | None = None
    allowed_points: float | None = None
    """What might be lost: the budget, and no more than half of what the update gains."""
    levels: tuple[StepLevel, ...] = ()
    """The fewest bytes first."""


class TrialReport(Struct, frozen=True, kw_only=True):
    """What was tried and measured."""

    metric: str | None
    """See `edgectl_server.pipeline.metrics`; ``own``: the pushed ``metric.py``."""
    metric_source: Literal["evaluation", "calibration"] | None
    samples: int
    reference: float | None
    max_drop_points: float
    opset: int
    nodes: int
    parameters: int
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    trials: tuple[TrialRow, ...]
    measured_on: str
    warnings: tuple[str, ...] = ()
    sensitivity: tuple[LayerRow, ...] = ()
    """By loss, the largest first; empty where no mixed precision was needed."""
    golden: dict[str, int] = {}
    """How many golden cases were chosen for which reason, see `golden_cases`."""
    search_s: float = 0.0
    """What the search took, by the clock."""
    processing: tuple[str, ...] = ()
    """Declared steps that are part of the model, a line for each input and output."""
    gates: tuple[GateRow, ...] = ()
    data_checks: tuple[DataCheckRow, ...] = ()
    confusion: Confusion | None = None
    """Of the variant that is tried first, if the model names at most 64 classes."""
    top_disagreements: tuple[Disagreement, ...] = ()
    """Of the same variant, the ones that fp32 was surest of first."""
    small_steps: tuple[SmallSteps, ...] = ()
    """Of each published variant, if a budget for smaller updates was given."""


class Candidate(Struct, frozen=True, kw_only=True):
    """A variant that may be published; its files are in the folder named after it."""

    variant: Variant
    precision: Precision
    rank: Annotated[int, Meta(ge=0)]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: Golden
    quantization: Quantization
    trial: TrialRow
    evaluation: Evaluation | None = None
    scores: Scores | None = None
    gates: tuple[GateResult, ...] = ()
    runtime: Runtime = "onnxruntime"
    steps_from: Digest | None = None
    """The parent's model file, of a variant that is released in small steps from it."""
    rss_bytes: int = 0
    """What loading and running it added to the resident memory of a process with the runtime."""
    watched: bool = False
    """Whether there is a ``reference.json``, by which devices look for drift."""


class PipelineResult(Struct, frozen=True, kw_only=True):
    """What the run has made; ranks are 0, 1, … in the order of `candidates`."""

    source: Digest
    report: TrialReport
    candidates: Annotated[tuple[Candidate, ...], Meta(min_length=1, max_length=8)]


class Ending(Struct, frozen=True, kw_only=True):
    """``refusal.json``: why there is no result."""

    kind: Literal["refused", "failed"]
    code: Annotated[str, Meta(pattern=r"^[a-z]+\.[a-z_]+$", max_length=64)]
    detail: str
    hint: str = ""
    data: dict[str, Any] = {}


def encode(value: Struct) -> bytes:
    """Return `value` as JSON, fields sorted."""
    return msgspec.json.encode(value, enc_hook=_path_to_text, order="sorted")


def decode_spec(content: bytes) -> PipelineSpec:
    """Return the spec that `encode` wrote; raise `msgspec.ValidationError` if it is none."""
    return msgspec.json.decode(content, type=PipelineSpec, dec_hook=_text_to_path)


def to_document(value: Struct) -> dict[str, Any]:
    """Return `value` as JSON's plain types, for a database column or a reply."""
    document: dict[str, Any] = msgspec.to_builtins(value)
    return document


def _path_to_text(value: object) -> str:
    assert isinstance(value, Path), value
    return str(value)


def _text_to_path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise NotImplementedError(f"{kind} from {value!r}")
    return Path(value)
