"""The final linear layer of a classifier's ONNX graph: found, its features laid open, rewritten.

A head is a ``Gemm``, or a ``MatMul`` and the ``Add`` behind it, or a ``Conv`` of kernels of one
element, whose weights are initializers that nothing else uses, and which leads to the class scores
by nothing but operators that keep their order (``Softmax``, ``LogSoftmax``, ``Identity``). Behind a
``Conv`` the mean over all places may be taken (``GlobalAveragePool``, ``ReduceMean``), and the axes
of places dropped: the mean of what it gives is what it gives for the mean, so that it is a linear
layer on the mean of its input. Only its weights are changed: names, shapes and all other bytes of
the graph stay, so that an update of it is small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgectl_server.pipeline.errors import PipelineRefused

__all__ = ["Head", "Weights", "find_head", "read_weights", "with_features", "write_weights"]

_KEEP_ORDER = frozenset({"Softmax", "LogSoftmax", "Identity"})
_DROP_AXES = frozenset({"Flatten", "Reshape", "Squeeze"})
"""Between a ``Conv`` and the scores: what is left is one number a class, in their order."""
_WEIGHTS_RANK = 2
_STEPS_MAX = 8
_PLACES_AXIS = 2
"""The first axis of places: [N, C, …]."""
_POOLED = "edgectl/pooled/"
"""Before the name of a tensor: its mean over all places."""


class Head(NamedTuple):
    """Where the head is.

    Attributes:
        features: tensor that it takes, [N, D]; [N, D, …] of a ``Conv``.
        logits: tensor that it gives, [N, K]; [N, K, …] of a ``Conv``.
        weight: initializer [D, K], or [K, D] where `transposed`; [K, D, 1, …] of a ``Conv``.
        bias: initializer [K].
        transposed: rows of the weight are classes.
        places: it is a ``Conv``.
    """

    features: str
    logits: str
    weight: str
    bias: str
    transposed: bool
    places: bool = False


class Weights(NamedTuple):
    """Of a head, float64.

    Attributes:
        matrix: [K, D].
        bias: [K].
    """

    matrix: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]


def find_head(model: Any, scores: str) -> Head:
    """Return the head that makes the output `scores` of an ``onnx.ModelProto``.

    Raises:
        PipelineRefused: ``training.no_head``.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    tensor, reduced = scores, False
    for _ in range(_STEPS_MAX):
        node = makers.get(tensor)
        if node is None:
            break
        if not reduced and node.op_type in _KEEP_ORDER:
            tensor = node.input[0]
            continue
        if node.op_type in _DROP_AXES or _is_mean(model, node):
            tensor, reduced = node.input[0], True
            continue
        if node.op_type == "Conv":
            head = _conv(node)
        elif reduced:
            break
        else:
            head = _gemm(node) if node.op_type == "Gemm" else _product(node, makers)
        if head is not None and _owns(model, head):
            return head
        break
    found = "nothing" if makers.get(tensor) is None else makers[tensor].op_type
    raise PipelineRefused(
        "training.no_head",
        f"The class scores {scores!r} come from {found}, expected a linear layer (Gemm, MatMul "
        "and Add, or Conv of one element) with weights of its own.",
        "Name a trainer of your own: docs/training.md says what it gets and leaves.",
    )


def _gemm(node: Any) -> Head | None:
    numbers = {one.name: one for one in node.attribute}
    scaled = any(numbers[name].f != 1.0 for name in ("alpha", "beta") if name in numbers)
    turned = "transA" in numbers and numbers["transA"].i
    if scaled or turned or len(node.input) < 3:  # noqa: PLR2004 - input, weight, bias
        return None
    transposed = bool("transB" in numbers and numbers["transB"].i)
    return Head(node.input[0], node.output[0], node.input[1], node.input[2], transposed)


def _product(node: Any, makers: dict[str, Any]) -> Head | None:
    if node.op_type != "Add":
        return None
    for one, other in (node.input, reversed(node.input)):
        product = makers.get(one)
        if product is not None and product.op_type == "MatMul":
            return Head(product.input[0], node.output[0], product.input[1], other, False)
    return None


