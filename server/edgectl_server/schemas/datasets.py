"""Datasets: immutable snapshots of samples and their labels."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from edgectl_protocol.samples import SAMPLE_REASONS
from edgectl_server.schemas.base import DigestStr, ModelNameStr, Schema
from edgectl_server.schemas.samples import SampleReasonStr

__all__ = [
    "DataCheckFinding",
    "DataCheckReport",
    "DatasetDetail",
    "DatasetInfo",
    "DatasetNameStr",
    "DatasetRequest",
]

DatasetNameStr = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class DatasetRequest(Schema):
    """``POST /datasets``: which samples."""

    name: DatasetNameStr
    model: ModelNameStr
    reasons: list[SampleReasonStr] = Field(default=[], max_length=len(SAMPLE_REASONS))
    """Taken for one of these; none: for any."""
    site: Annotated[str, Field(max_length=64)] | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    labelled: bool = True
    """Only samples with a label; else also those without."""
    ratios: tuple[Share, Share, Share] = (0.7, 0.15, 0.15)
    """Of train, validation and test."""
    seed: str = Field(default="", max_length=64)
    parent: str | None = Field(default=None, max_length=71)
    """Name or id of a dataset whose rows are taken over."""


class DatasetInfo(Schema):
    """A dataset in a list."""

    id: DigestStr
    name: str
    model: str
    parent: str | None
    rows: int
    labelled: int
    splits: dict[str, int]
    split_by: Literal["device", "rank", "time"]
    bytes: int
    """Of its blobs."""
    created_at: datetime
    created_by: str


class DatasetDetail(Schema):
    """A dataset with its document."""

    info: DatasetInfo
    document: dict[str, Any]
    """``dataset.json``: see docs/datasets.md."""
    blobs_missing: int
    """0, unless the blob store has lost some."""


class DataCheckFinding(Schema):
    """What one rule has found."""

    check: str
    status: Literal["passed", "failed", "warning", "not_enough_data"]
    detail: str
    samples: list[str]
    """Some of those that it is about."""


class DataCheckReport(Schema):
    """``GET /datasets/{dataset}/checks``: what all rules have found."""

    id: DigestStr
    failed: int
    findings: list[DataCheckFinding]
