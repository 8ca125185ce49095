"""``edgectl samples key``: keys that devices seal samples to."""

from __future__ import annotations

from pathlib import Path

import click

from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json, table
from edgectl.sample_key_files import (
    PublicKey,
    create_key,
    read_passphrase,
    read_private,
    read_public,
)
from edgectl.session import Session, examples, json_option, pass_session

__all__ = ["key", "passphrase_option"]

_FILE = click.Path(path_type=Path, dir_okay=False)
passphrase_option = click.option(
    "--passphrase-file", type=_FILE, metavar="FILE", help="Its first line opens the key's file."
)


@click.group(
    short_help="Keys that devices seal samples to.",
    epilog=examples(
        "edgectl samples key create team.pem",
        "edgectl samples policy har --seal team.pem.pub",
        "edgectl samples get 3f9c0d5e8a7b6c1d --key team.pem",
    ),
)
def key() -> None:
    """Keys that devices seal samples to.

    By default that is the server's own, which opens samples when they have arrived. One of your own
    never goes to the server: samples that are sealed to it are opened where its file is.
    """


@key.command(
    epilog=examples(
        "edgectl samples key create team.pem",
        "edgectl samples key create team.pem --passphrase-file secret --json",
    )
)
@click.argument("file", type=_FILE)
@passphrase_option
@json_option
def create(file: Path, *, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key: FILE, which you keep, and FILE.pub, which a policy carries.

    Keep a copy of FILE in a safe place: without it nothing that is sealed to it opens again.
    """
    with doing(f"making the key {plain(str(file))}"):
        made = create_key(file, read_passphrase(passphrase_file))
    _say(made, as_json=as_json)


@key.command(
    epilog=examples("edgectl samples key show team.pem.pub", "edgectl samples key show team.pem")
)
@click.argument("file")
@passphrase_option
@json_option
def show(file: str, *, passphrase_file: Path | None, as_json: bool) -> None:
    """Show the name and the public half of the key in FILE, a private or a public one."""
    path = Path(file)
    with doing(f"reading {plain(file)}"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()[:4096]:
            private = read_private(path, read_passphrase(passphrase_file))
            found = PublicKey.of(private.public_key().public_bytes_raw())
        else:
            found = read_public(file)
    _say(found, as_json=as_json)


@key.command("list", epilog=examples("edgectl samples key list", "edgectl samples key list --json"))
@json_option
@pass_session
def list_keys(session: Session, *, as_json: bool) -> None:
    """List the keys that samples on the server are, or were, sealed to, the newest first."""
    with session.connect() as client:
        found = client.sample_keys()
    if as_json:
        print_json(found)
        return
    rows = [
        [
            plain(one.id),
            "the server" if one.holder == "server" else "elsewhere",
            "now" if one.current else "",
            age(one.created_at),
            plain(one.created_by),
            str(one.samples),
        ]
        for one in found
    ]
    consoles()[0].print(table(["KEY", "HELD BY", "CURRENT", "MADE", "BY", ">SAMPLES"], rows))


@key.command(
    epilog=examples("edgectl samples key rotate", "edgectl samples key rotate --json"),
)
@json_option
@pass_session
def rotate(session: Session, *, as_json: bool) -> None:
    """Have the server make a new key of its own (admin).

    Devices seal to it from their next order on, within a minute. The older ones still open what was
    sealed to them.
    """
    with session.connect() as client, doing("making a new key"):
        made = client.rotate_sample_key()
    if as_json:
        print_json(made)
    else:
        click.echo(f"devices seal to {plain(made.id)} from now on")


def _say(public: PublicKey, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": public.id, "public": public.text})
    else:
        click.echo(f"key {public.id}, public half {public.text}")
