"""Pairs of small models: a base, and what training could have made of it."""

import io

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["TYPES", "model", "retrained", "stepped", "weights"]

TYPES = {
    "f32": np.float32,
    "f16": np.float16,
    "i8": np.int8,
    "u8": np.uint8,
    "i32": np.int32,
}


def weights(rng, kind, shape):
    """Return weights as a trained layer has them."""
    if kind.startswith("f"):
        return (rng.standard_normal(shape) * 0.1).astype(TYPES[kind])
    if kind == "i32":
        return rng.integers(-5000, 5000, shape).astype(np.int32)
    return np.clip(rng.standard_normal(shape) * 25, -100, 100).astype(np.int64).astype(TYPES[kind])


def retrained(rng, array, step=0.01):
    """Return the weights after some training: rows scaled, a rank of one, and noise."""
    rows = array.shape[0]
    matrix = array.reshape(rows, -1).astype(np.float64)
    size = np.abs(matrix).mean() or 1.0
    scaled = matrix * (1 + 0.1 * rng.standard_normal((rows, 1)))
    product = rng.standard_normal((rows, 1)) * rng.standard_normal((1, matrix.shape[1]))
    moved = scaled + size * step * (product + rng.standard_normal(matrix.shape))
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        moved = np.clip(np.round(moved), limits.min, limits.max)
    return moved.astype(array.dtype).reshape(array.shape)


def stepped(rng, array, sizes, spread=2.0):
    """Return the weights some whole steps further: of one size, or of one for each row."""
    steps = np.clip(np.round(rng.standard_normal(array.shape) * spread), -127, 127)
    moved = steps * np.reshape(sizes, (-1, *[1] * (array.ndim - 1)))
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        made = array + moved
        inside = (made >= limits.min) & (made <= limits.max)
        return np.where(inside, made, array).astype(array.dtype)
    return (array.astype(np.float64) + moved).astype(array.dtype)


def model(tensors, *, name="graph", nodes=3):
    """Return the bytes of an ONNX file with these initializers."""
    graph = helper.make_graph(
        [helper.make_node("Relu", [f"x{n}"], [f"x{n + 1}"], f"relu{n}") for n in range(nodes)],
        name,
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(f"x{nodes}", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(array, key) for key, array in tensors.items()],
    )
    out = io.BytesIO()
    onnx.save(helper.make_model(graph), out)
    return out.getvalue()
