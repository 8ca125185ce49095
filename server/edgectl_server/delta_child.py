"""The child: ``python -m edgectl_server.delta_child MEMORY_BYTES SECONDS``, in its own directory.

It limits and confines itself, as that of the pipeline does, before it reads the two files; it
leaves the delta, which `encode` has applied before it returned it, and says nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgectl_server.delta_process import BASE_FILE, DELTA_FILE, TARGET_FILE
from edgectl_server.pipeline.confinement import confine
from edgectl_server.pipeline.system_calls import drop_capabilities, refuse_system_calls
from edgectl_server.pipeline.watched import limit, watched

_FILES_MAX = 64
_DELTA_BYTES_MAX = 512 * 1024**2
_NICE = 10


def main(arguments: list[str]) -> int:
    """Make the delta; return the exit code."""
    memory_bytes, seconds = (int(one) for one in arguments)
    return watched(lambda: _work(memory_bytes, seconds))


def _work(memory_bytes: int, seconds: int) -> int:
    limit(
        memory_bytes=memory_bytes,
        cpu_s=seconds,
        file_bytes_max=_DELTA_BYTES_MAX,
        files_max=_FILES_MAX,
    )
    os.nice(_NICE)
    confine(Path.cwd().resolve(), [])
    drop_capabilities()
    refuse_system_calls()
    from edgectl_server.deltas.encoder import encode  # numpy

    made = encode(Path(BASE_FILE).read_bytes(), Path(TARGET_FILE).read_bytes())
    Path(DELTA_FILE).write_bytes(made.content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
