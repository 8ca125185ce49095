"""Drift."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from edgectl.types.accuracy import AccuracyFound

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
    "DriftSummary",
    "UsualDays",
    "UsualDaysChange",
]


class DriftFinding(Struct, frozen=True):
    """A feature that is distributed otherwise than in the reference."""

    feature: str
    p_value: float
    distance: float
    spread: float
    shift: float


class DataFault(Struct, frozen=True):
    """Something wrong with the data of a device."""

    kind: str
    feature: str
    share: float


class UsualDaysChange(Struct, frozen=True):
    """Days on which nothing was wrong with what a model saw; moments in ISO 8601."""

    since: str
    until: str


class UsualDays(Struct, frozen=True):
    """Days with which drift is compared too."""

    model: str
    since: datetime
    until: datetime
    set_at: datetime
    set_by: str


class DriftGroup(Struct, frozen=True):
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
    findings: list[DriftFinding]
    faults: list[DataFault]


class DriftFeature(Struct, frozen=True):
    """A feature with both of its histograms."""

    feature: str
    edges: list[float]
    reference: list[int]
    counts: list[int]
    labels: list[str]
    moved: bool
    distance: float
    spread: float
    shift: float
    design_effect: float


class DriftDetail(Struct, frozen=True):
    """Why: a group, its features, and where else it looks the same."""

    group: DriftGroup
    start: datetime
    reference_rows: int
    windows: int
    skipped: int
    features: list[DriftFeature]
    sites: list[DriftGroup]
    devices: list[DriftGroup]
    usual: UsualDays | None = None


class DriftEventInfo(Struct, frozen=True):
    """Something that has begun or ended."""

    id: int
    at: datetime
    kind: str
    model: str
    version: str
    manifest: str
    level: str
    group: str
    findings: list[DriftFinding]
    faults: list[DataFault]
    accuracy: AccuracyFound | None = None
    replaced: bool = False


class DriftCounts(Struct, frozen=True):
    """How many groups of one level are in which state."""

    unknown: int = 0
    quiet: int = 0
    suspected: int = 0
    drifting: int = 0
    recovering: int = 0


class DriftSummary(Struct, frozen=True):
    """A bundle that was judged: the fleet, and how many sites and devices stand where."""

    fleet: DriftGroup
    sites: DriftCounts
    devices: DriftCounts
    faulty: int
    false_alarms: float
    distance: float
    spread: float


class DriftCourse(Struct, frozen=True):
    """How far one feature was from the reference, by step."""

    feature: str
    distance: list[float | None]
    spread: list[float | None]
    p_value: list[float | None]


class DriftHistory(Struct, frozen=True):
    """The course of a group, in equal steps that end when it was judged last."""

    model: str
    version: str
    manifest: str
    level: str
    group: str
    step_s: float
    times: list[datetime]
    rows: list[int]
    devices: int
    devices_read: int
    features: list[DriftCourse]
