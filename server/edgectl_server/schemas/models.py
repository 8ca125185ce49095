"""Models, versions, variants, and the report of the pipeline."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from edgectl_server.schemas.base import DigestStr, Problem, Schema, Sha256, VersionStr
from edgectl_server.schemas.imports import ImportedInfo

__all__ = [
    "ConfusionInfo",
    "DataCheckInfo",
    "DisagreementInfo",
    "GateInfo",
    "LayerInfo",
    "ModelPolicy",
    "ModelSummary",
    "PolicyInfo",
    "PushAccepted",
    "PushOptions",
    "PushRequest",
    "Report",
    "SignatureWait",
    "SmallStepsInfo",
    "StepLevelInfo",
    "TensorInfo",
    "Trial",
    "VariantInfo",
    "VersionDetail",
    "VersionSummary",
]


TensorName = Annotated[str, Field(min_length=1, max_length=256)]
Sizes = Annotated[list[Annotated[int, Field(ge=-1, le=2**24)]], Field(min_length=1, max_length=8)]
MetricStr = Literal["accuracy", "top5", "f1", "auc", "rmse", "map", "agreement"]
RequirementStr = Annotated[str, Field(max_length=64)]
GateStr = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class ModelPolicy(Schema):
    """``PUT /models/{name}/policy``: what every push of a model must keep, besides its own."""

    max_drop_points: float | None = Field(default=None, ge=0, le=100)
    """Largest loss against fp32, in points; None: no policy on it."""
    metric: MetricStr | None = None
    """By which every push is measured; None: each as it asks."""
    require: list[RequirementStr] = Field(default=[], max_length=16)
    """What every variant must reach, such as `accuracy>=0.9`."""
    revision: int | None = Field(default=None, ge=0)
    """Of the policy that this one is made from: if another is in force by now, it is refused."""


class PolicyInfo(Schema):
    """The policy of a model; without one it is empty, with the revision 0."""

    model: str
    max_drop_points: float | None
    metric: str | None
    require: list[str]
    revision: int
    """Grows with each change."""
    changed_at: datetime | None
    changed_by: str


class PushOptions(Schema):
    """How the pipeline shall work."""

    max_drop_points: float | None = Field(default=None, ge=0, le=100)
    """Largest loss against fp32, in points: hundredths of a score, percent of an error. None: what
    the model's policy says, or else 1."""
    precisions: list[Literal["fp32", "fp16", "int8"]] = Field(default=["fp32", "int8"])
    """int8: at least one int8 variant must pass, or the push is refused."""
    labels: list[str] = Field(default=[])
    processing: str = Field(default="", max_length=32 * 1024)
    """Declared pre- and post-processing, TOML; calibration and evaluation data are before it."""
    input_shapes: dict[TensorName, Sizes] = Field(default={}, max_length=64)
    """Shapes to fix, by input of the model; -1 first leaves the batch free."""
    metric: MetricStr | None = None
    """None: as the data and the model's policy say."""
    require: list[RequirementStr] = Field(default=[], max_length=16)
    """What every variant must reach, such as `accuracy>=0.9` or `size<=200kB`."""
    allow: list[GateStr] = Field(default=[], max_length=32)
    """Gates that are overridden; those of the model's policy by an admin alone."""
    update_budget_points: float | None = Field(default=None, ge=0, le=100)
    """What it may cost to release each variant in small steps from the parent version, so that the
    update is a few percent of the file: points against what was trained. None: as trained."""
    runtimes: list[Literal["onnxruntime", "litert", "cortex-m"]] = Field(
        default=["onnxruntime"], min_length=1, max_length=3
    )
    """For which variants are made. An ONNX model is converted for LiteRT; a `.tflite` file is for
    LiteRT in any case. `cortex-m`: an int8 model for microcontrollers."""
    objective: Literal["latency", "size"] = "latency"
    """What the choice between variants that keep the accuracy looks at first."""
    search_s_max: float = Field(default=1800.0, gt=0, le=86400)
    """No recipe is begun later than this after the first."""
    card: str = Field(default="", max_length=65536)
    """What the model is for, in Markdown, by whoever pushes it; it heads the model card."""
    encrypt: list[Literal["fp32", "fp16", "int8"]] = Field(default=[])
    """Precisions whose model and golden data only the devices that are ordered to run them can
    read. If it is all of them, the uploaded files are removed when the push has ended."""


class PushRequest(Schema):
    """``POST /models/{name}/versions``; the files have been uploaded before."""

    model: Sha256
    filename: str = Field(max_length=256)
    version: VersionStr | None = None
    """None: the next free integer, or the version that already has this content."""
    calibration: Sha256 | None = None
    evaluation: Sha256 | None = None
    own_metric: Sha256 | None = None
    """A `metric.py`, by which the variants are measured."""
    options: PushOptions = PushOptions()
    parent: VersionStr | None = None
    training_data: DigestStr | None = None
    code_revision: str = Field(default="", max_length=128)


class PushAccepted(Schema):
    """202 when work has begun, 200 when this very content is there already."""

    model: str
    version: str
    job: str | None
    created: bool


class TensorInfo(Schema):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]


class Trial(Schema):
    """One recipe that was tried."""

    recipe: str
    variant: str
    precision: Literal["fp32", "fp16", "int8"]
    status: Literal["accepted", "rejected", "failed", "skipped"]
    reason: str = ""
    size_bytes: int | None = None
    value: float | None = None
    """Of the report's metric."""
    drop_points: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    seconds: float | None = None
    """What it took to make and measure."""
    portable: bool = True
    """Whether its 8-bit products are right on processors whose sums of them saturate."""
    float_nodes: int = 0
    """Operators that stay in float by choice: mixed precision."""
    update_bytes: int | None = None
    """About how many bytes lead to it from the parent's int8 variant."""
    known: bool = False
    """It was made before, of the same files in the same way."""
    runtime: Literal["onnxruntime", "litert", "cortex-m"] = "onnxruntime"
    """What runs it on devices."""


