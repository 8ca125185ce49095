"""What is done on the data folder: the server may run meanwhile, and takes it in within seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from securesystemslib.signer import Key

from edgectl_protocol.metadata import METADATA_BYTES_MAX
from edgectl_server.ceremony.console import (
    ATTENTION,
    DataFolder,
    errors,
    examples,
    folder_options,
    json_option,
    print_json,
    resolve_keyids,
    secret_from,
    show_outcome,
)
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.signing.documents import read_delegator
from edgectl_server.signing.keys import ONLINE_ROLES, HeldKey, Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.signers import (
    load_public_key,
    named_key,
    public_key_of,
)
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["COMMANDS"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    epilog=examples(
        "edgectl keys init --root ana.pub --root ben.pub --root cleo.pub --root-threshold 2 "
        "--targets ana.pub --targets ben.pub",
        "edgectl keys init --data /var/lib/edgectl --root ana.pub",
    )
)
@click.option("--root", "root", multiple=True, type=_FILE, help="A public key for root.")
@click.option("--root-threshold", default=1, help="How many of them must sign.")
@click.option("--targets", "targets", multiple=True, type=_FILE, help="A public key for targets.")
@click.option("--targets-threshold", default=1, help="How many of them must sign.")
@folder_options
@json_option
def init(
    root: tuple[Path, ...],
    root_threshold: int,
    targets: tuple[Path, ...],
    targets_threshold: int,
    as_json: bool,
    **folder: Any,
) -> None:
    """Begin with offline keys, before the first start of the server.

    Makes the keys that the server signs with every day, and stages the first root and targets.
    Where no public keys are given for root or targets, the server gets that key too.
    """
    with errors():
        opened = DataFolder.open(**folder)
        given = {"root": [load_public_key(one) for one in root]}
        given["targets"] = [load_public_key(one) for one in targets]
        make_private_directory(opened.path)
        if (opened.path / "tuf" / "timestamp.json").exists():
            raise Conflict(
                "tuf.exists",
                f"there is a server in {opened.path}",
                hint="its keys are changed with edgectl keys rotate",
            )
        held = [*(role for role, keys in given.items() if not keys), *ONLINE_ROLES]
        keys = Keys.open(opened.path / "keys", passphrase=opened.passphrase, make=held)
        repository = Repository.inspect(opened.path / "tuf", keys)
        outcome = repository.begin(
            opened.now,
            root=given["root"],
            root_threshold=root_threshold,
            targets=given["targets"],
            targets_threshold=targets_threshold,
        )
        opened.note("keys_init", "", outcome)
        show_outcome(outcome, repository, as_json=as_json)


@click.command(epilog=examples("edgectl keys status", "edgectl keys status --json"))
@folder_options
@json_option
def status(as_json: bool, **folder: Any) -> None:
    """Show who signs what, what waits, and what needs attention.

    Exit code 3: something needs attention.
    """
    with errors():
        opened = DataFolder.open(**folder)
        found = opened.repository().status(opened.now)
        if as_json:
            print_json(found)
        else:
            for role in found.roles:
                ends = "" if role.expires is None else f", ends {role.expires:%Y-%m-%d %H:%M}"
                version = "" if role.version is None else f" {role.version}"
                where = "online" if role.online else "offline"
                click.echo(f"{role.name}{version}{ends}, {where}")
                click.echo(f"  {role.threshold} of: {_names(role.keys)}")
                if role.patterns:
                    click.echo(f"  signs for {', '.join(role.patterns)}")
            for staged in found.staged:
                click.echo(f"staged: {staged.role} {staged.version}")
                for line in staged.summary:
                    click.echo(f"  {line}")
            for alert in found.alerts:
                click.echo(f"{alert.severity}[{alert.code}]: {alert.detail}")
                click.echo(f"  try: {alert.hint}")
        if found.alerts:
            sys.exit(ATTENTION)


@click.command("list", epilog=examples("edgectl keys list", "edgectl keys list --json"))
@folder_options
@json_option
def list_keys(as_json: bool, **folder: Any) -> None:
    """List all keys: whose they are, for which roles, and where the server holds them."""
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        uris = {one.key.keyid: one.uri for held in opened.keys().roles().values() for one in held}
        rows: dict[str, dict[str, Any]] = {}
        for role in repository.status(opened.now).roles:
            for key in role.keys:
                row = rows.setdefault(
                    key.keyid,
                    {
                        "keyid": key.keyid,
                        "name": key.name,
                        "scheme": key.scheme,
                        "uri": uris.get(key.keyid, ""),
                        "roles": [],
                    },
                )
                row["roles"].append(role.name)
        if as_json:
            print_json(list(rows.values()))
        for row in () if as_json else rows.values():
            where = row["uri"] or "elsewhere"
            click.echo(f"{row['keyid']}  {row['name'] or '-'}  {', '.join(row['roles'])}  {where}")


@click.command(
    epilog=examples(
        "edgectl keys rotate timestamp",
        "edgectl keys rotate root --add dora.pub --remove 1a2b3c4d5e6f",
        "edgectl keys rotate root --threshold 2",
    )
)
@click.argument("role")
@click.option("--add", multiple=True, type=_FILE, help="A public key that signs from now on.")
@click.option("--remove", multiple=True, metavar="KEYID", help="A key that signs no more.")
@click.option("--threshold", type=int, help="How many must sign.")
@folder_options
@json_option
def rotate(
    role: str,
    add: tuple[Path, ...],
    remove: tuple[str, ...],
    threshold: int | None,
    as_json: bool,
    **folder: Any,
) -> None:
    """Change who signs for ROLE; without options, replace the server's own keys of it.

    ROLE is root, targets, snapshot, timestamp, orders, models or a model family.
    """
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        outcome = repository.rotate(
            role,
            opened.now,
            add=[load_public_key(one) for one in add],
            remove=resolve_keyids(repository, remove),
            threshold=threshold,
        )
        opened.note("keys_rotate", role, outcome, threshold=threshold)
        show_outcome(outcome, repository, as_json=as_json)


@click.command(
    "add-signer",
    epilog=examples(
        "edgectl keys add-signer root dora.pub --threshold 2",
        "edgectl keys add-signer snapshot hsm:2?label=edgectl --secret-file pin",
        "edgectl keys add-signer timestamp awskms:alias/edgectl --public aws.pem",
    ),
)
@click.argument("role")
@click.argument("signer", metavar="PUB|URI")
@click.option("--name", default="", help="Whose key it is, if PUB does not say.")
@click.option("--public", "public_file", type=_FILE, help="The public key of a cloud service.")
@click.option(
    "--secret-file",
    default="",
    metavar="FILE",
    help="Where the server finds passphrase or PIN; relative to the keys folder.",
)
@click.option("--threshold", type=int, help="How many must sign.")
@folder_options
@json_option
def add_signer(
    *,
    role: str,
    signer: str,
    name: str,
    public_file: Path | None,
    secret_file: str,
    threshold: int | None,
    as_json: bool,
    **folder: Any,
) -> None:
    """Let another key sign for ROLE: a person's PUB, or a URI that the server signs with.

    URIs: file:NAME.pem (in the keys folder), hsm:ID?label=TOKEN, awskms:, gcpkms:, azurekms:, hv:.
    """
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        added: Key | HeldKey
        if Path(signer).is_file():
            added = load_public_key(Path(signer))
            added = named_key(added, name) if name else added
        else:
            keys = opened.path / "keys"
            secret = secret_from(str(keys / secret_file) if secret_file else None, signer)
            given = None if public_file is None else load_public_key(public_file)
            key = given or public_key_of(signer, keys, secret)
            added = HeldKey(signer, named_key(key, name or f"server {role}"), secret_file)
        outcome = repository.rotate(role, opened.now, add=[added], threshold=threshold)
        opened.note("keys_add_signer", role, outcome, signer=signer, threshold=threshold)
        show_outcome(outcome, repository, as_json=as_json)


@click.command("remove-signer", epilog=examples("edgectl keys remove-signer root 1a2b3c4d5e6f"))
@click.argument("role")
@click.argument("keyid")
@click.option("--threshold", type=int, help="How many must sign.")
@folder_options
@json_option
def remove_signer(
    role: str, keyid: str, threshold: int | None, as_json: bool, **folder: Any
) -> None:
    """Let a key sign no more for ROLE."""
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        remove = resolve_keyids(repository, (keyid,))
        outcome = repository.rotate(role, opened.now, remove=remove, threshold=threshold)
        opened.note("keys_remove_signer", role, outcome, keys=remove, threshold=threshold)
        show_outcome(outcome, repository, as_json=as_json)


@click.command(epilog=examples("edgectl keys revoke 1a2b3c4d5e6f"))
@click.argument("keyid", nargs=-1, required=True)
@folder_options
@json_option
def revoke(keyid: tuple[str, ...], as_json: bool, **folder: Any) -> None:
    """Take stolen keys out of every role at once.

    In the place of one that the server held, the server makes a new one.
    """
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        revoked = resolve_keyids(repository, keyid)
        outcome = repository.revoke(revoked, opened.now)
        opened.note("keys_revoke", "", outcome, keys=revoked)
        show_outcome(outcome, repository, as_json=as_json)


@click.command(
    epilog=examples("edgectl keys delegate vision --pattern 'vision-*' --key ana.pub --key ben.pub")
)
@click.argument("family")
@click.option("--pattern", multiple=True, required=True, help="A model's name, or NAME-*.")
@click.option("--key", "key", multiple=True, required=True, type=_FILE, help="A public key.")
@click.option("--threshold", default=1, help="How many of them must sign.")
@folder_options
@json_option
def delegate(
    family: str,
    pattern: tuple[str, ...],
    key: tuple[Path, ...],
    threshold: int,
    as_json: bool,
    **folder: Any,
) -> None:
    """Let a team sign its own models: from then on the server alone cannot."""
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        keys = [load_public_key(one) for one in key]
        outcome = repository.delegate(family, pattern, keys, threshold, opened.now)
        named = [one.keyid for one in keys]
        opened.note("keys_delegate", family, outcome, patterns=pattern, keys=named)
        show_outcome(outcome, repository, as_json=as_json)


@click.command(
    epilog=examples(
        "edgectl keys undelegate vision", "edgectl keys undelegate vision --keep-targets"
    )
)
@click.argument("family")
@click.option(
    "--keep-targets", is_flag=True, help="The server signs for what the family has signed for."
)
@folder_options
@json_option
def undelegate(family: str, keep_targets: bool, as_json: bool, **folder: Any) -> None:
    """Take a family's models back: the server signs for them again."""
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        outcome = repository.undelegate(family, opened.now, keep_targets=keep_targets)
        opened.note("keys_undelegate", family, outcome)
        show_outcome(outcome, repository, as_json=as_json)


