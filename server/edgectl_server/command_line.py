"""What the commands of the server's own command line have in common.

Errors read ``error[code]: …`` and ``try: …``. Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
import msgspec

from edgectl_server.errors import NotFound, ServerError
from edgectl_server.settings import Settings

__all__ = ["FILE", "check_data", "data_options", "errors", "examples", "setting_options"]

FILE = click.Path(path_type=Path, dir_okay=False)
_Command = TypeVar("_Command", bound=Callable[..., Any])
_SHORT = {"listen_host": "--host", "listen_port": "--port"}


def setting_options(command: _Command, only: Collection[str] = ()) -> _Command:
    """Give a command an option for every setting, or for `only` these, and one for the file."""
    for field in reversed(msgspec.structs.fields(Settings)):
        if only and field.name not in only:
            continue
        kind = (get_args(field.type) or (field.type,))[0]
        if get_origin(field.type) is Literal:
            kind = click.Choice(get_args(field.type))
        names = [f"--{field.name.replace('_', '-')}"]
        if field.name in _SHORT:
            names.append(_SHORT[field.name])
        shown = "empty" if field.default == "" else field.default
        command = click.option(
            *names, field.name, type=kind, default=None, help=f"Default: {shown}."
        )(command)
    return click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A TOML file; docs/server.toml shows every key.",
    )(command)


def data_options(command: _Command) -> _Command:
    """Give a command what it takes to find and open the data folder."""
    for option in (
        click.option("--key-passphrase-file", help="File whose first line decrypts the keys."),
        click.option("--data", help="The data folder. Default: edgectl-data."),
        click.option("--config", type=FILE, help="A TOML file; docs/server.toml shows every key."),
    ):
        command = option(command)
    return command


def check_data(settings: Settings) -> None:
    """Raise `NotFound` ``server.data`` where there is no data folder."""
    if not settings.data_path.is_dir():
        raise NotFound(
            "server.data",
            f"there is no server in {settings.data_path}",
            hint="name its folder with --data, or start it once",
        )


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@contextlib.contextmanager
def errors(*, as_json: bool) -> Iterator[None]:
    """Print our errors for a person, or as one JSON line, and exit with 1."""
    try:
        yield
    except ServerError as error:
        if as_json:
            problem = {"code": error.code, "detail": error.detail, "hint": error.hint}
            click.echo(json.dumps({"ready": False, "error": problem}))
        click.echo(f"error[{error.code}]: {error.detail}", err=True)
        if error.__cause__ is not None:
            logging.getLogger(__name__).debug("caused by", exc_info=error.__cause__)
            click.echo(f"while: {str(error.__cause__).splitlines()[0][:300]}", err=True)
        if error.hint:
            click.echo(f"try: {error.hint}", err=True)
        sys.exit(1)
