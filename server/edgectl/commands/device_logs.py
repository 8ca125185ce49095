"""``edgectl devices logs``."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from edgectl.client import Client
from edgectl.durations import Duration
from edgectl.errors import EdgectlError, doing
from edgectl.job_end import check_succeeded, follow_job
from edgectl.log_lines import LogLine, log_lines
from edgectl.output import plain, print_json
from edgectl.output_files import say_written, write_output
from edgectl.session import DEVICE, Session, examples, json_option, pass_session
from edgectl.types import JobInfo, LogLineInfo, LogsStart
from edgectl_protocol.uploads import SINCE_S_MAX

__all__ = ["logs"]


@click.command(
    epilog=examples(
        "edgectl devices logs pi-1",
        "edgectl devices logs pi-1 --follow",
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
@click.option(
    "--follow",
    "-f",
    "follows",
    is_flag=True,
    help="Show new lines as they come, until Ctrl-C, for 10 minutes at most.",
)
@json_option
@pass_session
def logs(
    session: Session,
    device: str,
    *,
    since_s: int,
    output: Path | None,
    follows: bool,
    as_json: bool,
) -> None:
    """Show the last log lines of a device's agent.

    The device must be connected: it is asked, and uploads the last 256 KiB of its log and what its
    journal tells of updates. It stays on the server for two weeks.

    With --follow it sends the last few lines, and new ones as they come, while this command runs:
    1 MiB and 10 minutes at most. Nothing of it is kept; lines for which there was no room are
    counted. With --json each line is one JSON object.
    """
    if follows:
        if output is not None or click.get_current_context().get_parameter_source(
            "since_s"
        ) not in {None, ParameterSource.DEFAULT}:
            raise click.UsageError(
                "--follow begins now, and goes to stdout: no --since, no --output"
            )
        _follow(session, device, as_json=as_json)
        return
    with session.connect() as client, doing(f"asking {device} for its logs"):
        job = client.start_logs(device, LogsStart(since_s))
        job = follow_job(client, job.id)
        check_succeeded(job)
        content = _content(client, device, job)
        if output is not None:
            say_written(output, write_output(output, [content]), as_json=as_json)
            return
        lines = log_lines(content)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        click.echo(_told(line))


def _follow(session: Session, device: str, *, as_json: bool) -> None:
    """Print lines as they come, until the end of it, or Ctrl-C."""
    with session.connect() as client, doing(f"following the log of {device}"):
        begun = client.follow_logs(device)
        after, missing = 0, 0
        while True:
            page = client.patiently(partial(client.followed_logs, device, begun.id, after))
            after = page.after
            for line in page.lines:
                if as_json:
                    click.echo(msgspec.json.encode(line))
                else:
                    click.echo(_told(line))
            if page.follow.missing > missing:
                _say(f"{page.follow.missing - missing} lines are missing: there was no room")
                missing = page.follow.missing
            if page.follow.ended_at is not None and not page.lines:
                break
            if not page.lines:
                time.sleep(_LOOK_S)
    _say(f"ended: {_ENDS.get(page.follow.reason, page.follow.reason)}")


def _say(words: str) -> None:
    click.echo(plain(words), err=True)


_LOOK_S = 1.0
_ENDS = {
    "time": "10 minutes are over; the same command goes on",
    "unwatched": "nobody asked for lines for 15 seconds; the same command goes on",
    "offline": "the device is not connected any more",
    "enough": "the device has sent as much as it sends at a time; the same command goes on",
}


def _content(client: Client, device: str, job: JobInfo) -> bytes:
    upload = (job.result or {}).get("upload")
    if not isinstance(upload, str):
        raise EdgectlError(
            "client.answer",
            f"the result of job {job.id} names no upload",
            "bring this command line and the server to the same version",
        )
    return client.patiently(lambda: client.device_upload(device, upload))


def _told(line: LogLine | LogLineInfo) -> str:
    at = "-" if line.time is None else f"{line.time:%Y-%m-%dT%H:%M:%S}Z"
    return plain(f"{at:20} {line.level:7} {line.logger}: {line.text}").rstrip()
