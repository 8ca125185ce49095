"""``edgectl jobs``."""

from __future__ import annotations

import click

from edgectl.errors import doing
from edgectl.job_end import check_succeeded, follow_job
from edgectl.output import consoles, plain, print_json
from edgectl.session import Session, examples, json_option, limit_option, pass_session
from edgectl.tables import jobs_table
from edgectl.types import JobInfo

__all__ = ["jobs"]


@click.group(epilog=examples("edgectl jobs list", "edgectl jobs show JOB --watch"))
def jobs() -> None:
    """Show and stop work of the server, such as pushes."""


@jobs.command("list", epilog=examples("edgectl jobs list", "edgectl jobs list --state running"))
@click.option(
    "--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"])
)
@limit_option
@json_option
@pass_session
def list_jobs(session: Session, state: str | None, limit: int, *, as_json: bool) -> None:
    """List jobs, newest first."""
    with session.connect() as client:
        page = client.jobs([("state", state)] if state else [], limit)
    if as_json:
        print_json(page.items)
    else:
        consoles()[0].print(jobs_table(page.items))


@jobs.command("show", epilog=examples("edgectl jobs show JOB", "edgectl jobs show JOB --watch"))
@click.argument("job")
@click.option("--watch", is_flag=True, help="Wait until it has ended.")
@json_option
@pass_session
def show_job(session: Session, job: str, *, watch: bool, as_json: bool) -> None:
    """Show a job; with --watch, the exit code is 1 when it does not succeed."""
    with session.connect() as client:
        found = client.job(job)  # a server that is not there is said at once, not waited for
        if watch and not found.ended:
            found = follow_job(client, job)
    _print_job(found, as_json=as_json)
    if watch:
        check_succeeded(found)


@jobs.command("cancel", epilog=examples("edgectl jobs cancel JOB"))
@click.argument("job")
@json_option
@pass_session
def cancel_job(session: Session, job: str, *, as_json: bool) -> None:
    """Stop a job."""
    with session.connect() as client, doing(f"cancelling {job}"):
        found = client.cancel_job(job)
    _print_job(found, as_json=as_json)


def _print_job(job: JobInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    output, _ = consoles()
    output.print(jobs_table([job]))
    if job.error is not None:
        output.print(plain(f"{job.error.code}: {job.error.detail}"))
        if job.error.hint:
            output.print(plain(f"try: {job.error.hint}"))
    elif job.progress.message:
        output.print(plain(job.progress.message))
