"""A version in small steps from its parent: v1 + Q(v2 - v1), file by file.

The server makes the version, so it may make one that is cheap to reach from what devices have: the
differences of the weights are rounded to whole steps, the step's number being all that is sent
(`edgectl_server.deltas.steps` finds it again). Two ways to choose the size of a step:

uniform
    one size for all weights, as numbers: of all ways to spend the bits, the least squared error;
channel
    a size for each row of a tensor: its largest difference by the largest number of the bits.

int8 codes go in whole codes, with the parent's scales: a code stays put unless it moved by more
than half a step. What the differences are of is the same in both files: tensors of the same name,
shape and type, of int8 with the same scales. All else is as it was trained.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from edgectl_delta.elements import apply_steps, numbers_of
from edgectl_protocol.deltas import Elements, Kind, Predictor
from edgectl_server.deltas.steps import parameter_of, step_size

__all__ = ["LEVELS", "Level", "NothingToStep", "estimate_levels", "make_steps"]

Array = npt.NDArray[Any]
_KINDS = {
    TensorProto.FLOAT: Kind.F32,
    TensorProto.FLOAT16: Kind.F16,
    TensorProto.BFLOAT16: Kind.BF16,
    TensorProto.INT8: Kind.I8,
    TensorProto.UINT8: Kind.U8,
}
_FLOATS = (Kind.F32, Kind.F16, Kind.BF16)
_ELEMENTS_MIN = 16
_MATRIX_RANK_MIN = 2
_VECTOR_BITS_MIN = 5
"""Of steps a row: a vector, such as the biases, is one row."""
_STEPS_MAX = 127
_ONE = -2
"""The parameter of a step of 1."""
_HALF_AS_MUCH = -1
_DEVIATIONS = 4.0
"""What a uniform step's largest number stands for, in root mean squares of the differences."""
_ROW_BITS = 12.0


class NothingToStep(Exception):
    """The files have no weights in common; the text says why."""


class Level(NamedTuple):
    """How coarse the steps are."""

    way: str
    """``uniform`` or ``channel``."""
    bits: float
    """Of the largest number of steps, with its sign."""

    @property
    def name(self) -> str:
        """For recipes and reports."""
        return f"{self.way}-{self.bits:g}"


LEVELS = (
    *(Level("uniform", bits) for bits in (8, 6, 5, 4, 3.5, 3, 2.75, 2.5, 2.25, 2, 1.75, 1.5)),
    *(Level("channel", bits) for bits in (8, 6, 5, 4, 3, 2)),
)


class _Weights(NamedTuple):
    """A tensor of both files; arrays are [rows, elements of a row].

    Attributes:
        tensor: of the trained file.
        kind: of the elements.
        before: bits of the parent.
        after: bits as trained.
        difference: float64, of the elements.
        scale: float64 by row, of what one of an integer stands for.
        axis: of the rows in the tensor.
    """

    tensor: Any
    kind: Kind
    before: Array
    after: Array
    difference: Array
    scale: Array
    axis: int

    @property
    def is_matrix(self) -> bool:
        """Whether it has rows of its own."""
        return len(self.tensor.dims) >= _MATRIX_RANK_MIN


def make_steps(parent: Path, trained: Path, target: Path, level: Level) -> None:
    """Write the version in steps.

    Args:
        parent: what devices have.
        trained: what it shall be near to.
        target: where it is written.
        level: of the steps.

    Raises:
        NothingToStep: no tensor can go in steps.
    """
    model = onnx.load(trained)
    weights = _weights(onnx.load(parent), model)
    spread = _root_mean_square(weights)
    for one in weights:
        parameters, steps = _round(one, level, spread)
        rows, columns = one.before.shape
        elements = Elements(one.kind, Predictor.STEPS, rows * columns, inner=columns, rows=rows)
        made = apply_steps(elements, one.before.tobytes(), steps.ravel(), parameters)
        shape = list(one.tensor.dims)
        shape.insert(0, shape.pop(one.axis))
        one.tensor.ClearField("float_data")
        one.tensor.ClearField("int32_data")
        one.tensor.raw_data = np.moveaxis(made.reshape(shape), 0, one.axis).tobytes()
    onnx.save(model, target)


def estimate_levels(parent: Path, trained: Path) -> list[tuple[Level, int]]:
    """Return levels with about how many bytes their steps take, the fewest first.

    Of levels that come to the same, as with codes that would go in less than one, one is left.

    Raises:
        NothingToStep: no tensor can go in steps.
    """
    weights = _weights(onnx.load(parent), onnx.load(trained))
    spread = _root_mean_square(weights)
    found: dict[int, Level] = {}
    for level in LEVELS:
        bits = 0.0
        for one in weights:
            _, steps = _round(one, level, spread)
            counts = np.unique(steps, return_counts=True)[1]
            bits += float((counts * np.log2(steps.size / counts)).sum())
            bits += _ROW_BITS * len(steps) if level.way == "channel" else 0.0
        found.setdefault(math.ceil(bits / 8), level)
    return [(level, size) for size, level in sorted(found.items())]


