"""``edgectl keys``: who may sign models.

The CLI speaks HTTP and imports nothing that signs. What can be asked of the server's API is asked
here; keys themselves are changed on the server's data folder, and people sign with programs of
their own: for that this process is replaced by ``python -m edgectl_server.ceremony``, which has its
own help, errors and exit codes, and needs no more than the small extra ``keys``. A command that is
given ``--data``, or finds EDGECTL_SERVER_DATA, works on that folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from edgectl import types
from edgectl.client import Client
from edgectl.commands.server import missing_packages
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.output import consoles, plain, print_json
from edgectl.session import Session, examples, json_option, pass_session
from edgectl.trust_tables import alerts_table, staged_text, trust_table
from edgectl_protocol.metadata import METADATA_BYTES_MAX

__all__ = ["ATTENTION", "keys"]

_NEEDED = ("edgectl_server", "cryptography", "securesystemslib", "tuf")
_CEREMONY = [sys.executable, "-P", "-m", "edgectl_server.ceremony"]
"""-P: a module in the working directory must not stand in for one of ours."""
ATTENTION = 3
"""Exit code of ``status`` when something needs attention."""
_FILE = click.Path(path_type=Path, dir_okay=False)
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Keys(click.Group):
    """Sends to the ceremony what is not for the API."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; what is unknown here is the ceremony's to answer."""
        command = self.get_command(ctx, args[0])
        if command is None or _is_for_folder(args):
            command = _handed_over(args[0])
        return args[0], command, args[1:]


def _is_for_folder(args: Sequence[str]) -> bool:
    """Say whether a command that the API has too is meant for a data folder, or a file."""
    if args[0] == "sign":  # a role, unless there is such a file, or it looks like one
        named = [one for one in args[1:] if not one.startswith("-")]
        return any("." in one or Path(one).is_file() for one in named[:1])
    given = any(one.partition("=")[0] in {"--data", "--config"} for one in args)
    return given or "EDGECTL_SERVER_DATA" in os.environ


def _folder_options(command: _Command) -> _Command:
    """Say what leads to the ceremony; with them it is not this command that is run."""
    for option in (
        click.option("--config", metavar="FILE", expose_value=False, help="Its settings file."),
        click.option(
            "--data",
            metavar="DIR",
            expose_value=False,
            help="Work on a server's data folder instead of asking the server.",
        ),
    ):
        command = option(command)
    return command


def _handed_over(name: str, words: str = "", example: str = "") -> click.Command:
    """Return a command that the ceremony does, with everything that is given to it."""

    def callback(arguments: tuple[str, ...]) -> None:
        _hand_over([name, *arguments])

    return click.Command(
        name,
        callback=callback,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        add_help_option=False,
        help=f"{words}\n\nMore: edgectl keys {name} --help",
        short_help=words,
        epilog=examples(f"edgectl keys {name} {example}".rstrip()),
    )


def _hand_over(args: Sequence[str]) -> NoReturn:
    _check_installed()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [*_CEREMONY, *args])  # noqa: S606 - no shell is the point


def _check_installed() -> None:
    missing = missing_packages(_NEEDED)
    if missing:
        raise LocalError(
            "keys.not_installed",
            f"what signs is not installed here: {', '.join(missing)} missing",
            "pip install 'edgectl[keys]'",
        )


@click.group(
    cls=_Keys,
    invoke_without_command=True,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    epilog=examples(
        "edgectl keys status",
        "edgectl keys sign vision --key vera.pem",
        "edgectl keys generate ana.pem --name ana",
        "edgectl keys rotate timestamp --data /var/lib/edgectl",
        "edgectl keys --help",
    ),
)
@click.pass_context
def keys(ctx: click.Context) -> None:
    """Who may sign models, and what waits for signatures.

    status, export, import and sign ROLE ask the server. All else needs `pip install
    'edgectl[keys]'`: generate, public and sign FILE work without a network, the others on a
    server's data folder, on its own machine. docs/operations/keys.md has the whole ceremony.
    """
    if ctx.invoked_subcommand is None:
        _hand_over(["--help"])


@keys.command(epilog=examples("edgectl keys status", "edgectl keys status --json"))
@_folder_options
@json_option
@pass_session
def status(session: Session, *, as_json: bool) -> None:
    """Show who signs what, what waits, and what needs attention.

    The exit code is 3 when something needs attention.
    """
    with session.connect() as client:
        found = client.trust()
    if as_json:
        print_json(found)
    else:
        output, _ = consoles()
        output.print(trust_table(found.roles))
        for one in found.staged:
            output.print(f"\n{staged_text(one)}")
            for line in one.summary:
                output.print(f"  {plain(line)}")
            output.print(f"  try: edgectl keys sign {plain(one.role)} --key KEY")
        if found.alerts:
            output.print()
            output.print(alerts_table(found.alerts))
    if found.alerts:
        click.get_current_context().exit(ATTENTION)


@keys.command(epilog=examples("edgectl keys export vision --output vision.json"))
@click.argument("role", required=False)
@click.option("--output", required=True, type=_FILE, help="The file that is written.")
@_folder_options
@json_option
@pass_session
def export(session: Session, role: str | None, *, output: Path, as_json: bool) -> None:
    """Write what waits for signatures, to be signed elsewhere.

    Beside it, OUTPUT.previous is the version that devices have. ROLE may be left out where only one
    waits.
    """
    with session.connect() as client:
        if role is None:
            role = _only(client.trust().staged)
        files = {output: client.staged(role)}
        previous = _published(client, role)
    if previous is not None:
        files[Path(f"{output}.previous")] = previous
    for path, content in files.items():
        _write(path, content)
    if as_json:
        print_json({"role": role, "files": [str(path) for path in files]})
    else:
        click.echo(f"{plain(role)}: {', '.join(plain(path) for path in files)}")


