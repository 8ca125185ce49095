"""ONNX nodes of processing steps: names of their own, constants, and what differs by opset.

Only operators and forms are made that every opset from 7 on has, or those of the model's own.
Constants are initializers: the Constant nodes of opset 7 and 8 hold no integers. All names begin
with `PROCESSING_PREFIX`, by which quantization leaves the nodes in float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgectl_server.pipeline.errors import PipelineRefused

__all__ = [
    "ELEMENT_TYPES",
    "PROCESSING_PREFIX",
    "Nodes",
    "Value",
    "is_processing",
    "processing_nodes",
    "refuse_shape",
]

PROCESSING_PREFIX = "edgectl_processing/"
"""Begins the name of every node, and of every tensor between them, that a step has made."""
_CONSTANT_ELEMENTS_MAX = 2 * 1024 * 1024
_ELEMENTS_MAX = 2**26
_CLIP_BY_INPUTS = 11
_SUM_AXES_BY_INPUT = 13
_AXES_BY_INPUT = 18
"""Of the other reductions."""

ELEMENT_TYPES: dict[str, int] = {
    "FP32": onnx.TensorProto.FLOAT,
    "FP64": onnx.TensorProto.DOUBLE,
    "FP16": onnx.TensorProto.FLOAT16,
    "INT8": onnx.TensorProto.INT8,
    "INT16": onnx.TensorProto.INT16,
    "INT32": onnx.TensorProto.INT32,
    "INT64": onnx.TensorProto.INT64,
    "UINT8": onnx.TensorProto.UINT8,
    "UINT16": onnx.TensorProto.UINT16,
    "UINT32": onnx.TensorProto.UINT32,
    "UINT64": onnx.TensorProto.UINT64,
    "BOOL": onnx.TensorProto.BOOL,
}


@dataclass(frozen=True)
class Value:
    """A tensor on its way through the steps.

    Attributes:
        name: in the graph.
        datatype: as in the Open Inference Protocol, such as ``FP32``.
        shape: -1 is any size; the batch is first.
        axes: one letter an axis as in `steps.Axes`; of an input only.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    axes: str = ""

    def size(self, letter: str) -> int:
        """Return the size of the axis with this letter."""
        return self.shape[self.axes.index(letter)]

    def __str__(self) -> str:
        shape = ", ".join("N" if size < 0 else str(size) for size in self.shape[:1])
        rest = "".join(f", {'?' if size < 0 else size}" for size in self.shape[1:])
        return f"{self.datatype} {f'{self.axes} ' if self.axes else ''}[{shape}{rest}]"


def is_processing(node: Any) -> bool:
    """Say whether a step has made the node, also after optimizers have renamed it."""
    names = (node.name, *node.output)
    return any(name.startswith(PROCESSING_PREFIX) for name in names)


def processing_nodes(model: Any) -> list[str]:
    """Return the names of the nodes that steps have made, for a quantizer to leave out."""
    return [node.name for node in model.graph.node if is_processing(node) and node.name]


def refuse_shape(detail: str, hint: str) -> PipelineRefused:
    """Return the refusal of a step that does not fit what comes in."""
    return PipelineRefused("processing.shape", f"{detail}.", f"{hint}.")


