"""The recipes: a table, and how onnxruntime makes a variant by one of them.

Which one is right differs per model and per processor. Processors without instructions for 8-bit
products that add in 32 bits (x86-64 without VNNI) add pairs of products in 16 bits, which saturate
when signed weights use all 8 bits. Weights of 7 bits (``reduced``) and unsigned ones avoid it: such
recipes are *portable*. Measured on real models, per-channel weights that saturate cost 2 to 11
points there, and nothing elsewhere. So many are tried, and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from edgectl_server.pipeline.nodes import is_processing, processing_nodes
from edgectl_server.pipeline.pinned import parent_scales
from edgectl_server.pipeline.stored_weights import store_weights

__all__ = [
    "RECIPES",
    "STEPS_INFIX",
    "NothingToQuantize",
    "Ranges",
    "Recipe",
    "calibrate",
    "check_quantizable",
    "make",
    "quantizable_nodes",
    "recipe_of_parent",
]

Ranges = Literal["minmax", "entropy", "percentile"]
STEPS_INFIX = "-steps-"
"""In the name of what is released in small steps from the parent, behind that of the recipe."""

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
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_FP32, _FP16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_OPTIONS: dict[str, Any] = {"DefaultTensorType": onnx.TensorProto.FLOAT}
"""What a tensor is whose type shape inference does not know, such as after ai.onnx.ml operators."""


class NothingToQuantize(Exception):
    """The model has nothing for the recipe to quantize; the text says why."""


@dataclass(frozen=True)
class Recipe:
    """One way to a smaller variant.

    Attributes:
        name: in reports; it begins with the precision.
        kind: ``static`` needs calibration data, ``dynamic`` measures activations at run time,
            ``weights`` quantizes nothing else.
        ranges: how a static recipe finds the ranges of activations.
        per_channel: one scale a channel of the weights.
        reduce_range: 7 bits for the weights.
        weights: ``s8`` or ``u8``.
        activations: ``s8`` or ``u8``, of static recipes.
        symmetric: activations around zero.
        excluded: operators, by node name, that stay in float: mixed precision.
        pinned: with the scales of the parent version.
    """

    name: str
    kind: Literal["fp16", "weights", "dynamic", "static"]
    ranges: Ranges = "minmax"
    per_channel: bool = False
    reduce_range: bool = False
    weights: Literal["s8", "u8"] = "s8"
    activations: Literal["s8", "u8"] = "u8"
    symmetric: bool = False
    excluded: tuple[str, ...] = ()
    pinned: bool = False

    @property
    def precision(self) -> Literal["fp16", "int8"]:
        """What its variants are."""
        return "fp16" if self.kind == "fp16" else "int8"

    @property
    def portable(self) -> bool:
        """Whether no processor's 8-bit products saturate with it."""
        in_float = self.kind in {"fp16", "weights"}
        return in_float or self.weights == "u8" or self.reduce_range

    def with_ranges(self, ranges: Ranges) -> Recipe:
        """Return the same with another way to find ranges."""
        return replace(self, name=self.name.replace(self.ranges, ranges), ranges=ranges)

    def mixed(self, excluded: tuple[str, ...]) -> Recipe:
        """Return the same with some operators in float."""
        name = self.name.replace("int8-static", "int8-mixed") + f"-{len(excluded)}"
        return replace(self, name=name, excluded=excluded)

    def of_parent(self) -> Recipe:
        """Return the same with the scales of the parent version."""
        return replace(self, name=f"{self.name}-parent", pinned=True)


RECIPES: tuple[Recipe, ...] = (
    Recipe("int8-static-minmax-per-tensor", "static"),
    Recipe("int8-static-minmax-per-channel", "static", per_channel=True),
    Recipe("int8-static-minmax-per-tensor-reduced", "static", reduce_range=True),
    Recipe("int8-static-minmax-per-channel-reduced", "static", per_channel=True, reduce_range=True),
    Recipe("int8-static-minmax-u8u8", "static", weights="u8"),
    Recipe("int8-static-minmax-s8s8", "static", activations="s8"),
    Recipe(
        "int8-static-minmax-s8s8-symmetric",
        "static",
        per_channel=True,
        activations="s8",
        symmetric=True,
    ),
    Recipe("int8-dynamic", "dynamic", per_channel=True, weights="u8"),
    Recipe("int8-dynamic-s8", "dynamic"),
    Recipe("int8-weights", "weights", per_channel=True),
    Recipe("fp16", "fp16"),
)
"""Those that are always tried; ``s8s8`` and ``dynamic-s8`` are onnxruntime's own defaults."""


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


