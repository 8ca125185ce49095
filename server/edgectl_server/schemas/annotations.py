"""Annotations: what labellers say of samples."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from edgectl_server.schemas.base import DeviceIdStr, Schema
from edgectl_server.schemas.samples import SampleInfo

__all__ = [
    "AnnotationImport",
    "AnnotationImportResult",
    "AnnotationInfo",
    "AnnotationItem",
    "AnnotationRefusal",
    "AnnotationRequest",
    "LabelledSample",
    "LabellerAgreement",
    "LabellingQueue",
    "LabellingSummary",
    "SampleContent",
    "TensorContent",
]

ClassStr = Annotated[str, Field(min_length=1, max_length=256)]
LabellerStr = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,128}$")]
RequestStr = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,64}$")]
ITEMS_MAX = 500


class AnnotationRequest(Schema):
    """``PUT /samples/{sample}/annotation``: what you say of it."""

    label: ClassStr | None = None
    """Name of a class; null: you cannot tell."""


class AnnotationItem(Schema):
    """One line of an import: of a sample by its id, or of a request by its id and device."""

    sample: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    request: RequestStr | None = None
    """As the application has named it."""
    device: DeviceIdStr | None = None
    """Of the request; without it the name must be known of one device only."""
    label: ClassStr | None = None
    """Null: cannot tell."""
    labeller: LabellerStr | None = None
    """Who has said so elsewhere; nobody: you."""


class AnnotationImport(Schema):
    """``POST /annotations``: what others have said, or what has turned out to be true."""

    items: list[AnnotationItem] = Field(min_length=1, max_length=ITEMS_MAX)
    truth: bool = False
    """It comes from the field: it is what happened, and wins over what people say."""
    model: str | None = None
    """Samples of other models are refused."""
    check: bool = False
    """Only say what would be refused."""


class AnnotationRefusal(Schema):
    """Why an item was not taken."""

    index: int
    """Its place in what was sent, from 0."""
    code: str
    detail: str


class AnnotationImportResult(Schema):
    """What came of an import; the same once more changes nothing."""

    changed: int
    unchanged: int
    refused: list[AnnotationRefusal]


class AnnotationInfo(Schema):
    """What one labeller says of one sample."""

    sample: str
    model: str
    source: Literal["person", "import", "field"]
    labeller: str
    label: str | None
    """Null: cannot tell."""
    made_at: datetime
    entered_by: str


class LabelledSample(Schema):
    """A sample, and what is said of it."""

    sample: SampleInfo
    annotations: list[AnnotationInfo]


class LabellerAgreement(Schema):
    """How two labellers agree on what both have labelled."""

    one: str
    other: str
    samples: int
    agreed: int
    kappa: float | None
    """Cohen's; null where chance alone would give full agreement."""


class LabellingSummary(Schema):
    """``GET /models/{name}/labelling``: how far it is."""

    model: str
    classes: list[str]
    """Of the newest sample's bundle; empty: the model has none, nothing can be labelled."""
    states: dict[str, int]
    """Samples that are unlabelled, labelled, in conflict, or skipped by all."""
    by_class: dict[str, int]
    """Labelled samples."""
    by_reason: dict[str, int]
    """Samples that nobody has labelled yet."""
    labellers: dict[str, int]
    """Annotations of each; the 20 busiest."""
    agreement: float | None
    """Fleiss' kappa; null: no sample has two labels."""
    pairs: list[LabellerAgreement]
    right: dict[str, tuple[int, int]]
    """By reason: answers that were right, and labelled samples with an answer. Those taken at
    random tell the model's accuracy in the field; the others were chosen because they are hard."""


class LabellingQueue(Schema):
    """``GET /models/{name}/labelling/queue``: what to label next."""

    classes: list[str]
    items: list[SampleInfo]
    waiting: int
    """How many there are in all."""
    sealed: int
    """Samples of the model that nobody labels here: they are sealed to a key that is elsewhere."""


class TensorContent(Schema):
    """One input or output of a sample, ready to be shown; one of `png`, `channels`, `values`."""

    name: str
    datatype: str
    shape: list[int]
    kind: Literal["image", "series", "table", "values"]
    png: str | None = None
    """Of an image: base64."""
    channels: list[list[float | None]] | None = None
    """Of a series: numbers of each channel; null: no number."""
    values: list[float | None] | None = None
    """Of everything else: its numbers, the last axis fastest."""
    names: list[str] | None = None
    """Of `values`, such as the classes of scores."""
    left_out: int = 0
    """Elements beyond those that are shown."""
    low: float | None = None
    high: float | None = None
    """Least and largest number of all elements."""


class SampleContent(Schema):
    """``GET /samples/{sample}/content``: a sample for a page."""

    sample: SampleInfo
    inputs: list[TensorContent]
    outputs: list[TensorContent]
    classes: list[str]
    """Of the bundle that answered."""
