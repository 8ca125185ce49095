"""Writes the file of a flat model."""

from __future__ import annotations

import struct

from edgectl_server.pipeline.flat_format import (
    FACTOR,
    HEADER,
    MAGIC,
    STEP,
    TENSOR,
    FlatInvalid,
    FlatModel,
)
from edgectl_server.pipeline.flat_reading import decode_flat

__all__ = ["encode_flat"]


def encode_flat(model: FlatModel) -> bytes:
    """Return the file of a model.

    Raises:
        FlatInvalid: it is none that a reader would take.
    """
    constants = bytearray()
    begin = HEADER.size + len(model.tensors) * TENSOR.size + len(model.steps) * STEP.size

    def place(content: bytes) -> int:
        if not content:
            return 0
        constants.extend(bytes(-len(constants) % 4))
        constants.extend(content)
        return begin + len(constants) - len(content)

    try:
        tensors = b"".join(
            TENSOR.pack(one.channels, one.height, one.width, one.zero, one.offset, one.scale)
            for one in model.tensors
        )
        steps = b"".join(
            STEP.pack(
                one.kind, one.lowest, one.highest,
                one.first, one.second, one.output, one.groups,
                *one.kernel, *one.stride, *one.dilation, *one.padding,
                place(one.weights),
                place(struct.pack(f"<{len(one.biases)}i", *one.biases)),
                place(b"".join(FACTOR.pack(f.multiplier, f.shift) for f in one.factors)),
            )
            for one in model.steps
        )  # fmt: skip
        header = HEADER.pack(
            MAGIC,
            begin + len(constants),
            len(model.tensors),
            len(model.steps),
            model.input,
            model.output,
            model.arena_bytes,
        )
    except struct.error as error:
        raise FlatInvalid(f"a number does not fit into its field: {error}") from error
    content = header + tensors + steps + bytes(constants)
    decode_flat(content)
    return content
