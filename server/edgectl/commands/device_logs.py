"""``edgectl devices logs``."""

from __future__ import annotations

from pathlib import Path

import click

from edgectl.client import Client
from edgectl.durations import Duration
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.job_end import check_succeeded, follow_job
from edgectl.log_lines import LogLine, log_lines
from edgectl.output import bytes_text, plain, print_json
from edgectl.session import DEVICE, Session, examples, json_option, pass_session
from edgectl.types import JobInfo, LogsStart
from edgectl_protocol.uploads import SINCE_S_MAX

__all__ = ["logs"]


@click.command(
    epilog=examples(
        "edgectl devices logs pi-1",
        "edgectl devices logs pi-1 --since 10m --json",
        "edgectl devices logs pi-1 --since 7d --output pi-1.jsonl.gz",
    )
)
@click.argument("device", type=DEVICE)
@click.option(
    "--since",
    "since_s",
    type=Duration(1, SINCE_S_MAX),
    default="1h",
    show_default=True,
    help="How far back, by the device's clock.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the file as it comes, gzip of lines of JSON, instead.",
)
@json_option
@pass_session
def logs(
    session: Session, device: str, *, since_s: int, output: Path | None, as_json: bool
) -> None:
    """Show the last log lines of a device's agent.

    The device must be connected: it is asked, and uploads the last 256 KiB of its log and what its
    journal tells of updates. It stays on the server for two weeks.
    """
    with session.connect() as client, doing(f"asking {device} for its logs"):
        job = client.start_logs(device, LogsStart(since_s))
        job = follow_job(client, job.id)
        check_succeeded(job)
        content = _content(client, device, job)
        if output is not None:
            _write(output, content)
            click.echo(f"wrote {plain(output)}, {bytes_text(len(content))}")
            return
        lines = log_lines(content)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        click.echo(_told(line))


def _content(client: Client, device: str, job: JobInfo) -> bytes:
    upload = (job.result or {}).get("upload")
    if not isinstance(upload, str):
        raise EdgectlError(
            "client.answer",
            f"the result of job {job.id} names no upload",
            "bring this command line and the server to the same version",
        )
    return client.patiently(lambda: client.device_upload(device, upload))


def _told(line: LogLine) -> str:
    time = "-" if line.time is None else f"{line.time:%Y-%m-%dT%H:%M:%S}Z"
    return plain(f"{time:20} {line.level:7} {line.logger}: {line.text}").rstrip()


def _write(output: Path, content: bytes) -> None:
    try:
        output.write_bytes(content)
    except OSError as error:
        raise LocalError(
            "logs.output",
            f"cannot write {output}: {error.strerror}",
            "choose another place with --output FILE",
        ) from error
