"""The tensors of a TensorFlow Lite file, and the scales by channel of quantized ones.

Source: TensorFlow Lite's ``schema.fbs``, version 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgectl_protocol.deltas import ITEM_BYTES, Kind
from edgectl_server.deltas.tensors import Tensor, without_overlaps
from edgectl_server.flatbuffer import Damaged, Table, TooMuch, root_table

__all__ = ["SCALE_SUFFIX", "tflite_tensors"]

SCALE_SUFFIX = ":scale"
_ELEMENTS_MAX = 2**20
_SCALES_MIN = 2
_KINDS = {0: Kind.F32, 1: Kind.F16, 2: Kind.I32, 3: Kind.U8, 9: Kind.I8}
"""TensorType."""
_SUBGRAPHS, _BUFFERS = 2, 4
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION = range(5)
_SCALE = 2
_DATA = 0
_TENSORS = 0
_MAGIC = b"TFL3"


def tflite_tensors(content: bytes) -> list[Tensor]:
    """Return the tensors by offset; none if the file is damaged or no TensorFlow Lite file."""
    if content[4:8] != _MAGIC:
        return []
    try:
        root = root_table(content, elements_max=_ELEMENTS_MAX)
        buffers = root.tables(_BUFFERS)
        found = [
            one
            for graph in root.tables(_SUBGRAPHS)
            for tensor in graph.tables(_TENSORS)
            for one in _tensors(tensor, buffers)
        ]
    except (Damaged, TooMuch):
        return []
    return without_overlaps(found)


def _tensors(tensor: Table, buffers: list[Table]) -> Iterator[Tensor]:
    name = tensor.text(_NAME)
    number = tensor.number(_BUFFER, "u32")
    kind = _KINDS.get(tensor.number(_TYPE, "i8"))
    quantization = tensor.table(_QUANTIZATION)
    if quantization is not None:
        start, count = quantization.range(_SCALE, 4)
        if count >= _SCALES_MIN:
            yield Tensor(name + SCALE_SUFFIX, Kind.F32, start, count, (count,))
    if kind is None or number >= len(buffers):
        return
    start, length = buffers[number].range(_DATA)
    dims = tuple(tensor.integers(_SHAPE)) or (1,)
    if length and math.prod(dims) * ITEM_BYTES[kind] == length and min(dims) > 0:
        yield Tensor(name, kind, start, math.prod(dims), dims)
