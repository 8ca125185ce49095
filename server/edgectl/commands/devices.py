"""``edgectl devices``."""

from __future__ import annotations

import click
from rich.console import Group

from edgectl.commands.device_actions import ACTIONS
from edgectl.commands.device_logs import logs
from edgectl.commands.enrolment import COMMANDS
from edgectl.commands.image_snippet import image_snippet
from edgectl.commands.labels import label
from edgectl.device_tables import (
    device_table,
    devices_table,
    events_table,
    fleet_tables,
    security_table,
    series_table,
)
from edgectl.durations import Duration
from edgectl.errors import doing
from edgectl.output import consoles, duration_text, plain, print_json
from edgectl.session import (
    DEVICE,
    GROUP,
    Session,
    examples,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.tables import telemetry_table

__all__ = ["devices"]

TELEMETRY_S_MAX = 7 * 86400
STEPS_MAX = 500
"""Both as the server takes them."""


@click.group(
    epilog=examples(
        "edgectl devices list --failing",
        "edgectl devices show pi-1",
        "edgectl devices token create --uses 10",
    )
)
def devices() -> None:
    """Show devices, let new ones enrol, take old ones out."""


for command in (*COMMANDS, image_snippet, label, logs, *ACTIONS):
    devices.add_command(command)


@devices.command(
    "list",
    epilog=examples(
        "edgectl devices list",
        "edgectl devices list --online --model har",
        "edgectl devices list --where 'site=porto and not runs=har@2'",
    ),
)
@click.option("--search", default="", help="Part of the name.")
@click.option("--online/--offline", default=None, help="Only those that are.")
@click.option("--model", default="", help="Only those that run this model.")
@click.option("--version", default="", help="Only those that run this version of --model.")
@click.option("--failing", is_flag=True, help="Only those whose newest update went wrong.")
@click.option("--updating", is_flag=True, help="Only those with an update under way.")
@click.option("--overdue", is_flag=True, help="Only those offline for longer than is usual.")
@click.option("--held", is_flag=True, help="Only those on which no rollout begins.")
@click.option("--site", help="Only those of this site; '' for those of none.")
@click.option("--group", type=GROUP, default="", help="Only those of this group.")
@click.option(
    "--where", default="", metavar="SELECTOR", help="Only those that are, such as 'site=porto'."
)
@click.option("--revoked", is_flag=True, help="Those that were lost, instead.")
@click.option("--decommissioned", is_flag=True, help="Those that were taken out, instead.")
@limit_option
@json_option
@pass_session
def list_devices(
    session: Session,
    search: str,
    model: str,
    version: str,
    *,
    site: str | None,
    group: str,
    where: str,
    limit: int,
    online: bool | None,
    failing: bool,
    updating: bool,
    overdue: bool,
    held: bool,
    revoked: bool,
    decommissioned: bool,
    as_json: bool,
) -> None:
    """List devices and what they run."""
    if version and not model:
        raise click.UsageError("--version needs --model")
    if revoked and decommissioned:
        raise click.UsageError("--revoked and --decommissioned exclude one another")
    query = [
        (key, value)
        for key, value in (
            ("q", search),
            ("model", model),
            ("version", version),
            ("online", "" if online is None else str(online).lower()),
            ("failing", "true" if failing else ""),
            ("updating", "true" if updating else ""),
            ("overdue", "true" if overdue else ""),
            ("held", "true" if held else ""),
            ("group", group),
            ("where", where),
            ("state", "decommissioned" if decommissioned else "revoked" if revoked else ""),
        )
        if value
    ] + ([] if site is None else [("site", site)])
    with session.connect() as client:
        page = client.devices(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items and not query:
        errors.print("no devices yet: let one enrol with `edgectl devices token create`")
        return
    output.print(devices_table(page.items))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@devices.command("show", epilog=examples("edgectl devices show pi-1"))
@click.argument("device", type=DEVICE)
@json_option
@pass_session
def show_device(session: Session, device: str, *, as_json: bool) -> None:
    """Show everything about a device."""
    with session.connect() as client:
        detail = client.device(device)
    if as_json:
        print_json(detail)
    else:
        consoles()[0].print(device_table(detail))


@devices.command(
    epilog=examples("edgectl devices summary", "edgectl devices summary --json"),
)
@json_option
@pass_session
def summary(session: Session, *, as_json: bool) -> None:
    """Show the fleet in numbers; `edgectl devices list` lists what each of them counts.

    Overdue are those offline for longer than is usual, failing those whose newest update went
    wrong, security those with a security event in the last day.
    """
    with session.connect() as client:
        found = client.fleet()
    if as_json:
        print_json(found)
    else:
        consoles()[0].print(fleet_tables(found))


@devices.command(
    "telemetry",
    epilog=examples(
        "edgectl devices telemetry pi-1",
        "edgectl devices telemetry pi-1 --since 7d --steps 14",
    ),
)
@click.argument("device", type=DEVICE)
@click.option(
    "--since",
    type=Duration(60, TELEMETRY_S_MAX),
    default="1h",
    show_default=True,
    help="How far back, by when it came.",
)
@click.option(
    "--steps",
    type=click.IntRange(2, STEPS_MAX),
    default=12,
    show_default=True,
    help="In how many equal steps.",
)
@json_option
@pass_session
def device_telemetry(
    session: Session, device: str, since: int, steps: int, *, as_json: bool
) -> None:
    """Show what a device has counted, and latency and health over time."""
    with session.connect() as client:
        counts = client.device_telemetry(device, since)
        series = client.device_series(device, since, steps)
    if as_json:
        print_json({"counts": counts, "series": series})
        return
    output, errors = consoles()
    if not counts and not series.slots and not any(series.health.values()):
        errors.print(f"nothing has come of {device} in the last {duration_text(since)}")
        return
    output.print(Group(telemetry_table(counts), series_table(series)))


@devices.command("events", epilog=examples("edgectl devices events pi-1 --limit 10"))
@click.argument("device", type=DEVICE)
@limit_option
@json_option
@pass_session
def device_events(session: Session, device: str, limit: int, *, as_json: bool) -> None:
    """List what a device has reported, newest first."""
    with session.connect() as client:
        page = client.device_events(device, limit)
    if as_json:
        print_json(page.items)
    else:
        consoles()[0].print(events_table(page.items))


@devices.command(
    "security",
    epilog=examples("edgectl devices security", "edgectl devices security pi-1 --limit 100"),
)
@click.argument("device", type=DEVICE, required=False)
@limit_option
@json_option
@pass_session
def security_events(session: Session, device: str | None, limit: int, *, as_json: bool) -> None:
    """List what attackers may have done, on all devices or on one, newest first.

    A device tells what it refused: orders, metadata, chunks, a clock that is wrong. The server
    tells what it did not believe: what was not signed by the device, or repeated.
    """
    with session.connect() as client:
        page = client.security_events(device, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no security event has been reported")
        return
    output.print(security_table(page.items))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@devices.command("decommission", epilog=examples("edgectl devices decommission pi-1 --yes"))
@click.argument("device", type=DEVICE)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def decommission(session: Session, device: str, *, yes: bool, as_json: bool) -> None:
    """Revoke a device's certificate: it is cut off and must enrol anew."""
    if not yes:
        click.confirm(f"Cut off {device}? It must enrol anew.", abort=True, err=True)
    with session.connect() as client, doing(f"decommissioning {device}"):
        detail = client.decommission(device)
    if as_json:
        print_json(detail)
    else:
        click.echo(f"{plain(detail.id)} is {plain(detail.state)}")


@devices.command("revoke", epilog=examples("edgectl devices revoke pi-1 --yes"))
@click.argument("device", type=DEVICE)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def revoke(session: Session, device: str, *, yes: bool, as_json: bool) -> None:
    """Shut out a device that is lost; what it is to run stays, until it enrols again.

    It can come back with a token, a list entry or an approval that is made after this.
    """
    if not yes:
        click.confirm(f"Cut off {device} until it enrols again?", abort=True, err=True)
    with session.connect() as client, doing(f"revoking the certificates of {device}"):
        detail = client.revoke_device(device)
    if as_json:
        print_json(detail)
    else:
        click.echo(f"{plain(detail.id)} is {plain(detail.state)}")
