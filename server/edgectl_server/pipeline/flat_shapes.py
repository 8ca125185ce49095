"""Shapes and windows of ONNX's operators, of one or two axes, as the flat model has them: two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["FlatUnsupported", "three_axes", "window_of"]


class FlatUnsupported(ValueError):
    """The graph has something that the flat model cannot say; the text names it."""


def three_axes(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Return channels, height and width of a sample with 1 to 3 axes, channels first."""
    match sizes:
        case [channels]:
            found = (channels, 1, 1)
        case [channels, width]:
            found = (channels, 1, width)
        case [channels, height, width]:
            found = (channels, height, width)
        case _:
            found = (0, 0, 0)
    if not all(found):
        raise FlatUnsupported(f"samples of the shape {list(sizes)}")
    return found


def window_of(
    how: Mapping[str, Any], kernel: Any, sizes: tuple[int, int]
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return the window of an operator, and rows and columns of what it gives.

    Args:
        how: its attributes, of one or two axes.
        kernel: its size along them.
        sizes: rows and columns of the input.
    """
    axes = len(kernel)
    if how.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or how.get("ceil_mode"):
        raise FlatUnsupported("a window whose padding depends on the size")
    pads = list(how.get("pads", [0] * 2 * axes))
    before, after = _two(pads[:axes], 0), _two(pads[axes:], 0)
    window = {
        "kernel": _two(kernel, 1),
        "stride": _two(how.get("strides", [1] * axes), 1),
        "dilation": _two(how.get("dilations", [1] * axes), 1),
        "padding": before,
    }
    given = tuple(
        (size + before[axis] + after[axis] - dilation * (length - 1) - 1) // stride + 1
        for axis, (size, length, stride, dilation) in enumerate(
            zip(sizes, window["kernel"], window["stride"], window["dilation"], strict=True)
        )
    )
    return window, (given[0], given[1])


def _two(values: Iterable[Any], one: int) -> tuple[int, int]:
    """Return values of rows and columns; `one` for the rows of what has none."""
    match [int(value) for value in values]:
        case [columns]:
            return one, columns
        case [rows, columns]:
            return rows, columns
        case _:
            raise FlatUnsupported("a window with three axes")
