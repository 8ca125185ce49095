"""The row of a job: how it begins, how it ends, and how it is shown."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from edgectl_server.errors import ServerError
from edgectl_server.schemas import JobInfo, JobProgress, Problem
from edgectl_server.storage.tables import Job

__all__ = ["end_job", "job_info", "new_job"]


def new_job(kind: str, payload: dict[str, Any], created_by: str, now: datetime) -> Job:
    """Return the row of a job that waits."""
    return Job(
        id=secrets.token_hex(8),
        kind=kind,
        state="queued",
        payload=payload,
        progress={},
        result=None,
        error=None,
        fence=0,
        attempts=0,
        lease_until=None,
        cancel_requested=False,
        created_at=now,
        created_by=created_by,
        started_at=None,
        finished_at=None,
    )


def end_job(
    job: Job,
    state: str,
    now: datetime,
    *,
    result: dict[str, Any] | None = None,
    error: ServerError | None = None,
) -> None:
    """Write the end of a job into its row."""
    job.state, job.result = state, result
    job.error = None if error is None else error.document()
    job.finished_at, job.lease_until = now, None


def job_info(job: Job) -> JobInfo:
    """Return how a job is shown."""
    return JobInfo.model_validate(
        {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "progress": JobProgress.model_validate(job.progress),
            "result": job.result,
            "error": None if job.error is None else Problem.model_validate(job.error),
            "attempts": job.attempts,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "subject": job.payload.get("subject", {}),
        }
    )
