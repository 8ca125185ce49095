"""What commands beside the server have done, left for the server to write into the audit log.

`edgectl keys` works on files alone, with no database at hand. Rules: one file of JSON an act, whole
when it has its name, in ``<data>/audit/pending``; names sort by time. The server takes them in, in
order, and removes each once its row is committed: after a power loss between the two there are two
rows, with the same `id`. Who can write here can write the keys, too.
"""

from __future__ import annotations

import os
import pwd
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["SpooledAct", "leave_act", "local_actor", "spooled_acts"]

_ACT_BYTES_MAX = 64 * 1024
_ACTS_MAX = 200
"""Taken in at once."""


class SpooledAct(msgspec.Struct, frozen=True, kw_only=True):
    """What was done; `at` is RFC 3339."""

    at: str
    actor: str
    action: str
    object: str
    details: dict[str, Any] = {}


def leave_act(
    directory: Path,
    action: str,
    object: str,  # noqa: A002 - the log's own word
    details: dict[str, Any],
    at: datetime,
) -> None:
    """Leave what was just done in `directory`, durably."""
    make_private_directory(directory.parent)
    make_private_directory(directory)
    act = SpooledAct(
        at=at.isoformat(), actor=local_actor(), action=action, object=object, details=details
    )
    name = f"{at:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}.json"
    write_durably(directory / name, msgspec.json.encode(act))


def spooled_acts(directory: Path) -> Iterator[tuple[Path, SpooledAct | None]]:
    """Yield what waits in `directory`, the oldest first; None for what cannot be read."""
    for path in sorted(directory.glob("[0-9]*.json"))[:_ACTS_MAX]:
        try:
            with path.open("rb") as file:
                content = file.read(_ACT_BYTES_MAX + 1)
            yield path, msgspec.json.decode(content, type=SpooledAct)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield path, None


def local_actor() -> str:
    """Return how the log names who runs a command on this machine: ``local/<account>``."""
    number = os.getuid()
    try:
        return f"local/{pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"local/{number}"
