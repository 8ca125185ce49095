"""Small ``.tflite`` files, sound and hostile, written field by field (schema.fbs, version 3)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np

Builder = Any
FLOAT32, STRING, BOOL = 0, 5, 6
ADD, CUSTOM, DELEGATE, GREATER_EQUAL, WHILE = 0, 32, 51, 62, 119


def tensor(
    name: str,
    shape: Sequence[int] = (1, 4),
    *,
    kind: int = FLOAT32,
    buffer: int = 0,
    signature: Sequence[int] | None = None,
) -> dict[str, Any]:
    return {"name": name, "shape": shape, "kind": kind, "buffer": buffer, "signature": signature}


def node(
    inputs: Sequence[int], outputs: Sequence[int], *, code: int = 0, calls: Sequence[int] = ()
) -> dict[str, Any]:
    return {"inputs": inputs, "outputs": outputs, "code": code, "calls": calls}


def subgraph(
    tensors: Sequence[dict[str, Any]],
    nodes: Sequence[dict[str, Any]],
    inputs: Sequence[int] = (0,),
    outputs: Sequence[int] = (2,),
) -> dict[str, Any]:
    return {"tensors": tensors, "nodes": nodes, "inputs": inputs, "outputs": outputs}


def adder(**changes: Any) -> bytes:
    """``y = x + w`` with four weights; the sound model that the others are changes of."""
    weights = np.arange(4, dtype="<f4").tobytes()
    fields: dict[str, Any] = {
        "codes": [(ADD, "")],
        "buffers": [b"", weights],
        "subgraphs": [
            subgraph(
                [tensor("x"), tensor("w", buffer=1), tensor("y")],
                [node([0, 1], [2])],
            )
        ],
    }
    return write(**fields | changes)


def write(
    codes: Sequence[tuple[int, str]],
    buffers: Sequence[bytes],
    subgraphs: Sequence[dict[str, Any]],
    *,
    version: int = 3,
    external: bool = False,
) -> bytes:
    builder = flatbuffers.Builder(1024)
    made = _vector(builder, [_subgraph(builder, one) for one in subgraphs])
    operators = _vector(builder, [_code(builder, *one) for one in codes])
    data = _vector(builder, [_buffer(builder, one) for one in buffers])
    groups = _vector(builder, []) if external else None
    builder.StartObject(9)
    builder.PrependUint32Slot(0, version, 0)
    builder.PrependUOffsetTRelativeSlot(1, operators, 0)
    builder.PrependUOffsetTRelativeSlot(2, made, 0)
    builder.PrependUOffsetTRelativeSlot(4, data, 0)
    if groups is not None:
        builder.PrependUOffsetTRelativeSlot(8, groups, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _vector(builder: Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for one in reversed(offsets):
        builder.PrependUOffsetTRelative(one)
    return int(builder.EndVector())


def _integers(builder: Builder, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, "<i4")))


def _code(builder: Builder, builtin: int, custom: str) -> int:
    name = builder.CreateString(custom) if custom else 0
    builder.StartObject(4)
    builder.PrependInt8Slot(0, min(builtin, 127), 0)
    if name:
        builder.PrependUOffsetTRelativeSlot(1, name, 0)
    builder.PrependInt32Slot(2, 1, 1)
    builder.PrependInt32Slot(3, builtin, 0)
    return int(builder.EndObject())


def _buffer(builder: Builder, content: bytes) -> int:
    data = builder.CreateByteVector(content) if content else 0
    builder.StartObject(3)
    if data:
        builder.PrependUOffsetTRelativeSlot(0, data, 0)
    return int(builder.EndObject())


def _tensor(builder: Builder, one: dict[str, Any]) -> int:
    name, shape = builder.CreateString(one["name"]), _integers(builder, one["shape"])
    signature = None if one["signature"] is None else _integers(builder, one["signature"])
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(0, shape, 0)
    builder.PrependInt8Slot(1, one["kind"], 0)
    builder.PrependUint32Slot(2, one["buffer"], 0)
    builder.PrependUOffsetTRelativeSlot(3, name, 0)
    if signature is not None:
        builder.PrependUOffsetTRelativeSlot(7, signature, 0)
    return int(builder.EndObject())


def _node(builder: Builder, one: dict[str, Any]) -> int:
    inputs, outputs = _integers(builder, one["inputs"]), _integers(builder, one["outputs"])
    options = 0
    if one["calls"]:
        builder.StartObject(len(one["calls"]))
        for field, called in enumerate(one["calls"]):
            builder.PrependInt32Slot(field, called, -1)
        options = builder.EndObject()
    builder.StartObject(9)
    builder.PrependUint32Slot(0, one["code"], 0)
    builder.PrependUOffsetTRelativeSlot(1, inputs, 0)
    builder.PrependUOffsetTRelativeSlot(2, outputs, 0)
    if options:
        builder.PrependUint8Slot(3, 93, 0)
        builder.PrependUOffsetTRelativeSlot(4, options, 0)
    return int(builder.EndObject())


def _subgraph(builder: Builder, one: dict[str, Any]) -> int:
    tensors = _vector(builder, [_tensor(builder, each) for each in one["tensors"]])
    nodes = _vector(builder, [_node(builder, each) for each in one["nodes"]])
    inputs, outputs = _integers(builder, one["inputs"]), _integers(builder, one["outputs"])
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(0, tensors, 0)
    builder.PrependUOffsetTRelativeSlot(1, inputs, 0)
    builder.PrependUOffsetTRelativeSlot(2, outputs, 0)
    builder.PrependUOffsetTRelativeSlot(3, nodes, 0)
    return int(builder.EndObject())


def _adder_of(tensors: Sequence[dict[str, Any]], **fields: Any) -> bytes:
    return adder(subgraphs=[subgraph(tensors, [node([0, 1], [2])], **fields)])


def aliases(count: int) -> bytes:
    """A file whose one operator table is named `count` times, with an input list of `count`."""
    graph = subgraph([tensor("x")] * 1, [node([0] * count, [0])], outputs=(0,))
    content = bytearray(adder(subgraphs=[graph]))
    root = struct.unpack_from("<I", content, 0)[0]
    vtable = root - struct.unpack_from("<i", content, root)[0]
    graphs = root + struct.unpack_from("<H", content, vtable + 4 + 2 * 2)[0]
    graphs += struct.unpack_from("<I", content, graphs)[0]
    first = graphs + 4 + struct.unpack_from("<I", content, graphs + 4)[0]
    vtable = first - struct.unpack_from("<i", content, first)[0]
    place = first + struct.unpack_from("<H", content, vtable + 4 + 2 * 3)[0]
    operators = place + struct.unpack_from("<I", content, place)[0]
    target = operators + 4 + struct.unpack_from("<I", content, operators + 4)[0]
    # A vector of the same table behind all else; an unsigned offset cannot lead back, so that the
    # table is copied there too, with its vtable and its list where they were.
    while len(content) % 4:
        content.append(0)
    vector = len(content)
    struct.pack_into("<I", content, place, vector - place)
    content += struct.pack("<I", count) + bytes(4 * count)
    table = len(content)
    content += content[target : target + 64]
    back = struct.unpack_from("<i", content, target)[0]
    struct.pack_into("<i", content, table, table - (target - back))
    inputs = struct.unpack_from("<H", content, target - back + 4 + 2)[0]
    length = len(content)
    struct.pack_into("<I", content, table + inputs, length - (table + inputs))
    content += struct.pack("<I", count) + bytes(4 * count)
    outputs = struct.unpack_from("<H", content, target - back + 4 + 4)[0]
    struct.pack_into("<I", content, table + outputs, length - (table + outputs))
    for number in range(count):
        at = vector + 4 + 4 * number
        struct.pack_into("<I", content, at, table - at)
    return bytes(content)


X, W, Y = tensor("x"), tensor("w", buffer=1), tensor("y")
HOSTILE: tuple[tuple[str, bytes, str], ...] = (
    ("a schema that comes later", adder(version=4), "model.unsupported"),
    ("weights in other files", adder(external=True), "model.external_data"),
    ("a custom operator", adder(codes=[(CUSTOM, "Evil")]), "model.custom_op"),
    ("an operator of TensorFlow", adder(codes=[(CUSTOM, "FlexErf")]), "model.custom_op"),
    ("a compiled delegate", adder(codes=[(DELEGATE, "")]), "model.custom_op"),
    ("an operator code that there is not", adder(codes=[]), "model.damaged"),
    ("a buffer that there is not", _adder_of([X, tensor("w", buffer=9), Y]), "model.damaged"),
    (
        "more elements than the buffer holds",
        _adder_of([X, tensor("w", [1, 4000], buffer=1), Y]),
        "model.damaged",
    ),
    ("dimensions that overflow", _adder_of([X, W, tensor("y", [2**31 - 1] * 4)]), "model.limit"),
    ("a negative dimension", _adder_of([X, W, tensor("y", [1, -4])]), "model.limit"),
    ("an operator's tensor that there is not", _adder_of([X, W]), "model.damaged"),
    ("an input that there is not", _adder_of([X, W, Y], inputs=(7,)), "model.damaged"),
    ("no outputs", _adder_of([X, W, Y], outputs=()), "model.invalid"),
    ("text as input", _adder_of([tensor("x", kind=STRING), W, Y]), "model.datatype"),
    ("no batch axis", _adder_of([tensor("x", [4]), W, Y]), "model.shape"),
    (
        "a free size",
        _adder_of([tensor("x", [1, 1], signature=[1, -1]), W, Y]),
        "model.shape",
    ),
    ("no subgraph", adder(subgraphs=[]), "model.limit"),
    (
        "a subgraph that calls itself",
        adder(
            codes=[(WHILE, "")],
            subgraphs=[subgraph([X, W, Y], [node([0], [2], calls=(0, 0))])],
        ),
        "model.invalid",
    ),
    (
        "a call of a subgraph that there is not",
        adder(
            codes=[(WHILE, "")],
            subgraphs=[subgraph([X, W, Y], [node([0], [2], calls=(1, 2))])],
        ),
        "model.invalid",
    ),
    ("one list of inputs, named 40,000 times", aliases(40_000), "model.limit"),
    ("a root behind the end", b"\xff\xff\xff\x7fTFL3" + bytes(100), "model.damaged"),
    ("the identifier alone", b"\x08\0\0\0TFL3", "model.damaged"),
)
