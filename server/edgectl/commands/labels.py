"""``edgectl devices label`` and ``edgectl selectors``."""

from __future__ import annotations

import click

from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json, table
from edgectl.session import (
    DEVICE,
    Session,
    examples,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.types import LabelRequest

__all__ = ["label", "selectors"]


@click.command(
    epilog=examples(
        "edgectl devices label site=porto hw=rpi4 --device pi-1 --device pi-2",
        "edgectl devices label tag- --where 'site=porto and tag=demo' --expect 12",
    )
)
@click.argument("labels", metavar="NAME=VALUE|NAME-", nargs=-1, required=True)
@click.option("--device", "device", type=DEVICE, multiple=True, help="This device; repeatable.")
@click.option("--where", default="", metavar="SELECTOR", help="Every device that is.")
@click.option("--expect", type=click.IntRange(0), help="Refuse if it is not so many devices.")
@json_option
@pass_session
def label(
    session: Session,
    labels: tuple[str, ...],
    device: tuple[str, ...],
    where: str,
    expect: int | None,
    *,
    as_json: bool,
) -> None:
    """Give labels to devices, or take them away with NAME-.

    Selectors go by these; what a device says of itself is reported.NAME there.
    """
    if bool(device) == bool(where):
        raise click.UsageError("say which devices: --device NAME or --where SELECTOR")
    given: dict[str, str] = {}
    removed: list[str] = []
    for one in labels:
        name, sign, value = one.partition("=")
        if sign and name and value:
            given[name] = value
        elif not sign and one.endswith("-") and len(one) > 1:
            removed.append(one[:-1])
        else:
            raise click.UsageError(f"{one[:40]!r}: write site=porto to set, site- to remove")
    request = LabelRequest(list(device), where, given, removed, expect)
    with session.connect() as client, doing("labelling devices"):
        found = client.label_devices(request)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found.matched} devices, {found.changed} changed")


@click.group(
    epilog=examples(
        "edgectl selectors set porto-pis 'site=porto and hw in (rpi4, rpi5)'",
        "edgectl rollout start har --where '@porto-pis and not tag=demo'",
    )
)
def selectors() -> None:
    """Keep selectors of devices under names; others use them as @NAME."""


@selectors.command("list", epilog=examples("edgectl selectors list"))
@limit_option
@json_option
@pass_session
def list_selectors(session: Session, limit: int, *, as_json: bool) -> None:
    """List saved selectors, and how many devices each means now."""
    with session.connect() as client:
        page = client.selectors(limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no selectors yet: save one with `edgectl selectors set NAME SELECTOR`")
        return
    columns = ["NAME", "SELECTOR", ">DEVICES", "CHANGED", "BY"]
    rows = [
        (
            plain(one.name),
            plain(one.text),
            str(one.devices),
            age(one.changed_at),
            plain(one.changed_by),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))


@selectors.command(
    "overlaps",
    epilog=examples("edgectl selectors overlaps porto-pis"),
)
@click.argument("name")
@json_option
@pass_session
def selector_overlaps(session: Session, name: str, *, as_json: bool) -> None:
    """List which saved selectors and groups share devices with NAME, and how many."""
    with session.connect() as client, doing(f"comparing the selector {name}"):
        found = client.selector_overlaps(name)
    if as_json:
        print_json(found)
        return
    output, errors = consoles()
    if not found:
        errors.print(f"{plain(name)} shares no device with another selector or a group")
        return
    rows = [(one.kind, plain(one.name), str(one.devices), f"of {one.of}") for one in found]
    output.print(table(["WHAT", "NAME", ">SHARED", "OF ITS DEVICES"], rows))


@selectors.command("set", epilog=examples("edgectl selectors set porto-pis 'site=porto'"))
@click.argument("name")
@click.argument("selector")
@json_option
@pass_session
def set_selector(session: Session, name: str, selector: str, *, as_json: bool) -> None:
    """Save SELECTOR as NAME; running rollouts keep what it meant when they started."""
    with session.connect() as client, doing(f"saving the selector {name}"):
        found = client.put_selector(name, selector)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{plain(found.name)}: {found.devices} devices now")


@selectors.command("delete", epilog=examples("edgectl selectors delete porto-pis"))
@click.argument("name")
@json_option
@pass_session
def delete_selector(session: Session, name: str, *, as_json: bool) -> None:
    """Delete a saved selector; refused while another one names it."""
    with session.connect() as client, doing(f"deleting the selector {name}"):
        client.delete_selector(name)
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"{plain(name)} is deleted")
