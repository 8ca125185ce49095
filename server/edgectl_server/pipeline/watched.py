"""The two processes of a child: one watches, the other limits itself and works.

The first process kills the worker, and all that it has started, when standard input ends, which is
when the parent has died, and passes on how the worker has ended (a signal as 128 and its number, as
shells do). A parent-death signal would not do: it comes with the end of the *thread* that had
started the child. Where there is a process namespace, the watch is its first process, so that
nothing in it outlives the watch, and the worker dies of signals as any process does, which a first
process does not.

The child must lead a process group of its own. The standard library alone is imported here, because
converters run this with a Python that has nothing else of edgectl.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable

__all__ = ["EXIT_REFUSED", "limit", "lower", "watched"]

EXIT_REFUSED = 3
"""The worker has left a refusal, and no result."""
_EXIT_ORPHANED = 4
_SHELL_SIGNAL_BASE = 128


def watched(work: Callable[[], int]) -> int:
    """Do `work` in a process of its own and watch over it.

    Returns:
        In the worker and in the watch: the exit code, which is what `work` returns.
    """
    worker = os.fork()
    return _watch(worker) if worker else work()


def limit(*, memory_bytes: int, cpu_s: int, file_bytes_max: int, files_max: int) -> None:
    """Set the limits of this process; a hard limit that is lower already stays.

    Args:
        memory_bytes: of address space.
        cpu_s: of processor time.
        file_bytes_max: length of a file that it writes.
        files_max: how many may be open.
    """
    lower(
        {
            resource.RLIMIT_AS: memory_bytes,
            resource.RLIMIT_CPU: cpu_s,
            resource.RLIMIT_FSIZE: file_bytes_max,
            resource.RLIMIT_NOFILE: files_max,
            resource.RLIMIT_CORE: 0,
        }
    )


def lower(limits: dict[int, int]) -> None:
    """Set soft and hard limits by their kind; none is raised."""
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


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
