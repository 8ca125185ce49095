"""``python -m edgectl_server.training.sandbox FILE``: become a trainer's command, within limits.

The first process watches (`edgectl_server.pipeline.watched`); the worker limits and confines itself
and then becomes the command. It may start programs of the system and of its own folders, which the
children of the pipeline may not; it has no network where the kernel can take it away, and writes
to its own folder alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from edgectl_server.pipeline.confinement import confine
from edgectl_server.pipeline.system_calls import drop_capabilities
from edgectl_server.pipeline.watched import limit, watched
from edgectl_server.training.own_trainer import Sandbox

_FILES_MAX = 1024
_NICE = 10


def main(arguments: list[str]) -> int:
    """Run the command of the file named in `arguments`; return the exit code."""
    sandbox = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Sandbox)
    return watched(lambda: _become(sandbox))


def _become(sandbox: Sandbox) -> int:
    limit(
        memory_bytes=sandbox.memory_bytes,
        cpu_s=sandbox.cpu_s,
        file_bytes_max=sandbox.disk_bytes,
        files_max=_FILES_MAX,
    )
    os.nice(_NICE)
    reads = [Path(one).resolve() for one in sandbox.reads]
    hidden = confine(Path(sandbox.work), reads, programs=True)
    # As another user it has the one privilege to look into closed folders (`confined`), which the
    # command needs, because its inputs lie in ours. Without Landlock that would be all of them.
    if os.geteuid() == 0 or not hidden:
        drop_capabilities()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(1, 2)  # one log, in the order in which it is written
    try:
        os.execve(sandbox.command[0], list(sandbox.command), dict(os.environ))  # noqa: S606
    except OSError as error:
        print(f"cannot start {sandbox.command[0]}: {error.strerror}", flush=True)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
