"""Where a version comes from."""

from __future__ import annotations

from datetime import datetime

from edgectl_server.schemas.base import Schema
from edgectl_server.schemas.imports import ImportedInfo

__all__ = [
    "AncestorInfo",
    "GoldenInfo",
    "LineageInfo",
    "ToleranceInfo",
    "ToolInfo",
    "VariantLineage",
]


class AncestorInfo(Schema):
    """A version that another was trained from."""

    version: str
    source: str
    state: str
    pushed_by: str
    pushed_at: datetime


class ToolInfo(Schema):
    """A program or library that took part."""

    name: str
    version: str


class ToleranceInfo(Schema):
    """How far an output may be from the golden one: at most ``atol + rtol * |golden|``."""

    atol: float
    rtol: float


class GoldenInfo(Schema):
    """The golden inputs that every device replays before it serves the bundle."""

    cases: int
    agreement_min: float
    """Share of the cases that must be within tolerance."""
    tolerances: dict[str, ToleranceInfo]
    """By output."""


class VariantLineage(Schema):
    """How a bundle was made, as it is signed."""

    variant: str
    precision: str
    manifest: str
    recipe: str
    float_nodes: list[str]
    """Operators that were left in float."""
    calibration: str | None
    """Digest of the data, if the recipe used any."""
    calibration_samples: int
    steps_from: str | None = None
    """Digest of the parent's model file, if it was released in small steps from it."""
    tools: list[ToolInfo]
    golden: GoldenInfo


class LineageInfo(Schema):
    """Where a version comes from; digests are of whole files."""

    model: str
    version: str
    source: str
    source_name: str
    source_bytes: int
    pushed_by: str
    pushed_at: datetime
    parent: str | None
    ancestors: list[AncestorInfo]
    """The nearest first."""
    children: list[str]
    """Versions that were trained from this one."""
    training_data: str | None
    code_revision: str
    calibration: str | None
    evaluation: str | None
    measured_on: str
    """Processor and runtime of the measurements."""
    imported: ImportedInfo | None = None
    """Of a version that came as a file from another server."""
    variants: list[VariantLineage]
    """In the order in which devices try them."""
