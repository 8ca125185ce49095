"""Free dimensions of inputs, fixed as the person who pushes says: ``--input-shape x=1x3x224x224``.

A size that the model declares by a name (``T``) is fixed wherever that name stands, so that inputs
which belong together stay together. What the model says of the shapes within it is stale then and
is dropped; whoever needs it infers it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgectl_server.pipeline.errors import PipelineRefused

__all__ = ["SIZE_MAX", "fix_shapes", "shape_option", "shown_shape"]

SIZE_MAX = 2**24
"""Of one dimension; their product is bounded with the data."""
_ELEMENTS_MAX = 2**28
_EXAMPLE_SIZES = {2: (224, 224), 1: (128,)}
"""Of free dimensions in an example: a picture, a series."""


def shown_shape(value: Any) -> list[int | str]:
    """Return the shape that an input declares: sizes, names, and ``?`` for what it does not say."""
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
        for dim in value.type.tensor_type.shape.dim
    ]


def shape_option(value: Any) -> str:
    """Return the option that would fix an input's shape, with sizes filled in as an example."""
    shown = shown_shape(value)
    free = [at for at, size in enumerate(shown) if at and not isinstance(size, int)]
    examples = dict(zip(free, _EXAMPLE_SIZES.get(len(free), ()), strict=False))
    sizes = [
        "N" if not at else str(size if isinstance(size, int) else examples.get(at, 64))
        for at, size in enumerate(shown)
    ]
    if shown and shown[0] == 1:
        sizes[0] = "1"
    return f"--input-shape {value.name[:80]}={'x'.join(sizes)}"


def fix_shapes(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Fix the shapes of inputs in place; the first size is the batch, -1 leaves it free.

    Args:
        model: an ``onnx.ModelProto`` whose size has been bounded.
        shapes: by the name of the input.

    Raises:
        PipelineRefused: ``model.input_shape``.
    """
    if not shapes:
        return
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {one.name: one for one in model.graph.input if one.name not in constants}
    symbols: dict[str, tuple[int, str]] = {}
    for name, sizes in shapes.items():
        if name not in inputs:
            listed = ", ".join(repr(one[:80]) for one in list(inputs)[:8])
            raise _refused(
                f"--input-shape names the input {name[:80]!r}, which the model does not have",
                f"Its inputs are {listed}",
            )
        _fix_input(inputs[name], sizes, symbols)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param][0]
    for graph in _graphs(model.graph):
        graph.ClearField("value_info")
    for value in model.graph.output:
        _forget_shape(value)


def _fix_input(value: Any, sizes: tuple[int, ...], symbols: dict[str, tuple[int, str]]) -> None:
    """Fix one input and note which named size has become what."""
    shown, option = shown_shape(value), "x".join("N" if size < 0 else str(size) for size in sizes)
    tensor = value.type.tensor_type
    known = tensor.HasField("shape")
    product = 1
    for size in sizes:
        product *= max(size, 1)
    fine = bool(sizes) and sizes[0] in {-1, 1} and all(size > 0 for size in sizes[1:])
    if not fine or max(sizes) > SIZE_MAX or product > _ELEMENTS_MAX:
        raise _refused(
            f"--input-shape {value.name[:80]}={option[:80]} is no shape: expected the batch first, "
            f"N or 1, then sizes from 1 to {SIZE_MAX}, together at most {_ELEMENTS_MAX} elements",
            f"Write it such as {shape_option(value)}",
        )
    if known and len(shown) != len(sizes):
        raise _refused(
            f"--input-shape {value.name[:80]}={option[:80]} has {len(sizes)} sizes, and the model "
            f"declares {shown}",
            f"Write it such as {shape_option(value)}",
        )
    if not known:
        for _ in sizes:
            tensor.shape.dim.add()
    for at, (dim, size) in enumerate(zip(tensor.shape.dim, sizes, strict=True)):
        fixed = dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        if fixed is not None and size != fixed:
            raise _refused(
                f"--input-shape {value.name[:80]}={option[:80]}: the model declares {shown}, so "
                f"that size {at + 1} is {fixed} and not {'free' if size < 0 else size}",
                f"Only free sizes can be fixed, such as {shape_option(value)}; or export the "
                "model with this one free",
            )
        if size > 0 and dim.dim_param:
            before, who = symbols.setdefault(dim.dim_param, (size, value.name))
            if before != size:
                raise _refused(
                    f"The model calls a size {dim.dim_param[:80]!r} in its inputs {who[:80]!r} and "
                    f"{value.name[:80]!r}, and --input-shape makes it {before} and {size}",
                    "Give both the same size",
                )
        if size > 0:
            dim.dim_value = size
        elif not dim.dim_param:
            dim.dim_param = "N"


def _forget_shape(value: Any) -> None:
    """Forget the names of an output's sizes; what was fixed may have made them other ones."""
    for dim in value.type.tensor_type.shape.dim:
        if not dim.HasField("dim_value"):
            dim.Clear()


def _graphs(graph: Any) -> Iterator[Any]:
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _refused(detail: str, hint: str) -> PipelineRefused:
    return PipelineRefused("model.input_shape", f"{detail}.", f"{hint}.")
