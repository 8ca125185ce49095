"""A sample as a page shows it: pictures as PNG, series as numbers by channel, tables with names.

What an input is, its shape says, by the same rule as for drift (`edgectl_statistics.tensors`).
Bounded: at most `_SIDE_MAX` pixels a side and `_POINTS_MAX` points a channel, evenly chosen, and
`_VALUES_MAX` numbers of anything else. Pictures of floats are stretched between their least and
largest value, unless these lie within 0 to 1 or 0 to 255.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_datasets.samples import Arrays
from edgectl_protocol.manifest import BundleConfig, TensorSpec
from edgectl_protocol.watching import WatchedTensor
from edgectl_server.contracts import classes_of
from edgectl_server.schemas import TensorContent
from edgectl_statistics.tensors import watched_tensor

__all__ = ["contents_of"]

_SIDE_MAX = 640
_POINTS_MAX = 2048
_CHANNELS_MAX = 64
_VALUES_MAX = 256
_GREY, _COLOUR, _WITH_ALPHA = 0, 2, 6
_COLOUR_TYPES = {1: _GREY, 3: _COLOUR, 4: _WITH_ALPHA}
_BYTE_MAX = 255
_DIGITS = 6
Array = npt.NDArray[Any]


def contents_of(
    arrays: Arrays, config: BundleConfig
) -> tuple[list[TensorContent], list[TensorContent]]:
    """Return the inputs and the outputs of a sample.

    Args:
        arrays: its tensors, which are those of the contract.
        config: the contract.
    """
    classes = classes_of(config)
    inputs = [_content(spec, arrays[f"input.{spec.name}"]) for spec in config.inputs]
    outputs = []
    for spec in config.outputs:
        is_scores = config.scores is not None and config.scores.output == spec.name
        names = classes if is_scores else ()
        outputs.append(_numbers(spec, arrays[f"output.{spec.name}"], names))
    return inputs, outputs


def _content(spec: TensorSpec, array: Array) -> TensorContent:
    row = array[0] if spec.shape and spec.shape[0] in {-1, 1} and len(array) else array
    watched = watched_tensor(spec.name, row.shape, spec.datatype) if row.size else None
    if watched is not None and watched.kind == "image":
        return _image(spec, array, row if watched.channels_last else np.moveaxis(row, 0, -1))
    if watched is not None and watched.kind == "series":
        return _series(spec, array, row, watched)
    return _numbers(spec, array)


def _image(spec: TensorSpec, array: Array, picture: Array) -> TensorContent:
    """Args: picture: [H, W, C], C of 1, 3 or 4."""
    step = max(1, math.ceil(max(picture.shape[:2]) / _SIDE_MAX))
    pixels = _as_bytes(picture[::step, ::step])
    encoded = base64.b64encode(_png(pixels)).decode()
    return _described(spec, array, kind="image", png=encoded)


def _as_bytes(picture: Array) -> npt.NDArray[np.uint8]:
    if picture.dtype == np.uint8:
        return picture
    values = np.nan_to_num(picture.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= _BYTE_MAX:
        low, high = 0.0, float(_BYTE_MAX)
    values = (values - low) * (_BYTE_MAX / (high - low)) if high > low else np.zeros_like(values)
    return values.round().astype(np.uint8)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG (W3C PNG, 3rd edition): 8 bits, no filter.

    Args:
        pixels: [H, W, C].
    """
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    lines = np.zeros((height, 1 + width * channels), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def _series(spec: TensorSpec, array: Array, row: Array, watched: WatchedTensor) -> TensorContent:
    channels = row.T if watched.channels_last else row
    step = max(1, math.ceil(channels.shape[1] / _POINTS_MAX))
    shown = channels[:_CHANNELS_MAX, ::step]
    return _described(
        spec,
        array,
        kind="series",
        channels=[_plain(one) for one in shown],
        left_out=int(channels.size - shown.size),
    )


def _numbers(spec: TensorSpec, array: Array, names: Sequence[str] = ()) -> TensorContent:
    flat = array.ravel()
    shown = flat[:_VALUES_MAX]
    return _described(
        spec,
        array,
        kind="table" if flat.size <= _VALUES_MAX else "values",
        values=_plain(shown),
        names=list(names) if len(names) == flat.size <= _VALUES_MAX else None,
        left_out=int(flat.size - shown.size),
    )


def _described(spec: TensorSpec, array: Array, **more: Any) -> TensorContent:
    values = array.astype(np.float64).ravel()
    values = values[np.isfinite(values)]
    return TensorContent(
        name=spec.name,
        datatype=spec.datatype,
        shape=list(array.shape),
        low=float(values.min()) if values.size else None,
        high=float(values.max()) if values.size else None,
        **more,
    )


def _plain(values: Array) -> list[float | None]:
    """Return numbers of six digits, which is more than a screen shows; None: no number."""
    return [
        float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
        for value in values.astype(np.float64).tolist()
    ]
