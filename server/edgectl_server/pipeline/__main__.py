"""The child: ``python -m edgectl_server.pipeline spec.json``, in its working directory.

The first process watches, and ends the worker with the parent (see `watched`).

The worker limits and confines itself before it imports or reads anything large, tells its progress
as lines of JSON on standard output, and leaves ``result.json`` (exit code 0) or ``refusal.json``
(exit code 3). Whatever runs a model is a task of its own (`tasks`).
"""

from __future__ import annotations

import os
import sys
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
    PipelineSpec,
    Progress,
    decode_spec,
    encode,
)
from edgectl_server.pipeline.system_calls import drop_capabilities, refuse_system_calls
from edgectl_server.pipeline.watched import EXIT_REFUSED, limit, watched


def main(arguments: list[str]) -> int:
    """Run the pipeline by the spec file named in `arguments`; return the exit code."""
    spec = decode_spec(Path(arguments[0]).read_bytes())
    return watched(lambda: _work(spec))


def _work(spec: PipelineSpec) -> int:
    """Do the work and return the exit code."""
    limits = spec.limits
    limit(
        memory_bytes=limits.memory_bytes,
        cpu_s=limits.cpu_s,
        file_bytes_max=limits.file_bytes_max,
        files_max=limits.files_max,
    )
    confine(Path.cwd().resolve(), spec.files)
    drop_capabilities()
    refuse_system_calls()
    ending = _run(spec, _progress_channel())
    if ending is None:
        return 0
    Path(REFUSAL_FILE).write_bytes(encode(ending))
    return EXIT_REFUSED


def _run(spec: PipelineSpec, channel: BinaryIO) -> Ending | None:
    """Write the result, or return why there is none."""

    def tell(progress: Progress) -> None:
        channel.write(msgspec.json.encode(progress) + b"\n")
        channel.flush()

    try:
        from edgectl_server.pipeline.search import search  # numpy, onnx, onnxruntime

        Path(RESULT_FILE).write_bytes(encode(search(spec, Path.cwd(), tell)))
    except (PipelineRefused, PipelineFailed) as error:
        return ending_of(error)
    except MemoryError:
        return ending_of(out_of_memory(spec.limits))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
