"""Where a version comes from."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from edgectl.types.imports import ImportedInfo

__all__ = [
    "AncestorInfo",
    "GoldenInfo",
    "LineageInfo",
    "ToleranceInfo",
    "ToolInfo",
    "VariantLineage",
]


class AncestorInfo(Struct, frozen=True):
    """A version that another was trained from."""

    version: str
    source: str
    state: str
    pushed_by: str
    pushed_at: datetime


class ToolInfo(Struct, frozen=True):
    """A program or library that took part."""

    name: str
    version: str


class ToleranceInfo(Struct, frozen=True):
    """How far an output may be from the golden one: at most ``atol + rtol * |golden|``."""

    atol: float
    rtol: float


class GoldenInfo(Struct, frozen=True):
    """The golden inputs that every device replays before it serves the bundle."""

    cases: int
    agreement_min: float
    tolerances: dict[str, ToleranceInfo]


class VariantLineage(Struct, frozen=True):
    """How a bundle was made, as it is signed."""

    variant: str
    precision: str
    manifest: str
    recipe: str
    float_nodes: list[str]
    calibration: str | None
    calibration_samples: int
    tools: list[ToolInfo]
    golden: GoldenInfo
    steps_from: str | None = None


class LineageInfo(Struct, frozen=True):
    """Where a version comes from; ancestors and variants are in their order."""

    model: str
    version: str
    source: str
    source_name: str
    source_bytes: int
    pushed_by: str
    pushed_at: datetime
    parent: str | None
    ancestors: list[AncestorInfo]
    children: list[str]
    training_data: str | None
    code_revision: str
    calibration: str | None
    evaluation: str | None
    measured_on: str
    variants: list[VariantLineage]
    imported: ImportedInfo | None = None
