"""Two versions of a model side by side, and who runs what."""

from __future__ import annotations

from typing import Literal

from edgectl_server.schemas.base import Schema
from edgectl_server.schemas.models import GateInfo, VariantInfo, VersionSummary

__all__ = [
    "ContractDifference",
    "GateDifference",
    "RunningInfo",
    "VariantDifference",
    "VersionComparison",
]


class RunningInfo(Schema):
    """Devices that say that they run a bundle of a model."""

    version: str
    manifest: str
    variant: str | None
    """Null: no version of this server has that bundle."""
    devices: int
    online: int
    """Of them."""


class ContractDifference(Schema):
    """What a program that uses the model would notice; null where a side has none."""

    part: Literal["input", "output", "labels", "processing"]
    name: str
    """Of the tensor; a number for the others."""
    left: str | None
    right: str | None


class VariantDifference(Schema):
    """Bundles of the same name; null where a side has none."""

    variant: str
    left: VariantInfo | None
    right: VariantInfo | None


class GateDifference(Schema):
    """What one gate said of both; null where it was not asked."""

    name: str
    variant: str
    """Empty: of the version as a whole."""
    left: GateInfo | None
    right: GateInfo | None


class VersionComparison(Schema):
    """``GET /models/{name}/compare``."""

    left: VersionSummary
    right: VersionSummary
    ancestor: str | None
    """The nearest version that both descend from, which may be one of them."""
    contract: list[ContractDifference]
    """Only what differs."""
    variants: list[VariantDifference]
    gates: list[GateDifference]
