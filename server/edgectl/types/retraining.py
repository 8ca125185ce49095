"""Retrainings: what is asked, and what came of it."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from edgectl.types.base import Problem
from edgectl.types.models import JobProgress

__all__ = [
    "AccuracyPair",
    "ChampionVerdict",
    "RetrainRequest",
    "RetrainingDetail",
    "RetrainingInfo",
    "TrackingInfo",
    "TrainerInfo",
]


class RetrainRequest(Struct, frozen=True, kw_only=True):
    """What to learn from, how, and what the result must be."""

    dataset: str
    trainer: str = "head"
    parent: str | None = None
    gain_points_min: float = 0.0
    old_drop_points_max: float = 3.0
    rows_min: int = 20
    update_budget_points: float | None = None


class AccuracyPair(Struct, frozen=True, kw_only=True):
    """Right answers of both models to the same rows."""

    rows: int
    champion: int
    challenger: int
    differ: int | None = None


class ChampionVerdict(Struct, frozen=True, kw_only=True):
    """What one gate says."""

    gate: str
    verdict: str
    detail: str
    value: float | None
    limit: float | None


class RetrainingInfo(Struct, frozen=True, kw_only=True):
    """A retraining."""

    id: str
    model: str
    parent: str
    dataset: str
    trainer: str
    state: str
    progress: JobProgress
    error: Problem | None
    version: str | None
    push_job: str | None
    created_at: datetime
    created_by: str
    finished_at: datetime | None


class TrackingInfo(Struct, frozen=True, kw_only=True):
    """What the tracking server was told."""

    state: str
    run: str
    address: str
    error: str


class RetrainingDetail(RetrainingInfo, frozen=True, kw_only=True):
    """A retraining with its figures."""

    metrics: dict[str, float]
    old: AccuracyPair | None
    new: AccuracyPair | None
    verdicts: list[ChampionVerdict]
    log: str
    tracking: TrackingInfo | None


class TrainerInfo(Struct, frozen=True, kw_only=True):
    """A trainer that can be named."""

    name: str
    built_in: bool
    description: str
