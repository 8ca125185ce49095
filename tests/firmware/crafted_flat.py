"""Flat models made at random: every kind of step, with odd windows, paddings, scales and limits."""

from __future__ import annotations

import struct

import numpy as np

from edgectl_server.pipeline.flat_arena import place_tensors
from edgectl_server.pipeline.flat_format import (
    ADD,
    AVERAGE_POOL,
    CONVOLUTION,
    MAXIMUM_POOL,
    SOFTMAX,
    TABLE,
    Factor,
    FlatModel,
    Step,
    Tensor,
)

__all__ = ["large_model", "middle_model", "random_model", "tiny_model"]


def random_model(seed: int) -> FlatModel:
    """Return a network of one to six steps; the same for the same seed."""
    return _Maker(np.random.default_rng(seed)).model()


def tiny_model(seed: int) -> FlatModel:
    """Return a network that a device of the tests can hold: a convolution, a pool, a layer."""
    maker = _Maker(np.random.default_rng(seed))
    first = maker.tensor(2, 8, 8)
    maker.window(CONVOLUTION, first, kernel=(3, 3), padding=(1, 1), channels=6)
    maker.window(MAXIMUM_POOL, len(maker.tensors) - 1, kernel=(2, 2), stride=(2, 2))
    maker.dense(len(maker.tensors) - 1, 5)
    return place_tensors(maker.tensors, maker.steps, first=0, last=len(maker.tensors) - 1)


class _Maker:
    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.tensors: list[Tensor] = []
        self.steps: list[Step] = []

    def model(self) -> FlatModel:
        last = self.tensor(*(int(one) for one in self.random.integers(1, 9, 3)))
        for _ in range(int(self.random.integers(1, 7))):
            last = self._step(last)
        return place_tensors(self.tensors, self.steps, first=0, last=last)

    def tensor(self, channels: int, height: int, width: int) -> int:
        scale = float(np.float32(self.random.uniform(0.005, 0.2)))
        zero = int(self.random.integers(-128, 128))
        self.tensors.append(Tensor(channels, height, width, zero, scale))
        return len(self.tensors) - 1

    def window(
        self,
        kind: int,
        first: int,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        channels: int = 0,
        groups: int = 1,
    ) -> int:
        """Add a step with a window; padding on both sides alike."""
        source = self.tensors[first]
        sizes = [
            (size + 2 * pad - spread * (length - 1) - 1) // step + 1
            for size, length, step, spread, pad in zip(
                (source.height, source.width), kernel, stride, dilation, padding, strict=True
            )
        ]
        if min(sizes) < 1:
            return self.table(first)
        output = self.tensor(channels or source.channels, *sizes)
        weighted = kind == CONVOLUTION
        count = self.tensors[output].channels
        taps = source.channels // groups * kernel[0] * kernel[1]
        low, high = sorted(int(one) for one in self.random.integers(-128, 128, 2))
        self.steps.append(
            Step(
                kind=kind, first=first, output=output, groups=groups, kernel=kernel,
                stride=stride, dilation=dilation, padding=padding, lowest=low, highest=high,
                weights=self.random.bytes(count * taps) if weighted else b"",
                biases=self._biases(count) if weighted else (),
                factors=self._factors(count if weighted else kind == AVERAGE_POOL, taps),
            )
        )  # fmt: skip
        return output

    def dense(self, first: int, channels: int) -> int:
        source = self.tensors[first]
        return self.window(
            CONVOLUTION, first, kernel=(source.height, source.width), channels=channels
        )

    def table(self, first: int) -> int:
        source = self.tensors[first]
        output = self.tensor(source.channels, source.height, source.width)
        self.steps.append(
            Step(kind=TABLE, first=first, output=output, weights=self.random.bytes(256))
        )
        return output

    def _step(self, first: int) -> int:
        kind = int(self.random.integers(1, 7))
        if kind == TABLE:
            return self.table(first)
        if kind == ADD:
            return self._addition(first)
        if kind == SOFTMAX:
            return self._softmax(first)
        source = self.tensors[first]
        kernel, stride, dilation, padding = (
            (int(pair[0]), int(pair[1]))
            for pair in (self.random.integers(low, high, 2) for low, high in
                         ((1, 5), (1, 4), (1, 3), (0, 3)))
        )  # fmt: skip
        depthwise, wider = bool(self.random.integers(2)), int(self.random.integers(1, 3))
        return self.window(
            kind, first, kernel=kernel, stride=stride, dilation=dilation, padding=padding,
            groups=source.channels if kind == CONVOLUTION and depthwise else 1,
            channels=source.channels * wider if kind == CONVOLUTION else 0,
        )  # fmt: skip

    def _addition(self, first: int) -> int:
        second = self.table(first)
        source = self.tensors[first]
        output = self.tensor(source.channels, source.height, source.width)
        factors = tuple(Factor(int(one), 28) for one in self.random.integers(0, 2**29, 2))
        self.steps.append(
            Step(kind=ADD, first=first, second=second, output=output, factors=factors)
        )
        return output

    def _softmax(self, first: int) -> int:
        source = self.tensors[first]
        output = self.tensor(source.channels, source.height, source.width)
        powers = np.rint(np.exp(-np.arange(256) * source.scale) * 2**16)
        table = struct.pack("<256I", *(int(one) for one in powers))
        self.steps.append(Step(kind=SOFTMAX, first=first, output=output, weights=table))
        return output

    def _biases(self, count: int) -> tuple[int, ...]:
        return tuple(int(one) for one in self.random.integers(-20_000, 20_000, count))

    def _factors(self, count: int, taps: int) -> tuple[Factor, ...]:
        return tuple(
            Factor.of(float(self.random.uniform(0.2, 2) / (70 * np.sqrt(taps))))
            for _ in range(count)
        )


def middle_model(seed: int) -> FlatModel:
    """Return a network whose bundle is of three sectors: one layer of 7 kB."""
    maker = _Maker(np.random.default_rng(seed))
    maker.dense(maker.tensor(8, 8, 8), 14)
    return place_tensors(maker.tensors, maker.steps, first=0, last=1)


def large_model(seed: int) -> FlatModel:
    """Return a network whose bundle is of two chunks: one layer of 102 kB."""
    maker = _Maker(np.random.default_rng(seed))
    maker.dense(maker.tensor(8, 16, 16), 50)
    return place_tensors(maker.tensors, maker.steps, first=0, last=1)
