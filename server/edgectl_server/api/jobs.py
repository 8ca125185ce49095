"""Jobs: how far they are, and stopping them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from edgectl_server.api.access import get_services, operator, viewer
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.job_rows import job_info
from edgectl_server.schemas import JobInfo, Page

__all__ = ["JobId", "router"]

router = APIRouter(tags=["jobs"])

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@router.get("/jobs", operation_id="list_jobs", dependencies=[viewer], responses=responses(401, 422))
def list_jobs(
    request: Request,
    paging: Paging,
    state: Annotated[JobState | None, Query()] = None,
) -> Page[JobInfo]:
    """List jobs, newest first."""
    return get_services(request).jobs.page(paging, state=state)


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