@click.command(epilog=examples("edgectl keys export root --output root.json"))
@click.argument("role", required=False)
@click.option("--output", required=True, type=_FILE, help="The file that is written.")
@folder_options
@json_option
def export(role: str | None, output: Path, as_json: bool, **folder: Any) -> None:
    """Write what waits for signatures, to be signed elsewhere.

    Beside it, OUTPUT.previous is the version that devices have. ROLE may be left out where only one
    waits.
    """
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        waiting = [one.role for one in repository.status(opened.now).staged]
        if role is None:
            if len(waiting) != 1:
                raise NotFound(
                    "tuf.nothing_staged",
                    f"{len(waiting)} documents wait for signatures",
                    hint=f"name one of: {', '.join(waiting)}" if waiting else "there is no need",
                )
            role = waiting[0]
        written = [str(output)]
        write_durably(output.absolute(), repository.staged(role), mode=0o644)
        previous = repository.current(role)
        if previous is not None:
            beside = Path(f"{output}.previous")
            write_durably(beside.absolute(), previous, mode=0o644)
            written.append(str(beside))
        if as_json:
            print_json({"role": role, "files": written})
        else:
            click.echo(f"{role}: {', '.join(written)}")


@click.command("import", epilog=examples("edgectl keys import root.json"))
@click.argument("file", type=_FILE)
@folder_options
@json_option
def import_file(file: Path, as_json: bool, **folder: Any) -> None:
    """Take over the signatures in FILE; publish what is complete."""
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        try:
            with file.open("rb") as opened_file:
                content = opened_file.read(METADATA_BYTES_MAX + 1)
        except OSError as error:
            raise Refused("keys.file", f"cannot read {file}: {error.strerror}") from error
        role = _role_of(content, repository, [o.role for o in repository.status(opened.now).staged])
        outcome = repository.submit(role, content, opened.now)
        opened.note("keys_import", role, outcome)
        show_outcome(outcome, repository, as_json=as_json)


