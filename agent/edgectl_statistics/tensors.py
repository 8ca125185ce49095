"""Rows of inputs and outputs described by a few numbers each.

=============  =========================  =========================================================
kind           a row                      statistics
=============  =========================  =========================================================
``image``      [C, H, W] or [H, W, C]     brightness (mean), contrast (standard deviation of the
                                          mean over channels), sharpness (mean absolute difference
                                          of neighbours), of three channels how far each mean is
                                          from brightness, ``clipped``
``series``     [C, T] or [T, C]           of each channel mean, standard deviation, and the
                                          logarithm of the power in the lower, middle and upper
                                          third of its frequencies; ``clipped``
``tabular``    [F] or a number            the values
``moments``    anything else              mean, standard deviation, least, largest, ``clipped``
``embedding``  [D], an output             length, and ``PROJECTIONS`` projections of fixed signs
=============  =========================  =========================================================

``clipped`` is the share of elements that equal the row's least or largest: a sensor at its end.

A projection of an embedding is the sum of its elements with signs that are as good as drawn, over
the root of how many there are (Achlioptas, Journal of Computer and System Sciences 66, 2003). They
are bits of SHAKE-256 of the projection's number, so that device and server have the same.

Pure: arrays in, numbers out. What is not a number in a row makes its statistics no numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.watching import WatchedTensor

__all__ = ["PROJECTIONS", "columns", "describe", "names_of", "watched_tensor"]

Numbers = npt.NDArray[np.float64]

CHANNELS_MAX = 8
"""Of a series; further ones are not described."""
COLUMNS_MAX = 32
"""Of a table."""
PROJECTIONS = 8
_PIXELS = 16_384
"""Of an image about so many are looked at, evenly spread."""
_ELEMENTS = 16_384
_SERIES_MIN = 16
"""A shorter one has no bands worth speaking of."""
_SERIES_CHANNELS_MAX = 64
_SERIES_MAX = 8192
_POWER_FLOOR = 1e-12
_BANDS = ("low", "middle", "high")
_MATRIX_RANK, _IMAGE_RANK = 2, 3
_COLOURS = 3


def watched_tensor(name: str, shape: Sequence[int], datatype: str) -> WatchedTensor | None:
    """Say as what an input or output is described; None for texts.

    Args:
        name: of the tensor.
        shape: of one row, without the batch axis; -1 is any size.
        datatype: by its name in the Open Inference Protocol v2.
    """
    if datatype == "BYTES":
        return None
    sizes = tuple(shape)
    if len(sizes) <= 1:
        return WatchedTensor(name=name, kind="tabular")
    if len(sizes) == _MATRIX_RANK:
        first, last = sizes
        for channels, length, channels_last in ((first, last, False), (last, first, True)):
            short = 0 < channels <= _SERIES_CHANNELS_MAX
            if short and channels < length and length >= _SERIES_MIN:
                return WatchedTensor(name=name, kind="series", channels_last=channels_last)
    if len(sizes) == _IMAGE_RANK:
        for axis, channels_last in ((0, False), (2, True)):
            if sizes[axis] in {1, _COLOURS, 4}:
                return WatchedTensor(name=name, kind="image", channels_last=channels_last)
    return WatchedTensor(name=name, kind="moments")


def columns(shape: Sequence[int]) -> int:
    """Return how many values of a row of a table are described."""
    return min(COLUMNS_MAX, max(1, shape[0] if shape else 1))


def names_of(tensor: WatchedTensor, shape: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the statistics of one row.

    Args:
        tensor: how it is described.
        shape: of one row.
    """
    if tensor.kind == "tabular":
        parts = [f"{number}" for number in range(columns(shape))]
    elif tensor.kind == "embedding":
        parts = ["length", *(f"projection.{number}" for number in range(PROJECTIONS))]
    elif tensor.kind == "moments":
        parts = ["mean", "deviation", "least", "largest", "clipped"]
    elif tensor.kind == "image":
        colours = shape[2] if tensor.channels_last else shape[0]
        parts = ["brightness", "contrast", "sharpness"]
        parts += ["red", "green", "blue"] if colours == _COLOURS else []
        parts += ["clipped"]
    else:
        channels = min(CHANNELS_MAX, shape[1] if tensor.channels_last else shape[0])
        of_one = ("mean", "deviation", *_BANDS)
        parts = [f"{number}.{part}" for number in range(channels) for part in of_one]
        parts += ["clipped"]
    return tuple(f"{tensor.name}.{part}" for part in parts)


