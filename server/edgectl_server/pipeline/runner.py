"""The parent: start the child, pass its progress on, hold it to its limits, read what it left.

The child handles hostile files. It runs in a session of its own and, where the kernel allows it, in
user, process and network namespaces of its own, with a small environment without secrets, and with
no files but its own (see `confinement`). Its limits on memory, processor time and files are the
kernel's (see `__main__`), the wall clock and cancellation are kept here. Nothing that it writes is
believed without bounds and types.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from edgectl_server.pipeline.confinement import landlock_version
from edgectl_server.pipeline.endings import explain, too_slow
from edgectl_server.pipeline.errors import (
    PipelineCancelled,
    PipelineError,
    PipelineFailed,
    PipelineRefused,
)
from edgectl_server.pipeline.spec import (
    OUTCOME_BYTES_MAX,
    REFUSAL_FILE,
    RESULT_FILE,
    SPEC_FILE,
    Ending,
    PipelineLimits,
    PipelineResult,
    PipelineSpec,
    Progress,
    Replaced,
    encode,
)
from edgectl_server.pipeline.system_calls import has_seccomp

__all__ = [
    "PipelineCancelled",
    "PipelineFailed",
    "PipelineRefused",
    "run_pipeline",
]

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_STDERR_BYTES_KEPT = 8 * 1024
_STDOUT_BYTES_MAX = 1024 * 1024
_READ_BYTES = 64 * 1024
_EXIT_REFUSED = 3
_SHELL_SIGNAL_BASE = 128
_NAMESPACES = (
    "unshare", "--user", "--map-current-user", "--net", "--pid", "--fork", "--kill-child=KILL",
)  # fmt: skip


def run_pipeline(
    spec: PipelineSpec,
    directory: Path,
    *,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> PipelineResult:
    """Run the pipeline in a child process and return what it has made.

    Args:
        spec: what to do.
        directory: an existing folder of this run alone; candidates are left in it.
        on_progress: called for every step, in this thread; what it raises ends the child.
        cancelled: asked several times a second.

    Raises:
        PipelineRefused: the model or its data cannot be accepted; ``data["report"]`` is the report
            if recipes have been tried.
        PipelineFailed: ``pipeline.memory``, ``pipeline.time``, ``pipeline.disk`` or
            ``pipeline.crashed``.
        PipelineCancelled: `cancelled` has said so.
    """
    directory = directory.resolve()
    for name in (RESULT_FILE, REFUSAL_FILE):
        (directory / name).unlink(missing_ok=True)
    absolute = msgspec.structs.replace(
        spec,
        source=spec.source.resolve(),
        calibration=spec.calibration and spec.calibration.resolve(),
        evaluation=spec.evaluation and spec.evaluation.resolve(),
        parent=spec.parent and spec.parent.resolve(),
        own_metric=spec.own_metric and spec.own_metric.resolve(),
        converted=tuple(
            msgspec.structs.replace(one, path=one.path and one.path.resolve())
            for one in spec.converted
        ),
        replaced=spec.replaced and _absolute(spec.replaced),
    )
    (directory / SPEC_FILE).write_bytes(encode(absolute))
    exit_ = _run_child(spec.limits, directory, on_progress, cancelled)
    if exit_.code == 0:
        return _read(directory / RESULT_FILE, PipelineResult)
    if exit_.code == _EXIT_REFUSED:
        raise _error(_read(directory / REFUSAL_FILE, Ending))
    raise explain(exit_.code, exit_.cpu_s, exit_.stderr, spec.limits)


def _absolute(replaced: Replaced) -> Replaced:
    found: Replaced = msgspec.structs.replace(
        replaced, model=replaced.model and replaced.model.resolve()
    )
    return found


_Outcome = TypeVar("_Outcome", PipelineResult, Ending)


@dataclass(frozen=True)
class _Exit:
    """How the child has ended: exit code or minus the signal, processor time, last words."""

    code: int
    cpu_s: float
    stderr: bytes


class _Pipes:
    """What the child writes, bounded."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self._selector = selectors.DefaultSelector()
        self._stdout = child.stdout.fileno()
        for descriptor in (self._stdout, child.stderr.fileno()):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._line = b""
        self._received = 0
        self.stderr = b""

    def read(self, timeout_s: float) -> list[Progress]:
        """Wait for something to read, at most `timeout_s`, and return the progress told."""
        told: list[Progress] = []
        for key, _ in self._selector.select(timeout_s):
            content = os.read(key.fd, _READ_BYTES)
            if not content:
                self._selector.unregister(key.fd)
            elif key.fd == self._stdout:
                told.extend(self._lines(content))
            else:
                self.stderr = (self.stderr + content)[-_STDERR_BYTES_KEPT:]
        return told

    def drain(self) -> None:
        """Read what is left after the child has ended, for its last words."""
        while self._selector.get_map() and self._selector.select(0):
            self.read(0)

    def close(self) -> None:
        """Forget the pipes; whoever started the child closes them."""
        self._selector.close()

    def _lines(self, content: bytes) -> list[Progress]:
        self._received += len(content)
        if self._received > _STDOUT_BYTES_MAX:
            raise PipelineFailed(
                "pipeline.crashed",
                "The pipeline's process wrote more than it may.",
                "Do not push this model again; report it.",
            )
        *lines, self._line = (self._line + content).split(b"\n")
        told = []
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                told.append(msgspec.json.decode(line, type=Progress))
        return told


