"""Trainers of the operator's own: named in a file that only who runs the server writes.

::

    [trainer.finetune]
    command = ["/opt/train/venv/bin/python", "/opt/train/finetune.py"]
    reads = ["/opt/train"]             # folders and files besides those of the system
    description = "a few epochs at 1e-5"
    wall_s = 3600
    cpu_s = 7200
    memory_bytes = 8589934592
    disk_bytes = 4294967296

Over the network a trainer is named, never described: a request cannot bring a command.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

__all__ = ["BUILT_IN", "OwnTrainer", "TrainersInvalid", "load_trainers"]

BUILT_IN = "head"
_MiB = 1024**2
_FILE_BYTES_MAX = 256 * 1024
_Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class TrainersInvalid(Exception):
    """The file cannot be read, or says what is not known."""


class OwnTrainer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command, and what it may use."""

    command: Annotated[tuple[_Text, ...], Meta(min_length=1, max_length=64)]
    """Program, absolute, and arguments."""
    reads: Annotated[tuple[_Text, ...], Meta(max_length=64)] = ()
    """Absolute paths that it may read, and run programs from."""
    environment: dict[str, Annotated[str, Meta(max_length=4096)]] = {}
    """More of it; nothing of the server's own is passed on."""
    description: Annotated[str, Meta(max_length=256)] = ""
    wall_s: Annotated[int, Meta(ge=1, le=7 * 86400)] = 3600
    cpu_s: Annotated[int, Meta(ge=1)] = 7200
    memory_bytes: Annotated[int, Meta(ge=64 * _MiB)] = 8 * 1024 * _MiB
    """Of address space."""
    disk_bytes: Annotated[int, Meta(ge=1 * _MiB)] = 4 * 1024 * _MiB
    """Of all that it writes."""


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    trainer: dict[Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], OwnTrainer] = {}


def load_trainers(path: str) -> Mapping[str, OwnTrainer]:
    """Return the trainers by name.

    Args:
        path: of the file; empty: there are none.

    Raises:
        TrainersInvalid: with a sentence that says what is wrong.
    """
    if not path:
        return {}
    try:
        content = Path(path).read_bytes()[: _FILE_BYTES_MAX + 1]
        if len(content) > _FILE_BYTES_MAX:
            raise TrainersInvalid(f"{path} is longer than {_FILE_BYTES_MAX} bytes")
        found = msgspec.convert(tomllib.loads(content.decode()), _File).trainer
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise TrainersInvalid(f"{path}: {error}") from error
    for name, one in found.items():
        paths = (one.command[0], *one.reads)
        if name == BUILT_IN or not all(Path(text).is_absolute() for text in paths):
            what = (
                "is built in" if name == BUILT_IN else "has a program or path that is not absolute"
            )
            raise TrainersInvalid(f"{path}: the trainer {name} {what}")
    return found
