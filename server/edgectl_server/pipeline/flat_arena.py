"""Where tensors lie in the arena: those that are needed at the same time do not overlap. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgectl_server.pipeline.flat_format import ADD, FlatModel, Step, Tensor

__all__ = ["place_tensors"]

_ALIGNMENT = 4


def place_tensors(
    tensors: Sequence[Tensor], steps: Sequence[Step], *, first: int, last: int
) -> FlatModel:
    """Return the model with an offset for every tensor, the largest placed first.

    Args:
        tensors: of the network; their offsets do not matter.
        steps: in the order in which they are computed.
        first: number of the input, which is there from the beginning.
        last: number of the output, which stays until the end.
    """
    lives = _lives(len(tensors), steps, first, last)
    offsets: dict[int, int] = {}
    for number in sorted(range(len(tensors)), key=lambda one: (-tensors[one].elements, one)):
        taken = sorted(
            (offsets[other], offsets[other] + tensors[other].elements)
            for other in offsets
            if lives[other][0] <= lives[number][1] and lives[number][0] <= lives[other][1]
        )
        offset = 0
        for begin, end in taken:
            if begin - offset >= tensors[number].elements:
                break
            offset = max(offset, -(-end // _ALIGNMENT) * _ALIGNMENT)
        offsets[number] = offset
    placed = tuple(replace(one, offset=offsets[number]) for number, one in enumerate(tensors))
    arena = max(one.offset + one.elements for one in placed)
    return FlatModel(placed, tuple(steps), first, last, arena)


def _lives(count: int, steps: Sequence[Step], first: int, last: int) -> list[tuple[int, int]]:
    """Return for each tensor the first and the last step at which it is needed."""
    needed: list[list[int]] = [[] for _ in range(count)]
    needed[first].append(-1)
    needed[last].append(len(steps))
    for number, step in enumerate(steps):
        read = (step.first, step.second) if step.kind == ADD else (step.first,)
        for tensor in (*read, step.output):
            needed[tensor].append(number)
    return [(min(one), max(one)) for one in needed]
