"""A child that handles a hostile file: run it, pass its progress on, read what it left.

What the pipeline's child and a converter's have in common, on top of `edgectl_server.confined`.
Nothing that a child writes is believed without bounds and types.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgectl_server import confined
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineFailed
from edgectl_server.pipeline.spec import OUTCOME_BYTES_MAX, Progress

__all__ = ["environment", "read_outcome", "run_child"]

_STDOUT_BYTES_MAX = 1024 * 1024
_T = TypeVar("_T")


def run_child(
    command: Sequence[str],
    directory: Path,
    *,
    isolation: confined.Isolation,
    environment: Mapping[str, str],
    wall_s: float,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    too_slow: Callable[[str], PipelineFailed],
    name: str,
) -> confined.Ended:
    """Run a child until it ends; it tells its `Progress` as lines of JSON on standard output.

    Args:
        command: see `edgectl_server.confined.run`.
        directory: where it works, and which it may change.
        isolation: how it is kept apart.
        environment: all of its environment.
        wall_s: how long it may take.
        on_progress: called for every step, in this thread; what it raises ends the child.
        cancelled: asked several times a second.
        too_slow: makes the error for a limit of time, given as text.
        name: of the child, for people.

    Raises:
        PipelineFailed: what `too_slow` makes, or ``pipeline.crashed``: it wrote too much.
        PipelineCancelled: `cancelled` has said so.
    """

    def on_line(line: bytes) -> None:
        try:
            progress = msgspec.json.decode(line, type=Progress)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        on_progress(progress)

    if isolation.user is not None:
        confined.hand_over(directory, isolation.user)
    try:
        return confined.run(
            [*isolation.command, *command],
            directory,
            environment=environment,
            wall_s=wall_s,
            stdout_bytes_max=_STDOUT_BYTES_MAX,
            on_line=on_line,
            cancelled=cancelled,
        )
    except confined.CommandCancelled as error:
        raise PipelineCancelled("pipeline.cancelled", "The push was cancelled.") from error
    except confined.CommandOverrun as error:
        if error.of == "wall":
            raise too_slow(f"{wall_s:g} s by the clock") from error
        raise PipelineFailed(
            "pipeline.crashed",
            f"The {name}'s process wrote more than it may.",
            "Do not push this model again; report it.",
        ) from error


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a child: small, and without secrets."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",  # quantizers iterate over sets
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def read_outcome(path: Path, kind: type[_T], name: str) -> _T:
    """Decode a file that the child `name` left; raise `PipelineFailed` ``pipeline.crashed``."""
    try:
        return msgspec.json.decode(confined.read_regular(path, OUTCOME_BYTES_MAX), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PipelineFailed(
            "pipeline.crashed",
            f"The {name}'s process ended without a readable result.",
            "Push again; if it happens again, report it with the server's log.",
        ) from error
