"""Retrainings: what is asked, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from edgectl_server.schemas.base import Problem, Schema, VersionStr
from edgectl_server.schemas.jobs import JobProgress

__all__ = [
    "AccuracyPair",
    "ChampionVerdict",
    "RetrainRequest",
    "RetrainingDetail",
    "RetrainingInfo",
    "TrackingInfo",
    "TrainerInfo",
    "TrainerNameStr",
]

TrainerNameStr = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


class RetrainRequest(Schema):
    """``POST /models/{name}/retrainings``."""

    dataset: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._-]{0,63}|sha256:[0-9a-f]{64})$")]
    """Name or id."""
    trainer: TrainerNameStr = "head"
    """`head` is built in; others are named in the server's settings."""
    parent: VersionStr | None = None
    """The version to begin from and to be better than; None: the one in service."""
    gain_points_min: float = Field(default=0.0, ge=0, le=100)
    """On the dataset's test split; what is not better at all never passes."""
    old_drop_points_max: float = Field(default=3.0, ge=0, le=100)
    """On the data that the parent was pushed with."""
    rows_min: int = Field(default=20, ge=1, le=20_000)
    """Rows of the test split without which nothing is pushed."""
    update_budget_points: float | None = Field(default=None, ge=0, le=100)
    """Of the push: what smaller updates may cost."""


class AccuracyPair(Schema):
    """Right answers of both models to the same rows."""

    rows: int
    champion: int
    challenger: int
    differ: int | None = None
    """Rows that one of them alone answers rightly; None: it was not counted then."""


class ChampionVerdict(Schema):
    """What one gate says."""

    gate: Literal["new_rows", "gain", "old_rows"]
    verdict: Literal["passed", "failed", "not_enough_data", "not_asked"]
    detail: str
    value: float | None
    """Points by which the challenger is better; of `new_rows` rows."""
    limit: float | None


class RetrainingInfo(Schema):
    """A retraining in a list."""

    id: str
    """Also of its job."""
    model: str
    parent: str
    dataset: str
    trainer: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    """`succeeded`: it has passed its gates and was pushed; the push is a job of its own."""
    progress: JobProgress
    error: Problem | None
    version: str | None
    """That was pushed."""
    push_job: str | None
    created_at: datetime
    created_by: str
    finished_at: datetime | None


class TrackingInfo(Schema):
    """What the tracking server was told of a retraining."""

    state: Literal["pending", "told", "failed"]
    """`failed`: it was given up."""
    run: str
    """There; empty before it is told."""
    address: str
    """Of its page."""
    error: str
    """Why the last attempt has failed."""


class RetrainingDetail(RetrainingInfo):
    """A retraining with its figures."""

    metrics: dict[str, float]
    """Of the trainer."""
    old: AccuracyPair | None
    """On the data that the parent was pushed with; None: it had none with labels."""
    new: AccuracyPair | None
    """On the dataset's test split; None: it has not come to that."""
    verdicts: list[ChampionVerdict]
    log: str
    """The last that the trainer has written."""
    tracking: TrackingInfo | None
    """None: the server had no tracking server when it was asked for."""


class TrainerInfo(Schema):
    """A trainer that can be named."""

    name: str
    built_in: bool
    description: str
