"""What a person does with their own key: make it, read what is to be signed, sign it.

Needs neither the server's data nor a network; ``pip install 'edgectl[keys]'`` is enough.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root, Targets

from edgectl_protocol.metadata import METADATA_BYTES_MAX
from edgectl_server.ceremony.console import errors, examples, json_option, print_json, secret_from
from edgectl_server.errors import Conflict, Refused
from edgectl_server.signing.describe import changes_between, key_text
from edgectl_server.signing.documents import Document, mandate_in_root, read_document
from edgectl_server.signing.key_files import private_key_pem, read_passphrase
from edgectl_server.signing.signers import (
    key_document,
    load_public_key,
    named_key,
    open_signer,
    public_key_of,
)
from edgectl_server.storage.files import write_durably

__all__ = ["generate", "public", "sign"]

_URI = re.compile(r"(file|hsm|awskms|gcpkms|azurekms|hv):.*")


@click.command(
    epilog=examples(
        "edgectl keys generate ana.pem --name ana",
        "edgectl keys generate ana.pem --name ana --passphrase-file passphrase",
    )
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", default="", help="Whose key it is; everybody who signs sees it.")
@click.option("--passphrase-file", metavar="FILE", help="Its first line encrypts the key.")
@click.option("--no-passphrase", is_flag=True, help="Do not encrypt it: for a disk that is.")
@json_option
def generate(
    file: Path, name: str, passphrase_file: str | None, no_passphrase: bool, as_json: bool
) -> None:
    """Make a key for a person: FILE, which they keep, and beside it NAME.pub for the others.

    Without --passphrase-file the passphrase is asked for.
    """
    with errors():
        beside = file.with_suffix(".pub") if file.suffix == ".pem" else Path(f"{file}.pub")
        for one in (file, beside):
            if one.exists():
                raise Conflict("keys.exists", f"there is a file {one}", hint="choose another name")
        private = Ed25519PrivateKey.generate()
        key = named_key(SSlibKey.from_crypto(private.public_key()), name)
        if name and not key.unrecognized_fields:
            raise Refused("keys.name", "this cannot be a name", hint="letters, digits, . _ @ + -")
        passphrase = None if no_passphrase else _new_passphrase(passphrase_file)
        write_durably(file, private_key_pem(private, passphrase), mode=0o600)
        _write_public(beside, key)
        if as_json:
            print_json(key_document(key))
        else:
            click.echo(f"key {key.keyid}")
            click.echo(f"keep {file} to yourself; give {beside} to whoever runs the server")


@click.command(
    epilog=examples("edgectl keys public hsm:2?label=safe --name safe --output safe.pub")
)
@click.argument("key")
@click.option("--name", default="", help="Whose key it is; everybody who signs sees it.")
@click.option("--passphrase-file", metavar="FILE", help="Its first line: the passphrase or PIN.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file that is written.",
)
@json_option
def public(key: str, name: str, passphrase_file: str | None, output: Path, as_json: bool) -> None:
    """Write the public half of KEY, a file or a URI, for the others."""
    with errors():
        uri = _uri(key)
        found = public_key_of(uri, Path.cwd(), secret_from(passphrase_file, key))
        found = named_key(found, name)
        _write_public(output, found)
        if as_json:
            print_json(key_document(found))
        else:
            click.echo(f"key {found.keyid}")


@click.command(
    epilog=examples(
        "edgectl keys sign root.json --key ana.pem --previous root.json.previous",
        "edgectl keys sign root.json --key hsm:2?label=safe --passphrase-file pin --yes",
    )
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", "key", required=True, metavar="KEY", help="A file, or a URI such as hsm:2.")
@click.option(
    "--public",
    "public_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The public half of KEY, for a service that does not give it.",
)
@click.option("--passphrase-file", metavar="FILE", help="Its first line: the passphrase or PIN.")
@click.option(
    "--previous",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The version before, to show only what changes. Best your own copy.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write; FILE itself if it is left out.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--submitting", is_flag=True, hidden=True, help="Who calls brings it back.")
@json_option
def sign(
    *,
    file: Path,
    key: str,
    public_file: Path | None,
    passphrase_file: str | None,
    previous: Path | None,
    output: Path | None,
    yes: bool,
    submitting: bool,
    as_json: bool,
) -> None:
    """Add your signature to FILE, after showing in words what it says.

    FILE comes from `edgectl keys export`, and goes back to `edgectl keys import`. This needs no
    network.
    """
    with errors():
        document = _read(file)
        before = None if previous is None else _read(previous)
        _check_sequence(document, before)
        lines = changes_between(None if before is None else before.signed, document.signed)
        if not as_json:
            click.echo("\n".join(lines))
        if not yes:
            click.confirm("Sign this?", abort=True, err=True)
        given = None if public_file is None else load_public_key(public_file)
        signer = open_signer(_uri(key), given, Path.cwd(), secret_from(passphrase_file, key))
        keyid = signer.public_key.keyid
        _check_key(keyid, document, before)
        signed = document.with_signatures_of([signer])
        write_durably(output or file, signed.content, mode=0o644)
        if as_json:
            signatures = list(signed.metadata.signatures)
            print_json({"signed": lines, "keyid": keyid, "signatures": signatures})
        else:
            count = len(signed.metadata.signatures)
            click.echo(f"signed with {key_text(signer.public_key, keyid)}; signatures: {count}")
            if submitting:
                return
            click.echo(f"next: bring {output or file} back, edgectl keys import {output or file}")


def _uri(key: str) -> str:
    return key if _URI.fullmatch(key) else f"file:{Path(key).absolute()}"


def _new_passphrase(file: str | None) -> bytes | None:
    if file:
        return read_passphrase(file)
    text: str = click.prompt(
        "passphrase of the new key", hide_input=True, confirmation_prompt=True, err=True
    )
    return text.encode()


def _write_public(path: Path, key: Any) -> None:
    content = json.dumps(key_document(key), indent=1).encode() + b"\n"
    write_durably(path, content, mode=0o644)


def _read(path: Path) -> Document[Any]:
    try:
        with path.open("rb") as file:
            content = file.read(METADATA_BYTES_MAX + 1)
    except OSError as error:
        raise Refused("keys.file", f"cannot read {path}: {error.strerror}") from error
    try:
        return read_document(content, Root)
    except Refused:
        return read_document(content, Targets)


def _check_sequence(document: Document[Any], before: Document[Any] | None) -> None:
    if before is None:
        return
    if before.signed.type != document.signed.type or before.version + 1 != document.version:
        raise Refused(
            "keys.previous",
            f"{document.signed.type} {document.version} does not follow on "
            f"{before.signed.type} {before.version}",
            hint="give the version before it, or leave --previous out to see all that it says",
        )


def _check_key(keyid: str, document: Document[Any], before: Document[Any] | None) -> None:
    """A root says itself who may sign it, so that a wrong key is noticed before the way back."""
    roots = [one.signed for one in (document, before) if one and isinstance(one.signed, Root)]
    if roots and not any(keyid in mandate_in_root(root, "root").keyids for root in roots):
        raise Refused(
            "tuf.unknown_key",
            f"{keyid[:12]}… does not sign for this root",
            hint="use the key that the lines above name; give --previous if you are leaving",
        )
