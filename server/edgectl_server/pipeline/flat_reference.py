"""What a flat model computes: the definition, which firmware has to give bit for bit.

All arithmetic is that of integers. Sums of products are computed as float64 matrix products: they
stay below 2^31, where every integer is a float64 and so every order of addition gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_server.pipeline.flat_format import (
    ADD,
    AVERAGE_POOL,
    CONVOLUTION,
    HIGHEST,
    LOWEST,
    MAXIMUM_POOL,
    SOFTMAX,
    TABLE,
    Factor,
    FlatModel,
    Step,
    Tensor,
)

__all__ = ["dequantize", "quantize", "run_flat"]

Bytes = npt.NDArray[np.int8]
Integers = npt.NDArray[np.int64]


def quantize(numbers: npt.NDArray[np.float32], tensor: Tensor) -> Bytes:
    """Return the nearest values, ties to even; computed in float32, as a microcontroller does.

    Args:
        numbers: float32 [N, …], as many a sample as the tensor has.
        tensor: what they become.

    Returns:
        int8 [N, channels, height, width].
    """
    scaled = np.rint(numbers.astype(np.float32) / np.float32(tensor.scale))
    # Saturated before the zero point is added: 1024 is far outside. NaN becomes the largest.
    scaled = np.nan_to_num(np.clip(scaled, -1024, 1024), nan=1024)
    values: Bytes = np.clip(scaled + tensor.zero, LOWEST, HIGHEST).astype(np.int8)
    return values.reshape(len(numbers), tensor.channels, tensor.height, tensor.width)


def dequantize(values: Bytes, tensor: Tensor) -> npt.NDArray[np.float32]:
    """Return the numbers that values stand for, float32 of the same shape."""
    return (values.astype(np.float32) - np.float32(tensor.zero)) * np.float32(tensor.scale)


def run_flat(model: FlatModel, values: Bytes) -> Bytes:
    """Compute the output of some samples.

    Args:
        model: the network.
        values: int8 [N, channels, height, width], as its input tensor.

    Returns:
        int8 [N, channels, height, width], as its output tensor.
    """
    found = {model.input: values}
    for step in model.steps:
        found[step.output] = _KERNELS[step.kind](model, step, found)
    return found[model.output]


def _convolution(model: FlatModel, step: Step, found: dict[int, Bytes]) -> Bytes:
    source, target = model.tensors[step.first], model.tensors[step.output]
    inside = source.channels // step.groups
    shape = (step.groups, -1, inside, _area(step))
    weights = np.frombuffer(step.weights, np.int8).reshape(shape).astype(np.float64)
    centred = found[step.first].astype(np.float64) - source.zero
    windows = _windows(centred, step, target, outside=0.0)
    samples = windows.shape[0]
    windows = windows.reshape(samples, step.groups, inside, target.height * target.width, -1)
    if step.groups == 1:  # as one product of matrices, which is faster where there is much to add
        columns = windows[:, 0].transpose(0, 1, 3, 2).reshape(samples, inside * _area(step), -1)
        sums = np.matmul(weights.reshape(target.channels, -1), columns)
    else:
        sums = np.einsum("ngipt,goit->ngop", windows, weights)
    sums = sums.astype(np.int64)
    sums = sums.reshape(samples, target.channels, target.height, target.width)
    sums += np.array(step.biases, np.int64)[:, None, None]
    multipliers = np.array([one.multiplier for one in step.factors], np.int64)
    shifts = np.array([one.shift for one in step.factors], np.int64)
    scaled = _rounded(sums * multipliers[:, None, None], shifts[:, None, None])
    return _limited(scaled + target.zero, step)


def _maximum_pool(model: FlatModel, step: Step, found: dict[int, Bytes]) -> Bytes:
    values = found[step.first].astype(np.int64)
    windows = _windows(values, step, model.tensors[step.output], outside=LOWEST)
    return _limited(windows.max(axis=-1), step)


def _average_pool(model: FlatModel, step: Step, found: dict[int, Bytes]) -> Bytes:
    source, target = model.tensors[step.first], model.tensors[step.output]
    centred = found[step.first].astype(np.int64) - source.zero
    sums = _windows(centred, step, target, outside=0).sum(axis=-1)
    return _limited(_scaled(sums, step.factors[0]) + target.zero, step)


def _add(model: FlatModel, step: Step, found: dict[int, Bytes]) -> Bytes:
    target = model.tensors[step.output]
    shape = (-1, target.channels, target.height, target.width)
    sums = sum(
        (found[number].astype(np.int64) - model.tensors[number].zero).reshape(shape)
        * factor.multiplier
        for number, factor in zip((step.first, step.second), step.factors, strict=True)
    )
    shift = np.int64(step.factors[0].shift)
    return _limited(_rounded(np.asarray(sums, np.int64), shift) + target.zero, step)


def _table(model: FlatModel, step: Step, found: dict[int, Bytes]) -> Bytes:
    target = model.tensors[step.output]
    table = np.frombuffer(step.weights, np.int8)
    values = table[found[step.first].astype(np.int64) - LOWEST]
    return values.reshape(-1, target.channels, target.height, target.width)


def _softmax(model: FlatModel, step: Step, found: dict[int, Bytes]) -> Bytes:
    """Of all values of a sample; the output has the scale 1/256 and the zero -128."""
    target = model.tensors[step.output]
    table = np.frombuffer(step.weights, "<u4").astype(np.int64)
    values = found[step.first].astype(np.int64)
    values = values.reshape(len(values), -1)
    powers = table[values.max(axis=1, keepdims=True) - values]
    sums = powers.sum(axis=1, keepdims=True)
    shares = (512 * powers + sums) // (2 * sums) + LOWEST
    limited = _limited(shares, step)
    return limited.reshape(-1, target.channels, target.height, target.width)


_KERNELS: dict[int, Callable[[FlatModel, Step, dict[int, Bytes]], Bytes]] = {
    CONVOLUTION: _convolution,
    MAXIMUM_POOL: _maximum_pool,
    AVERAGE_POOL: _average_pool,
    ADD: _add,
    TABLE: _table,
    SOFTMAX: _softmax,
}


def _area(step: Step) -> int:
    return step.kernel[0] * step.kernel[1]


def _windows(
    values: npt.NDArray[Any], step: Step, target: Tensor, *, outside: float
) -> npt.NDArray[Any]:
    """Return what each window sees: [N, channels, rows, columns, taps]."""
    rows = _places(step, target.height, axis=0)
    columns = _places(step, target.width, axis=1)
    height, width = values.shape[2:]
    wide = [
        (top, max(0, int(places.max()) - top - size + 1))
        for top, places, size in zip(step.padding, (rows, columns), (height, width), strict=True)
    ]
    padded = np.pad(values, [(0, 0), (0, 0), *wide], constant_values=outside)
    seen = padded[:, :, rows[:, None, :, None], columns[None, :, None, :]]
    return seen.reshape(*values.shape[:2], target.height, target.width, _area(step))


def _places(step: Step, count: int, *, axis: int) -> npt.NDArray[np.int64]:
    """Return where in the padded input the taps of each window lie along an axis."""
    begins = np.arange(count) * step.stride[axis]
    return begins[:, None] + np.arange(step.kernel[axis]) * step.dilation[axis]


def _scaled(sums: Integers, factor: Factor) -> Integers:
    return _rounded(sums * factor.multiplier, np.int64(factor.shift))


def _rounded(products: Integers, shifts: Integers | np.int64) -> Integers:
    """Return products / 2^shifts, to the nearest integer, halves upwards."""
    return (products + (np.int64(1) << (shifts - 1))) >> shifts


def _limited(values: npt.NDArray[Any], step: Step) -> Bytes:
    limited: Bytes = np.clip(values, step.lowest, step.highest).astype(np.int8)
    return limited