def calibrate(ranges: Ranges, source: Path, cache: Path, calibration: Samples) -> int:
    """Find the ranges of all activations, once for all recipes that use them.

    Args:
        ranges: the way.
        source: the cleaned fp32 model.
        cache: the file in which they are kept.
        calibration: samples.

    Returns:
        The number of samples that were used.
    """
    if ranges != "minmax":
        calibration = calibration.choose(_HISTOGRAM_SAMPLES_MAX, 0)
    scratch = cache.with_suffix(".onnx")
    _quantize(Recipe("calibration", "static", ranges=ranges), source, scratch, cache, calibration)
    scratch.unlink()
    return calibration.count


def recipe_of_parent(name: str, float_nodes: tuple[str, ...]) -> Recipe | None:
    """Return the recipe that takes over the scales of a parent; None if it has none to take.

    Args:
        name: of the recipe by which the parent was made.
        float_nodes: what it left in float.
    """
    base = name.split(STEPS_INFIX, maxsplit=1)[0].removesuffix("-parent")
    if float_nodes:
        base = base.replace("int8-mixed", "int8-static").rsplit("-", 1)[0]
    for ranges in ("entropy", "percentile"):
        base = base.replace(ranges, "minmax")
    for recipe in RECIPES:
        if recipe.name == base and recipe.kind in {"static", "weights"}:
            return (recipe.mixed(float_nodes) if float_nodes else recipe).of_parent()
    return None


def make(
    recipe: Recipe,
    source: Path,
    target: Path,
    cache: Path,
    *,
    only: tuple[str, ...] = (),
    parent: Path | None = None,
) -> None:
    """Make `target` from the cleaned fp32 model `source`.

    Args:
        recipe: the way.
        source: the cleaned fp32 model, see `check_quantizable`.
        target: where the variant is written.
        cache: what `calibrate` has written, for static recipes.
        only: names of the nodes to quantize; all if there are none.
        parent: the model whose scales a pinned recipe takes.

    Raises:
        NothingToQuantize: no operator of the model can be quantized this way.
        Exception: whatever onnxruntime raises; it has no common base.
    """
    if recipe.kind == "fp16":
        _halve(source, target)
        return
    if recipe.kind == "weights":
        excluded = tuple(_left_out(recipe, onnx.load(source)))
        if not store_weights(source, target, excluded, parent=parent if recipe.pinned else None):
            raise NothingToQuantize("no weights are large enough")
        return
    if recipe.kind == "dynamic":
        model = onnx.load(source)  # from a path it would write beside it, as other tasks do
        quantize_dynamic(
            model,
            target,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            weight_type=_type(recipe.weights),
            nodes_to_exclude=_left_out(recipe, model),
            extra_options=dict(_OPTIONS),
        )
    else:
        scales = None
        if recipe.pinned:
            assert parent is not None, recipe.name
            scales = parent_scales(parent, source)
            if not scales:
                raise NothingToQuantize("the parent has no scales for tensors of this model")
        _quantize(recipe, source, target, cache, None, only=only, scales=scales)
    if _quantized_nodes(onnx.load(target)) == 0:
        raise NothingToQuantize("the recipe finds nothing to quantize in the model")


def _quantize(
    recipe: Recipe,
    source: Path,
    target: Path,
    cache: Path,
    calibration: Samples | None,
    *,
    only: tuple[str, ...] = (),
    scales: dict[str, Any] | None = None,
) -> None:
    options = _OPTIONS | {"ActivationSymmetric": recipe.symmetric}
    if scales:
        options["TensorQuantOverrides"] = scales
    if recipe.ranges == "percentile":
        options["CalibPercentile"] = _PERCENTILE
    model = onnx.load(source)  # see above
    quantize_static(
        model,
        target,
        None if calibration is None else _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=recipe.per_channel,
        reduce_range=recipe.reduce_range,
        activation_type=_type(recipe.activations),
        weight_type=_type(recipe.weights),
        nodes_to_quantize=list(only),
        nodes_to_exclude=_left_out(recipe, model),
        calibrate_method=_METHODS[recipe.ranges],
        extra_options=options,
        calibration_cache_path=cache,
    )


