"""How often models are right, estimated without labels."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from edgectl_server.schemas.base import Schema

__all__ = [
    "AccuracyBin",
    "AccuracyDetail",
    "AccuracyFound",
    "AccuracyGroup",
    "AccuracyPoint",
    "TrueAccuracyInfo",
]


class AccuracyFound(Schema):
    """An estimate, or why there is none."""

    reference: float | None
    """Accuracy on the data that the model was pushed with; null without labels."""
    reference_rows: int
    """Labelled rows that it is known from."""
    accuracy: float | None
    """If sureness means what it meant: blind to a model that errs and is sure."""
    low: float | None
    """Lower end of the 95 % interval around it."""
    high: float | None
    by_classes: float | None
    """If classes are as frequent as they were in the reference."""
    unseen: float
    """Share of the answers whose confidence the reference has never seen."""
    unknown: Literal["", "labels", "rows", "unseen"]
    """Why there is no estimate: no labels, too few answers, too many that were never seen."""
    cause: Literal["", "confidence", "classes"]
    """By which estimate the accuracy has fallen."""
    confidence: list[int]
    """Answers in 20 equal steps of confidence."""


class AccuracyGroup(Schema):
    """Where a device, a site or the fleet stands with one bundle."""

    model: str
    version: str
    manifest: str
    level: Literal["device", "site", "fleet"]
    group: str
    """The device or the site; empty for the fleet."""
    state: Literal["unknown", "good", "suspected", "low", "recovering"]
    since: datetime
    until: datetime
    """End of what was looked at last."""
    rows: int
    """Answers that were looked at."""
    found: AccuracyFound


class AccuracyBin(Schema):
    """Answers that are about as sure."""

    low: float
    """Least confidence in it."""
    high: float
    reference_rows: int
    right: int
    """Those of the reference that were right."""
    share: float
    """How often such an answer is right, as it is reckoned with: never falling with confidence."""
    rows: int
    """Answers now."""


class TrueAccuracyInfo(Schema):
    """What labels tell that have come late."""

    rows: int
    """Labelled samples that were taken at random: they stand for all."""
    right: int
    accuracy: float | None
    """Null where none was taken at random."""
    low: float
    """Lower end of the 95 % interval (Wilson)."""
    high: float
    chosen: int
    """Labelled samples that were taken for another reason, such as an unsure answer."""
    chosen_right: int


class AccuracyPoint(Schema):
    """What was estimated at an earlier time, and what labels say of it."""

    until: datetime
    rows: int
    found: AccuracyFound
    true: TrueAccuracyInfo


class AccuracyDetail(Schema):
    """From what it was estimated, how it has gone, and where else it is low."""

    group: AccuracyGroup
    start: datetime
    """Of what was looked at; it ends at ``group.until``."""
    bins: list[AccuracyBin]
    """Those that were seen in the reference or now."""
    true: TrueAccuracyInfo
    """Of all labelled samples of this bundle and group."""
    points: list[AccuracyPoint]
    """Of the fleet or a site, oldest first."""
    low: list[AccuracyGroup]
    """Sites and devices, of the fleet, whose accuracy has fallen."""