class LayerInfo(Schema):
    """What one operator, or a group of neighbours, loses when it alone is quantized."""

    node: str
    operator: str
    loss: float
    """Share of the outputs' variance that is lost: 1 - R² against fp32."""
    nodes: int = 1
    """How many operators they are."""


class GateInfo(Schema):
    """What a variant had to be, and what it is."""

    variant: str
    """Empty: the version as a whole."""
    name: str
    status: Literal["passed", "failed", "not_enough_data", "overridden"]
    measured: float | None = None
    bound: float | None = None
    direction: Literal["<=", ">=", ""] = ""
    unit: Literal["share", "points", "number", "bytes", "time", ""] = ""
    """Of both; times are in microseconds."""
    detail: str = ""
    overridden_by: str = ""
    """Who pushed with `--allow`."""


class DataCheckInfo(Schema):
    """Something remarkable about the data."""

    name: str
    severity: Literal["info", "warning", "error"]
    detail: str
    hint: str = ""


class ConfusionInfo(Schema):
    """How often which class was named: rows are true classes, columns those that were named."""

    variant: str
    before: list[list[int]]
    """By fp32."""
    after: list[list[int]]
    """By the variant."""


class DisagreementInfo(Schema):
    """A sample of which a variant says another class than fp32."""

    index: int
    """Of the sample in the measured data."""
    label: int | None
    reference_class: int
    reference_score: float
    """What fp32 gives its class."""
    variant_class: int
    variant_score: float


class StepLevelInfo(Schema):
    """Small steps of one size, and what they cost."""

    name: str
    """`uniform`: one size for all weights; `channel`: one a row; and the bits of the largest."""
    estimated_bytes: int
    status: Literal["released", "accepted", "rejected", "failed", "skipped"]
    value: float | None = None
    lost_points: float | None = None
    """Against what was trained."""
    reason: str = ""


class SmallStepsInfo(Schema):
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
    """What the parent's variant reaches on the same data."""
    trained_value: float | None = None
    released_value: float | None = None
    allowed_points: float | None = None
    """What might be lost: the budget, and no more than half of what the update gains."""
    levels: list[StepLevelInfo] = Field(default=[])
    """The fewest bytes first."""


class Report(Schema):
    """The quantization report of a version."""

    metric: str | None
    """`accuracy`, `top5`, `f1`, `auc`, `rmse`, `map`, `agreement`, or `own` for a pushed
    metric.py; None where there was no data to measure on."""
    metric_source: Literal["evaluation", "calibration"] | None
    samples: int
    reference: float | None
    max_drop_points: float
    opset: int
    nodes: int
    parameters: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    trials: list[Trial]
    measured_on: str
    """Processor and runtime of the measurements."""
    warnings: list[str] = Field(default=[])
    sensitivity: list[LayerInfo] = Field(default=[])
    """By loss, the largest first; empty where no mixed precision was needed."""
    golden: dict[str, int] = Field(default={})
    """How many golden cases were chosen for which reason."""
    search_s: float = 0.0
    """What the search took, by the clock."""
    processing: list[str] = Field(default=[])
    """Declared steps that are part of the model, a line for each input and output."""
    gates: list[GateInfo] = Field(default=[])
    data_checks: list[DataCheckInfo] = Field(default=[])
    confusion: ConfusionInfo | None = None
    """Of the variant that is tried first, if the model names at most 64 classes."""
    top_disagreements: list[DisagreementInfo] = Field(default=[])
    """Of the same variant, the ones that fp32 was surest of first."""
    small_steps: list[SmallStepsInfo] = Field(default=[])
    """Of each published variant, if a budget for smaller updates was given."""


class VariantInfo(Schema):
    """A published bundle."""

    variant: str
    precision: str
    manifest: str
    target: str
    model_bytes: int
    bundle_bytes: int
    encrypted: bool = False
    rank: int
    trial: Trial


class SignatureWait(Schema):
    """Whose signatures a version waits for."""

    role: str
    """The model family; its document is under ``/trust/staged/{role}``."""
    version: int
    """Of that document."""
    missing: int
    """How many more signatures suffice; 0: it is signed, and waits for other staged changes."""
    threshold: int
    """How many must sign."""


class VersionSummary(Schema):
    """A version in a list."""

    model: str
    version: str
    state: Literal["processing", "unsigned", "ready", "refused", "failed"]
    waits_for: SignatureWait | None = None
    """Of an unsigned version."""
    source: str
    source_bytes: int
    created_at: datetime
    created_by: str
    job: str | None
    metric: str | None = None
    reference: float | None = None
    best: VariantInfo | None = None
    devices_running: int = 0
    parent: str | None = None
    """The version that it was trained from, as whoever pushed it says."""


class VersionDetail(VersionSummary):
    """A version with its report."""

    source_name: str
    calibration: str | None
    evaluation: str | None
    own_metric: str | None = None
    options: PushOptions
    labels: list[str]
    variants: list[VariantInfo]
    report: Report | None
    error: Problem | None = None
    imported: ImportedInfo | None = None
    """Of a version that came as a file from another server: it has no report here."""


class ModelSummary(Schema):
    """A model in a list."""

    name: str
    created_at: datetime
    versions: int
    latest: VersionSummary | None
    devices_running: int
    devices_desired: int
