"""Where samples are redacted and sealed before anything of them is written: the supervisor's side.

Rules:

1. A sample that is to be redacted or sealed goes through a process of its own
   (`edgectl_agent.sample_child`), which is started when there is one and ended when there is none
   any more: a device that samples rarely pays nothing in between.
2. It fails closed. A sample that does not come back in time, or at all, or for which there is no
   room, is dropped, and counted by code. The settings decide alone whether samples are redacted; an
   order can neither switch that off nor see what was there before.
3. A program that others can write is not run, and is looked at before each start of the process.
4. Whatever the process and the program leave behind is killed with it.

==========================  =====================================================================
what happened               code
==========================  =====================================================================
written, redacted           ``redaction.done``
the program wants it gone   ``redaction.dropped``
the program fails           ``redaction.failed``
it does not end             ``redaction.timeout``
it gives another thing      ``redaction.changed``
it must not be run          ``redaction.refused``
a step cannot be done       ``redaction.step``
there is not enough memory  ``redaction.memory``
the process has died        ``redaction.crashed``
no sample, no usable key    ``sample.malformed``, ``sample.key``
too many at a time          ``sample.busy``
==========================  =====================================================================
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgectl_agent.inference.process import child_environment
from edgectl_agent.owned_programs import ProgramRefused, check_named, kill_marked
from edgectl_agent.redaction_steps import parse_steps, split_command
from edgectl_agent.sample_frames import MARK, Begin, Outcome, Task, frame, read_frame
from edgectl_agent.settings import Settings

__all__ = ["WAITING_BYTES_MAX", "WAITING_MAX", "Redaction", "SampleDesk", "redact_once"]

WAITING_MAX = 32
WAITING_BYTES_MAX = 16 * 1024**2
START_S_MAX = 60.0
SEAL_S_MAX = 30.0
"""Beside what the program may take."""
_STOP_S_MAX = 2.0
_PASSES_MAX = 50
_log = logging.getLogger(__name__)


class Redaction(NamedTuple):
    """What the device's owner wants done to each sample."""

    steps: str = ""
    command: tuple[str, ...] = ()
    timeout_s: float = 10.0
    memory_bytes_max: int = 256 * 1024**2

    @property
    def wanted(self) -> bool:
        """Whether anything is to be done."""
        return bool(parse_steps(self.steps)) or bool(self.command)

    @classmethod
    def of(cls, settings: Settings) -> Redaction:
        """Return what the settings say."""
        return cls(
            steps=settings.redact,
            command=split_command(settings.redact_command),
            timeout_s=settings.redact_timeout_s,
            memory_bytes_max=settings.redact_memory_bytes_max,
        )


class SampleDesk:
    """Used by the main thread; one thread of its own waits for the process."""

    def __init__(
        self,
        redaction: Redaction,
        *,
        device: str,
        state: Path,
        done: Callable[[bytes], None],
    ) -> None:
        """Begin; nothing is started.

        Args:
            redaction: of the settings.
            device: our name.
            state: the state directory, of which the process sees nothing.
            done: gets what may be written, from the thread.
        """
        self._redaction = redaction
        self._wanted = redaction.wanted
        self._begin = _begin(redaction, device, state)
        self._done = done
        self._jobs: queue.Queue[tuple[Task, bytes] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._counts: Counter[str] = Counter()
        self._unconfined: tuple[str, ...] = ()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def redacts(self) -> bool:
        """Whether a sample that was not redacted must not leave."""
        return self._wanted

    def take(self, content: bytes, key: bytes | None) -> bytes | None:
        """Take a sample; return it where nothing is to be done to it, else None.

        Args:
            content: as it was taken.
            key: to which it is sealed; None: it is not.
        """
        if key is None and not self._wanted:
            return content
        with self._lock:
            full = (
                self._jobs.qsize() >= WAITING_MAX
                or self._waiting_bytes + len(content) > WAITING_BYTES_MAX
            )
            if full or self._stopping.is_set():
                self._counts["sample.busy"] += 1
                return None
            self._waiting_bytes += len(content)
        self._jobs.put((Task(key=key), content))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="samples", daemon=True)
            self._thread.start()
        return None

    def counts(self) -> Mapping[str, int]:
        """Return what has become of samples since the start, by code."""
        with self._lock:
            return dict(self._counts)

    def status(self) -> dict[str, object]:
        """Return what is shown at the device, as plain values for JSON."""
        steps = parse_steps(self._redaction.steps)
        return {
            "redaction_steps": len(steps),
            "redaction_command": self._redaction.command[0] if self._redaction.command else None,
            "redaction_without": list(self._unconfined),
            "counts": dict(self.counts()),
        }

    def stop(self) -> None:
        """End; what waits is dropped."""
        self._stopping.set()
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(_STOP_S_MAX)

    # ------------------------------------------------------------ the thread

    def _work(self) -> None:
        while not self._stopping.is_set():
            job = self._jobs.get()
            if job is None:
                return
            try:
                self._batch(job)
            except Exception as error:  # noqa: BLE001 - no sample is worth the agent
                self._count("redaction.crashed", f"{type(error).__name__}: {error}")

    def _batch(self, first: tuple[Task, bytes]) -> None:
        """Deal with what is there, with one process."""
        job: tuple[Task, bytes] | None = first
        process: _Process | None = None
        try:
            while job is not None and not self._stopping.is_set():
                task, content = job
                with self._lock:
                    self._waiting_bytes -= len(content)
                try:
                    if process is None:
                        self._check_program()
                        process = _Process(self._begin, self._stopping)
                    outcome, answer = process.ask(task, content)
                except (ProgramRefused, OSError, ValueError, EOFError) as error:
                    outcome, answer = _outcome_of(error), b""
                    if process is not None:
                        process.end()
                    process = None
                self._take_answer(outcome, answer)
                if outcome.code == "redaction.timeout" and process is not None:
                    process.end()  # with all that the program may have left behind
                    process = None
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    return
        finally:
            if process is not None:
                process.end()

    def _take_answer(self, outcome: Outcome, answer: bytes) -> None:
        if outcome.code or not answer:
            self._count(outcome.code or "redaction.crashed", outcome.detail)
            return
        if outcome.unconfined and outcome.unconfined != self._unconfined:
            _log.warning(
                "samples are redacted and sealed without %s, which this kernel does not give",
                " and ".join(outcome.unconfined),
            )
        self._unconfined = outcome.unconfined
        if self._wanted:
            with self._lock:
                self._counts["redaction.done"] += 1
        self._done(answer)

    def _count(self, code: str, detail: str) -> None:
        with self._lock:
            self._counts[code] += 1
            times = self._counts[code]
        if times & (times - 1) == 0:  # the 1st, 2nd, 4th, 8th … time
            _log.warning("a sample is dropped: [%s] %s (%d times so far)", code, detail, times)

    def _check_program(self) -> None:
        """Raise `ProgramRefused` or `OSError` unless the program may be run."""
        if self._redaction.command:
            check_named(Path(self._redaction.command[0]))


