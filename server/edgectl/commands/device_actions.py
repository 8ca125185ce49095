"""``edgectl devices hold``, ``release``, ``rollback`` and ``sites``."""

from __future__ import annotations

import click

from edgectl.device_tables import sites_table
from edgectl.errors import doing
from edgectl.output import consoles, plain, print_json
from edgectl.session import (
    DEVICE,
    NAME,
    VERSION,
    Session,
    examples,
    json_option,
    limit_option,
    pass_session,
)

__all__ = ["ACTIONS"]


@click.command(epilog=examples("edgectl devices hold pi-1 --reason 'on the test bench'"))
@click.argument("device", type=DEVICE)
@click.option("--reason", default="", help="Kept with the device, for others to read.")
@json_option
@pass_session
def hold(session: Session, device: str, reason: str, *, as_json: bool) -> None:
    """Let no rollout begin on a device, until it is released.

    What is in progress on it goes on, and an abort reaches it.
    """
    with session.connect() as client, doing(f"holding {device}"):
        detail = client.hold_device(device, reason)
    if as_json:
        print_json(detail)
    else:
        click.echo(f"{plain(detail.id)} is held: `edgectl devices release {plain(detail.id)}`")


@click.command(epilog=examples("edgectl devices release pi-1"))
@click.argument("device", type=DEVICE)
@json_option
@pass_session
def release(session: Session, device: str, *, as_json: bool) -> None:
    """Let rollouts go on with a device that was held."""
    with session.connect() as client, doing(f"releasing {device}"):
        detail = client.release_device(device)
    if as_json:
        print_json(detail)
    else:
        click.echo(f"{plain(detail.id)} is not held")


@click.command(
    epilog=examples(
        "edgectl devices rollback pi-1 har",
        "edgectl devices rollback pi-1 har --version 1 --yes",
    )
)
@click.argument("device", type=DEVICE)
@click.argument("model", type=NAME)
@click.option("--version", type=VERSION, help="Refuse if it is not this that comes back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def rollback(
    session: Session, device: str, model: str, version: str | None, *, yes: bool, as_json: bool
) -> None:
    """Take MODEL on one device back to the version that it ran before.

    While an unfinished rollout has the device this is refused: abort that one, or wait for it.
    """
    if not yes:
        click.confirm(f"Take {model} on {device} back to the version before?", abort=True, err=True)
    with session.connect() as client, doing(f"taking {model} on {device} back"):
        detail = client.roll_back_device(device, model, version)
    if as_json:
        print_json(detail)
        return
    wanted = next((one.desired_version for one in detail.slots if one.slot == model), None)
    click.echo(f"{plain(detail.id)} is ordered to run {plain(model)} {plain(wanted)}")


@click.command(
    epilog=examples("edgectl devices sites", "edgectl devices sites --search porto --json")
)
@click.option("--search", default="", help="Part of the name.")
@limit_option
@json_option
@pass_session
def sites(session: Session, search: str, limit: int, *, as_json: bool) -> None:
    """List the sites of the fleet and what runs there, the largest first.

    A device's site is its label `site`, or else its group; the labels `lat` and `lon`, in degrees,
    put a site on the map of the web page.
    """
    with session.connect() as client:
        page = client.sites([("q", search)] if search else [], limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    output.print(sites_table(page.items))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


ACTIONS = (hold, release, rollback, sites)
