"""Weights of 8 bits, arithmetic in float: a quarter of the file, and no noise in the activations.

Each weight tensor becomes int8 codes with one scale a channel, and two nodes in front of its
consumers: Cast to float, Mul by the scales. Runtimes fold them away when they load the model, which
then runs as fast as fp32 and takes as much memory. (DequantizeLinear would say the same in one
node, but onnxruntime keeps it, to fuse it: measured, a model ran three times slower.)

It is right wherever float is, so where 8-bit activations spoil a model, such as one whose
reconstruction error is what counts, this does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["store_weights"]

_ELEMENTS_MIN = 64
_CODES = 127
_SCALE = "_scale"
_RANK_MIN = 2


def store_weights(
    source: Path, target: Path, excluded: tuple[str, ...], *, parent: Path | None = None
) -> int:
    """Write `target`, the model with its weights as int8; return how many tensors that are.

    Args:
        source: the fp32 model.
        target: the file that is written.
        excluded: names of nodes whose weights stay as they are.
        parent: a model made in this way, whose scales are kept where the shapes are the same.
    """
    model = onnx.load(source)
    graph = model.graph
    scales_before = {} if parent is None else _scales_of(parent)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    axes = dict(_weights(graph, tensors, excluded))
    nodes = []
    for name, axis in axes.items():
        stored, scale, wide = f"{name}_int8", f"{name}{_SCALE}", f"{name}_float"
        weights = numpy_helper.to_array(tensors[name])
        codes, scales = _quantize(weights, axis, scales_before.get(name))
        graph.initializer.append(numpy_helper.from_array(codes, stored))
        graph.initializer.append(numpy_helper.from_array(scales, scale))
        graph.initializer.remove(tensors[name])
        nodes += [
            helper.make_node("Cast", [stored], [wide], f"{name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [wide, scale], [name], f"{name}_scaled"),
        ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    for value in [value for value in graph.input if value.name in axes]:
        graph.input.remove(value)  # an initializer may be declared as an input with a default
    onnx.save(model, target)
    return len(axes)


def _weights(
    graph: Any, tensors: dict[str, Any], excluded: tuple[str, ...]
) -> Iterator[tuple[str, int]]:
    """Yield the name of each weight tensor with the axis of its channels."""
    kept = {name for node in graph.node if node.name in excluded for name in node.input}
    for node in graph.node:
        place, axis = _place(node)
        name = node.input[place] if place < len(node.input) else ""
        tensor = tensors.get(name)
        if tensor is None or name in kept or tensor.data_type != TensorProto.FLOAT:
            continue
        rank = len(tensor.dims)
        if rank >= _RANK_MIN and int(np.prod(tensor.dims)) >= _ELEMENTS_MIN:
            yield name, axis % rank


def _place(node: Any) -> tuple[int, int]:
    """Return which input of a node is its weights (beyond all: none), and the channels' axis."""
    match node.op_type:
        case "Conv":
            return 1, 0
        case "ConvTranspose":
            return 1, 1
        case "Gemm":
            transposed = any(one.name == "transB" and one.i for one in node.attribute)
            return 1, 0 if transposed else 1
        case "MatMul":
            return 1, -1
        case "Gather":
            return 0, 0
        case _:
            return len(node.input), 0


def _scales_of(parent: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the scales of a model that was made here, by the name of the weights."""
    tensors = onnx.load(parent).graph.initializer
    arrays = {one.name: numpy_helper.to_array(one) for one in tensors if one.name.endswith(_SCALE)}
    return {name.removesuffix(_SCALE): array for name, array in arrays.items()}


def _quantize(
    weights: npt.NDArray[np.float32],
    axis: int,
    before: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return codes, -127 to 127, and scales that broadcast to them, one a channel.

    Args:
        weights: float32, of any shape.
        axis: of the channels.
        before: scales to keep, if they fit and are positive.
    """
    others = tuple(one for one in range(weights.ndim) if one != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / _CODES, 1.0).astype(np.float32)
    if before is not None and before.shape == scales.shape and (before > 0).all():
        scales = before.astype(np.float32)
    codes = np.clip(np.rint(weights / scales), -_CODES, _CODES).astype(np.int8)
    return codes, scales