def _run_child(
    limits: PipelineLimits,
    directory: Path,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> _Exit:
    deadline = time.monotonic() + limits.wall_s
    command = [
        *_isolation(),
        sys.executable,
        "-s",  # no packages of the user
        "-P",  # no modules from the working directory
        "-m",
        "edgectl_server.pipeline",
        SPEC_FILE,
    ]
    child = subprocess.Popen(
        command,
        cwd=directory,
        env=_environment(directory),
        stdin=subprocess.PIPE,  # it ends with us: see __main__
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    pipes = _Pipes(child)
    try:
        while not _has_ended(child.pid):
            if cancelled():
                raise PipelineCancelled("pipeline.cancelled", "The push was cancelled.")
            if time.monotonic() > deadline:
                raise too_slow(f"{limits.wall_s:g} s by the clock")
            for progress in pipes.read(_POLL_S):
                on_progress(progress)
        pipes.drain()
        return _reap(child, pipes.stderr)
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        pipes.close()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _has_ended(pid: int) -> bool:
    """Say whether the child has ended, without reaping it, so that its group can be killed."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reap(child: subprocess.Popen[bytes], stderr: bytes) -> _Exit:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # whatever it may have left behind
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code > _SHELL_SIGNAL_BASE:  # the watch reports the worker's signal like this
        code = _SHELL_SIGNAL_BASE - code
    return _Exit(code=code, cpu_s=usage.ru_utime + usage.ru_stime, stderr=stderr)


@functools.cache
def _isolation() -> tuple[str, ...]:
    """Return the command that makes namespaces, or nothing where they are not to be had."""
    if not landlock_version():
        logger.warning(
            "the kernel has no Landlock: a model that breaks out of the runtime could read the "
            "server's files; run the server where it has (Linux 5.13 or newer)"
        )
    if not has_seccomp():
        logger.warning(
            "libseccomp is not installed: a model that breaks out of the runtime could attack the "
            "kernel; install it (Debian: libseccomp2)"
        )
    without_network = tuple(part for part in _NAMESPACES if part != "--net")
    for command in (_NAMESPACES, without_network):
        try:
            done = subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return command
    return ()


def _environment(directory: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",  # the quantizer iterates over sets
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _read(path: Path, kind: type[_Outcome]) -> _Outcome:
    """Decode a file that the child left."""
    try:
        return msgspec.json.decode(_read_regular(path), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PipelineFailed(
            "pipeline.crashed",
            "The pipeline's process ended without a readable result.",
            "Push again; if it happens again, report it with the server's log.",
        ) from error


def _read_regular(path: Path) -> bytes:
    """Return the content of a file that may be anything, also a pipe or a link elsewhere."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(OUTCOME_BYTES_MAX + 1)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or len(content) > OUTCOME_BYTES_MAX:
            raise OSError(f"{path.name} is no regular file of at most {OUTCOME_BYTES_MAX} bytes")
    return content


def _error(ending: Ending) -> PipelineError:
    kind = PipelineRefused if ending.kind == "refused" else PipelineFailed
    return kind(ending.code, ending.detail, ending.hint, ending.data)