def _left_out(recipe: Recipe, model: Any) -> list[str]:
    """Return the names of the nodes that stay in float: by choice, and declared steps."""
    return [*recipe.excluded, *processing_nodes(model)]


def _halve(source: Path, target: Path) -> None:
    """Make the fp16 variant; inputs, outputs and declared steps stay as they are."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.load(source)
    halved = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=DEFAULT_OP_BLOCK_LIST,
        node_block_list=processing_nodes(model),
    )
    _drop_round_trips(halved, {node.name for node in onnx.load(source).graph.node})
    onnx.save(halved, target)


def _drop_round_trips(model: Any, own: set[str]) -> None:
    """Let nodes that stay in FP32 take and give without a detour through FP16, in place.

    The converter puts a Cast to FP16 behind each and behind inputs, and one to FP32 before each and
    before outputs; large raw values would not come through. `own` are the names of the model's
    nodes.
    """
    graph = model.graph
    outer = {value.name for value in (*graph.input, *graph.output)}
    halves = {node.output[0]: node.input[0] for node in graph.node if _adds_cast(node, _FP16, own)}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if _adds_cast(node, _FP32, own) and node.input[0] in halves:
            source, target = halves[node.input[0]], node.output[0]
            if target not in outer:
                renamed[target] = source
            elif source not in outer | renamed.keys():
                renamed[source] = target
    for node in graph.node:
        if node.output[0] not in renamed or not _adds_cast(node, _FP32, own):
            node.input[:] = [_last(renamed, name) for name in node.input]
            node.output[:] = [_last(renamed, name) for name in node.output]
    _drop_unused_casts(graph, own)


def _last(renamed: dict[str, str], name: str) -> str:
    """Return what a tensor is called in the end; a name may have been replaced twice."""
    while name in renamed:
        name = renamed[name]
    return name


def _drop_unused_casts(graph: Any, own: set[str]) -> None:
    """Remove added Casts whose output nobody takes, or that another node makes now."""
    branches = any(one.HasField("g") for node in graph.node for one in node.attribute)
    outputs = {value.name for value in graph.output}
    made_by_own = {name for node in graph.node if node.name in own for name in node.output}
    for element in (_FP32,) if branches else (_FP32, _FP16):  # they may use what is in FP16
        used = outputs | {name for node in graph.node for name in node.input}
        kept = [
            node
            for node in graph.node
            if not _adds_cast(node, element, own)
            or (node.output[0] in used and node.output[0] not in made_by_own)
        ]
        graph.ClearField("node")
        graph.node.extend(kept)


def _adds_cast(node: Any, to: int, own: set[str]) -> bool:
    """Say whether the converter has added the node, a Cast to a type."""
    fits = any(one.name == "to" and one.i == to for one in node.attribute)
    return node.op_type == "Cast" and node.name not in own and fits


def _type(name: Literal["s8", "u8"]) -> Any:
    return QuantType.QInt8 if name == "s8" else QuantType.QUInt8


def check_quantizable(source: Path) -> None:
    """Raise `NothingToQuantize` if no recipe can do anything for the model."""
    model = onnx.load(source)
    if _quantized_nodes(model):
        raise NothingToQuantize("the model is quantized already")
    if not any(map(_has_weights, model.graph.node)):
        raise NothingToQuantize("the model has no operator whose weights can be quantized")


def quantizable_nodes(source: Path) -> tuple[tuple[str, str], ...]:
    """Return (name, operator) of the nodes with weights, in the order of the graph."""
    return tuple(
        (node.name, node.op_type) for node in onnx.load(source).graph.node if _has_weights(node)
    )


def _has_weights(node: Any) -> bool:
    """Say whether the model itself, not a declared step, has a node that can be quantized."""
    return node.op_type in _WEIGHTED_OPERATORS and not is_processing(node)


def _quantized_nodes(model: Any) -> int:
    """Count the nodes of the main graph that compute on or convert to 8-bit integers."""
    kinds = (node.op_type for node in model.graph.node)
    return sum("Quantize" in kind or "Integer" in kind or kind[:7] == "QLinear" for kind in kinds)
