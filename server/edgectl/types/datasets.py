"""Datasets: immutable snapshots of samples and their labels."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

__all__ = [
    "DataCheckFinding",
    "DataCheckReport",
    "DatasetDetail",
    "DatasetInfo",
    "DatasetRequest",
]


class DatasetRequest(Struct, frozen=True, kw_only=True):
    """Which samples a dataset is made of."""

    name: str
    model: str
    reasons: list[str] = []
    site: str | None = None
    since: str | None = None
    until: str | None = None
    labelled: bool = True
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: str = ""
    parent: str | None = None


class DatasetInfo(Struct, frozen=True, kw_only=True):
    """A dataset in a list."""

    id: str
    name: str
    model: str
    parent: str | None
    rows: int
    labelled: int
    splits: dict[str, int]
    split_by: str
    bytes: int
    created_at: datetime
    created_by: str


class DatasetDetail(Struct, frozen=True, kw_only=True):
    """A dataset with its document."""

    info: DatasetInfo
    document: dict[str, Any]
    blobs_missing: int


class DataCheckFinding(Struct, frozen=True, kw_only=True):
    """What one rule has found."""

    check: str
    status: str
    detail: str
    samples: list[str]


class DataCheckReport(Struct, frozen=True, kw_only=True):
    """What all rules have found."""

    id: str
    failed: int
    findings: list[DataCheckFinding]
