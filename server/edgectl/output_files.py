"""Files that commands write where ``--output`` says.

A file gets its name when it is whole, so that a command that is stopped leaves the older one. What
is no ordinary file (``/dev/stdout``, a pipe) is written to as it is. The mode is the user's umask.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import click

from edgectl.errors import LocalError
from edgectl.output import bytes_text, plain, print_json

__all__ = ["output_option", "say_written", "write_output"]


output_option = click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; by default it is named after what is in it.",
)


def write_output(path: Path, pieces: Iterable[bytes]) -> int:
    """Write a file piece by piece; what making a piece raises leaves what was there.

    Args:
        path: of the file.
        pieces: its content.

    Raises:
        LocalError: ``output.file``: the disk, or a folder that is not there.

    Returns:
        The bytes written.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                return sum(file.write(piece) for piece in pieces)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("xb") as file:
                length = sum(file.write(piece) for piece in pieces)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise LocalError(
            "output.file",
            f"cannot write {path}: {error.strerror}",
            "choose another place with --output FILE",
        ) from error
    return length


def say_written(path: Path, length: int, *, as_json: bool) -> None:
    """Tell a person or a script what was written."""
    if as_json:
        print_json({"file": str(path), "bytes": length})
    else:
        click.echo(f"wrote {plain(path)}, {bytes_text(length)}")
