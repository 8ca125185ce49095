"""Applies a delta in a throw-away process: the supervisor's side.

It starts ``python -m edgectl_agent.delta_child``, hands it three files, and says how it ended. The
process may be started before there is a delta: interpreter and NumPy are ready when it is there.
What is not made is fetched whole, so nothing here is an error of the update:

==========================  ===============================================================
what happened               code
==========================  ===============================================================
damaged, hostile, outdated  ``delta.…`` of the decoder, see `edgectl_protocol.errors`
beyond the memory limit     ``delta.memory``
not done in time            ``delta.timeout``
files unreadable, disk full ``delta.unreadable``
killed by a signal          ``delta.crashed``
no process                  ``delta.start``
somebody ended it           ``delta.stopped``
==========================  ===============================================================
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec
from msgspec import Meta, Struct

from edgectl_agent.errors import make_reason
from edgectl_agent.inference.process import child_environment
from edgectl_protocol.messages import Reason

__all__ = ["DeltaProcess", "DeltaResult", "DeltaTask", "Progress", "apply_delta"]

_POLL_S = 0.02
_ANSWER_BYTES_MAX = 16 * 1024
_CONTINUED = frozenset({"delta.crashed", "delta.start", "delta.stopped"})
"""What has been made is kept after these, for another try."""
_STOPPED_BY = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class DeltaTask(Struct, frozen=True, kw_only=True):
    """What the child gets, as one line of JSON on its standard input.

    Attributes:
        delta: the file.
        base: the files that the device has, to be read one after the other as one.
        target: the file to write; one of an interrupted try is continued.
        target_sha256: the signed digest, in hexadecimal.
        target_bytes: the signed length.
        check_base: digest the base before; False where it is known by its digest.
        timeout_s: wall time.
        memory_bytes_max: beside what interpreter and libraries take, about 30 MB.
    """

    delta: str
    base: tuple[str, ...]
    target: str
    target_sha256: str
    target_bytes: int
    check_base: bool = True
    timeout_s: float = 600.0
    memory_bytes_max: int = 96 * 1024 * 1024


class DeltaResult(Struct, frozen=True, kw_only=True):
    """What the child says: no code is success."""

    code: str = ""
    detail: str = ""
    resumed_bytes: int = 0


class Progress(Struct, frozen=True, kw_only=True):
    """How far an interrupted try has come: whole blocks, and the bytes of the target they make."""

    blocks: Annotated[int, Meta(ge=0)] = 0
    target_bytes: Annotated[int, Meta(ge=0)] = 0


class DeltaProcess:
    """A process for one delta; used by one thread, as a context that ends the process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Have it begun, if it is not; what it needs it imports meanwhile. Raises nothing."""
        if self._process is None:
            with suppress(OSError):  # said by `apply`, which tries it again
                self._process = _start()

    def apply(
        self, task: DeltaTask, *, cancelled: Callable[[], bool] = lambda: False
    ) -> Reason | None:
        """Make the target file; return why it is not there, or None. Raises nothing.

        A refused target is deleted; one that was interrupted stays, with its progress.

        Args:
            task: the files and limits.
            cancelled: says that nobody waits for it any more.
        """
        try:
            self._process = self._process or _start()
            result = _run(self._process, task, cancelled)
        except OSError as error:
            detail = f"cannot start the delta process: {error}"
            result = DeltaResult(code="delta.start", detail=detail)
        finally:
            self.close()
        if not result.code:
            return None
        if result.code not in _CONTINUED:
            with suppress(OSError):
                Path(task.target).unlink(missing_ok=True)
                Path(task.target + ".progress").unlink(missing_ok=True)
        return make_reason(result.code, result.detail)

    def close(self) -> None:
        """End it, whatever it does. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def apply_delta(task: DeltaTask, *, cancelled: Callable[[], bool] = lambda: False) -> Reason | None:
    """Do what `DeltaProcess.apply` does, in a process that is started now."""
    with DeltaProcess() as process:
        return process.apply(task, cancelled=cancelled)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "edgectl_agent.delta_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        start_new_session=True,
    )


def _run(
    process: subprocess.Popen[bytes], task: DeltaTask, cancelled: Callable[[], bool]
) -> DeltaResult:
    assert process.stdin is not None
    assert process.stdout is not None
    killed_for = ""
    with suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        process.stdin.flush()
    deadline = time.monotonic() + task.timeout_s
    while process.poll() is None and not killed_for:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
        if cancelled():
            killed_for = "delta.stopped"
        elif time.monotonic() > deadline:
            killed_for = "delta.timeout"
    if process.poll() is None:
        process.kill()
    process.wait()
    answer = process.stdout.read(_ANSWER_BYTES_MAX)
    return _judge(task, process.returncode, answer, killed_for)


def _judge(task: DeltaTask, status: int, answer: bytes, killed_for: str) -> DeltaResult:
    """Return what it said, or what ended it."""
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(answer, type=DeltaResult)
    if killed_for == "delta.timeout" or -status == signal.SIGXCPU:
        return DeltaResult(code="delta.timeout", detail=f"not done after {task.timeout_s:g} s")
    if killed_for or -status in _STOPPED_BY:
        return DeltaResult(code="delta.stopped", detail="nobody waits for it any more")
    detail = f"the delta process ended with status {status}"
    return DeltaResult(code="delta.crashed", detail=detail)
