"""Jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from edgectl_server.schemas.base import Problem, Schema

__all__ = ["JobInfo", "JobProgress"]


class JobProgress(Schema):
    """How far a job is."""

    stage: str = ""
    """Such as ``check``, ``quantize``, ``evaluate``, ``pack``, ``sign``, ``publish``; of a
    benchmark ``send``, ``measure``; of logs ``send``, ``upload``."""
    message: str = ""
    done: int = 0
    total: int = 0


class JobInfo(Schema):
    """A job."""

    id: str
    kind: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: JobProgress
    result: dict[str, Any] | None
    error: Problem | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    subject: dict[str, str]
    """What it works on, such as ``{"model": "har", "version": "1"}``."""
