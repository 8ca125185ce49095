"""Jobs: how far they are, and stopping them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from sqlalchemy import select

from edgectl_server.api.access import get_services, operator, viewer
from edgectl_server.api.paging import PageQuery, fetch_page, match, order, page_query
from edgectl_server.api.problems import responses
from edgectl_server.api.schemas import JobInfo, JobProgress, Page, Problem
from edgectl_server.storage.tables import Job

__all__ = ["JobId", "job_info", "router"]

router = APIRouter(tags=["jobs"])

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
_SORTABLE = {
    "created_at": Job.created_at,
    "finished_at": Job.finished_at,
    "kind": Job.kind,
    "state": Job.state,
}


def job_info(job: Job) -> JobInfo:
    """Return a job as the API shows it."""
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


@router.get("/jobs", operation_id="list_jobs", dependencies=[viewer], responses=responses(401, 422))
def list_jobs(
    request: Request,
    paging: Annotated[PageQuery, Depends(page_query)],
    state: Annotated[JobState | None, Query()] = None,
) -> Page[JobInfo]:
    """List jobs, newest first."""
    wanted = select(Job).order_by(
        *order(paging.sort, _SORTABLE, default="-created_at", last=Job.id)
    )
    if state is not None:
        wanted = wanted.where(Job.state == state)
    if paging.q:
        wanted = wanted.where(match(paging.q, (Job.id, Job.kind, Job.created_by)))
    with get_services(request).database.read() as session:
        rows, total = fetch_page(session, wanted, paging)
    return Page(items=[job_info(row) for row in rows], total=total)


@router.get(
    "/jobs/{job_id}",
    operation_id="get_job",
    dependencies=[viewer],
    responses=responses(401, 404, 422),
)
def get_job(request: Request, job_id: JobId) -> JobInfo:
    """Show a job."""
    return job_info(get_services(request).jobs.get(job_id))


@router.post(
    "/jobs/{job_id}/actions/cancel",
    operation_id="cancel_job",
    dependencies=[operator],
    responses=responses(401, 403, 404, 409, 422),
)
def cancel_job(request: Request, job_id: JobId) -> JobInfo:
    """Cancel a job; one that runs ends a moment later."""
    return job_info(get_services(request).jobs.cancel(job_id))
