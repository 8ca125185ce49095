"""Reads the file of a flat model.

Python and C refuse the same files. Whatever passes is computed without a look outside of the file
or of the arena, and without an overflow.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgectl_server.pipeline.flat_format import (
    ACCUMULATED_MAX,
    ADD,
    ARENA_BYTES_MAX,
    AVERAGE_POOL,
    BIAS_MAX,
    CONVOLUTION,
    ELEMENTS_MAX,
    FACTOR,
    FILE_BYTES_MAX,
    HEADER,
    HIGHEST,
    LOWEST,
    MAGIC,
    MAXIMUM_POOL,
    SHIFT_MAX,
    SOFTMAX,
    SOFTMAX_ONE,
    STEP,
    STEPS_MAX,
    TABLE,
    TABLE_ENTRIES,
    TENSOR,
    TENSORS_MAX,
    Factor,
    FlatInvalid,
    FlatModel,
    Step,
    Tensor,
)

__all__ = ["decode_flat"]


def decode_flat(content: bytes) -> FlatModel:
    """Return the model that a file is.

    Raises:
        FlatInvalid: its bytes break a rule of the format.
    """
    if not HEADER.size <= len(content) <= FILE_BYTES_MAX:
        raise FlatInvalid(f"a file of {len(content)} bytes")
    magic, size, tensor_count, step_count, first, last, arena = HEADER.unpack_from(content)
    begin = HEADER.size + tensor_count * TENSOR.size + step_count * STEP.size
    if magic != MAGIC or size != len(content) or begin > size:
        raise FlatInvalid("not a flat model, or not the whole of it")
    if not (0 < tensor_count <= TENSORS_MAX and 0 < step_count <= STEPS_MAX):
        raise FlatInvalid(f"{tensor_count} tensors and {step_count} steps")
    if arena > ARENA_BYTES_MAX or not max(first, last) < tensor_count:
        raise FlatInvalid(f"an arena of {arena} bytes, tensors {first} and {last}")
    tensors = tuple(
        _tensor(content, HEADER.size + number * TENSOR.size, arena)
        for number in range(tensor_count)
    )
    steps_at = HEADER.size + tensor_count * TENSOR.size
    reader = _Constants(content, begin)
    steps = tuple(
        _step(content, steps_at + number * STEP.size, tensors, reader)
        for number in range(step_count)
    )
    return FlatModel(tensors, steps, first, last, arena)


def _tensor(content: bytes, at: int, arena: int) -> Tensor:
    channels, height, width, zero, offset, scale = TENSOR.unpack_from(content, at)
    tensor = Tensor(channels, height, width, zero, scale, offset)
    if not 0 < tensor.elements <= ELEMENTS_MAX or offset + tensor.elements > arena:
        raise FlatInvalid(f"a tensor of {channels} x {height} x {width} at {offset} of {arena}")
    if not (LOWEST <= zero <= HIGHEST and math.isfinite(scale) and scale > 0):
        raise FlatInvalid(f"a tensor with zero {zero} and scale {scale}")
    return tensor


@dataclass(frozen=True)
class _Constants:
    """The end of a file, behind its tables."""

    content: bytes
    begin: int

    def take(self, offset: int, length: int) -> bytes:
        if offset < self.begin or offset % 4 or offset + length > len(self.content):
            raise FlatInvalid(f"{length} bytes of constants at {offset}")
        return self.content[offset : offset + length]

    def factors(self, offset: int, count: int) -> tuple[Factor, ...]:
        found = tuple(
            Factor(*pair) for pair in FACTOR.iter_unpack(self.take(offset, count * FACTOR.size))
        )
        for one in found:
            if one.multiplier < 0 or not 1 <= one.shift <= SHIFT_MAX:
                raise FlatInvalid(f"a factor of {one.multiplier} / 2^{one.shift}")
        return found


def _step(content: bytes, at: int, tensors: Sequence[Tensor], constants: _Constants) -> Step:
    kind, lowest, highest, first, second, output, *numbers = STEP.unpack_from(content, at)
    groups, *window = numbers[:9]
    weights, biases, factors = numbers[9:]
    read = (first, second) if kind == ADD else (first,)
    if max(*read, output) >= len(tensors) or lowest > highest or not all(window[:6]):
        raise FlatInvalid(f"step of kind {kind} of tensors {read} with window {window}")
    if any(_overlap(tensors[one], tensors[output]) for one in read):
        raise FlatInvalid("a step that reads where it writes")
    step = Step(
        kind=kind, first=first, output=output, second=second, lowest=lowest, highest=highest,
        groups=groups, kernel=(window[0], window[1]), stride=(window[2], window[3]),
        dilation=(window[4], window[5]), padding=(window[6], window[7]),
    )  # fmt: skip
    if kind == CONVOLUTION:
        return _convolution(step, tensors, constants, (weights, biases, factors))
    if kind in (MAXIMUM_POOL, AVERAGE_POOL):
        return _pool(step, tensors, constants, factors)
    if kind == ADD:
        return _addition(step, tensors, constants, factors)
    if kind in (TABLE, SOFTMAX):
        return _table(step, tensors, constants, weights)
    raise FlatInvalid(f"a step of kind {kind}")


def _overlap(one: Tensor, other: Tensor) -> bool:
    return one.offset < other.offset + other.elements and other.offset < one.offset + one.elements


def _convolution(
    step: Step,
    tensors: Sequence[Tensor],
    constants: _Constants,
    offsets: tuple[int, int, int],
) -> Step:
    source, target = tensors[step.first], tensors[step.output]
    if not step.groups or source.channels % step.groups or target.channels % step.groups:
        raise FlatInvalid(f"{step.groups} groups of {source.channels} to {target.channels}")
    taps = source.channels // step.groups * step.kernel[0] * step.kernel[1]
    if taps > ACCUMULATED_MAX:
        raise FlatInvalid(f"{taps} products in one sum")
    weights, biases, factors = offsets
    packed = constants.take(biases, 4 * target.channels)
    numbers = struct.unpack(f"<{target.channels}i", packed)
    if any(abs(one) > BIAS_MAX for one in numbers):
        raise FlatInvalid("a bias that is too large")
    return replace(
        step,
        weights=constants.take(weights, target.channels * taps),
        biases=numbers,
        factors=constants.factors(factors, target.channels),
    )


def _pool(step: Step, tensors: Sequence[Tensor], constants: _Constants, factors: int) -> Step:
    if tensors[step.first].channels != tensors[step.output].channels:
        raise FlatInvalid("a pool that changes the channels")
    if step.kernel[0] * step.kernel[1] > ACCUMULATED_MAX:
        raise FlatInvalid("a pool that is too large")
    if step.kind == MAXIMUM_POOL:
        return step
    return replace(step, factors=constants.factors(factors, 1))


def _addition(step: Step, tensors: Sequence[Tensor], constants: _Constants, factors: int) -> Step:
    if len({tensors[one].elements for one in (step.first, step.second, step.output)}) > 1:
        raise FlatInvalid("an addition of different sizes")
    pair = constants.factors(factors, 2)
    if pair[0].shift != pair[1].shift:
        raise FlatInvalid("an addition whose factors have different shifts")
    return replace(step, factors=pair)


def _table(step: Step, tensors: Sequence[Tensor], constants: _Constants, offset: int) -> Step:
    if tensors[step.first].elements != tensors[step.output].elements:
        raise FlatInvalid("a table between different sizes")
    if step.kind == TABLE:
        return replace(step, weights=constants.take(offset, TABLE_ENTRIES))
    powers = constants.take(offset, 4 * TABLE_ENTRIES)
    entries = struct.unpack(f"<{TABLE_ENTRIES}I", powers)
    if entries[0] != SOFTMAX_ONE or max(entries) > SOFTMAX_ONE:
        raise FlatInvalid("a softmax whose table does not begin with 1")
    return replace(step, weights=powers)
