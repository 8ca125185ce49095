"""What the commands have in common: errors, output, the data folder, secrets.

Output is text, or with ``--json`` one JSON value. Names in it come from signed metadata and were
checked to be plain.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from edgectl_server.audit_spool import leave_act
from edgectl_server.clock import now
from edgectl_server.errors import NotFound, Refused, ServerError
from edgectl_server.settings import load_settings
from edgectl_server.signing.key_files import read_passphrase
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Outcome, Repository
from edgectl_server.signing.status import StagedStatus

__all__ = [
    "ATTENTION",
    "DataFolder",
    "errors",
    "examples",
    "folder_options",
    "json_option",
    "print_json",
    "resolve_keyids",
    "secret_from",
    "show_outcome",
]

ATTENTION = 3
"""Exit code of ``status`` when something needs attention."""
_KEYID_MIN = 8
_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class DataFolder:
    """The data folder of a server on this machine."""

    path: Path
    passphrase: bytes | None
    now: datetime

    @classmethod
    def open(cls, data: str | None, config: Path | None, passphrase_file: str | None) -> DataFolder:
        """Find it by the server's own settings.

        Raises:
            Refused: ``settings.invalid``; or ``keys.user``: the folder is another user's, who could
                not read afterwards what is written now.
            Unavailable: ``keys.passphrase``.
        """
        flags = {"data": data, "key_passphrase_file": passphrase_file}
        settings = load_settings(flags, os.environ, config)
        path = settings.data_path
        owner = path.stat().st_uid if path.exists() else os.geteuid()
        if owner != os.geteuid():
            raise Refused(
                "keys.user",
                f"{path} belongs to user {owner}, you are {os.geteuid()}",
                hint=f"run this as the server's user: sudo -u '#{owner}' edgectl keys …",
            )
        return cls(path, read_passphrase(settings.key_passphrase_file), now())

    def repository(self) -> Repository:
        """Return the repository, whether it is published or waits for its first signatures.

        Raises:
            NotFound: ``server.data``: there is none.
            Unavailable: ``tuf.damaged`` or ``keys.…``.
        """
        if not (self.path / "tuf").is_dir() or not (self.path / "keys" / "signers.json").exists():
            raise NotFound(
                "server.data",
                f"there is no server in {self.path}",
                hint="name its folder with --data; begin with edgectl keys init, or start it once",
            )
        return Repository.inspect(self.path / "tuf", self.keys())

    def note(self, action: str, object: str, outcome: Outcome, **details: Any) -> None:  # noqa: A002
        """Leave for the audit log what was done, when it is done."""
        became = {name: list(roles) for name, roles in vars(outcome).items() if roles}
        leave_act(self.path / "audit" / "pending", action, object, {**became, **details}, now())

    def keys(self) -> Keys:
        """Return the keys that the server holds."""
        return Keys.open(self.path / "keys", passphrase=self.passphrase, make=())


def folder_options(command: _Command) -> _Command:
    """Give a command the options that lead to a data folder."""
    for option in (
        click.option(
            "--passphrase-file",
            metavar="FILE",
            help="The server's key_passphrase_file, if it has one.",
        ),
        click.option(
            "--config",
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The server's settings file.",
        ),
        click.option("--data", metavar="DIR", help="The server's data folder."),
    ):
        command = option(command)
    return command


def json_option(command: _Command) -> _Command:
    """Give a command ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def examples(*lines: str) -> str:
    """Return the end of a help page."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    click.echo(json.dumps(value, indent=2, default=_plain))


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Print our errors for a person on stderr, and exit with 1."""
    try:
        yield
    except ServerError as error:
        click.echo(f"error[{error.code}]: {_shown(error.detail)}", err=True)
        if error.__cause__ is not None:
            click.echo(f"while: {_shown(str(error.__cause__).partition(chr(10))[0])}", err=True)
        if error.hint:
            click.echo(f"try: {_shown(error.hint)}", err=True)
        sys.exit(1)


def secret_from(passphrase_file: str | None, what: str) -> Callable[[str], bytes | None]:
    """Return what gives a passphrase or PIN: the file, or the person who is asked."""

    def secret(name: str) -> bytes | None:
        if passphrase_file:
            return read_passphrase(passphrase_file)
        text: str = click.prompt(f"{name} of {what}", hide_input=True, err=True)
        return text.encode()

    return secret


def show_outcome(outcome: Outcome, repository: Repository, *, as_json: bool) -> None:
    """Print what became of a change, and the next step."""
    staged = repository.status(now()).staged
    if as_json:
        print_json({"published": outcome.published, "void": outcome.void, "staged": staged})
        return
    roles = [role for role in outcome.published if not role.startswith("bin-")]
    if roles:
        click.echo(f"published: {', '.join(roles)}")
    for role in outcome.void:
        click.echo(f"the signatures that {role} had are void: sign it again")
    for one in staged:
        click.echo(_waiting(one))
    for one in staged:
        if one.missing:
            click.echo(f"next: edgectl keys export {one.role} --output {one.role}.json")


def resolve_keyids(repository: Repository, given: tuple[str, ...]) -> list[str]:
    """Return whole key ids for names of keys, or beginnings of ids.

    Raises:
        NotFound: ``tuf.unknown_key``.
    """
    status = repository.status(now())
    keys = [key for role in status.roles for key in role.keys]
    keys += [key for staged in status.staged for key in staged.unsigned]
    result: list[str] = []
    for one in given:
        found = {key.keyid for key in keys if key.name == one}
        if len(one) >= _KEYID_MIN:
            found |= {key.keyid for key in keys if key.keyid.startswith(one)}
        if len(found) != 1:
            raise NotFound(
                "tuf.unknown_key",
                f"{one!r} names {len(found)} keys",
                hint=f"a name, or {_KEYID_MIN} characters of an id, as edgectl keys list has them",
            )
        result += found
    return result


def _waiting(one: StagedStatus) -> str:
    if not one.missing:
        return f"waits: {one.role} {one.version} is signed, and waits for the others"
    names = ", ".join(key.name or key.keyid[:12] for key in one.unsigned)
    return f"waits: {one.role} {one.version} for {one.missing} more of {names}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.__dict__


def _shown(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)
