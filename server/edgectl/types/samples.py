"""Samples of inputs and answers, and the policy by which they may leave devices."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

__all__ = [
    "AnnotationImport",
    "AnnotationImportResult",
    "AnnotationInfo",
    "AnnotationItem",
    "AnnotationRefusal",
    "AnnotationRequest",
    "LabelledSample",
    "LabellerAgreement",
    "LabellingSummary",
    "SampleContent",
    "SampleInfo",
    "SampleKeyInfo",
    "SamplePolicyChange",
    "SamplePolicyInfo",
    "SampleTensorInfo",
    "TensorContent",
]


class SamplePolicyChange(Struct, frozen=True, kw_only=True):
    """What of a model may leave devices; nothing, where nothing is said."""

    bytes_per_day: int = 0
    reasons: list[str] = []
    random_share: float = 0.2
    seal: str | None = None
    revision: int | None = None


class SamplePolicyInfo(Struct, frozen=True, kw_only=True):
    """What of a model may leave devices."""

    model: str
    bytes_per_day: int
    reasons: list[str]
    random_share: float
    seal: str
    key: str | None
    revision: int
    changed_at: datetime | None
    changed_by: str


class SampleTensorInfo(Struct, frozen=True, kw_only=True):
    """One tensor in the file of a sample."""

    name: str
    datatype: str
    shape: list[int]


class SampleInfo(Struct, frozen=True, kw_only=True):
    """One input of a model, and what it has answered."""

    id: str
    device: str
    model: str
    version: str
    manifest: str
    digest: str
    reason: str
    taken_at: datetime
    received_at: datetime
    expires_at: datetime
    length: int
    tensors: list[SampleTensorInfo]
    request: str | None = None
    answer: int = -1
    confidence: float | None = None
    label_state: str = "unlabelled"
    label: str | None = None
    key: str | None = None
    sealed: bool = False
    redacted: bool = False


class SampleKeyInfo(Struct, frozen=True, kw_only=True):
    """A key that samples are, or were, sealed to."""

    id: str
    public: str
    holder: str
    current: bool
    created_at: datetime
    created_by: str
    samples: int


class TensorContent(Struct, frozen=True, kw_only=True):
    """One input or output of a sample, ready to be shown."""

    name: str
    datatype: str
    shape: list[int]
    kind: str
    png: str | None = None
    channels: list[list[float | None]] | None = None
    values: list[float | None] | None = None
    names: list[str] | None = None
    left_out: int = 0
    low: float | None = None
    high: float | None = None


class SampleContent(Struct, frozen=True, kw_only=True):
    """A sample for a page, or for another program's task."""

    sample: SampleInfo
    inputs: list[TensorContent]
    outputs: list[TensorContent]
    classes: list[str]


class AnnotationRequest(Struct, frozen=True, kw_only=True):
    """What you say of a sample; None: you cannot tell."""

    label: str | None = None


class AnnotationItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of an import: of a sample, or of a request."""

    sample: str | None = None
    request: str | None = None
    device: str | None = None
    label: str | None = None
    labeller: str | None = None


class AnnotationImport(Struct, frozen=True, kw_only=True):
    """What others have said, or what has turned out to be true."""

    items: list[AnnotationItem]
    truth: bool = False
    model: str | None = None
    check: bool = False


class AnnotationRefusal(Struct, frozen=True, kw_only=True):
    """Why an item was not taken."""

    index: int
    code: str
    detail: str


class AnnotationImportResult(Struct, frozen=True, kw_only=True):
    """What came of an import."""

    changed: int
    unchanged: int
    refused: list[AnnotationRefusal]


class AnnotationInfo(Struct, frozen=True, kw_only=True):
    """What one labeller says of one sample."""

    sample: str
    model: str
    source: str
    labeller: str
    label: str | None
    made_at: datetime
    entered_by: str


class LabelledSample(Struct, frozen=True, kw_only=True):
    """A sample, and what is said of it."""

    sample: SampleInfo
    annotations: list[AnnotationInfo]


class LabellerAgreement(Struct, frozen=True, kw_only=True):
    """How two labellers agree."""

    one: str
    other: str
    samples: int
    agreed: int
    kappa: float | None


class LabellingSummary(Struct, frozen=True, kw_only=True):
    """How far the labelling of a model's samples is."""

    model: str
    classes: list[str]
    states: dict[str, int]
    by_class: dict[str, int]
    by_reason: dict[str, int]
    labellers: dict[str, int]
    agreement: float | None
    pairs: list[LabellerAgreement]
    right: dict[str, tuple[int, int]]
