"""Drift."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from edgectl_server.schemas.accuracy import AccuracyFound
from edgectl_server.schemas.base import Schema

__all__ = [
    "DataFault",
    "DriftCounts",
    "DriftCourse",
    "DriftDetail",
    "DriftEventInfo",
    "DriftFeature",
    "DriftFinding",
    "DriftGroup",
    "DriftHistory",
    "DriftLevelStr",
    "DriftNews",
    "DriftStateStr",
    "DriftSummary",
    "UsualDays",
    "UsualDaysChange",
]

DriftLevelStr = Literal["device", "site", "fleet"]
DriftStateStr = Literal["unknown", "quiet", "suspected", "drifting", "recovering"]


class DriftFinding(Schema):
    """A feature that is distributed otherwise than in the reference."""

    feature: str
    p_value: float
    """Corrected for all questions that were asked at this level."""
    distance: float
    """Largest difference of the cumulative shares, 0 to 1."""
    spread: float
    """Cohen's w over the bins; 0.1 is small, 0.5 large."""
    shift: float
    """Chance that a new value is above one of the reference, less a half."""


class DataFault(Schema):
    """Something wrong with the data of a device."""

    kind: Literal["missing", "constant", "saturated", "outside", "clock"]
    feature: str
    """Empty for ``clock``."""
    share: float
    """Of the rows; of ``clock`` the seconds."""


class UsualDaysChange(Schema):
    """``PUT /models/{model}/drift/usual``: days on which nothing was wrong with what it saw."""

    since: AwareDatetime
    until: AwareDatetime
    """Without this moment."""


class UsualDays(Schema):
    """Days with which drift is compared too, hour by hour of the day."""

    model: str
    since: datetime
    until: datetime
    set_at: datetime
    set_by: str


class DriftGroup(Schema):
    """Where a device, a site or the fleet stands with one bundle."""

    model: str
    version: str
    manifest: str
    level: DriftLevelStr
    group: str
    """The device or the site; empty for the fleet."""
    state: DriftStateStr
    since: datetime
    until: datetime
    """End of what was looked at last."""
    rows: int
    findings: list[DriftFinding]
    faults: list[DataFault]


class DriftFeature(Schema):
    """A feature with both of its histograms, the largest movement first."""

    feature: str
    edges: list[float]
    """Inner edges of the bins; empty where the bins are classes."""
    reference: list[int]
    counts: list[int]
    labels: list[str]
    """Names of the bins, where they are classes."""
    moved: bool
    distance: float
    spread: float
    shift: float
    design_effect: float
    """How many rows were taken for one independent row."""


class DriftDetail(Schema):
    """Why: a group, its features, and where else it looks the same."""

    group: DriftGroup
    start: datetime
    """Of what was looked at; it ends at ``group.until``."""
    reference_rows: int
    windows: int
    skipped: int
    """Rows that devices did not describe, for the policy's sake."""
    features: list[DriftFeature]
    sites: list[DriftGroup]
    """Those that have left the reference, of the fleet."""
    devices: list[DriftGroup]
    """Those that have left the reference, of the fleet or of the site."""
    usual: UsualDays | None
    """With whose hours of the day the model is compared too; null: with its reference alone."""


class DriftEventInfo(Schema):
    """Something that has begun or ended."""

    id: int
    at: datetime
    kind: Literal[
        "drift.began",
        "drift.ended",
        "data.began",
        "data.ended",
        "accuracy.fell",
        "accuracy.recovered",
    ]
    model: str
    version: str
    manifest: str
    level: DriftLevelStr
    group: str
    findings: list[DriftFinding]
    faults: list[DataFault]
    accuracy: AccuracyFound | None = None
    """Of ``accuracy.fell`` and ``accuracy.recovered``."""
    replaced: bool = False
    """It has ended because no device of the group runs the bundle any more: nothing is better."""


class DriftCounts(Schema):
    """How many groups of one level are in which state."""

    unknown: int = 0
    quiet: int = 0
    suspected: int = 0
    drifting: int = 0
    recovering: int = 0


class DriftSummary(Schema):
    """A bundle that was judged: the fleet, and how many sites and devices stand where."""

    fleet: DriftGroup
    sites: DriftCounts
    devices: DriftCounts
    faulty: int
    """Devices with faults of their data."""
    false_alarms: float
    """Chance of any at one level in one evaluation: what p-values are held against."""
    distance: float
    """Smallest distance that is of interest."""
    spread: float
    """Smallest spread that is."""


class DriftCourse(Schema):
    """How far one feature was from the reference, by step; null where nothing was counted."""

    feature: str
    distance: list[float | None]
    spread: list[float | None]
    p_value: list[float | None]
    """Corrected for the features of this group; null too where too few devices tell how rows
    resemble one another."""


class DriftHistory(Schema):
    """The course of a group, in equal steps that end when it was judged last."""

    model: str
    version: str
    manifest: str
    level: DriftLevelStr
    group: str
    step_s: float
    times: list[datetime]
    """Ends of the steps."""
    rows: list[int]
    devices: int
    """Of the group."""
    devices_read: int
    """Whose counts these are; of a large group not all."""
    features: list[DriftCourse]


class DriftNews(Schema):
    """Of the topic ``drift``: changes when something was judged, or has begun or ended."""

    judged_until: datetime | None
    event: int
    """Of the newest one; 0: none yet."""
