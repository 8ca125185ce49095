"""Steps behind a model: each takes a value and returns another, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgectl_server.pipeline.nodes import Nodes, Value, refuse_shape
from edgectl_server.pipeline.steps import (
    ArgMax,
    Cast,
    Clip,
    Join,
    Labels,
    OutputStep,
    Scale,
    Sigmoid,
    Softmax,
    Threshold,
    TopK,
)

__all__ = ["add_output_step", "add_top_k"]

_TOP_K_BY_INPUT = 10
_RANK_MIN = 2
_WINDOWED_RANK_MIN = 2


def add_output_step(nodes: Nodes, value: Value, step: OutputStep, *, windows: int) -> Value:
    """Add the nodes of one step, other than `TopK`, and return what comes out.

    Args:
        nodes: where they are added.
        value: what comes in.
        step: the step.
        windows: how many windows axis 1 counts; 0: it does not.

    Raises:
        PipelineRefused: ``processing.shape``.
    """
    if isinstance(step, Join):
        return _join(nodes, value, step, windows=windows)
    return _STEPS[type(step)](nodes, value, step)


def add_top_k(nodes: Nodes, value: Value, step: TopK) -> tuple[Value, Value]:
    """Return the highest scores and their indices along the last axis."""
    axis = _axis(value, -1, "top_k")
    classes = value.shape[axis]
    if 0 <= classes < step.k:
        raise refuse_shape(
            f"The {step.k} highest of {classes} scores were asked for ({value})",
            f"Ask for at most {classes}: k = {classes}",
        )
    value = nodes.as_float(value)
    if nodes.opset < _TOP_K_BY_INPUT:
        scores = nodes.add("TopK", [value.name], outputs=2, axis=axis, k=step.k)
    else:
        k = nodes.integers([step.k])
        scores = nodes.add("TopK", [value.name, k], outputs=2, axis=axis)
    shape = (*value.shape[:axis], step.k)
    indices = nodes.made[-1].output[1]
    return Value(scores, "FP32", shape), Value(indices, "INT64", shape)


def _axis(value: Value, axis: int, step: str) -> int:
    """Return the axis counted from the front; the batch is none."""
    rank = len(value.shape)
    found = axis + rank if axis < 0 else axis
    if not 1 <= found < rank:
        raise refuse_shape(
            f"A {step} along axis {axis} cannot be made of {value}",
            "Give an axis behind the batch; -1 is the last",
        )
    return found


def _softmax(nodes: Nodes, value: Value, step: Softmax) -> Value:
    """Along the last axis, where the operator means the same in every opset."""
    axis = _axis(value, step.axis, "softmax")
    value = nodes.as_float(value)
    last = len(value.shape) - 1
    order = list(range(last + 1))
    order[axis], order[last] = order[last], order[axis]
    moved = nodes.transpose(value, order)
    made = replace(moved, name=nodes.add("Softmax", [moved.name], axis=last))
    return nodes.transpose(made, order)


def _sigmoid(nodes: Nodes, value: Value, step: Sigmoid) -> Value:
    del step
    value = nodes.as_float(value)
    return replace(value, name=nodes.add("Sigmoid", [value.name]))


def _argmax(nodes: Nodes, value: Value, step: ArgMax | Threshold) -> Value:
    axis = _axis(value, step.axis, "argmax" if isinstance(step, ArgMax) else "threshold")
    value = nodes.as_float(value)
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    return Value(nodes.add("ArgMax", [value.name], axis=axis, keepdims=0), "INT64", shape)


def _threshold(nodes: Nodes, value: Value, step: Threshold) -> Value:
    """(class + 1) · (highest > just below the minimum) - 1; NaN is above nothing."""
    axis = _axis(value, step.axis, "threshold")
    if isinstance(step.minimum, tuple) and value.shape[axis] not in {-1, len(step.minimum)}:
        raise refuse_shape(
            f"`minimum` of a threshold has {len(step.minimum)} numbers for {value.shape[axis]} "
            f"classes ({value})",
            f"Give one for each class, or one for all: minimum = {step.minimum[0]:g}",
        )
    value = nodes.as_float(value)
    found = _argmax(nodes, value, step)
    highest = nodes.reduce("ReduceMax", value, axis)
    below = nodes.constant(_just_below(np.asarray(step.minimum, np.float32)))
    if isinstance(step.minimum, tuple):
        below = nodes.add("Gather", [below, found.name], axis=0)
    above = nodes.add("Greater", [highest.name, below])
    kept = nodes.cast(Value(above, "BOOL", found.shape), "INT64")
    one = nodes.integers(1)
    product = nodes.add("Mul", [nodes.add("Add", [found.name, one]), kept.name])
    return replace(found, name=nodes.add("Sub", [product, one]))


def _just_below(numbers: Any) -> Any:
    """Return the largest FP32 below each number that is not denormal."""
    below = np.nextafter(numbers, np.float32(-np.inf))
    tiny = np.finfo(np.float32).tiny
    return np.where(np.abs(below) < tiny, np.where(numbers > 0, 0, -tiny), below).astype(np.float32)


def _scale(nodes: Nodes, value: Value, step: Scale) -> Value:
    return nodes.scale(value, step.multiply / step.divide, step.add)


def _clip(nodes: Nodes, value: Value, step: Clip) -> Value:
    return nodes.clip(value, step.minimum, step.maximum)


def _cast(nodes: Nodes, value: Value, step: Cast) -> Value:
    return nodes.cast(value, step.to)


def _join(nodes: Nodes, value: Value, step: Join, *, windows: int) -> Value:
    if not windows or len(value.shape) < _WINDOWED_RANK_MIN or value.shape[1] != windows:
        raise refuse_shape(
            f"{value} is no row of windows that a join could take",
            'Cut the input into windows: {do = "window", length = …, hop = …}',
        )
    operator = "ReduceMean" if step.by == "mean" else "ReduceMax"
    return nodes.reduce(operator, nodes.as_float(value), 1)


def _labels(nodes: Nodes, value: Value, step: Labels) -> Value:
    del nodes
    if len(value.shape) >= _RANK_MIN and value.shape[-1] not in {-1, len(step.names)}:
        raise refuse_shape(
            f"{len(step.names)} class names were given for {value}",
            "Give one name for each class, in the order of the scores, before an argmax or top_k",
        )
    return value


_STEPS: dict[type, Callable[[Nodes, Value, Any], Value]] = {
    Softmax: _softmax,
    Sigmoid: _sigmoid,
    Threshold: _threshold,
    ArgMax: _argmax,
    Scale: _scale,
    Clip: _clip,
    Cast: _cast,
    Labels: _labels,
}