def redact_once(redaction: Redaction, content: bytes, *, device: str, state: Path) -> Outcome:
    """Have one sample redacted as it would be, and nothing written; return what becomes of it.

    Args:
        redaction: of the settings; its program is not looked at before.
        content: of the sample.
        device: our name.
        state: the state directory, of which the process sees nothing.
    """
    process: _Process | None = None
    try:
        process = _Process(_begin(redaction, device, state), threading.Event())
        outcome, answer = process.ask(Task(), content)
    except (OSError, ValueError, EOFError) as error:
        return _outcome_of(error)
    finally:
        if process is not None:
            process.end()
    if not outcome.code and not answer:
        return msgspec.structs.replace(outcome, code="redaction.crashed", detail="no answer")
    return outcome


def _begin(redaction: Redaction, device: str, state: Path) -> Begin:
    return Begin(
        device=device,
        hidden=str(state.absolute()),
        steps=redaction.steps,
        command=redaction.command,
        timeout_s=redaction.timeout_s,
        memory_bytes_max=redaction.memory_bytes_max,
    )


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, TimeoutError):
        return Outcome(code="redaction.timeout", detail=str(error))
    if isinstance(error, ProgramRefused | FileNotFoundError | PermissionError):
        return Outcome(code="redaction.refused", detail=str(error))
    return Outcome(code="redaction.crashed", detail=f"the sample process: {error}")


class _Process:
    """The child, from its start to its end."""

    def __init__(self, begin: Begin, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._mark = secrets.token_hex(16)
        self._answer_s_max = begin.timeout_s + SEAL_S_MAX
        self._fresh = True
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgectl_agent.sample_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**child_environment(), MARK: self._mark},
            start_new_session=True,
            bufsize=0,
        )
        self._write(frame(begin), START_S_MAX)

    def ask(self, task: Task, content: bytes) -> tuple[Outcome, bytes]:
        """Return what has become of a sample.

        Raises:
            TimeoutError: it does not answer.
            OSError, ValueError, EOFError: it has died, or says something else.
        """
        deadline_s = self._answer_s_max + (START_S_MAX if self._fresh else 0.0)
        self._fresh = False
        self._write(frame(task, content), deadline_s)
        until_s = time.monotonic() + deadline_s
        try:
            found = read_frame(lambda length: self._read(length, until_s), Outcome)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error
        if found is None:
            raise EOFError("it has ended")
        return found

    def end(self) -> None:
        """End it, and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        mark = f"{MARK}={self._mark}".encode()
        for _ in range(_PASSES_MAX):
            if not kill_marked(mark):
                break

    def _write(self, content: bytes, seconds_max: float) -> None:
        assert self._child.stdin is not None
        number = self._child.stdin.fileno()
        os.set_blocking(number, False)
        until_s, left = time.monotonic() + seconds_max, memoryview(content)
        while left:
            self._wait([], [number], until_s)
            with suppress(BlockingIOError):
                left = left[os.write(number, left) :]

    def _read(self, length: int, until_s: float) -> bytes:
        assert self._child.stdout is not None
        number, content = self._child.stdout.fileno(), bytearray()
        while len(content) < length:
            self._wait([number], [], until_s)
            piece = os.read(number, length - len(content))
            if not piece:
                break
            content += piece
        return bytes(content)

    def _wait(self, readable: list[int], writable: list[int], until_s: float) -> None:
        while not any(select.select(readable, writable, [], 0.25)):
            if self._stopping.is_set():
                raise EOFError("the agent stops")
            if time.monotonic() > until_s:
                raise TimeoutError("the sample process does not answer")