def _conv(node: Any) -> Head | None:
    """Return a head that is a ``Conv``, of kernels of one element at every place."""
    plain = {"kernel_shape": {1}, "strides": {1}, "dilations": {1}, "pads": {0}}
    for one in node.attribute:
        if one.name in plain and not set(one.ints) <= plain[one.name]:
            return None
        if one.name == "group" and one.i != 1:
            return None
        if one.name == "auto_pad" and one.s not in {b"NOTSET", b"VALID"}:
            return None
    if len(node.input) < 3:  # noqa: PLR2004 - input, weight, bias
        return None
    return Head(node.input[0], node.output[0], node.input[1], node.input[2], True, places=True)


def _is_mean(model: Any, node: Any) -> bool:
    """Say whether a node takes the mean over all places, and over nothing else."""
    if node.op_type != "ReduceMean":
        return bool(node.op_type == "GlobalAveragePool")
    axes: list[int] = []
    for attribute in node.attribute:
        if attribute.name == "axes":
            axes = list(attribute.ints)
    if len(node.input) > 1:
        found = [one for one in model.graph.initializer if one.name == node.input[1]]
        axes = numpy_helper.to_array(found[0]).ravel().tolist() if found else []
    # All axes of places, from the front or from the end; a rank that does not fit has no answers.
    front = list(range(_PLACES_AXIS, _PLACES_AXIS + len(axes)))
    return bool(axes) and sorted(axes) in (front, list(range(-len(axes), 0)))


def _owns(model: Any, head: Head) -> bool:
    """Say whether the weights are floats of fitting shapes that only the head uses."""
    shapes = {
        one.name: tuple(one.dims)
        for one in model.graph.initializer
        if one.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    weight, bias = shapes.get(head.weight), shapes.get(head.bias)
    if weight is None or bias is None or len(bias) != 1:
        return False
    if head.places:
        fits = len(weight) > _WEIGHTS_RANK and set(weight[_WEIGHTS_RANK:]) == {1}
    else:
        fits = len(weight) == _WEIGHTS_RANK
    if not fits:
        return False
    uses = [name for node in model.graph.node for name in node.input]
    alone = all(uses.count(name) == 1 for name in (head.weight, head.bias))
    return alone and bias[0] == weight[0 if head.transposed else 1]


def read_weights(model: Any, head: Head) -> Weights:
    """Return the weights of a head."""
    found = {one.name: one for one in model.graph.initializer}
    matrix = numpy_helper.to_array(found[head.weight]).astype(np.float64)
    bias = numpy_helper.to_array(found[head.bias]).astype(np.float64)
    if head.places:
        matrix = matrix.reshape(matrix.shape[:_WEIGHTS_RANK])
    return Weights(matrix if head.transposed else matrix.T, bias)


def write_weights(model: Any, head: Head, weights: Weights) -> None:
    """Put weights into a head, in the datatype that it has."""
    matrix = weights.matrix if head.transposed else weights.matrix.T
    for one in model.graph.initializer:
        for name, array in ((head.weight, matrix), (head.bias, weights.bias)):
            if one.name == name:
                dtype = np.float16 if one.data_type == onnx.TensorProto.FLOAT16 else np.float32
                content = np.ascontiguousarray(array.reshape(tuple(one.dims)), dtype)
                one.CopyFrom(numpy_helper.from_array(content, name))


def with_features(model: Any, head: Head) -> tuple[Any, Head]:
    """Return a copy of a model that gives a head's features and logits, and nothing else.

    Returns:
        The copy, and the head by the names of what it gives: [N, D] and [N, K].
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if head.places:
        for name in (head.features, head.logits):
            mean = f"{_POOLED}{name}/mean"
            copy.graph.node.append(onnx.helper.make_node("GlobalAveragePool", [name], [mean]))
            copy.graph.node.append(onnx.helper.make_node("Flatten", [mean], [_POOLED + name]))
        head = head._replace(features=_POOLED + head.features, logits=_POOLED + head.logits)
    del copy.graph.output[:]
    copy.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in (head.features, head.logits)
    )
    return copy, head
