"""Following a job of the server to its end, and what that end means for a command."""

from __future__ import annotations

from edgectl.client import Client
from edgectl.errors import EdgectlError, LocalError
from edgectl.output import consoles
from edgectl.progress import PushProgress
from edgectl.types import JobInfo

__all__ = ["check_succeeded", "follow_job"]


def follow_job(client: Client, job: str) -> JobInfo:
    """Show the progress of a job until it has ended, and return it.

    Raises:
        LocalError: ``job.interrupted``: Ctrl-C; the job goes on.
    """
    try:
        with PushProgress(consoles()[1]) as progress:
            return client.wait_job(job, progress.job)
    except KeyboardInterrupt:
        raise LocalError(
            "job.interrupted",
            f"no longer watching; job {job} goes on",
            f"stop it with `edgectl jobs cancel {job}`",
        ) from None


def check_succeeded(job: JobInfo) -> None:
    """Raise `EdgectlError` with the job's own error, or ``job.…``, if it has not succeeded."""
    if job.state == "succeeded":
        return
    if job.error is not None:
        raise EdgectlError(job.error.code, job.error.detail, job.error.hint, data=job.error.data)
    raise EdgectlError(f"job.{job.state}", f"the job is {job.state}")
