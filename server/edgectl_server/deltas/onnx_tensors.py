"""The tensors of an ONNX file: protobuf's wire format, only as deep as there are tensors.

::

    ModelProto.graph = 7 ── GraphProto.initializer = 5 ── TensorProto
                         └─ GraphProto.node = 1 ── NodeProto.attribute = 5 ── AttributeProto.t = 5
    TensorProto: dims = 1, data_type = 2, float_data = 4, name = 8, raw_data = 9

Source: onnx/onnx ``onnx/onnx.in.proto``; protobuf's "Encoding".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from edgectl_protocol.deltas import ITEM_BYTES, Kind
from edgectl_server.deltas.tensors import Tensor, without_overlaps

__all__ = ["onnx_tensors"]

_FIELDS_MAX = 2**21
"""In all: more has no file of the size that devices take."""
_KINDS = {1: Kind.F32, 2: Kind.U8, 3: Kind.I8, 6: Kind.I32, 10: Kind.F16, 16: Kind.BF16}
"""TensorProto.DataType; others stay with the rest."""
_DIMENSIONS_MAX = 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _NODE, _ATTRIBUTE, _TENSOR = 7, 5, 1, 5, 5
_NAME_OF_NODE_OUTPUT = 2


class _Damaged(Exception):
    """A field leads out of what holds it."""


class _Field(NamedTuple):
    number: int
    start: int
    """Of the value: its bytes, or the varint itself."""
    end: int
    value: int
    """Of a varint."""


class _Walk:
    """A file, and how many fields may still be read."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._left = _FIELDS_MAX

    def text(self, field: _Field) -> str:
        return bytes(self._content[field.start : field.end][:1024]).decode("utf-8", "replace")

    def varint(self, place: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while place < end and shift < 64:  # noqa: PLR2004  # bits of a varint
            part = self._content[place]
            place += 1
            value |= (part & 127) << shift
            if part < 128:  # noqa: PLR2004
                return value, place
            shift += 7
        raise _Damaged

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        place = start
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise _Damaged
            tag, place = self.varint(place, end)
            number, wire = tag >> 3, tag & 7
            value = 0
            first = place
            if wire == _VARINT:
                value, place = self.varint(place, end)
            elif wire == _BYTES:
                length, first = self.varint(place, end)
                place = first + length
            elif wire in (_FIXED32, _FIXED64):
                place += 4 if wire == _FIXED32 else 8
            else:
                raise _Damaged
            if place > end:
                raise _Damaged
            yield _Field(number, first, place, value)

    def inside(self, field: _Field, number: int) -> Iterator[_Field]:
        """Yield the fields of one number in a message."""
        return (one for one in self.fields(field.start, field.end) if one.number == number)


def onnx_tensors(content: memoryview) -> list[Tensor]:
    """Return the tensors by offset; none if the file is damaged or no ONNX file."""
    walk = _Walk(content)
    whole = _Field(0, 0, len(content), 0)
    found: list[Tensor] = []
    try:
        for graph in walk.inside(whole, _GRAPH):
            for field in walk.fields(graph.start, graph.end):
                if field.number == _INITIALIZER:
                    found += _tensor(walk, field, "")
                elif field.number == _NODE:
                    found += _constants(walk, field)
    except _Damaged:
        return []
    return without_overlaps(found)


def _constants(walk: _Walk, node: _Field) -> Iterator[Tensor]:
    """Yield the tensors among a node's attributes, named after its first output."""
    fields = list(walk.fields(node.start, node.end))
    named = next((walk.text(one) for one in fields if one.number == _NAME_OF_NODE_OUTPUT), "")
    for attribute in (one for one in fields if one.number == _ATTRIBUTE):
        for tensor in walk.inside(attribute, _TENSOR):
            yield from _tensor(walk, tensor, named)


def _tensor(walk: _Walk, message: _Field, name: str) -> Iterator[Tensor]:
    """Yield the tensor if its elements lie in one piece."""
    dims: list[int] = []
    kind = 0
    data: _Field | None = None
    for field in walk.fields(message.start, message.end):
        match field.number:
            case 1 if field.value or field.end - field.start == 1:
                dims.append(field.value)
            case 2:
                kind = field.value
            case 4 | 9:
                data = field
            case 8:
                name = walk.text(field)
    if data is None or kind not in _KINDS or len(dims) > _DIMENSIONS_MAX:
        return
    found = _KINDS[kind]
    count = math.prod(dims)
    if data.end - data.start == count * ITEM_BYTES[found]:
        yield Tensor(name, found, data.start, count, tuple(dims))
