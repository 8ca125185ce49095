"""The scales of a parent version, for a successor: what changes little then stays the same code.

Devices have the parent. If the successor is quantized with the parent's scales and zero points, a
weight that has moved by less than half a step keeps its code, and an update is the difference of
codes, which compresses well. Ranges that the parent does not know, or that no longer fit, cost
accuracy: so it is one more recipe, measured as all are.
"""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType

__all__ = ["estimate_update", "parent_scales"]

_TYPES = {np.dtype(np.int8): QuantType.QInt8, np.dtype(np.uint8): QuantType.QUInt8}
_WEIGHT_SUFFIX = "_quantized"
_CHANNELS_MAX = 65536
_LZMA_PRESET = 3


def parent_scales(parent: Path, source: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the parent's scales for tensors that `source` has too.

    Args:
        parent: a model with QuantizeLinear and DequantizeLinear nodes, as onnxruntime makes it.
        source: the cleaned fp32 model of the successor.

    Returns:
        onnxruntime's ``TensorQuantOverrides``: by tensor one entry, or one a channel.
    """
    model = onnx.load(parent)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known = _tensor_names(onnx.load(source).graph)
    found: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        name = _quantized_tensor(node, tensors)
        if name not in known or len(node.input) < 3:  # noqa: PLR2004  # value, scale, zero point
            continue
        scale, zero_point = tensors.get(node.input[1]), tensors.get(node.input[2])
        if scale is None or zero_point is None or zero_point.dtype not in _TYPES:
            continue
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        found[name] = _overrides(scale, zero_point, axis)
    return {name: entries for name, entries in found.items() if entries}


def estimate_update(parent: Path, target: Path) -> int:
    """Return about how many bytes lead from one model file to the other.

    That is the size of the differences between tensors of the same name, shape and type, and of
    what has no counterpart, compressed by LZMA: what a delta of tensors takes, without headers.
    """
    before, after = _tensors(parent), _tensors(target)
    packer = lzma.LZMACompressor(preset=_LZMA_PRESET)
    size = 0
    for name, array in after.items():
        content = np.frombuffer(array.tobytes(), np.uint8)
        other = before.get(name)
        if other is not None and (other.shape, other.dtype) == (array.shape, array.dtype):
            content = content - np.frombuffer(other.tobytes(), np.uint8)
        size += len(packer.compress(content.tobytes()))
    return size + len(packer.flush())


def _tensor_names(graph: Any) -> set[str]:
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return names | {name for node in graph.node for name in node.output}


def _quantized_tensor(node: Any, tensors: dict[str, npt.NDArray[Any]]) -> str:
    """Return the name that the tensor which a node quantizes had in the fp32 model."""
    if node.op_type == "QuantizeLinear":
        return str(node.input[0])
    if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
        return str(node.input[0]).removesuffix(_WEIGHT_SUFFIX)
    return ""


def _overrides(
    scale: npt.NDArray[Any], zero_point: npt.NDArray[Any], axis: int
) -> list[dict[str, Any]]:
    kind = _TYPES[zero_point.dtype]
    if not scale.ndim:
        return [{"quant_type": kind, "scale": scale, "zero_point": zero_point}]
    if scale.shape != zero_point.shape or scale.ndim > 1 or scale.size > _CHANNELS_MAX:
        return []
    pairs = zip(scale, zero_point, strict=True)
    return [
        {"quant_type": kind, "axis": axis, "scale": one, "zero_point": zero} for one, zero in pairs
    ]


def _tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