def describe(tensor: WatchedTensor, rows: npt.NDArray[Any]) -> Numbers:
    """Return the statistics of rows, [N, statistics], in the order of `names_of`.

    Args:
        tensor: how they are described.
        rows: [N, ...], numbers of any type.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if tensor.kind == "tabular":
            return rows.reshape(len(rows), -1)[:, :COLUMNS_MAX].astype(np.float64)
        if tensor.kind == "image":
            return _image(rows, channels_last=tensor.channels_last)
        if tensor.kind == "series":
            return _series(rows, channels_last=tensor.channels_last)
        if tensor.kind == "embedding":
            return _embedding(rows)
        return _moments(rows)


def _image(rows: npt.NDArray[Any], *, channels_last: bool) -> Numbers:
    values = np.moveaxis(rows, -1, 1) if channels_last else rows
    height, width = values.shape[2:]
    step = max(1, int(np.ceil(np.sqrt(height * width / _PIXELS))))
    values = values[:, :, ::step, ::step].astype(np.float32)
    grey = values.mean(axis=1)
    across, down = np.abs(np.diff(grey, axis=2)), np.abs(np.diff(grey, axis=1))
    flat = grey.reshape(len(grey), -1)
    brightness = flat.mean(axis=1)
    neighbours = max(1, across[0].size + down[0].size)
    found = [
        brightness,
        flat.std(axis=1),
        (across.sum(axis=(1, 2)) + down.sum(axis=(1, 2))) / neighbours,
    ]
    if values.shape[1] == _COLOURS:
        found += list((values.mean(axis=(2, 3)) - brightness[:, np.newaxis]).T)
    found.append(_clipped(values))
    return np.stack(found, axis=1).astype(np.float64)


def _series(rows: npt.NDArray[Any], *, channels_last: bool) -> Numbers:
    values = np.swapaxes(rows, 1, 2) if channels_last else rows
    values = values[:, :CHANNELS_MAX, :_SERIES_MAX].astype(np.float32)
    mean = values.mean(axis=2, keepdims=True)
    around = values - mean
    spectrum = np.fft.rfft(around, axis=2)
    power = spectrum.real**2 + spectrum.imag**2
    bins = power.shape[2]
    edges = [1, 1 + (bins - 1) // 3, 1 + 2 * (bins - 1) // 3]
    bands = np.add.reduceat(power, edges, axis=2) / values.shape[2] ** 2
    found = np.concatenate(
        [
            mean,
            np.sqrt((around**2).mean(axis=2, keepdims=True)),
            np.log10(bands + np.float32(_POWER_FLOOR)),
        ],
        axis=2,
    ).reshape(len(rows), -1)
    return np.concatenate([found, _clipped(values)[:, np.newaxis]], axis=1).astype(np.float64)


def _embedding(rows: npt.NDArray[Any]) -> Numbers:
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    length = np.sqrt((flat**2).sum(axis=1, keepdims=True))
    return np.concatenate([length, flat @ _signs(flat.shape[1])], axis=1)


@lru_cache(maxsize=8)
def _signs(width: int) -> Numbers:
    """Return [D, projections]: plus or minus one over the root of D."""
    bits = [
        np.frombuffer(
            hashlib.shake_256(b"edgectl projection %d" % number).digest(-(-width // 8)), np.uint8
        )
        for number in range(PROJECTIONS)
    ]
    signs = np.unpackbits(np.stack(bits), axis=1)[:, :width].T
    scaled: Numbers = (2.0 * signs - 1.0) / np.sqrt(width)
    return scaled


def _moments(rows: npt.NDArray[Any]) -> Numbers:
    flat = rows.reshape(len(rows), -1)
    flat = flat[:, :: max(1, flat.shape[1] // _ELEMENTS)].astype(np.float64)
    parts = [flat.mean(axis=1), flat.std(axis=1), flat.min(axis=1), flat.max(axis=1)]
    return np.stack([*parts, _clipped(flat)], axis=1)


def _clipped(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the share of each row's elements at its own ends; a constant row is all there."""
    flat = values.reshape(len(values), -1)
    ends = (flat == flat.min(axis=1, keepdims=True)) | (flat == flat.max(axis=1, keepdims=True))
    share: npt.NDArray[Any] = ends.mean(axis=1)
    share[np.isnan(flat).any(axis=1)] = np.nan
    return share
