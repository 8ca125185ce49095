"""The child: ``python -m edgectl_server.pipeline spec.json``, in its working directory.

The first process watches: it kills the worker and its tasks when standard input ends, which is when
the parent has died, and passes on how the worker has ended (a signal as 128 and its number, as
shells do). A parent-death signal would not do: it comes with the end of the *thread* that had
started the child. Where there is a process namespace, the watch is its first process, so that
nothing in it outlives the watch, and the worker dies of signals as any process does, which a first
process does not.

The worker limits and confines itself before it imports or reads anything large, tells its progress
as lines of JSON on standard output, and leaves ``result.json`` (exit code 0) or ``refusal.json``
(exit code 3). Whatever runs a model is a task of its own (`tasks`).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgectl_server.pipeline.confinement import confine
from edgectl_server.pipeline.endings import out_of_memory
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import (
    REFUSAL_FILE,
    RESULT_FILE,
    Ending,
    PipelineLimits,
    PipelineSpec,
    Progress,
    decode_spec,
    encode,
)
from edgectl_server.pipeline.system_calls import drop_capabilities, refuse_system_calls

EXIT_REFUSED = 3
_EXIT_ORPHANED = 4
_SHELL_SIGNAL_BASE = 128


def main(arguments: list[str]) -> int:
    """Run the pipeline by the spec file named in `arguments`; return the exit code."""
    spec = decode_spec(Path(arguments[0]).read_bytes())
    worker = os.fork()
    return _watch(worker) if worker else _work(spec)


def _watch(worker: int) -> int:
    """Return the worker's exit code, unless standard input ends before."""

    def end_with_parent() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(0, signal.SIGKILL)  # the worker and its tasks, and us where we are no init
        os._exit(_EXIT_ORPHANED)

    threading.Thread(target=end_with_parent, name="parent-watch", daemon=True).start()
    _, status = os.waitpid(worker, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SHELL_SIGNAL_BASE - code


def _work(spec: PipelineSpec) -> int:
    """Do the work and return the exit code."""
    _limit(spec.limits)
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
    except PipelineRefused as error:
        return Ending(
            kind="refused",
            code=error.code,
            detail=error.detail,
            hint=error.hint,
            data=error.data,
        )
    except PipelineFailed as error:
        return _failed(error)
    except MemoryError:
        return _failed(out_of_memory(spec.limits))
    except OSError as error:
        return Ending(
            kind="failed",
            code="pipeline.disk",
            detail=f"A file could not be read or written: {error.strerror or error}.",
            hint="Free space in the server's data folder, or raise its file size limit.",
        )
    return None


def _failed(error: PipelineFailed) -> Ending:
    return Ending(kind="failed", code=error.code, detail=error.detail, hint=error.hint)


def _limit(limits: PipelineLimits) -> None:
    """Set the limits of this process; a hard limit that is lower already stays."""
    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_FSIZE: limits.file_bytes_max,
        resource.RLIMIT_NOFILE: limits.files_max,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def _progress_channel() -> BinaryIO:
    """Keep standard output for progress; what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
