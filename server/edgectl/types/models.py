"""Pushes, versions, variants and the jobs that make them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct, field

from edgectl.types.base import Problem
from edgectl.types.imports import ImportedInfo

__all__ = [
    "ConfusionInfo",
    "DataCheckInfo",
    "DisagreementInfo",
    "GateInfo",
    "JobInfo",
    "JobProgress",
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


class PushOptions(Struct, frozen=True):
    """How the pipeline shall work."""

    max_drop_points: float | None = None
    precisions: list[str] = field(default_factory=lambda: ["fp32", "int8"])
    labels: list[str] = field(default_factory=list)
    processing: str = ""
    input_shapes: dict[str, list[int]] = field(default_factory=dict)
    runtimes: list[str] = field(default_factory=lambda: ["onnxruntime"])
    objective: str = "latency"
    search_s_max: float = 1800.0
    encrypt: list[str] = field(default_factory=list)
    card: str = ""
    metric: str | None = None
    require: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    update_budget_points: float | None = None


class PushRequest(Struct, frozen=True, kw_only=True):
    """``POST /models/{name}/versions``: digests are 64 hexadecimal digits of uploaded files."""

    model: str
    filename: str
    version: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    own_metric: str | None = None
    options: PushOptions = PushOptions()
    parent: str | None = None
    training_data: str | None = None
    code_revision: str = ""


class PushAccepted(Struct, frozen=True):
    """`created` is false when this very content is there already."""

    model: str
    version: str
    job: str | None
    created: bool


class ModelPolicy(Struct, frozen=True, kw_only=True):
    """``PUT /models/{name}/policy``: what every push of a model must keep."""

    max_drop_points: float | None = None
    metric: str | None = None
    require: list[str] = field(default_factory=list)
    revision: int | None = None


class PolicyInfo(Struct, frozen=True, kw_only=True):
    """The policy of a model; without one it is empty, with the revision 0."""

    model: str
    max_drop_points: float | None
    metric: str | None
    require: list[str]
    revision: int
    changed_at: datetime | None
    changed_by: str


class TensorInfo(Struct, frozen=True):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]


class Trial(Struct, frozen=True):
    """One recipe that was tried."""

    recipe: str
    variant: str
    precision: str
    status: str
    reason: str = ""
    size_bytes: int | None = None
    value: float | None = None
    drop_points: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    seconds: float | None = None
    portable: bool = True
    float_nodes: int = 0
    update_bytes: int | None = None
    known: bool = False
    runtime: str = "onnxruntime"


class LayerInfo(Struct, frozen=True):
    """What one operator loses when it alone is quantized."""

    node: str
    operator: str
    loss: float
    nodes: int = 1


class GateInfo(Struct, frozen=True):
    """What a variant had to be, and what it is; times are in microseconds."""

    variant: str
    name: str
    status: str
    measured: float | None = None
    bound: float | None = None
    direction: str = ""
    unit: str = ""
    detail: str = ""
    overridden_by: str = ""


class DataCheckInfo(Struct, frozen=True):
    """Something remarkable about the data."""

    name: str
    severity: str
    detail: str
    hint: str = ""


class ConfusionInfo(Struct, frozen=True):
    """Rows are true classes, columns those that were named: by fp32, and by the variant."""

    variant: str
    before: list[list[int]]
    after: list[list[int]]


class DisagreementInfo(Struct, frozen=True):
    """A sample of which a variant says another class than fp32."""

    index: int
    label: int | None
    reference_class: int
    reference_score: float
    variant_class: int
    variant_score: float


class StepLevelInfo(Struct, frozen=True):
    """Small steps of one size, and what they cost."""

    name: str
    estimated_bytes: int
    status: str
    value: float | None = None
    lost_points: float | None = None
    reason: str = ""


class SmallStepsInfo(Struct, frozen=True):
    """A variant as it was trained, and as it is released: near to what devices have."""

    variant: str
    trained: str
    released: str = ""
    reason: str = ""
    size_bytes: int | None = None
    trained_bytes: int | None = None
    released_bytes: int | None = None
    parent_value: float | None = None
    trained_value: float | None = None
    released_value: float | None = None
    allowed_points: float | None = None
    levels: list[StepLevelInfo] = field(default_factory=list)


class Report(Struct, frozen=True):
    """The quantization report of a version."""

    metric: str | None
    metric_source: str | None
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
    warnings: list[str] = field(default_factory=list)
    golden: dict[str, int] = field(default_factory=dict)
    sensitivity: list[LayerInfo] = field(default_factory=list)
    search_s: float = 0.0
    processing: list[str] = field(default_factory=list)
    gates: list[GateInfo] = field(default_factory=list)
    data_checks: list[DataCheckInfo] = field(default_factory=list)
    confusion: ConfusionInfo | None = None
    top_disagreements: list[DisagreementInfo] = field(default_factory=list)
    small_steps: list[SmallStepsInfo] = field(default_factory=list)


class VariantInfo(Struct, frozen=True):
    """A published bundle."""

    variant: str
    precision: str
    manifest: str
    target: str
    model_bytes: int
    bundle_bytes: int
    rank: int
    trial: Trial
    encrypted: bool = False


class SignatureWait(Struct, frozen=True):
    """Whose signatures a version waits for."""

    role: str
    version: int
    missing: int
    threshold: int


class VersionSummary(Struct, frozen=True, kw_only=True):
    """A version in a list."""

    model: str
    version: str
    state: str
    source: str
    source_bytes: int
    created_at: datetime
    created_by: str
    job: str | None
    metric: str | None = None
    reference: float | None = None
    best: VariantInfo | None = None
    devices_running: int = 0
    waits_for: SignatureWait | None = None
    parent: str | None = None


class VersionDetail(VersionSummary, frozen=True, kw_only=True):
    """A version with its report."""

    source_name: str
    calibration: str | None
    evaluation: str | None
    options: PushOptions
    labels: list[str]
    variants: list[VariantInfo]
    report: Report | None
    error: Problem | None = None
    imported: ImportedInfo | None = None
    own_metric: str | None = None


class ModelSummary(Struct, frozen=True):
    """A model in a list."""

    name: str
    created_at: datetime
    versions: int
    latest: VersionSummary | None
    devices_running: int
    devices_desired: int


class JobProgress(Struct, frozen=True):
    """How far a job is."""

    stage: str = ""
    message: str = ""
    done: int = 0
    total: int = 0


class JobInfo(Struct, frozen=True):
    """A job."""

    id: str
    kind: str
    state: str
    progress: JobProgress
    result: dict[str, Any] | None
    error: Problem | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    subject: dict[str, str]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in {"succeeded", "failed", "cancelled"}
