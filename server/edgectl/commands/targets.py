"""``edgectl targets`` and ``edgectl bench``."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from edgectl.client import Client
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.job_end import check_succeeded, follow_job
from edgectl.output import consoles, plain, print_json
from edgectl.session import (
    DEVICE,
    MODEL_AND_VERSION,
    VARIANT,
    Session,
    examples,
    json_option,
    pass_session,
)
from edgectl.target_tables import measurements_table, target_table, targets_table
from edgectl.types import BenchmarkStart, JobInfo, MeasurementInfo, TargetInfo

__all__ = ["bench", "targets"]


@click.group(epilog=examples("edgectl targets list", "edgectl targets show rpi4-arm64"))
def targets() -> None:
    """Show device classes: what each needs, and what is best there."""


@targets.command("list", epilog=examples("edgectl targets list", "edgectl targets list --json"))
@json_option
@pass_session
def list_targets(session: Session, *, as_json: bool) -> None:
    """List the device classes with the number of devices in each."""
    with session.connect() as client:
        found = client.targets()
    if as_json:
        print_json(found)
        return
    output, errors = consoles()
    output.print(targets_table(found.items))
    if found.unclassified:
        errors.print(f"{found.unclassified} devices are of no class")


@targets.command("show", epilog=examples("edgectl targets show rpi4-arm64"))
@click.argument("name", metavar="CLASS")
@json_option
@pass_session
def show_target(session: Session, name: str, *, as_json: bool) -> None:
    """Show everything about a device class."""
    with session.connect() as client:
        target = _find(client, name)
    if as_json:
        print_json(target)
    else:
        consoles()[0].print(target_table(target))


@click.command(
    epilog=examples(
        "edgectl bench har@1 --device pi-1",
        "edgectl bench har@1 --device pi-1 --variant int8 --variant fp32 --runs 1000",
        "edgectl bench har@1 --device pi-1 --detach",
    )
)
@click.argument("model", type=MODEL_AND_VERSION)
@click.option("--device", type=DEVICE, required=True, help="On which it is measured.")
@click.option(
    "--variant",
    "variants",
    type=VARIANT,
    multiple=True,
    help="This variant; repeatable. Otherwise all that the device can run.",
)
@click.option(
    "--runs",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="Timed runs of each variant.",
)
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@json_option
@pass_session
def bench(
    session: Session,
    model: str,
    *,
    device: str,
    variants: tuple[str, ...],
    runs: int,
    detach: bool,
    as_json: bool,
) -> None:
    """Measure the variants of MODEL@VERSION on a real device.

    The device fetches them as for an update and runs them in its trial process; what it serves is
    not touched, and an update goes first. What it measures is kept for its class, and decides from
    the next rollout on which variant such devices get. The exit code is 1 when it did not measure
    everything.
    """
    name, _, version = model.partition("@")
    asked = BenchmarkStart(device, list(variants), runs)
    with session.connect() as client:
        with doing(f"asking {device} to measure {model}"):
            job = client.start_benchmark(name, version, asked)
        if not detach:
            job = follow_job(client, job.id)
    if detach:
        _print_started(job, as_json=as_json)
        return
    measured = _measurements(job)
    if as_json and job.state == "succeeded":
        print_json(job.result)
    elif measured and not as_json:
        consoles()[0].print(measurements_table(measured))
    with doing(f"measuring on {device}"):
        check_succeeded(job)
    if not as_json:
        found = (job.result or {}).get("device_class") or "of no class: only shown, not used"
        consoles()[1].print(plain(f"{device} is {found}"))


def _find(client: Client, name: str) -> TargetInfo:
    found = client.targets().items
    for target in found:
        if target.name == name:
            return target
    raise EdgectlError(
        "target.unknown",
        f"there is no device class {name!r}",
        f"the classes are: {', '.join(one.name for one in found)}",
    )


def _print_started(job: JobInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        click.echo(f"job {plain(job.id)}: edgectl jobs show {plain(job.id)} --watch")


def _measurements(job: JobInfo) -> list[MeasurementInfo]:
    """Return what was measured, also of a job that failed later."""
    held: dict[str, Any] = job.result or (job.error.data if job.error is not None else {})
    try:
        return msgspec.convert(held.get("measurements", []), list[MeasurementInfo])
    except msgspec.ValidationError as error:
        raise LocalError(
            "client.answer",
            f"the result of job {job.id} is not understood: {error}",
            "bring this command line and the server to the same version",
        ) from error
