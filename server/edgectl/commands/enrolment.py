"""``edgectl devices …``: tokens, the list of keys, devices that ask, the authority."""

from __future__ import annotations

from pathlib import Path

import click

from edgectl.device_list import read_device_list
from edgectl.durations import Duration
from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json, state_text, table
from edgectl.session import (
    DEVICE,
    FINGERPRINT,
    GROUP,
    Session,
    examples,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.transport import is_loopback
from edgectl.types import PreauthorisedEntry, PreauthoriseResult
from edgectl_protocol.enrolment import format_fingerprint

__all__ = ["COMMANDS"]

_AT_ONCE = 1000  # entries that the server takes in one request
_EXAMPLE = format_fingerprint("8f2a07c1e4" + "5b" * 25 + "90cc")

group_option = click.option(
    "--group", type=GROUP, default="", help="Into this group, such as site-a."
)
fingerprint_option = click.option(
    "--fingerprint",
    type=FINGERPRINT,
    required=True,
    help="Of the device's key, whole, as the device itself shows it.",
)


# ---------------------------------------------------------------- tokens


@click.group(
    epilog=examples("edgectl devices token create --uses 10", "edgectl devices token list")
)
def token() -> None:
    """Tokens with which devices enrol."""


@token.command(
    "create",
    epilog=examples(
        "edgectl devices token create",
        "edgectl devices token create --uses 100 --expires 24h --group site-a",
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
    "--expires",
    type=Duration(60, 30 * 86400),
    default="1h",
    show_default=True,
    help="How long it is valid, such as 30m, 24h, 7d; a bare number is seconds.",
)
@group_option
@json_option
@pass_session
def create_token(session: Session, uses: int, expires: int, group: str, *, as_json: bool) -> None:
    """Create a token and show it, this once."""
    with session.connect() as client:
        created = client.create_enrol_token(uses=uses, expires_in_s=expires, group=group)
        address = client.url
    if as_json:
        print_json(created)
        return
    output, errors = consoles()
    output.print(plain(created.token))
    who = "one device" if created.uses == 1 else f"{created.uses} devices"
    into = f" of the group {created.group}" if created.group else ""
    errors.print(
        f"for {who}{into}, expires {age(created.expires_at)}; on the device, which asks for it:\n"
        f"  edgectl-agent run --server {address} --device NAME --token-file -",
        soft_wrap=True,
    )
    if is_loopback(address):
        errors.print("elsewhere than on this machine: with its address in the network instead")


@token.command("list", epilog=examples("edgectl devices token list"))
@limit_option
@json_option
@pass_session
def list_tokens(session: Session, limit: int, *, as_json: bool) -> None:
    """List the tokens that are good for something, without their secrets."""
    with session.connect() as client:
        page = client.enrol_tokens(limit)
    if as_json:
        print_json(page.items)
        return
    rows = [
        (
            plain(one.id),
            str(one.uses_left),
            age(one.expires_at),
            plain(one.group),
            plain(one.created_by),
            age(one.created_at),
        )
        for one in page.items
    ]
    columns = ["ID", ">USES LEFT", "EXPIRES", "GROUP", "BY", "CREATED"]
    consoles()[0].print(table(columns, rows))


@token.command("revoke", epilog=examples("edgectl devices token revoke 0123456789abcdef"))
@click.argument("token_id", metavar="ID")
@json_option
@pass_session
def revoke_token(session: Session, token_id: str, *, as_json: bool) -> None:
    """Make a token worthless, by its id; devices that have enrolled with it stay."""
    if token_id.startswith("ee_"):
        raise click.UsageError("that is a token, not its id: `edgectl devices token list` has it")
    with session.connect() as client, doing(f"revoking the enrolment token {token_id}"):
        client.revoke_enrol_token(token_id)
    if as_json:
        print_json({"id": token_id, "revoked": True})
    else:
        click.echo(f"{plain(token_id)} is revoked")


# ---------------------------------------------------------------- the list


@click.command(
    epilog=examples(
        "edgectl devices preauthorise devices.csv",
        f"edgectl devices preauthorise --device pi-1 --fingerprint {_EXAMPLE} --group site-a",
    )
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--device", type=DEVICE, help="A single device instead of a file.")
@click.option("--fingerprint", type=FINGERPRINT, help="Of its key.")
@group_option
@json_option
@pass_session
def preauthorise(
    session: Session,
    file: Path | None,
    device: str | None,
    fingerprint: str | None,
    group: str,
    *,
    as_json: bool,
) -> None:
    """Let keys enrol without a token, each under one name, once.

    FILE (- is standard input) has a line for each: device,fingerprint[,group]; what follows a # is
    a remark. On the device, `edgectl-agent fingerprint` prints that line. Lines without a group
    get --group.
    """
    if (file is None) == (device is None) or (device is None) != (fingerprint is None):
        raise click.UsageError("give either FILE, or --device with --fingerprint")
    if file is not None:
        entries = read_device_list(file, group)
    else:
        assert device is not None
        assert fingerprint is not None
        entries = [PreauthorisedEntry(device, fingerprint, group)]
    added = unchanged = 0
    with session.connect() as client, doing("putting keys on the list"):
        for at in range(0, len(entries), _AT_ONCE):
            result = client.preauthorise(entries[at : at + _AT_ONCE])
            added, unchanged = added + result.added, unchanged + result.unchanged
    if as_json:
        print_json(PreauthoriseResult(added, unchanged))
    else:
        click.echo(f"{added} added, {unchanged} there already")


@click.group(
    epilog=examples(
        "edgectl devices preauthorised list", "edgectl devices preauthorised remove pi-1"
    )
)
def preauthorised() -> None:
    """The keys that may enrol without a token, and have not yet."""


@preauthorised.command("list", epilog=examples("edgectl devices preauthorised list"))
@click.option("--search", default="", help="Part of the name or of the group.")
@limit_option
@json_option
@pass_session
def list_preauthorised(session: Session, search: str, limit: int, *, as_json: bool) -> None:
    """List them."""
    with session.connect() as client:
        page = client.preauthorised([("q", search)] if search else [], limit)
    if as_json:
        print_json(page.items)
        return
    rows = [
        (
            plain(one.device),
            plain(one.fingerprint),
            plain(one.group),
            plain(one.created_by),
            age(one.created_at),
        )
        for one in page.items
    ]
    consoles()[0].print(table(["DEVICE", "FINGERPRINT", "GROUP", "BY", "SINCE"], rows))


@preauthorised.command("remove", epilog=examples("edgectl devices preauthorised remove pi-1"))
@click.argument("device", type=DEVICE)
@json_option
@pass_session
def forget_preauthorised(session: Session, device: str, *, as_json: bool) -> None:
    """Take a key off the list."""
    with session.connect() as client, doing(f"taking {device} off the list"):
        client.forget_preauthorised(device)
    if as_json:
        print_json({"device": device, "removed": True})
    else:
        click.echo(f"{plain(device)} is off the list")


# ---------------------------------------------------------------- requests


@click.command(epilog=examples("edgectl devices requests", "edgectl devices requests --json"))
@limit_option
@json_option
@pass_session
def requests(session: Session, limit: int, *, as_json: bool) -> None:
    """List the devices that ask to be let in.

    Anybody can ask under any name: compare the fingerprint with what the device itself shows.
    """
    with session.connect() as client:
        page = client.enrol_requests(limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no device asks")
        return
    rows = [
        (
            plain(one.device),
            plain(one.fingerprint),
            state_text("taken" if one.taken and one.state == "waiting" else one.state),
            plain(one.source),
            age(one.first_at),
        )
        for one in page.items
    ]
    output.print(table(["DEVICE", "FINGERPRINT", "STATE", "FROM", "SINCE"], rows))


@click.command(
    epilog=examples(f"edgectl devices approve pi-1 --fingerprint {_EXAMPLE} --group site-a")
)
@click.argument("device", type=DEVICE)
@fingerprint_option
@group_option
@json_option
@pass_session
def approve(session: Session, device: str, fingerprint: str, group: str, *, as_json: bool) -> None:
    """Let a device in that asks; it gets its certificate when it asks again, within a minute."""
    with session.connect() as client, doing(f"approving {device}"):
        entry = client.approve_device(device, fingerprint, group)
    if as_json:
        print_json(entry)
    else:
        click.echo(f"{plain(entry.device)} may enrol with {plain(entry.fingerprint)}")


@click.command(epilog=examples(f"edgectl devices reject pi-1 --fingerprint {_EXAMPLE}"))
@click.argument("device", type=DEVICE)
@fingerprint_option
@json_option
@pass_session
def reject(session: Session, device: str, fingerprint: str, *, as_json: bool) -> None:
    """Turn a device down that asks; for a day it is told so."""
    with session.connect() as client, doing(f"rejecting {device}"):
        rejected = client.reject_device(device, fingerprint)
    if as_json:
        print_json(rejected)
    else:
        click.echo(f"{plain(rejected.device)} with {plain(rejected.fingerprint)} is rejected")


@click.command(epilog=examples("edgectl devices authority", "edgectl devices authority --json"))
@json_option
@pass_session
def authority(session: Session, *, as_json: bool) -> None:
    """Show by what a device without a token knows this server."""
    with session.connect() as client:
        shown = client.authority()
        address = client.url
    if as_json:
        print_json(shown)
        return
    output, errors = consoles()
    output.print(plain(shown.fingerprint), soft_wrap=True)
    errors.print(
        f"on the device:\n  edgectl-agent run --server {address} --device NAME "
        f"--authority {plain(shown.fingerprint)}",
        soft_wrap=True,
    )
    if not shown.takes_requests:
        errors.print("this server takes no requests: the device's key must be on the list")


COMMANDS: tuple[click.Command, ...] = (
    token,
    preauthorise,
    preauthorised,
    requests,
    approve,
    reject,
    authority,
)
"""What ``edgectl devices`` has of them."""
