"""Simple redactions by themselves: lines that the device's owner writes into agent.toml.

::

    zero input.face                 every element becomes 0
    zero input.x[3]                 column 3 of the last axis; [3:6] are columns 3, 4 and 5
    round input.x[0:2] 0.5          to multiples of 0.5
    keep output.*                   stays as it is
    har: zero input.x[3]            of the model har alone

Rules:

1. Every tensor of a sample must be named by a step. A sample with another one is dropped, and so is
   one of a model that no step is for: whoever pushes a model under another name, or with another
   input, gets round nothing.
2. A step that cannot be done to a tensor that it names, such as a column that is not there, drops
   the sample.
3. Steps are done in their order; lines and ``;`` part them, ``#`` begins a comment.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgectl_agent.errors import UsageError
from edgectl_protocol.samples import SampleTensor

__all__ = ["Step", "StepsRefused", "parse_steps", "redact_tensors", "split_command"]

_STEPS_MAX = 64
_BITS = 64
_LINE = re.compile(
    r"(?:(?P<model>[A-Za-z0-9][A-Za-z0-9._-]{0,63})\s*:\s*)?"
    r"(?P<action>zero|round|keep)\s+(?P<tensor>(?:input|output)\.[^\s\[\]]{1,256})"
    r"(?:\[(?P<first>[0-9]{1,6})(?P<range>:(?P<end>[0-9]{1,6}))?\])?"
    r"(?:\s+(?P<number>[0-9.eE+-]{1,32}))?"
)
_NUMBERS = {
    "BOOL": "?", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
    "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


class StepsRefused(Exception):
    """The steps do not cover a sample, or cannot be done to it: it must not leave."""


class Step(NamedTuple):
    """One line.

    Attributes:
        model: of which model; empty: of any.
        action: what is done.
        tensor: name of the tensor; ``*`` stands for anything.
        first: of the columns; None: all.
        end: the column after the last.
        number: to whose multiples is rounded.
    """

    model: str
    action: Literal["zero", "round", "keep"]
    tensor: str
    first: int | None = None
    end: int | None = None
    number: float = 0.0


def parse_steps(text: str) -> tuple[Step, ...]:
    """Read the setting `redact`.

    Raises:
        UsageError: ``settings.value``: a line that is none, or too many.
    """
    lines = (part.partition("#")[0].strip() for part in re.split(r"[\n;]", text))
    steps = tuple(_parse(one) for one in lines if one)
    if len(steps) > _STEPS_MAX:
        raise _wrong(f"redact has {len(steps)} steps, at most {_STEPS_MAX}")
    return steps


def _parse(line: str) -> Step:
    found = _LINE.fullmatch(line)
    if found is None:
        raise _wrong(f"redact: {line[:200]!r} is no step")
    action = found["action"]
    try:
        number = float(found["number"] or 0)
    except ValueError as error:
        raise _wrong(f"redact: {found['number']!r} is no number") from error
    if (action == "round") != (found["number"] is not None) or (
        action == "round" and not 0 < number < float("inf")
    ):
        raise _wrong(f"redact: {line[:200]!r}: round, and only it, has a number above 0")
    first = None if found["first"] is None else int(found["first"])
    end = None if first is None else int(found["end"]) if found["end"] else first + 1
    if first is not None and end is not None and end <= first:
        raise _wrong(f"redact: {line[:200]!r}: there is no column in it")
    return Step(found["model"] or "", action, found["tensor"], first, end, number)  # type: ignore[arg-type]  # the pattern has only these


def split_command(text: str) -> tuple[str, ...]:
    """Split the setting `redact_command` as a shell would; empty: there is none.

    Raises:
        UsageError: ``settings.value``: quotes that do not end, or no absolute path.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise _wrong(f"redact_command: {error}") from error
    if words and not Path(words[0]).is_absolute():
        raise _wrong(f"redact_command: {words[0][:200]!r} is no absolute path")
    return words


def redact_tensors(
    model: str, tensors: Sequence[tuple[SampleTensor, bytes]], steps: Sequence[Step]
) -> list[tuple[SampleTensor, bytes]]:
    """Return the tensors of a sample after all steps.

    Raises:
        StepsRefused: a tensor that no step names, or a step that cannot be done.
    """
    import numpy as np

    given = [one for one in steps if one.model in {"", model}]
    result = []
    for tensor, content in tensors:
        named = [one for one in given if fnmatch.fnmatchcase(tensor.name, one.tensor)]
        if not named:
            raise StepsRefused(f"no step of redact names {tensor.name} of {model}")
        array = np.frombuffer(content, _NUMBERS[tensor.datatype]).reshape(tensor.shape).copy()
        for step in named:
            _do(step, array)
        result.append((tensor, array.tobytes()))
    return result


def _do(step: Step, array: Any) -> None:
    """Change an array in place.

    Args:
        step: what to do.
        array: numpy's, of any shape.
    """
    import numpy as np

    if step.action == "keep":
        return
    part = array
    if step.first is not None:
        if array.ndim == 0 or step.end is None or step.end > array.shape[-1]:
            raise StepsRefused(f"{step.tensor} has no column {step.first} to {step.end}")
        part = array[..., step.first : step.end]
    if step.action == "zero":
        part[...] = 0
    elif array.dtype.kind in "fiu":
        # In FP64, so that halves of a step are what they are; what is no number stays none.
        rounded = np.round(part.astype(np.float64) / step.number) * step.number
        if array.dtype.kind != "f":
            limits = np.iinfo(array.dtype)  # the largest of 64 bits is no FP64: the one below it is
            top = np.nextafter(float(limits.max), 0) if limits.bits == _BITS else limits.max
            rounded = np.clip(rounded, limits.min, top)
        part[...] = rounded
    else:
        raise StepsRefused(f"{step.tensor} has no numbers to round")


def _wrong(detail: str) -> UsageError:
    return UsageError("settings.value", detail, hint="docs/agent.toml shows each setting")