@keys.command("import", epilog=examples("edgectl keys import vision.json"))
@click.argument("file", type=_FILE)
@_folder_options
@json_option
@pass_session
def import_file(session: Session, file: Path, *, as_json: bool) -> None:
    """Bring the signatures in FILE to the server; what is complete is published."""
    content = _read(file)
    with session.connect() as client, doing(f"importing {file}"):
        role = _role_of(client, content)
        result = client.submit_staged(role, content)
    _show_result(role, result, as_json=as_json)


@keys.command(
    epilog=examples(
        "edgectl keys sign vision --key vera.pem",
        "edgectl keys sign vision --key vera.pem --previous vision.json --output vision.json",
        "edgectl keys sign vision.json --key vera.pem",
    )
)
@click.argument("role")
@click.option("--key", "key", required=True, metavar="KEY", help="A file, or a URI such as hsm:2.")
@click.option("--public", metavar="FILE", help="The public half of KEY, if it does not give it.")
@click.option("--passphrase-file", metavar="FILE", help="Its first line: the passphrase or PIN.")
@click.option(
    "--previous",
    metavar="FILE",
    help="Your own copy of what was signed last, to be shown only what changes.",
)
@click.option("--output", type=_FILE, metavar="FILE", help="Keep what you have signed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def sign(
    session: Session,
    role: str,
    *,
    key: str,
    public: str | None,
    passphrase_file: str | None,
    previous: str | None,
    output: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign what waits for signatures of ROLE, after showing in words what it says.

    Fetches it, signs it here, and brings the signature back. With a FILE of `edgectl keys export`
    instead of ROLE nothing is asked of any server: edgectl keys sign FILE --help.
    """
    _check_installed()
    options = {"--public": public, "--passphrase-file": passphrase_file, "--previous": previous}
    given = [text for name, value in options.items() if value for text in (name, value)]
    given += ["--yes"] if yes else []
    given += ["--json"] if as_json else []
    with session.connect() as client, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "staged.json"
        _write(file, client.staged(role))
        command = [*_CEREMONY, "sign", str(file), "--key", key, "--submitting", *given]
        sys.stdout.flush()
        kept = subprocess.DEVNULL if as_json else None
        done = subprocess.run(command, check=False, stdout=kept)
        if done.returncode != 0:  # it has said why
            click.get_current_context().exit(done.returncode)
        content = _read(file)
        if output is not None:
            _write(output, content)
        with doing(f"bringing the signature of {role} to {client.url}"):
            result = client.submit_staged(role, content)
    _show_result(role, result, as_json=as_json)


def _show_result(role: str, result: types.SubmitResult, *, as_json: bool) -> None:
    if as_json:
        print_json({"role": role, "published": result.published, "staged": result.staged})
        return
    if result.published:
        click.echo(f"published: {', '.join(map(plain, result.published))}")
    for one in result.staged:
        click.echo(staged_text(one))


def _only(staged: Sequence[types.StagedInfo]) -> str:
    if len(staged) != 1:
        names = ", ".join(one.role for one in staged)
        raise EdgectlError(
            "tuf.nothing_staged",
            f"{len(staged)} documents wait for signatures",
            f"name one of: {names}" if names else "there is no need",
        )
    return staged[0].role


def _published(client: Client, role: str) -> bytes | None:
    try:
        return client.published(role)
    except EdgectlError as error:
        if error.code == "tuf.unknown_role":
            return None
        raise


def _role_of(client: Client, content: bytes) -> str:
    """Return which of the waiting documents this is: a family's does not say its name."""
    signed = _signed(content)
    for one in client.trust().staged:
        if signed is not None and _signed(client.staged(one.role)) == signed:
            return one.role
    raise EdgectlError(
        "tuf.changed",
        "this is none of the documents that wait for signatures there",
        "it may have been changed since: edgectl keys status, export it, and sign that",
    )


def _signed(content: bytes) -> object:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document.get("signed") if isinstance(document, dict) else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(METADATA_BYTES_MAX + 1)
    except OSError as error:
        raise LocalError("keys.file", f"cannot read {path}: {error.strerror}") from error
    if len(content) > METADATA_BYTES_MAX:
        raise LocalError(
            "keys.file", f"{path} is too large to be signed metadata", "edgectl keys export"
        )
    return content


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise LocalError("keys.file", f"cannot write {path}: {error.strerror}") from error


for _name, _words, _example in (
    ("generate", "Make a key for a person.", "ana.pem --name ana"),
    ("public", "Write the public half of a key.", "hsm:2?label=safe --output safe.pub"),
    ("init", "Begin with offline keys, before the server's first start.", "--root ana.pub"),
    ("list", "List all keys, and where the server holds them.", ""),
    ("rotate", "Change who signs for a role.", "timestamp"),
    ("add-signer", "Let another key sign for a role.", "root dora.pub --threshold 2"),
    ("remove-signer", "Let a key sign no more for a role.", "root 1a2b3c4d5e6f"),
    ("revoke", "Take stolen keys out of every role at once.", "1a2b3c4d5e6f"),
    ("delegate", "Let a team sign its models.", "vision --pattern 'vision-*' --key vera.pub"),
    ("undelegate", "Take a team's models back.", "vision --keep-targets"),
    ("discard", "Give up a change that waits.", "root"),
):
    keys.add_command(_handed_over(_name, _words, _example))