def _round(one: _Weights, level: Level, spread: float) -> tuple[Array, Array]:
    """Return the step's parameter of each row, int16, and the number of steps, int8."""
    largest = np.abs(one.difference).max(axis=1)
    bits = level.bits
    if level.way == "channel" and not one.is_matrix:
        bits = max(bits, _VECTOR_BITS_MIN)
    numbers = 2 ** (bits - 1) - 1
    if level.way == "uniform":
        wanted = _DEVIATIONS * spread / numbers / one.scale
    else:
        wanted = largest / numbers
    parameters = parameter_of(np.maximum(wanted, largest / _STEPS_MAX))
    # The size below may be too small for the largest difference by a third of it.
    parameters = np.where(step_size(parameters) * _STEPS_MAX < largest, parameters + 1, parameters)
    if one.kind not in _FLOATS:
        parameters = np.maximum(parameters, _ONE)
        parameters = np.where(parameters == _HALF_AS_MUCH, _ONE, parameters)
    sizes = step_size(parameters)[:, None]
    steps = np.clip(np.rint(one.difference / sizes), -_STEPS_MAX, _STEPS_MAX)
    if one.kind not in _FLOATS:
        steps = _inside(one, steps, sizes)
    return parameters.astype(np.int16), steps.astype(np.int8)


def _inside(one: _Weights, steps: Array, sizes: Array) -> Array:
    """Return fewer steps where codes would leave the range that both files keep."""
    before, after = _numbers(one.kind, one.before), _numbers(one.kind, one.after)
    least, most = min(before.min(), after.min()), max(before.max(), after.max())
    return np.asarray(
        np.clip(steps, np.ceil((least - before) / sizes), np.floor((most - before) / sizes))
    )


def _root_mean_square(weights: list[_Weights]) -> float:
    counted = [one for one in weights if one.is_matrix] or weights
    squares = sum(float(((one.difference * one.scale[:, None]) ** 2).sum()) for one in counted)
    return math.sqrt(squares / sum(one.difference.size for one in counted))


# ------------------------------------------------------------ the tensors of both files


def _weights(parent: Any, model: Any) -> list[_Weights]:
    """Return what has changed of the weights that both have."""
    before = {tensor.name: tensor for tensor in parent.graph.initializer}
    scales_before, scales_after = _scales(parent), _scales(model)
    found, other_scales = [], False
    for tensor in model.graph.initializer:
        was, kind = before.get(tensor.name), _KINDS.get(tensor.data_type)
        if was is None or kind is None or not _alike(was, tensor):
            continue
        scale = (np.ones(1), 0)
        if kind not in _FLOATS:
            if not _same_scales(scales_before.get(tensor.name), scales_after.get(tensor.name)):
                other_scales = True
                continue
            scale = scales_after[tensor.name][0], scales_after[tensor.name][2]
        one = _pair(was, tensor, kind, *scale)
        if np.isfinite(one.difference).all() and one.difference.any():
            found.append(one)
    if not found:
        if other_scales:
            raise NothingToStep("its scales are not those of the parent")
        raise NothingToStep("it has no changed weights in common with the parent")
    return found


def _alike(was: Any, tensor: Any) -> bool:
    return (
        was.data_type == tensor.data_type
        and list(was.dims) == list(tensor.dims)
        and len(tensor.dims) > 0
        and math.prod(tensor.dims) >= _ELEMENTS_MIN
    )


def _scales(model: Any) -> dict[str, tuple[Array, Array, int]]:
    """Return scale, zero point and axis of each tensor that a node makes numbers of."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        scale = tensors.get(node.input[1])
        zero = tensors.get(node.input[2]) if len(node.input) > 2 else None  # noqa: PLR2004
        if scale is None or (zero is None and len(node.input) > 2):  # noqa: PLR2004
            continue
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        zeros = np.zeros(1) if zero is None else numpy_helper.to_array(zero).ravel()
        found[node.input[0]] = (
            numpy_helper.to_array(scale).ravel().astype(np.float64),
            zeros,
            axis,
        )
    return found


def _same_scales(
    before: tuple[Array, Array, int] | None, after: tuple[Array, Array, int] | None
) -> bool:
    return (
        before is not None
        and after is not None
        and np.array_equal(before[0], after[0])
        and np.array_equal(before[1], after[1])
        and before[2] == after[2]
        and bool((after[0] > 0).all())
    )


def _pair(was: Any, tensor: Any, kind: Kind, scale: Array, axis: int) -> _Weights:
    """Return the tensor as rows: along the axis of its scales, or the first one."""
    axis = axis % len(tensor.dims) if len(scale) > 1 else 0
    before, after = _rows(was, axis), _rows(tensor, axis)
    with np.errstate(all="ignore"):
        difference = _numbers(kind, after) - _numbers(kind, before)
    scales = np.broadcast_to(scale, (len(before),))
    return _Weights(tensor, kind, before, after, difference, scales, axis)


def _rows(tensor: Any, axis: int) -> Array:
    """Return the bits of a tensor, the axis first and the others as one; a vector is one row."""
    array = np.moveaxis(numpy_helper.to_array(tensor), axis, 0)
    rows = len(array) if array.ndim >= _MATRIX_RANK_MIN else 1
    flat = np.ascontiguousarray(array.reshape(rows, -1))
    return flat.view(f"<u{flat.dtype.itemsize}")


def _numbers(kind: Kind, bits: Array) -> Array:
    if kind in _FLOATS:
        return numbers_of(kind, bits)
    return (bits if kind is Kind.U8 else bits.view(np.int8)).astype(np.float64)
