"""A sample's file as arrays, and what its model has answered.

Nothing in a file is run. Elements lie in the file as the header says, which is checked to the byte
(`edgectl_protocol.samples`) before an array is made of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import Scores
from edgectl_protocol.samples import SAMPLE_HEAD_BYTES_MAX, SampleNote, read_sample_head

__all__ = ["Answer", "Arrays", "answer_of", "read_sample"]

Arrays = dict[str, npt.NDArray[Any]]
_DTYPES = {
    "BOOL": "?", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
    "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_LENGTH_BYTES = 8


class Answer(NamedTuple):
    """What a model has answered to one row.

    Attributes:
        number: of the class; -1: it has no class scores, or none that are numbers.
        confidence: 0 to 1, six digits; None without class.
    """

    number: int
    confidence: float | None


def read_sample(content: bytes) -> tuple[SampleNote, Arrays]:
    """Return a sample's note and its tensors, ``input.NAME`` and ``output.NAME``.

    Raises:
        ProtocolError: not such a file.
    """
    head = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content))
    at = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    arrays: Arrays = {}
    for tensor in head.tensors:
        dtype = np.dtype(_DTYPES[tensor.datatype])
        count = int(np.prod(tensor.shape, dtype=np.int64))
        arrays[tensor.name] = np.frombuffer(content, dtype, count, at).reshape(tensor.shape)
        at += count * dtype.itemsize
    return head.note, arrays


def answer_of(arrays: Arrays, scores: Scores | None) -> Answer:
    """Return the class with the largest score, and its share (softmax where scores are logits).

    Args:
        arrays: of one row.
        scores: where the bundle has its class scores.
    """
    found = None if scores is None else arrays.get(f"output.{scores.output}")
    if scores is None or found is None or not found.size or found.shape[-1] < 1:
        return Answer(-1, None)
    values = scores.scale * (
        found.reshape(-1, found.shape[-1])[0].astype(np.float64) - scores.zero_point
    )
    if not np.isfinite(values).all():
        return Answer(-1, None)
    if scores.kind == "logits":
        values = np.exp(values - values.max())
        values /= values.sum()
    number = int(values.argmax())
    return Answer(number, round(min(1.0, max(0.0, float(values[number]))), 6))
