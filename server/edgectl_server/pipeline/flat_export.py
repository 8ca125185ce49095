"""From a quantized ONNX graph (QDQ, static ranges, signed weights) to a flat model.

The graph is walked once, in its order. What an operator gives is *pending* until the QuantizeLinear
behind it says the scale of its output; limits (Relu, Clip) that come between are part of the step.
Values of uint8 become int8 by subtracting 128, from their zero points too, which changes nothing
that is computed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgectl_server.pipeline.flat_arena import place_tensors
from edgectl_server.pipeline.flat_format import (
    ADD,
    AVERAGE_POOL,
    BIAS_MAX,
    CONVOLUTION,
    HIGHEST,
    LOWEST,
    MAXIMUM_POOL,
    SHIFT_MAX,
    SOFTMAX,
    SOFTMAX_ONE,
    TABLE,
    Factor,
    FlatModel,
    Step,
    Tensor,
)
from edgectl_server.pipeline.flat_shapes import FlatUnsupported, three_axes, window_of

__all__ = ["FlatUnsupported", "to_flat"]

Array = npt.NDArray[Any]
_SHARE_SCALE = 1 / 256
"""Of what lies between 0 and 1: the output of a softmax, or of a sigmoid nobody gave a range."""
_ADDITION_BITS = 30
_SAME = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_FUNCTIONS: dict[str, Callable[[Array, Mapping[str, Any]], Array]] = {
    "Sigmoid": lambda x, _: 1 / (1 + np.exp(-x)),
    "Tanh": lambda x, _: np.tanh(x),
    "LeakyRelu": lambda x, how: np.where(x < 0, x * how.get("alpha", 0.01), x),
    "Elu": lambda x, how: np.where(x < 0, how.get("alpha", 1.0) * np.expm1(x), x),
    "HardSigmoid": lambda x, how: np.clip(how.get("alpha", 0.2) * x + how.get("beta", 0.5), 0, 1),
    "HardSwish": lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1),
}


@dataclass(frozen=True)
class _Scale:
    """How numbers are written: ``(value - zero) * scale``."""

    scale: float
    zero: int


@dataclass(frozen=True)
class _Weights:
    """An initializer behind a DequantizeLinear."""

    codes: Array
    scales: Array
    """One, or one a channel."""

    @property
    def numbers(self) -> Array:
        """What they stand for, where there is one scale, or the first axis has the channels."""
        shape = (-1,) + (1,) * (self.codes.ndim - 1)
        return self.codes.astype(np.float64) * self.scales.reshape(shape)


@dataclass(frozen=True)
class _Pending:
    """What an operator gives, before its scale is known.

    Attributes:
        shape: channels, height, width.
        finish: makes the steps for an output scale, and returns the number of its tensor.
        default: the scale where the graph gives none.
        lowest: by Relu or Clip.
        highest: by Clip.
    """

    shape: tuple[int, int, int]
    finish: Callable[[_Scale, _Pending], int]
    default: _Scale | None = None
    lowest: float = -math.inf
    highest: float = math.inf


def to_flat(model: Any) -> FlatModel:
    """Convert a graph.

    Args:
        model: a parsed ONNX model, as static QDQ quantization with int8 weights leaves it; one
            input and one output of FP32, the batch first.

    Raises:
        FlatUnsupported: an operator, a shape or a parameter has no counterpart.
        FlatInvalid: a number of it does not fit.
    """
    return _Walk(onnx.shape_inference.infer_shapes(model).graph).result()


class _Walk:
    """One walk over a graph."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._weights: dict[str, _Weights] = {}
        self._values: dict[str, int] = {}
        """By name in the graph: number of the tensor."""
        self._pending: dict[str, _Pending] = {}
        self._tensors: list[Tensor] = []
        self._steps: list[Step] = []
        inputs = [one for one in graph.input if one.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise FlatUnsupported(f"{len(inputs)} inputs and {len(graph.output)} outputs, not one")
        self._input = inputs[0]
        self._sizes = {
            one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim][1:]
            for one in (*graph.input, *graph.value_info, *graph.output)
        }
        """By name in the graph: shape of a sample; 0 is unknown."""

    def result(self) -> FlatModel:
        """Walk, and return the model."""
        for node in self._graph.node:
            self._visit(node)
        name = self._graph.output[0].name
        pending = self._pending.get(name)
        if pending is not None and pending.default is not None:
            self._values[name] = pending.finish(pending.default, pending)
        if name not in self._values or self._input.name not in self._values:
            raise FlatUnsupported(f"output {name[:80]!r} has no range")
        return place_tensors(
            self._tensors,
            self._steps,
            first=self._values[self._input.name],
            last=self._values[name],
        )

    def _visit(self, node: Any) -> None:
        how = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        kind, source, target = node.op_type, node.input[0] if node.input else "", node.output[0]
        if kind == "Constant":
            self._constants[target] = numpy_helper.to_array(how["value"])
        elif kind == "DequantizeLinear":
            self._dequantize(node, source, target)
        elif kind == "QuantizeLinear":
            self._values[target] = self._quantize(source, self._scale(node))
        elif kind in _SAME:
            self._rename(source, target)
        elif kind in {"Relu", "Clip"}:
            self._pending[target] = self._limit(node, how)
        elif kind in {"Conv", "Gemm", "MatMul"}:
            self._pending[target] = self._product(node, how)
        elif kind in {"MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"}:
            self._pending[target] = self._pool(node, how)
        elif kind == "Add":
            self._pending[target] = self._addition(node)
        elif kind == "Softmax":
            self._pending[target] = self._softmax(source, how)
        elif kind in _FUNCTIONS:
            self._pending[target] = self._function(
                self._read(source), lambda numbers: _FUNCTIONS[kind](numbers, how)
            )
        else:
            raise FlatUnsupported(f"operator {kind} has no counterpart")

    # ------------------------------------------------------------ values

    def _read(self, name: str) -> int:
        """Return the number of the tensor that is called so in the graph."""
        if name not in self._values:
            raise FlatUnsupported(f"{name[:80]!r} is not quantized")
        return self._values[name]

    def _constant(self, name: str) -> Array:
        if name not in self._constants:
            raise FlatUnsupported(f"{name[:80]!r} is computed, where a constant is expected")
        found: Array = self._constants[name]
        return found

    def _read_windows(self, name: str) -> int:
        """Return the same for an operator with windows, to which the axes matter."""
        number = self._read(name)
        if three_axes(self._sizes.get(name, [])) != self._shape(number):
            raise FlatUnsupported(f"windows over {name[:80]!r}, whose axes were changed before")
        return number

    def _tensor(self, shape: tuple[int, int, int], how: _Scale) -> int:
        self._tensors.append(Tensor(*shape, zero=how.zero, scale=how.scale))
        return len(self._tensors) - 1

    def _shape(self, number: int) -> tuple[int, int, int]:
        one = self._tensors[number]
        return one.channels, one.height, one.width

    def _scale(self, node: Any) -> _Scale:
        scale = self._constant(node.input[1])
        zero = self._constants.get(_third(node), np.zeros(1, np.uint8))
        if scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
            raise FlatUnsupported("values with a scale each channel, or of more than 8 bits")
        return _Scale(float(scale), int(zero) - (128 if zero.dtype == np.uint8 else 0))

    def _dequantize(self, node: Any, source: str, target: str) -> None:
        if source not in self._constants:
            self._values[target] = self._read(source)
            return
        codes, scales = self._constants[source], self._constant(node.input[1])
        zero = self._constants.get(_third(node), np.zeros(1))
        if zero.any() or codes.dtype not in (np.int8, np.int32):
            raise FlatUnsupported("weights that are not signed around zero")
        self._weights[target] = _Weights(codes, scales.astype(np.float64).reshape(-1))

    def _quantize(self, source: str, how: _Scale) -> int:
        if source == self._input.name and source not in self._values:
            sizes = [one.dim_value for one in self._input.type.tensor_type.shape.dim][1:]
            self._values[source] = self._tensor(three_axes(sizes), how)
            return self._values[source]
        if source in self._pending:
            pending = self._pending[source]
            return pending.finish(how, pending)
        return self._requantized(self._read(source), how)

    def _requantized(self, number: int, how: _Scale) -> int:
        was = self._tensors[number]
        if (was.scale, was.zero) == (how.scale, how.zero):
            return number
        same = self._function(number, lambda numbers: numbers)
        return same.finish(how, same)

    def _rename(self, source: str, target: str) -> None:
        """Take a tensor under another name; its bytes are in the same order in either shape."""
        if source in self._pending:
            self._pending[target] = self._pending[source]
        else:
            self._values[target] = self._read(source)

    # ------------------------------------------------------------ operators

    def _limit(self, node: Any, how: Mapping[str, Any]) -> _Pending:
        lowest, highest = 0.0, math.inf
        if node.op_type == "Clip":
            bounds = [self._constant(one) if one else None for one in node.input[1:]]
            bounds += [None] * (2 - len(bounds))
            lowest = float(how.get("min", -math.inf) if bounds[0] is None else bounds[0])
            highest = float(how.get("max", math.inf) if bounds[1] is None else bounds[1])
        source = node.input[0]
        pending = self._pending.get(source)
        if pending is None:
            number = self._read(source)
            was = self._tensors[number]
            pending = replace(
                self._function(number, lambda numbers: numbers),
                default=_Scale(was.scale, was.zero),
            )
        return replace(
            pending,
            lowest=max(lowest, pending.lowest),
            highest=min(highest, pending.highest),
        )

    def _product(self, node: Any, how: Mapping[str, Any]) -> _Pending:
        """Return what a convolution or a dense layer gives."""
        weights = self._weights.get(node.input[1])
        if weights is None:
            raise FlatUnsupported(f"{node.op_type} of two tensors that are both computed")
        bias, windows = _third(node), node.op_type == "Conv"
        number = (self._read_windows if windows else self._read)(node.input[0])
        channels, height, width = self._shape(number)
        if windows:
            codes = weights.codes
            window, sizes = window_of(how, codes.shape[2:], (height, width))
        else:
            if how.get("alpha", 1.0) != 1.0 or how.get("beta", 1.0) != 1.0 or how.get("transA"):
                raise FlatUnsupported("a Gemm that multiplies its parts")
            codes = weights.codes if how.get("transB") else weights.codes.T
            if codes.shape[1:] != (channels * height * width,):
                raise FlatUnsupported(f"{node.op_type} of more than a row a sample")
            window, sizes = {"kernel": (height, width)}, (1, 1)
        shape = (int(codes.shape[0]), *sizes)

        def finish(output: _Scale, pending: _Pending) -> int:
            inner = self._tensors[number].scale * np.broadcast_to(weights.scales, shape[0])
            step = Step(
                kind=CONVOLUTION,
                first=number,
                output=self._tensor(shape, output),
                groups=int(how.get("group", 1)),
                weights=np.ascontiguousarray(codes, np.int8).tobytes(),
                biases=self._biases(bias, inner),
                factors=tuple(Factor.of(one / output.scale) for one in inner),
                **window,
            )
            return self._append(step, pending, output)

        return _Pending(shape, finish)

    def _biases(self, name: str, inner: Array) -> tuple[int, ...]:
        """Return biases as integers of the scale that the sums of products have."""
        if not name:
            return (0,) * len(inner)
        if name in self._weights:
            numbers = self._weights[name].numbers
        else:
            numbers = self._constant(name).astype(np.float64)
        limited = np.clip(np.rint(numbers.reshape(-1) / inner), -BIAS_MAX, BIAS_MAX)
        return tuple(int(one) for one in limited)

    def _pool(self, node: Any, how: Mapping[str, Any]) -> _Pending:
        number = self._read_windows(node.input[0])
        channels, height, width = self._shape(number)
        window: dict[str, Any]
        if node.op_type in {"GlobalAveragePool", "ReduceMean"}:
            if node.op_type == "ReduceMean":
                self._check_mean(node, how, (height, width))
            window, sizes = {"kernel": (height, width)}, (1, 1)
        else:
            window, sizes = window_of(how, how["kernel_shape"], (height, width))
        area = window["kernel"][0] * window["kernel"][1]
        shape = (channels, *sizes)
        if node.op_type == "MaxPool":
            return self._maximum(number, shape, window)
        if any(how.get("pads", ())) and not how.get("count_include_pad"):
            raise FlatUnsupported("an average that leaves out the padding")

        def finish(output: _Scale, pending: _Pending) -> int:
            step = Step(
                kind=AVERAGE_POOL,
                first=number,
                output=self._tensor(shape, output),
                factors=(Factor.of(self._tensors[number].scale / (output.scale * area)),),
                **window,
            )
            return self._append(step, pending, output)

        return _Pending(shape, finish)

    def _maximum(
        self, number: int, shape: tuple[int, int, int], window: Mapping[str, Any]
    ) -> _Pending:
        was = self._tensors[number]
        own = _Scale(was.scale, was.zero)

        def finish(output: _Scale, pending: _Pending) -> int:
            step = Step(kind=MAXIMUM_POOL, first=number, output=self._tensor(shape, own), **window)
            return self._requantized(self._append(step, pending, own), output)

        return _Pending(shape, finish, own)

    def _check_mean(self, node: Any, how: Mapping[str, Any], sizes: tuple[int, int]) -> None:
        """Refuse a mean over anything but rows and columns."""
        axes = how.get("axes")
        if axes is None and len(node.input) > 1:
            axes = self._constant(node.input[1]).tolist()
        rank = len(self._input.type.tensor_type.shape.dim)
        spatial = set(range(2, rank))
        if axes is None or {one % rank for one in axes} != spatial:
            raise FlatUnsupported(f"ReduceMean over axes {axes} of {sizes}")

    def _addition(self, node: Any) -> _Pending:
        first, second = (self._read(one) for one in node.input)
        if self._shape(first) != self._shape(second):
            raise FlatUnsupported("Add of different shapes")

        def finish(output: _Scale, pending: _Pending) -> int:
            ratios = [self._tensors[one].scale / output.scale for one in (first, second)]
            shift = min(SHIFT_MAX, _ADDITION_BITS - math.frexp(max(ratios))[1])
            if shift < 1:
                raise FlatUnsupported("Add with an output far finer than its inputs")
            step = Step(
                kind=ADD,
                first=first,
                second=second,
                output=self._tensor(self._shape(first), output),
                factors=tuple(Factor(round(math.ldexp(one, shift)), shift) for one in ratios),
            )
            return self._append(step, pending, output)

        return _Pending(self._shape(first), finish)

    def _function(self, number: int, function: Callable[[Array], Array]) -> _Pending:
        """Return what a function of each single value gives."""
        was = self._tensors[number]
        numbers = (np.arange(-128, 128) - was.zero) * was.scale

        def finish(output: _Scale, pending: _Pending) -> int:
            limited = np.clip(function(numbers), pending.lowest, pending.highest)
            codes = np.clip(np.rint(limited / output.scale) + output.zero, LOWEST, HIGHEST)
            step = Step(
                kind=TABLE,
                first=number,
                output=self._tensor(self._shape(number), output),
                weights=codes.astype(np.int8).tobytes(),
            )
            self._steps.append(step)
            return step.output

        return _Pending(self._shape(number), finish, _Scale(_SHARE_SCALE, -128))

    def _softmax(self, source: str, how: Mapping[str, Any]) -> _Pending:
        number = self._read(source)
        was, shape = self._tensors[number], self._shape(number)
        if shape[1:] != (1, 1) or how.get("axis", -1) not in (1, -1):
            raise FlatUnsupported("a Softmax along one of several axes")
        entries = np.rint(np.exp(-np.arange(256) * was.scale) * SOFTMAX_ONE)
        own = _Scale(_SHARE_SCALE, -128)

        def finish(output: _Scale, pending: _Pending) -> int:
            step = Step(
                kind=SOFTMAX,
                first=number,
                output=self._tensor(shape, own),
                weights=struct.pack("<256I", *(int(one) for one in entries)),
            )
            return self._requantized(self._append(step, pending, own), output)

        return _Pending(shape, finish, own)

    def _append(self, step: Step, pending: _Pending, output: _Scale) -> int:
        """Add a step with the limits that came behind it; return the number of its output."""
        self._steps.append(
            replace(
                step,
                lowest=_code(pending.lowest, output),
                highest=_code(pending.highest, output),
            )
        )
        return step.output


def _third(node: Any) -> str:
    return next(iter(node.input[2:3]), "")


def _code(number: float, how: _Scale) -> int:
    code = np.rint(np.clip(number / how.scale, -1e6, 1e6)) + how.zero
    return int(np.clip(code, LOWEST, HIGHEST))
