"""The flat model: what an int8 network is on a microcontroller.

docs/firmware-format.md is the specification; `flat_reading` and `flat_writing` are its file,
`flat_reference` says what each step computes. `firmware-examples/core/model.c` is all of it in C.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "ACCUMULATED_MAX",
    "ADD",
    "ARENA_BYTES_MAX",
    "AVERAGE_POOL",
    "BIAS_MAX",
    "CONVOLUTION",
    "ELEMENTS_MAX",
    "FACTOR",
    "FILE_BYTES_MAX",
    "HEADER",
    "HIGHEST",
    "LOWEST",
    "MAGIC",
    "MAXIMUM_POOL",
    "NO_TENSOR",
    "SHIFT_MAX",
    "SOFTMAX",
    "SOFTMAX_ONE",
    "STEP",
    "STEPS_MAX",
    "TABLE",
    "TABLE_ENTRIES",
    "TENSOR",
    "TENSORS_MAX",
    "Factor",
    "FlatInvalid",
    "FlatModel",
    "Step",
    "Tensor",
]

CONVOLUTION: Final = 1
MAXIMUM_POOL: Final = 2
AVERAGE_POOL: Final = 3
ADD: Final = 4
TABLE: Final = 5
SOFTMAX: Final = 6

NO_TENSOR = 0xFFFF
LOWEST = -128
HIGHEST = 127
"""Values are of 8 bits."""
TENSORS_MAX = 1024
STEPS_MAX = 1024
ELEMENTS_MAX = 2**20
ARENA_BYTES_MAX = 2**24
FILE_BYTES_MAX = 2**24
ACCUMULATED_MAX = 2**15
"""Products that are added up: each is below 2^15, so that with a bias they fit in 32 bits."""
BIAS_MAX = 2**30
SHIFT_MAX = 62
SOFTMAX_ONE = 2**16
"""What stands for e^0 in the table of a softmax."""
TABLE_ENTRIES = 256

MAGIC = b"EFM1"
HEADER = struct.Struct("<4sIHHHHI12x")
TENSOR = struct.Struct("<HHHhIf")
STEP = struct.Struct("<BbbxHHHHHHBBBBHHIII")
FACTOR = struct.Struct("<ii")


class FlatInvalid(ValueError):
    """Not a flat model; the text says what is wrong."""


@dataclass(frozen=True)
class Tensor:
    """One sample's values between two steps, ``channels`` outermost; they stand for numbers.

    Attributes:
        channels: first axis.
        height: second axis; 1 for what has no rows.
        width: third axis, innermost.
        zero: what stands for 0.0.
        scale: the number is ``(value - zero) * scale``.
        offset: of its bytes in the arena.
    """

    channels: int
    height: int
    width: int
    zero: int
    scale: float
    offset: int = 0

    @property
    def elements(self) -> int:
        """How many bytes it takes."""
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class Factor:
    """A real number below 2^30: ``multiplier / 2^shift``, to multiply integers by."""

    multiplier: int
    shift: int

    @classmethod
    def of(cls, number: float) -> Factor:
        """Return the nearest with 31 significant bits; raise `FlatInvalid` where there is none."""
        if not (math.isfinite(number) and 0 <= number < 2.0**29):
            raise FlatInvalid(f"a factor of {number} cannot be written")
        mantissa, exponent = math.frexp(number)
        shift = 31 - exponent
        if shift > SHIFT_MAX:
            return cls(round(math.ldexp(number, SHIFT_MAX)), SHIFT_MAX)
        multiplier = round(math.ldexp(mantissa, 31))
        if multiplier == 2**31:  # it was rounded up to the next power of two
            multiplier, shift = 2**30, shift - 1
        return cls(multiplier, shift)


@dataclass(frozen=True)
class Step:
    """One thing that is computed; fields that its kind does not need are as here.

    Attributes:
        kind: ``CONVOLUTION``, ….
        first: number of the tensor that is read.
        output: number of the tensor that is written.
        second: number of the other tensor of an addition.
        lowest: nothing below it comes out.
        highest: nothing above it comes out.
        groups: of a convolution; as many as channels: depthwise.
        kernel: rows and columns of a window.
        stride: the same of its steps.
        dilation: the same between its taps.
        padding: rows above and columns left of the input, which stand for 0.0.
        weights: int8: output channels, input channels of a group, rows, columns; or 256 values of a
            table; or 256 uint32 of a softmax.
        biases: one a channel of the output.
        factors: one a channel of the output; of a pool one; of an addition two, one a tensor.
    """

    kind: int
    first: int
    output: int
    second: int = NO_TENSOR
    lowest: int = LOWEST
    highest: int = HIGHEST
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    weights: bytes = field(default=b"", repr=False)
    biases: tuple[int, ...] = field(default=(), repr=False)
    factors: tuple[Factor, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class FlatModel:
    """A network: its tensors, and its steps in the order in which they are computed."""

    tensors: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    input: int
    output: int
    arena_bytes: int
