"""The pusher's own metric: a ``metric.py`` that computes one number, in a process that can no more.

::

    HIGHER_IS_BETTER = True                       # optional, this is the default

    def metric(outputs, labels, inputs):          # dicts of arrays, an array or None
        return float((outputs["y"][:, 0] > 0.5).mean())

It is code of somebody who may push, and it decides what is signed; so it must neither reach the
server nor the process that compares. For every measurement a process is forked that has no file
open, may read the libraries and nothing else (`confinement`), has the system calls of computing
alone (`system_calls`), and the limits on memory and time. It gets the arrays as they are in memory,
its own copy, and answers with one number on a pipe. What it does to its process ends with it.

Codes: ``metric.source`` (it cannot be loaded), ``metric.failed`` (it raised), ``metric.value``
(no finite number), ``metric.time``, ``metric.crashed``.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import resource
import select
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec
from msgspec import Struct

from edgectl_server.confined import has_ended
from edgectl_server.pipeline.confinement import confine
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.metrics import Answers
from edgectl_server.pipeline.system_calls import refuse_all_but_computing
from edgectl_server.pipeline.watched import lower

__all__ = ["SOURCE_BYTES_MAX", "OwnMetric", "read_source"]

SOURCE_BYTES_MAX = 64 * 1024
_ANSWER_BYTES_MAX = 4096
_WORDS_MAX = 300
_LINGER_S = 0.5
_NAME = "metric.py"
_FUNCTION = "metric"
_DIRECTION = "HIGHER_IS_BETTER"
_PIPE = 3
_HINT = (
    "Run it on your machine: metric(outputs, labels, inputs) returns one finite number; it has "
    "NumPy, and no files, programs or network."
)


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """What comes through the pipe."""

    value: float | None = None
    higher_is_better: bool = True
    code: str = ""
    detail: str = ""


def read_source(path: Path) -> str:
    """Return the text of a ``metric.py``; raise `PipelineRefused` ``metric.source``."""
    with path.open("rb") as file:
        content = file.read(SOURCE_BYTES_MAX + 1)
    if len(content) > SOURCE_BYTES_MAX:
        raise _refused("metric.source", f"it is larger than {SOURCE_BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _refused("metric.source", "it is no text in UTF-8") from error


@dataclass(frozen=True)
class OwnMetric:
    """A metric by its source; it is loaded anew for each measurement.

    Attributes:
        source: the text, see the module.
        seconds_max: for one measurement, by the clock and of processor time.
    """

    source: str
    seconds_max: float = 60.0

    def measure(self, answers: Answers) -> tuple[float, bool]:
        """Return the number, finite, and whether a higher one is better.

        Raises:
            PipelineRefused: ``metric.…``.
        """
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._be_the_metric(answers, writing)
        os.close(writing)
        try:
            content = _receive(reading, time.monotonic() + self.seconds_max)
        finally:
            os.close(reading)
            status = _end(pid)
        if content is None:
            raise PipelineRefused(
                "metric.time",
                f"metric.py cannot be used: it took more than {self.seconds_max:g} s.",
                _HINT,
            )
        return _read(content, os.waitstatus_to_exitcode(status))

    def _be_the_metric(self, answers: Answers, writing: int) -> None:
        """Measure, answer, and end this process, whatever happens."""
        try:
            self._confine(writing)
            content = msgspec.json.encode(_compute(self.source, answers))
            os.write(_PIPE, content[:_ANSWER_BYTES_MAX])
        finally:
            os._exit(0)

    def _confine(self, writing: int) -> None:
        """Give up all that measuring does not need; an error ends the process without an answer."""
        sink = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(sink, descriptor)
        os.dup2(writing, _PIPE)
        os.closerange(_PIPE + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        seconds = math.ceil(self.seconds_max) + 1
        lower({resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: seconds})
        confine(None, [])
        refuse_all_but_computing()


def _end(pid: int) -> int:
    """Let a process that has answered end by itself, for a moment; return its status."""
    until = time.monotonic() + _LINGER_S
    while time.monotonic() < until:
        if has_ended(pid):
            break
        time.sleep(_LINGER_S / 500)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _receive(reading: int, deadline: float) -> bytes | None:
    """Return what is written until the end of the pipe, bounded; None when the time is up."""
    content = b""
    while len(content) <= _ANSWER_BYTES_MAX:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        more = os.read(reading, _ANSWER_BYTES_MAX)
        if not more:
            break
        content += more
    return content


def _read(content: bytes, code: int) -> tuple[float, bool]:
    """Decode an answer, which may be anything."""
    if not content:
        how = f"by {signal.Signals(-code).name}" if code < 0 else "without an answer"
        raise PipelineRefused(
            "metric.crashed", f"metric.py cannot be used: its process ended {how}.", _HINT
        )
    try:
        answer = msgspec.json.decode(content, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refused("metric.crashed", "its process answered something else") from error
    if answer.value is None:
        known = {"metric.source", "metric.failed", "metric.value"}
        chosen = answer.code if answer.code in known else "metric.failed"
        raise _refused(chosen, _one_line(answer.detail))
    if not math.isfinite(answer.value):
        raise _refused("metric.value", f"it returned {answer.value}, expected a finite number")
    return answer.value, answer.higher_is_better


def _refused(code: str, why: str) -> PipelineRefused:
    return PipelineRefused(code, f"metric.py cannot be used: {why}.", _HINT)


# ---------------------------------------------------------------- in the process of the metric


def _compute(source: str, answers: Answers) -> Answer:
    """Load the module and call it; every error is an answer."""
    try:
        code = compile(source, _NAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Answer(code="metric.source", detail=_said(error))
    names: dict[str, Any] = {"__name__": "metric", "__file__": _NAME}
    try:
        _run(code, names)
        function, higher = names.get(_FUNCTION), names.get(_DIRECTION, True)
        if not callable(function):
            return Answer(code="metric.source", detail="it has no function metric")
        if not isinstance(higher, bool):
            return Answer(code="metric.source", detail=f"{_DIRECTION} is neither True nor False")
        value = function(dict(answers.outputs), answers.labels, dict(answers.inputs))
        return _checked(value, higher_is_better=higher)
    except BaseException as error:  # noqa: BLE001  # also SystemExit: it is somebody else's code
        return Answer(code="metric.failed", detail=_said(error))


def _run(code: CodeType, names: dict[str, Any]) -> None:
    exec(code, names)  # noqa: S102  # this is what the module is for; see its top


def _checked(value: Any, *, higher_is_better: bool) -> Answer:
    """Return the answer for what the function has returned: numbers of Python and NumPy count."""
    kind = type(value).__name__
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return Answer(code="metric.value", detail=f"it returned a {kind}, expected a number")
    number = float(value)
    if not math.isfinite(number):
        return Answer(code="metric.value", detail=f"it returned {number}, expected a finite number")
    return Answer(value=number, higher_is_better=higher_is_better)


def _said(error: BaseException) -> str:
    """Return what went wrong and in which line of the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == _NAME]  # fmt: skip
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    where = f" in line {line}" if line else ""
    return _one_line(f"{type(error).__name__}{where}: {error}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_WORDS_MAX] or "no reason was given"