class Nodes:
    """Collects the nodes of steps, in the order in which they run."""

    def __init__(self, opset: int, taken: set[str]) -> None:
        """Take the model's opset and every name that its nodes and tensors have."""
        self.opset = opset
        self.made: list[Any] = []
        self.constants: list[Any] = []
        self._taken = taken
        self._elements = 0

    def name(self, what: str, *, prefix: str = PROCESSING_PREFIX) -> str:
        """Return a name that nothing else has."""
        name, number = f"{prefix}{what}", 1
        while name in self._taken:
            number += 1
            name = f"{prefix}{what}_{number}"
        self._taken.add(name)
        return name

    def add(self, operator: str, inputs: Sequence[str], *, outputs: int = 1, **rest: Any) -> str:
        """Add a node and return the name of its first output; `rest` are its attributes."""
        name = self.name(operator)
        made = [name] + [self.name(f"{operator}_output") for _ in range(outputs - 1)]
        self.made.append(helper.make_node(operator, list(inputs), made, name=name, **rest))
        return name

    def constant(self, array: npt.NDArray[Any]) -> str:
        """Add a constant; raise `PipelineRefused` ``processing.limit`` if all are too large."""
        self.expect(array.size)
        self._elements += array.size
        name = self.name("constant")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def expect(self, elements: int) -> None:
        """Raise ``processing.limit`` if a constant of this size would be one too many."""
        if self._elements + elements > _CONSTANT_ELEMENTS_MAX:
            raise PipelineRefused(
                "processing.limit",
                f"The steps need more than {_CONSTANT_ELEMENTS_MAX} constants in the model.",
                "Use smaller sizes or fewer windows; for a resize, export the model with "
                "opset_version=18 or newer, which needs none.",
            )

    def floats(self, numbers: float | Sequence[float]) -> str:
        """Add a constant of FP32."""
        return self.constant(np.asarray(numbers, np.float32))

    def integers(self, numbers: int | Sequence[int]) -> str:
        """Add a constant of INT64."""
        return self.constant(np.asarray(numbers, np.int64))

    def rename(self, old: str, new: str) -> None:
        """Give a tensor that one of these nodes makes another name."""
        for node in self.made:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    # ------------------------------------------------------------ what many steps do

    def cast(self, value: Value, datatype: str) -> Value:
        """Return the value in another datatype."""
        if value.datatype == datatype:
            return value
        name = self.add("Cast", [value.name], to=ELEMENT_TYPES[datatype])
        return replace(value, name=name, datatype=datatype)

    def as_float(self, value: Value) -> Value:
        """Return the value in FP32, in which all steps compute."""
        return self.cast(value, "FP32")

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Return the value with its axes in another order."""
        if list(order) == list(range(len(order))):
            return value
        return replace(
            value,
            name=self.add("Transpose", [value.name], perm=list(order)),
            shape=tuple(value.shape[axis] for axis in order),
            axes="".join(value.axes[axis] for axis in order) if value.axes else "",
        )

    def take(self, value: Value, axis: int, indices: npt.NDArray[Any]) -> Value:
        """Return the elements with these indices along an axis, which may be of any shape."""
        index = self.constant(indices.astype(np.int32))
        shape = (*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :])
        name = self.add("Gather", [value.name, index], axis=axis)
        return self.bounded(replace(value, name=name, shape=shape))

    def reshape(self, value: Value, sizes: Sequence[int], shape: tuple[int, ...]) -> Value:
        """Return the value as `sizes` says (0 copies, -1 is the rest), which is `shape`."""
        name = self.add("Reshape", [value.name, self.integers(sizes)])
        return replace(value, name=name, shape=shape)

    def reduce(self, operator: str, value: Value, axis: int) -> Value:
        """Return the value reduced over an axis, which goes."""
        if self.opset >= (_SUM_AXES_BY_INPUT if operator == "ReduceSum" else _AXES_BY_INPUT):
            name = self.add(operator, [value.name, self.integers([axis])], keepdims=0)
        else:
            name = self.add(operator, [value.name], axes=[axis], keepdims=0)
        shape = (*value.shape[:axis], *value.shape[axis + 1 :])
        axes = value.axes[:axis] + value.axes[axis + 1 :]
        return replace(value, name=name, shape=shape, axes=axes)

    def scale(self, value: Value, factor: float, add: float) -> Value:
        """Return ``value * factor + add`` in FP32."""
        value = self.as_float(value)
        if factor != 1.0:
            value = replace(value, name=self.add("Mul", [value.name, self.floats(factor)]))
        if add != 0.0:
            value = replace(value, name=self.add("Add", [value.name, self.floats(add)]))
        return value

    def clip(self, value: Value, minimum: float, maximum: float) -> Value:
        """Return the value within bounds, in FP32."""
        value = self.as_float(value)
        if self.opset < _CLIP_BY_INPUTS:
            name = self.add("Clip", [value.name], min=minimum, max=maximum)
        else:
            name = self.add("Clip", [value.name, self.floats(minimum), self.floats(maximum)])
        return replace(value, name=name)

    def bounded(self, value: Value) -> Value:
        """Return the value; raise ``processing.limit`` if one sample of it is too large."""
        if math.prod(max(size, 1) for size in value.shape) > _ELEMENTS_MAX:
            raise PipelineRefused(
                "processing.limit",
                f"A step makes {value} of one sample; at most {_ELEMENTS_MAX} elements are taken.",
                "Declare a smaller input, or fewer windows.",
            )
        return value
