"""How often models are right, as far as counts tell."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

__all__ = [
    "AccuracyBin",
    "AccuracyDetail",
    "AccuracyFound",
    "AccuracyGroup",
    "AccuracyPoint",
    "TrueAccuracyInfo",
]


class AccuracyFound(Struct, frozen=True):
    """An estimate, or why there is none."""

    reference: float | None
    reference_rows: int
    accuracy: float | None
    low: float | None
    high: float | None
    by_classes: float | None
    unseen: float
    unknown: str
    cause: str
    confidence: list[int]


class AccuracyGroup(Struct, frozen=True):
    """Where a device, a site or the fleet stands with one bundle."""

    model: str
    version: str
    manifest: str
    level: str
    group: str
    state: str
    since: datetime
    until: datetime
    rows: int
    found: AccuracyFound


class AccuracyBin(Struct, frozen=True):
    """Answers that are about as sure."""

    low: float
    high: float
    reference_rows: int
    right: int
    share: float
    rows: int


class TrueAccuracyInfo(Struct, frozen=True):
    """What labels tell that have come late."""

    rows: int
    right: int
    accuracy: float | None
    low: float
    high: float
    chosen: int
    chosen_right: int


class AccuracyPoint(Struct, frozen=True):
    """What was estimated at an earlier time."""

    until: datetime
    rows: int
    found: AccuracyFound
    true: TrueAccuracyInfo


class AccuracyDetail(Struct, frozen=True):
    """From what it was estimated, how it has gone, and where else it is low."""

    group: AccuracyGroup
    start: datetime
    bins: list[AccuracyBin]
    true: TrueAccuracyInfo
    points: list[AccuracyPoint]
    low: list[AccuracyGroup]
