"""Where the tensors of a model file lie, found by walking the file within bounds.

Nothing is loaded or believed: a tensor is a range of bytes that may be numbers. Were a range wrong,
the delta would be larger and the target the same.
"""

from __future__ import annotations

from typing import NamedTuple

from edgectl_protocol.deltas import ITEM_BYTES, Kind

__all__ = ["Tensor", "without_overlaps"]


class Tensor(NamedTuple):
    """A range of a file; `dims` multiply to the number of its elements."""

    name: str
    kind: Kind
    offset: int
    size: int
    dims: tuple[int, ...]

    @property
    def length(self) -> int:
        """In bytes."""
        return self.size * ITEM_BYTES[self.kind]


def without_overlaps(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors by offset, without those that begin within another or are empty."""
    kept: list[Tensor] = []
    end = 0
    for tensor in sorted(tensors, key=lambda one: one.offset):
        if tensor.offset >= end and tensor.size:
            kept.append(tensor)
            end = tensor.offset + tensor.length
    return kept