@click.command(epilog=examples("edgectl keys discard root"))
@click.argument("role")
@folder_options
@json_option
def discard(role: str, as_json: bool, **folder: Any) -> None:
    """Give up the change of ROLE that waits for signatures."""
    with errors():
        opened = DataFolder.open(**folder)
        repository = opened.repository()
        outcome = repository.discard(role, opened.now)
        opened.note("keys_discard", role, outcome)
        show_outcome(outcome, repository, as_json=as_json)


def _role_of(content: bytes, repository: Repository, waiting: Iterable[str]) -> str:
    """Return which of the waiting documents this is: a family's does not say its name."""
    for role in waiting:
        try:
            given = read_delegator(role, content)
        except Refused:
            continue
        if given.signed_bytes == read_delegator(role, repository.staged(role)).signed_bytes:
            return role
    raise Refused(
        "tuf.changed",
        "this is none of the documents that wait for signatures here",
        hint="it may have been changed since: edgectl keys status, export it, and sign that",
    )


def _names(keys: Iterable[Any]) -> str:
    return ", ".join(f"{key.name or '-'} ({key.keyid[:12]})" for key in keys)


COMMANDS = (
    init,
    status,
    list_keys,
    export,
    import_file,
    discard,
    rotate,
    add_signer,
    remove_signer,
    revoke,
    delegate,
    undelegate,
)
