"""From pictures to the model's input: decoded, in its size, order and datatype.

The contract decides: ``[height, width, 3]`` or ``[3, height, width]`` in colour, 1 instead of 3 in
grey, with or without a batch axis; a free size (-1) keeps the picture's own. Values are 0 to 255
for integers, less 128 for INT8, and 0 to 1 for floats; anything else belongs into the bundle's own
processing, which then takes UINT8. Needs Pillow.

A picture is hostile: only common formats, and bounds on bytes and pixels before it is decoded.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from edgectl_agent.errors import UsageError
from edgectl_agent.flows.items import Malformed
from edgectl_agent.session import DTYPES, Tensor
from edgectl_protocol.manifest import TensorSpec

__all__ = ["check_pillow", "decode_picture", "fit_picture"]

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
BYTES_MAX = 32 * 1024 * 1024
PIXELS_MAX = 50_000_000
_RANK = 3


def check_pillow() -> None:
    """Raise `UsageError` where Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "flow.extra",
            "pictures need Pillow, which is not installed",
            hint="pip install 'edgectl-agent[images]'",
        ) from error


def decode_picture(content: bytes, inputs: tuple[TensorSpec, ...]) -> Tensor:
    """Return an encoded picture as the model's only input; raise `Malformed`."""
    from PIL import Image

    if len(content) > BYTES_MAX:
        raise Malformed(f"a picture of {len(content)} bytes, at most {BYTES_MAX}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as of a decompression bomb
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                _check_pixels(picture.width, picture.height)
                picture.load()
                return _fitted(picture, inputs)
    except Malformed:
        raise
    except Exception as error:  # the decoders raise what they please
        raise Malformed(f"no picture: {type(error).__name__}: {error}") from error


def fit_picture(pixels: Tensor, inputs: tuple[TensorSpec, ...]) -> Tensor:
    """Return pixels, (height, width, 3) uint8 RGB, as the model's only input; raise `Malformed`."""
    from PIL import Image

    return _fitted(Image.fromarray(pixels), inputs)


def _check_pixels(width: int, height: int) -> None:
    if width * height > PIXELS_MAX:
        raise Malformed(f"a picture of {width} x {height} pixels, at most {PIXELS_MAX}")


def _fitted(picture: Any, inputs: tuple[TensorSpec, ...]) -> Tensor:
    from PIL import Image

    if len(inputs) != 1:
        raise Malformed("a picture fits a model with one input")
    spec = inputs[0]
    height, width, channels, first = _layout(spec)
    picture = picture.convert("RGB" if channels == _RANK else "L")
    size = (picture.width if width < 0 else width, picture.height if height < 0 else height)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8).reshape(size[1], size[0], channels)
    if first:
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return _typed(pixels, spec)[np.newaxis]


def _layout(spec: TensorSpec) -> tuple[int, int, int, bool]:
    """Return height, width, channels, and whether channels come first."""
    shape = spec.shape[1:] if len(spec.shape) == _RANK + 1 else spec.shape
    if len(shape) == _RANK and shape[2] in {1, 3}:
        return shape[0], shape[1], shape[2], False
    if len(shape) == _RANK and shape[0] in {1, 3}:
        return shape[1], shape[2], shape[0], True
    raise Malformed(f"the input {spec.name!r} has shape {list(spec.shape)}: that is no picture")


def _typed(pixels: Tensor, spec: TensorSpec) -> Tensor:
    dtype = DTYPES[spec.datatype]
    if spec.datatype == "UINT8":
        return pixels
    if spec.datatype == "INT8":
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    if dtype.kind == "f":
        scaled: Tensor = pixels.astype(dtype) / dtype.type(255)
        return scaled
    if dtype.kind in "iu":
        return pixels.astype(dtype)
    raise Malformed(f"the input {spec.name!r} is {spec.datatype}: that is no picture")
