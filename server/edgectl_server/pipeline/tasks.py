"""Tasks in processes of their own: each may crash, hang or run out of memory, and only it ends.

The worker (see `__main__`) forks for every task, so that a task starts with all libraries and data
in memory, without the second that importing them takes. What a task returns comes back as JSON,
bounded and typed.

Rules: the worker itself never runs a model, so that no thread of a runtime is alive when it forks,
and nothing that a model does is left behind for the next task. Limits of the kernel (memory,
processor time, files) are inherited, each process counts for itself; the clock is kept here. A task
ends with the worker: it is in its process group and in its namespace.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from edgectl_server.confined import Ended
from edgectl_server.pipeline.endings import ending_of, error_of, explain, out_of_memory
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.execution import describe
from edgectl_server.pipeline.spec import OUTCOME_BYTES_MAX, Ending, PipelineLimits, encode

__all__ = ["Done", "Task", "run_all", "run_one"]

T = TypeVar("T")
_READ_BYTES = 64 * 1024
_WORDS_KEPT = 8 * 1024
_EXIT_BUG = 70


@dataclass(frozen=True)
class Task(Generic[T]):
    """Something to do.

    Attributes:
        name: for people.
        call: what is done in the forked process; it returns a struct, or raises.
        kind: the type of what it returns, as msgspec decodes it.
    """

    name: str
    call: Callable[[], T]
    kind: type[T]


@dataclass(frozen=True)
class Done(Generic[T]):
    """How a task has ended: with a value, or with an error.

    Attributes:
        task: which.
        value: what it returned.
        error: `PipelineRefused` or `PipelineFailed` if it did not.
        seconds: by the clock.
    """

    task: Task[T]
    value: T | None
    error: PipelineRefused | PipelineFailed | None
    seconds: float


def run_one(task: Task[T], limits: PipelineLimits, *, seconds_max: float) -> T:
    """Run a task and return its value; raise the error with which it ended."""
    (done,) = run_all([task], limits, workers=1, seconds_max=seconds_max)
    if done.error is not None:
        raise done.error
    assert done.value is not None
    return done.value


def run_all(
    tasks: Iterable[Task[T]], limits: PipelineLimits, *, workers: int, seconds_max: float
) -> Iterator[Done[T]]:
    """Run tasks, `workers` at a time, and yield each when it has ended.

    Args:
        tasks: begun in this order; the next is asked for when there is a place for it.
        limits: for the explanation of an end; the kernel keeps them.
        workers: how many at a time.
        seconds_max: of one task, by the clock.
    """
    waiting = iter(tasks)
    running: list[_Running[T]] = []
    try:
        while True:
            room = itertools.islice(waiting, workers - len(running))
            running.extend(_start(task, time.monotonic() + seconds_max) for task in room)
            if not running:
                return
            _listen(running)
            for one in [one for one in running if one.over]:
                running.remove(one)
                yield one.end(limits, seconds_max)
    finally:
        for one in running:
            one.kill()


@dataclass
class _Running(Generic[T]):
    """A forked process, and what it has written so far."""

    task: Task[T]
    pid: int
    begun: float
    deadline: float
    pipes: dict[int, bytes]
    answer: int
    late: bool = field(default=False)

    @property
    def over(self) -> bool:
        """Whether it has said all that it had to say, or has no more time."""
        if self.pipes and time.monotonic() > self.deadline:
            self.late = True
        return not self.pipes or self.late

    def __post_init__(self) -> None:
        self.said: dict[int, bytes] = {}

    def read(self, descriptor: int) -> None:
        """Take in what is there; a pipe that has ended is closed."""
        content = os.read(descriptor, _READ_BYTES)
        if not content:
            self.said[descriptor] = self.pipes.pop(descriptor)
            os.close(descriptor)
        elif descriptor == self.answer:
            self.pipes[descriptor] += content
            if len(self.pipes[descriptor]) > OUTCOME_BYTES_MAX:
                self.late = True
        else:
            self.pipes[descriptor] = (self.pipes[descriptor] + content)[-_WORDS_KEPT:]

    def kill(self) -> tuple[int, float]:
        """End it, if it has not ended; return the code and its processor time in seconds."""
        if self.pipes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        for descriptor in list(self.pipes):
            self.said[descriptor] = self.pipes.pop(descriptor)
            os.close(descriptor)
        _, status, usage = os.wait4(self.pid, 0)
        return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime

    def end(self, limits: PipelineLimits, seconds_max: float) -> Done[T]:
        """Reap it and return how it has ended."""
        code, cpu_s = self.kill()
        value: T | None = None
        error: PipelineRefused | PipelineFailed | None = None
        if self.late:
            error = PipelineFailed(
                "pipeline.time",
                f"It took more than {seconds_max:g} s, or wrote more than it may.",
                "Check the model for loops without end, push less data, or raise the limit.",
            )
        elif code != 0:
            words = b"".join(said for one, said in self.said.items() if one != self.answer)
            error = explain(Ended(code, cpu_s, words), limits)
        else:
            value, error = _decode(self.said[self.answer], self.task.kind, limits)
        return Done(self.task, value, error, round(time.monotonic() - self.begun, 2))


def _start(task: Task[T], deadline: float) -> _Running[T]:
    answer, answering = os.pipe()
    words, wording = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_the_task(task, answering, wording)
    os.close(answering)
    os.close(wording)
    return _Running(task, pid, begun, deadline, {answer: b"", words: b""}, answer)


def _be_the_task(task: Task[Any], answering: int, wording: int) -> None:
    """Do the task and end this process, whatever happens."""
    code = _EXIT_BUG
    try:
        os.dup2(wording, 2)
        content = _answer(task)
        while content:
            content = content[os.write(answering, content) :]
        code = 0
    except BaseException as error:  # noqa: BLE001  # two processes must never go on from here
        os.write(2, f"{type(error).__name__}: {error}"[-_WORDS_KEPT:].encode())
    finally:
        os._exit(code)


def _answer(task: Task[Any]) -> bytes:
    """Return what the task gives, or the error with which it ends, as JSON after one letter."""
    try:
        return b"v" + msgspec.json.encode(task.call())
    except (PipelineRefused, PipelineFailed) as error:
        return b"x" + encode(ending_of(error))
    except MemoryError:
        return b"m"
    except OSError as error:
        return b"o" + msgspec.json.encode(f"{error.strerror or error}")
    except Exception as error:  # noqa: BLE001  # onnxruntime's errors have no common base
        return b"e" + msgspec.json.encode(f"{type(error).__name__}: {describe(error)}")


def _decode(
    content: bytes, kind: type[T], limits: PipelineLimits
) -> tuple[T | None, PipelineRefused | PipelineFailed | None]:
    letter, document = content[:1], content[1:]
    try:
        if letter == b"v":
            return msgspec.json.decode(document, type=kind), None
        if letter == b"x":
            return None, error_of(msgspec.json.decode(document, type=Ending))
        if letter == b"m":
            return None, out_of_memory(limits)
        text = msgspec.json.decode(document, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, PipelineFailed("pipeline.crashed", "It ended without a readable result.")
    if letter == b"o":
        return None, PipelineFailed(
            "pipeline.disk",
            f"A file could not be read or written: {text}.",
            "Free space in the server's data folder, or raise its file size limit.",
        )
    return None, PipelineFailed("pipeline.step", text)


def _listen(running: Sequence[_Running[Any]]) -> None:
    """Wait until one of them writes, ends, or has no more time."""
    with selectors.DefaultSelector() as selector:
        for one in running:
            for descriptor in one.pipes:
                selector.register(descriptor, selectors.EVENT_READ, one)
        wait_s = min(one.deadline for one in running) - time.monotonic()
        for key, _ in selector.select(max(0.0, wait_s)):
            key.data.read(key.fd)
