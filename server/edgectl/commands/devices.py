"""``edgectl devices``."""

from __future__ import annotations

import click

from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json
from edgectl.session import DEVICE, Session, examples, json_option, limit_option, pass_session
from edgectl.tables import device_table, devices_table, events_table, security_table
from edgectl.transport import is_loopback

__all__ = ["devices"]


@click.group(
    epilog=examples(
        "edgectl devices list --failing",
        "edgectl devices show pi-1",
        "edgectl devices token create --uses 10",
    )
)
def devices() -> None:
    """Show devices, let new ones enrol, take old ones out."""


@devices.command(
    "list", epilog=examples("edgectl devices list", "edgectl devices list --online --model har")
)
@click.option("--search", default="", help="Part of the name.")
@click.option("--online/--offline", default=None, help="Only those that are.")
@click.option("--model", default="", help="Only those that run this model.")
@click.option("--version", default="", help="Only those that run this version of --model.")
@click.option("--failing", is_flag=True, help="Only those whose newest update went wrong.")
@click.option("--updating", is_flag=True, help="Only those with an update under way.")
@click.option("--decommissioned", is_flag=True, help="Those that were taken out, instead.")
@limit_option
@json_option
@pass_session
def list_devices(
    session: Session,
    search: str,
    model: str,
    version: str,
    limit: int,
    *,
    online: bool | None,
    failing: bool,
    updating: bool,
    decommissioned: bool,
    as_json: bool,
) -> None:
    """List devices and what they run."""
    if version and not model:
        raise click.UsageError("--version needs --model")
    query = [
        (key, value)
        for key, value in (
            ("q", search),
            ("model", model),
            ("version", version),
            ("online", "" if online is None else str(online).lower()),
            ("failing", "true" if failing else ""),
            ("updating", "true" if updating else ""),
            ("state", "decommissioned" if decommissioned else ""),
        )
        if value
    ]
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


@devices.group("token", epilog=examples("edgectl devices token create --uses 10"))
def token() -> None:
    """Tokens with which devices enrol."""


@token.command(
    "create",
    epilog=examples(
        "edgectl devices token create", "edgectl devices token create --uses 100 --hours 24"
    ),
)
@click.option(
    "--uses",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="How many devices may enrol with it.",
)
@click.option(
    "--hours",
    type=click.FloatRange(1 / 60, 720),
    default=1.0,
    show_default=True,
    help="How long it is valid.",
)
@json_option
@pass_session
def create_token(session: Session, uses: int, hours: float, *, as_json: bool) -> None:
    """Create a token and show it, this once."""
    with session.connect() as client:
        created = client.create_enrol_token(uses=uses, expires_in_s=round(hours * 3600))
        address = client.url
    if as_json:
        print_json(created)
        return
    output, errors = consoles()
    output.print(plain(created.token))
    who = "one device" if created.uses == 1 else f"{created.uses} devices"
    errors.print(
        f"for {who}, expires {age(created.expires_at)}; on the device:\n"
        f"  edgectl-agent run --server {address} --device NAME --token {plain(created.token)}",
        soft_wrap=True,
    )
    if is_loopback(address):
        errors.print("elsewhere than on this machine: with its address in the network instead")


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
