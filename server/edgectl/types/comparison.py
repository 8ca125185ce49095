"""Two versions of a model side by side, and who runs what."""

from __future__ import annotations

from msgspec import Struct

from edgectl.types.models import GateInfo, VariantInfo, VersionSummary

__all__ = [
    "ContractDifference",
    "GateDifference",
    "RunningInfo",
    "VariantDifference",
    "VersionComparison",
]


class RunningInfo(Struct, frozen=True):
    """Devices that say that they run a bundle of a model."""

    version: str
    manifest: str
    variant: str | None
    devices: int
    online: int


class ContractDifference(Struct, frozen=True):
    """What a program that uses the model would notice; None where a side has none."""

    part: str
    name: str
    left: str | None
    right: str | None


class VariantDifference(Struct, frozen=True):
    """Bundles of the same name; None where a side has none."""

    variant: str
    left: VariantInfo | None
    right: VariantInfo | None


class GateDifference(Struct, frozen=True):
    """What one gate said of both; None where it was not asked."""

    name: str
    variant: str
    left: GateInfo | None
    right: GateInfo | None


class VersionComparison(Struct, frozen=True):
    """Two versions, what differs, and what both have."""

    left: VersionSummary
    right: VersionSummary
    ancestor: str | None
    contract: list[ContractDifference]
    variants: list[VariantDifference]
    gates: list[GateDifference]
