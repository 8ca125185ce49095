"""Makes one delta in a process of its own: the parent's side.

Both files are models that somebody has pushed, and what is read of them is written in Python; still
the process is confined and limited as that of the pipeline is. What it leaves is believed as far as
its header says that it is for this base and this target; that it makes the target, the process has
tried, and each device finds out again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgectl_protocol.delta_programs import parse_header
from edgectl_protocol.deltas import DIGEST_BYTES, HEADER_BYTES_MAX, Codec
from edgectl_protocol.errors import DeltaRefused
from edgectl_server import confined
from edgectl_server.errors import ServerError
from edgectl_server.pipeline.child import environment

__all__ = ["BASE_FILE", "DELTA_FILE", "TARGET_FILE", "DeltaNotMade", "MadeFile", "make_delta"]

BASE_FILE, TARGET_FILE, DELTA_FILE = "base", "target", "delta"
_STDOUT_BYTES_MAX = 64 * 1024
_READ_BYTES = 1024**2
_MORE_BYTES = 64 * 1024
"""By which a delta may be longer than its target; such a one is of no use."""


class DeltaNotMade(ServerError):
    """There is no delta between two files; the whole one is fetched."""

    title = "The delta was not made"


@dataclass(frozen=True)
class MadeFile:
    """A delta that was made."""

    content: bytes
    codec: Codec


def make_delta(
    directory: Path, *, wall_s: int, memory_bytes: int, cancelled: Callable[[], bool]
) -> MadeFile:
    """Make the delta from `BASE_FILE` to `TARGET_FILE` in `directory`.

    Args:
        directory: of this run alone.
        wall_s: by the clock, and of processor time.
        memory_bytes: address space of the process.
        cancelled: asked several times a second.

    Raises:
        DeltaNotMade: ``delta.memory``, ``delta.timeout`` or ``delta.crashed``.
        confined.CommandCancelled: `cancelled` has said so.
    """
    isolation = confined.isolation()
    directory = directory.resolve()
    if isolation.user is not None:
        confined.hand_over(directory, isolation.user)
    command = [sys.executable, "-s", "-P", "-m", "edgectl_server.delta_child"]
    limits = [str(memory_bytes), str(wall_s)]
    try:
        ended = confined.run(
            [*isolation.command, *command, *limits],
            directory,
            environment=environment(directory),
            wall_s=wall_s,
            stdout_bytes_max=_STDOUT_BYTES_MAX,
            on_line=lambda _: None,
            cancelled=cancelled,
        )
    except confined.CommandOverrun as error:
        raise _too_slow(wall_s) from error
    if ended.code == 0:
        return _believed(directory)
    if ended.out_of_memory:
        raise DeltaNotMade("delta.memory", f"it takes more than {memory_bytes} bytes of memory")
    if ended.out_of_processor_time(wall_s):
        raise _too_slow(wall_s)
    raise DeltaNotMade("delta.crashed", f"its process ended by {ended.how}: {ended.last_line}")


def _believed(directory: Path) -> MadeFile:
    """Return what the process has left, if it is a delta between the two files."""
    base, target = directory / BASE_FILE, directory / TARGET_FILE
    try:
        content = confined.read_regular(directory / DELTA_FILE, target.stat().st_size + _MORE_BYTES)
    except OSError as error:
        raise DeltaNotMade("delta.crashed", f"its process left no delta: {error}") from error
    try:
        header, _ = parse_header(content[:HEADER_BYTES_MAX])
    except DeltaRefused as error:
        raise DeltaNotMade("delta.crashed", f"its process left no delta: {error}") from error
    for path, digest in ((base, header.base_digest), (target, header.target_digest)):
        if _digest(path)[:DIGEST_BYTES] != digest:
            raise DeltaNotMade("delta.crashed", "its process left a delta of other files")
    return MadeFile(content, header.codec)


def _digest(path: Path) -> bytes:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            state.update(piece)
    return state.digest()


def _too_slow(wall_s: int) -> DeltaNotMade:
    return DeltaNotMade("delta.timeout", f"it takes more than {wall_s} s")
