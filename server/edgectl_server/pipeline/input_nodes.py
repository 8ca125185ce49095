"""Steps in front of a model: each takes a value and returns another, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.nodes import Nodes, Value, refuse_shape
from edgectl_server.pipeline.steps import (
    Cast,
    Clip,
    Crop,
    InputStep,
    Layout,
    LogMel,
    Normalize,
    Resize,
    Scale,
    Window,
)

__all__ = ["add_input_step", "mel_matrix", "resize_matrix", "window_count"]

Floats = npt.NDArray[np.float32]

_RESIZE_OPSET = 11
"""The first whose Resize has half-pixel centres; below it is a product of matrices."""
_RESIZE_OPTIONAL_OPSET = 13
_ANTIALIAS_OPSET = 18
_SPECTRUM_OPSET = 17
_WINDOWS_MAX = 1024
_PICTURE = ({"N", "H", "W"}, {"N", "H", "W", "C"})


def add_input_step(nodes: Nodes, value: Value, step: InputStep) -> Value:
    """Add the nodes of one step and return what comes out.

    Raises:
        PipelineRefused: ``processing.shape``, ``processing.opset``, ``processing.limit``.
    """
    return nodes.bounded(_STEPS[type(step)](nodes, value, step))


def window_count(size: int, step: Window) -> int:
    """Return how many windows a stream of `size` samples has; what is left over is not used."""
    return max(0, (size - step.length) // step.hop + 1)


# ------------------------------------------------------------ pictures


def _resize(nodes: Nodes, value: Value, step: Resize) -> Value:
    if set(value.axes) not in _PICTURE:
        raise refuse_shape(
            f"A resize takes pictures, axes N, H, W and perhaps C, not {value}",
            'Say what the axes are, such as layout = "NHWC"',
        )
    height, width = value.size("H"), value.size("W")
    free = height < 0 or width < 0
    shrinks = free or step.height < height or step.width < width
    if step.mode == "linear" and shrinks and step.antialias is None:
        raise refuse_shape(
            f"The resize of {value} to {step.height}x{step.width} makes pictures smaller and does "
            "not say how",
            "Add antialias = true if the training data was resized by Pillow or torchvision, "
            "antialias = false if by OpenCV (INTER_LINEAR) or tf.image",
        )
    if step.mode == "nearest" and not free:
        value = nodes.take(value, value.axes.index("H"), _nearest(height, step.height))
        return nodes.take(value, value.axes.index("W"), _nearest(width, step.width))
    axes = value.axes
    value = _to_axes(nodes, nodes.as_float(value) if step.mode == "linear" else value, "NCHW")
    shape = (*value.shape[:2], step.height, step.width)
    antialias = bool(step.antialias) and step.mode == "linear" and shrinks
    needed = _ANTIALIAS_OPSET if antialias else _RESIZE_OPSET
    if nodes.opset >= needed:
        inputs = _resize_inputs(nodes, value, step, free=free)
        name = nodes.add("Resize", inputs, **_resize_attributes(nodes, step, antialias=antialias))
    elif free:
        raise PipelineRefused(
            "processing.opset",
            f"A resize of pictures of any size{' with antialias' if antialias else ''} needs opset "
            f"{needed}; the model has opset {nodes.opset}.",
            f"Export it with opset_version={needed}, or give the size of the pictures in `shape`.",
        )
    else:
        nodes.expect(height * step.height + width * step.width)
        rows = nodes.constant(resize_matrix(height, step.height, antialias=antialias))
        columns = nodes.constant(resize_matrix(width, step.width, antialias=antialias).T.copy())
        name = nodes.add("MatMul", [rows, nodes.add("MatMul", [value.name, columns])])
    return _to_axes(nodes, replace(value, name=name, shape=shape), axes)


def _resize_inputs(nodes: Nodes, value: Value, step: Resize, *, free: bool) -> list[str]:
    """Return the inputs of Resize for a value NCHW: x, roi, scales, sizes."""
    unused = "" if nodes.opset >= _RESIZE_OPTIONAL_OPSET else nodes.floats([])
    if nodes.opset >= _ANTIALIAS_OPSET:
        return [value.name, unused, unused, nodes.integers([step.height, step.width])]
    if not free:
        _, _, height, width = value.shape
        scales = [1.0, 1.0, _share(step.height, height), _share(step.width, width)]
        return [value.name, unused, nodes.floats(scales)]
    shape = nodes.add("Shape", [value.name])
    kept = nodes.add("Gather", [shape, nodes.integers([0, 1])], axis=0)
    wanted = nodes.integers([step.height, step.width])
    return [value.name, unused, unused, nodes.add("Concat", [kept, wanted], axis=0)]


def _resize_attributes(nodes: Nodes, step: Resize, *, antialias: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "mode": step.mode,
        "coordinate_transformation_mode": "half_pixel",
    }
    if step.mode == "nearest":
        attributes["nearest_mode"] = "round_prefer_ceil"
    if nodes.opset >= _ANTIALIAS_OPSET:
        attributes["axes"] = [2, 3]
        attributes["antialias"] = int(antialias)
    if antialias:
        attributes["exclude_outside"] = 1  # as Pillow; the default repeats the edge
    return attributes


def _share(wanted: int, size: int) -> float:
    """Return wanted / size as FP32 whose product with the size is not below what is wanted."""
    share = np.float32(wanted / size)
    while np.float32(size) * share < wanted:
        share = np.nextafter(share, np.float32(np.inf))
    return float(share)


def _nearest(size: int, wanted: int) -> npt.NDArray[np.int64]:
    """Return which pixel each new pixel is: the one its centre lies in (Pillow's NEAREST)."""
    centres = (2 * np.arange(wanted, dtype=np.int64) + 1) * size
    return centres // (2 * wanted)


def resize_matrix(size: int, wanted: int, *, antialias: bool) -> Floats:
    """Return the weights [wanted, size] of linear interpolation, rows of sum 1.

    The triangle of Pillow's ``precompute_coeffs`` (src/libImaging/Resample.c): as wide as the new
    pixels with `antialias`, as wide as the old ones without.
    """
    ratio = size / wanted
    width = max(ratio, 1.0) if antialias else 1.0
    centres = (np.arange(wanted)[:, None] + 0.5) * ratio
    distances = np.abs(np.arange(size)[None, :] + 0.5 - centres) / width
    weights = np.maximum(0.0, 1.0 - distances)
    normalized: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalized


def _crop(nodes: Nodes, value: Value, step: Crop) -> Value:
    for letter, wanted in (("H", step.height), ("W", step.width)):
        size = value.size(letter) if letter in value.axes else 0
        if size < wanted:
            raise refuse_shape(
                f"A crop to {step.height}x{step.width} cannot be made of {value}",
                "Resize before it to at least that size",
            )
        begin = (size - wanted) // 2
        value = nodes.take(value, value.axes.index(letter), np.arange(begin, begin + wanted))
    return value


# ------------------------------------------------------------ axes, datatypes, numbers


def _layout(nodes: Nodes, value: Value, step: Layout) -> Value:
    come, go = set(step.to) - set(value.axes), set(value.axes) - set(step.to)
    if not come | go <= {"C"} or (go and value.size("C") != 1):
        raise refuse_shape(
            f"{value} cannot be laid out as {step.to}",
            "Use the same letters; only a channel axis C of size 1 may come or go",
        )
    return _to_axes(nodes, value, step.to)


def _to_axes(nodes: Nodes, value: Value, to: str) -> Value:
    """Lay a value out; a missing C is added, and one of size 1 that is not wanted goes."""
    if "C" in to and "C" not in value.axes:
        added = nodes.reshape(value, [*[0] * len(value.axes), 1], (*value.shape, 1))
        value = replace(added, axes=value.axes + "C")
    if "C" in value.axes and "C" not in to:
        value = nodes.transpose(value, [value.axes.index(letter) for letter in to + "C"])
        dropped = nodes.reshape(value, [0] * len(to), value.shape[:-1])
        return replace(dropped, axes=to)
    return nodes.transpose(value, [value.axes.index(letter) for letter in to])


def _cast(nodes: Nodes, value: Value, step: Cast) -> Value:
    return nodes.cast(value, step.to)


def _scale(nodes: Nodes, value: Value, step: Scale) -> Value:
    return nodes.scale(value, step.multiply / step.divide, step.add)


def _normalize(nodes: Nodes, value: Value, step: Normalize) -> Value:
    value = nodes.as_float(value)
    mean = nodes.constant(_along(value, step.mean, "mean"))
    std = nodes.constant(_along(value, step.std, "std"))
    return replace(value, name=nodes.add("Div", [nodes.add("Sub", [value.name, mean]), std]))


def _along(value: Value, numbers: tuple[float, ...] | float, key: str) -> Floats:
    """Return numbers so that they broadcast along the channels, axis C, otherwise F."""
    if not isinstance(numbers, tuple):
        return np.asarray(numbers, np.float32)
    letter = next((letter for letter in "CF" if letter in value.axes), None)
    if letter is None or value.size(letter) != len(numbers):
        found = f"axis {letter} has {value.size(letter)}" if letter else "there is no axis C or F"
        raise refuse_shape(
            f"`{key}` of a normalize has {len(numbers)} numbers, and {found} ({value})",
            f"Give one number for each channel, or one for all: {key} = {numbers[0]:g}",
        )
    shape = [len(numbers) if axis == letter else 1 for axis in value.axes]
    return np.asarray(numbers, np.float32).reshape(shape)


def _clip(nodes: Nodes, value: Value, step: Clip) -> Value:
    return nodes.clip(value, step.minimum, step.maximum)


# ------------------------------------------------------------ series and sound


def _window(nodes: Nodes, value: Value, step: Window) -> Value:
    if "T" not in value.axes:
        raise refuse_shape(
            f"A window is cut along an axis T, and {value} has none",
            'Say what the axes are, such as layout = "NCT" or "NTC"',
        )
    count = window_count(value.size("T"), step)
    if not 1 <= count <= _WINDOWS_MAX:
        raise refuse_shape(
            f"A stream of {value.size('T')} samples has {count} windows of {step.length} every "
            f"{step.hop}; expected 1 to {_WINDOWS_MAX}",
            f"Declare T from {step.length} samples on, or a longer hop",
        )
    nodes.expect(count * step.length)
    axis = value.axes.index("T")
    indices = np.arange(count)[:, None] * step.hop + np.arange(step.length)
    taken = nodes.take(value, axis, indices)
    order = [0, axis, *range(1, axis), *range(axis + 1, len(taken.shape))]
    moved = nodes.transpose(replace(taken, axes=""), order)
    batch = -1 if value.shape[0] < 0 else value.shape[0] * count
    shape = (batch, *moved.shape[2:])
    return replace(nodes.reshape(moved, [-1, *shape[1:]], shape), axes=value.axes)


def _log_mel(nodes: Nodes, value: Value, step: LogMel) -> Value:
    if value.axes != "NT" or value.size("T") < step.frame:
        raise refuse_shape(
            f"log_mel takes sound of one channel, axes NT, at least {step.frame} samples, not "
            f"{value}",
            'Declare layout = "NT"; for a channel axis of size 1: {do = "layout", to = "NT"}',
        )
    if nodes.opset < _SPECTRUM_OPSET:
        raise PipelineRefused(
            "processing.opset",
            f"log_mel needs opset {_SPECTRUM_OPSET}, which has the operator STFT; the model has "
            f"opset {nodes.opset}.",
            f"Export it with opset_version={_SPECTRUM_OPSET} or newer.",
        )
    value = nodes.as_float(value)
    signal = nodes.reshape(value, [0, 0, 1], (*value.shape, 1))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(step.frame) / step.frame)
    spectrum = nodes.add(
        "STFT", [signal.name, nodes.integers(step.hop), nodes.floats(hann.tolist())], onesided=1
    )
    count = window_count(value.size("T"), Window(length=step.frame, hop=step.hop))
    square = nodes.add("Mul", [spectrum, spectrum])
    bins = step.frame // 2 + 1
    power = nodes.reduce("ReduceSum", Value(square, "FP32", (value.shape[0], count, bins, 2)), 3)
    bands = nodes.add("MatMul", [power.name, nodes.constant(mel_matrix(step))])
    lifted = nodes.add("Add", [bands, nodes.floats(step.floor)])
    shape = (value.shape[0], count, step.bands)
    return Value(nodes.add("Log", [lifted]), "FP32", shape, "NTF")


def mel_matrix(step: LogMel) -> Floats:
    """Return the weights [frame // 2 + 1, bands] of triangles on HTK's mel scale, peaks of 1.

    mel = 2595 · log10(1 + f / 700); the triangles are linear in Hz, as torchaudio's
    ``melscale_fbanks(norm=None, mel_scale="htk")``.
    """
    high = step.high_hz or step.rate / 2
    low_mel, high_mel = (2595 * np.log10(1 + f / 700) for f in (step.low_hz, high))
    edges = 700 * (10 ** (np.linspace(low_mel, high_mel, step.bands + 2) / 2595) - 1)
    bins = np.linspace(0, step.rate / 2, step.frame // 2 + 1)
    widths = np.diff(edges)
    slopes = edges[None, :] - bins[:, None]
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    weights: Floats = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return weights


_STEPS: dict[type, Callable[[Nodes, Value, Any], Value]] = {
    Resize: _resize,
    Crop: _crop,
    Layout: _layout,
    Cast: _cast,
    Scale: _scale,
    Normalize: _normalize,
    Clip: _clip,
    Window: _window,
    LogMel: _log_mel,
}
