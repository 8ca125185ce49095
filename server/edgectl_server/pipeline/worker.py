"""How a child does its one task: limited, confined, and with an ending in a file.

Limits and confinement come first, before anything large is imported or read. Progress goes out as
lines of JSON on standard output; the task leaves ``result.json`` (exit code 0) or ``refusal.json``
(exit code 3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgectl_server.pipeline.confinement import confine
from edgectl_server.pipeline.endings import ending_of, out_of_memory
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import (
    REFUSAL_FILE,
    RESULT_FILE,
    Ending,
    PipelineLimits,
    Progress,
    encode,
)
from edgectl_server.pipeline.system_calls import drop_capabilities, refuse_system_calls
from edgectl_server.pipeline.watched import EXIT_REFUSED, limit

__all__ = ["Tell", "do_confined"]

Tell = Callable[[Progress], None]


def do_confined(
    limits: PipelineLimits, files: Iterable[Path], task: Callable[[Tell], msgspec.Struct]
) -> int:
    """Do a task in this process, which is never the same again; return the exit code.

    Args:
        limits: of memory, processor time and files.
        files: what it may read besides its working directory.
        task: is told how to tell its progress, and returns the result.
    """
    limit(
        memory_bytes=limits.memory_bytes,
        cpu_s=limits.cpu_s,
        file_bytes_max=limits.file_bytes_max,
        files_max=limits.files_max,
    )
    confine(Path.cwd().resolve(), files)
    drop_capabilities()
    refuse_system_calls()
    ending = _run(limits, task, _progress_channel())
    if ending is None:
        return 0
    Path(REFUSAL_FILE).write_bytes(encode(ending))
    return EXIT_REFUSED


def _run(
    limits: PipelineLimits, task: Callable[[Tell], msgspec.Struct], channel: BinaryIO
) -> Ending | None:
    """Write the result, or return why there is none."""

    def tell(progress: Progress) -> None:
        channel.write(msgspec.json.encode(progress) + b"\n")
        channel.flush()

    try:
        Path(RESULT_FILE).write_bytes(encode(task(tell)))
    except (PipelineRefused, PipelineFailed) as error:
        return ending_of(error)
    except MemoryError:
        return ending_of(out_of_memory(limits))
    except OSError as error:
        return Ending(
            kind="failed",
            code="pipeline.disk",
            detail=f"A file could not be read or written: {error.strerror or error}.",
            hint="Free space in the server's data folder, or raise its file size limit.",
        )
    return None


def _progress_channel() -> BinaryIO:
    """Keep standard output for progress; what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel
