"""The int8 recipes: a table, and how onnxruntime makes a variant by one of them.

Which one is right differs per model and per processor: weights and activations of 8 bits can
saturate where the processor adds pairs of products in 16 bits; ``reduced`` (7-bit weights) and
``u8u8`` avoid it at a cost in speed. So all are tried and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from edgectl_server.pipeline.data import Array, Samples

__all__ = ["RECIPES", "NothingToQuantize", "Recipe", "check_quantizable", "make"]

_PERCENTILE = 99.99
_HISTOGRAM_SAMPLES_MAX = 64
"""Histogram calibration keeps every activation of every sample in memory."""
_WEIGHTED_OPERATORS = frozenset(
    {
        "Attention",
        "Conv",
        "ConvTranspose",
        "EmbedLayerNormalization",
        "Gather",
        "Gemm",
        "LSTM",
        "MatMul",
    }
)
"""Those whose weights onnxruntime can quantize; without one, int8 would only add conversions."""


_OPTIONS: dict[str, Any] = {"DefaultTensorType": onnx.TensorProto.FLOAT}
"""What a tensor is whose type shape inference does not know, such as after ai.onnx.ml operators."""


class NothingToQuantize(Exception):
    """The model has nothing for the recipe to quantize; the text says why."""


@dataclass(frozen=True)
class Recipe:
    """One way to int8. `reduce_range` uses 7 bits for the weights."""

    name: str
    kind: Literal["dynamic", "static"]
    per_channel: bool = False
    reduce_range: bool = False
    unsigned_weights: bool = False
    percentile: bool = False


RECIPES: tuple[Recipe, ...] = (
    Recipe("int8-static-minmax-per-tensor", "static"),
    Recipe("int8-static-minmax-per-channel", "static", per_channel=True),
    Recipe("int8-static-minmax-per-channel-reduced", "static", per_channel=True, reduce_range=True),
    Recipe("int8-static-minmax-u8u8", "static", unsigned_weights=True),
    Recipe("int8-static-percentile-per-tensor", "static", percentile=True),
    Recipe("int8-dynamic", "dynamic", per_channel=True, unsigned_weights=True),
)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands samples to onnxruntime one at a time; it may be asked to begin again."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._feeds: Iterator[dict[str, Array]] = samples.slices(1)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample, or None at the end."""
        return next(self._feeds, None)

    def rewind(self) -> None:
        """Begin again."""
        self._feeds = self._samples.slices(1)


def make(recipe: Recipe, source: Path, target: Path, calibration: Samples | None) -> int:
    """Make `target` from the cleaned fp32 model `source`.

    Args:
        recipe: the way.
        source: the cleaned fp32 model, see `check_quantizable`.
        target: where the variant is written.
        calibration: for static recipes.

    Returns:
        The number of calibration samples that were used.

    Raises:
        NothingToQuantize: no operator of the model can be quantized this way.
        Exception: whatever onnxruntime raises; it has no common base.
    """
    weights = QuantType.QUInt8 if recipe.unsigned_weights else QuantType.QInt8
    used = 0
    if recipe.kind == "dynamic":
        quantize_dynamic(
            source,
            target,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            weight_type=weights,
            extra_options=dict(_OPTIONS),
        )
    else:
        assert calibration is not None, recipe.name
        if recipe.percentile:
            calibration = calibration.choose(_HISTOGRAM_SAMPLES_MAX, 0)
        used = calibration.count
        method = CalibrationMethod.Percentile if recipe.percentile else CalibrationMethod.MinMax
        quantize_static(
            source,
            target,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=weights,
            calibrate_method=method,
            extra_options=_OPTIONS
            | ({"CalibPercentile": _PERCENTILE} if recipe.percentile else {}),
        )
    if _quantized_nodes(onnx.load(target)) == 0:
        raise NothingToQuantize("the recipe finds nothing to quantize in the model")
    return used


def check_quantizable(source: Path) -> None:
    """Raise `NothingToQuantize` if no recipe can do anything for the model."""
    model = onnx.load(source)
    if _quantized_nodes(model):
        raise NothingToQuantize("the model is quantized already")
    if not any(node.op_type in _WEIGHTED_OPERATORS for node in model.graph.node):
        raise NothingToQuantize("the model has no operator whose weights can be quantized")


def _quantized_nodes(model: Any) -> int:
    """Count the nodes of the main graph that compute on or convert to 8-bit integers."""
    kinds = (node.op_type for node in model.graph.node)
    return sum("Quantize" in kind or "Integer" in kind or kind[:7] == "QLinear" for kind in kinds)
