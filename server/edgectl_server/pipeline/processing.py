"""Declared steps become part of the model: ONNX nodes before its inputs and behind its outputs.

What comes out is one graph that takes what applications have and gives what they want, so that a
device, a microcontroller, the golden cases and the contract of inputs and outputs know of no other
code. All that is made has names that begin with `nodes.PROCESSING_PREFIX`; quantization leaves it
in float.

An input keeps its place and an output too; one that several entries name becomes as many outputs,
in the order of the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import helper

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.input_nodes import add_input_step, window_count
from edgectl_server.pipeline.nodes import (
    ELEMENT_TYPES,
    Nodes,
    Value,
    refuse_shape,
)
from edgectl_server.pipeline.output_nodes import add_output_step, add_top_k
from edgectl_server.pipeline.steps import InputSteps, OutputSteps, Processing, TopK, Window
from edgectl_server.pipeline.wording import describe_steps

__all__ = ["Processed", "add_processing"]

_DATATYPE_NAMES = {element: name for name, element in ELEMENT_TYPES.items()}
_OPSET_UNUSED = 17
"""Declared for a model that has no standard operator of its own."""
_IR_CONSTANTS = 4
_LISTED = 8
_MODEL_PREFIX = "edgectl_model/"
"""Of what the model itself gives, once an output that steps have made has its name."""


@dataclass(frozen=True)
class Processed:
    """A model with its steps inside.

    Attributes:
        model: the ``onnx.ModelProto``, another than was given.
        lines: what was added, one line for each entry, for a person.
        free_inputs: names of inputs that take pictures of any size.
    """

    model: Any
    lines: tuple[str, ...]
    free_inputs: frozenset[str]


def add_processing(model: Any, inputs: Sequence[TensorSpec], processing: Processing) -> Processed:
    """Return the model with the declared steps as nodes of its graph.

    Args:
        model: an ``onnx.ModelProto`` that has passed `checks.check_model`; it stays as it is.
        inputs: what the checks have found.
        processing: the steps.

    Raises:
        PipelineRefused: ``processing.tensor``, ``processing.shape``, ``processing.datatype``,
            ``processing.opset``, ``processing.limit``.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _modernize(made)
    outputs = _output_values(made)
    taken = set(_all_names(made.graph))
    front = Nodes(_opset(made), taken)
    builder = _Builder(made.graph, front, Nodes(front.opset, taken), taken)
    entries = _by_tensor("input", processing.input, [spec.name for spec in inputs])
    wanted = _by_tensor("output", processing.output, list(outputs))
    for spec in inputs:
        for entry in entries[spec.name]:
            builder.add_input(spec, entry)
    builder.settle_windows([spec.name for spec in inputs])
    rows = [row for name, value in outputs.items() for row in builder.outputs(value, wanted[name])]
    _rename(made.graph, builder.renamed)
    made.graph.ClearField("output")
    made.graph.output.extend(rows)
    nodes = [*front.made, *made.graph.node, *builder.back.made]
    made.graph.initializer.extend([*front.constants, *builder.back.constants])
    made.graph.ClearField("node")
    made.graph.node.extend(nodes)
    return Processed(made, tuple(builder.lines), frozenset(builder.free))


class _Builder:
    """Puts nodes around one graph."""

    def __init__(self, graph: Any, front: Nodes, back: Nodes, taken: set[str]) -> None:
        self.graph = graph
        self.front = front
        self.back = back
        self.lines: list[str] = []
        self.free: set[str] = set()
        self.renamed: dict[str, str] = {}
        """Tensors of the graph, by their old names."""
        self._taken = taken
        self._interface = {value.name for value in (*graph.input, *graph.output)}
        self._windows: dict[str, int] = {}
        self._join = 0

    # ------------------------------------------------------------ inputs

    def add_input(self, spec: TensorSpec, entry: InputSteps) -> None:
        """Put the steps of one entry in front of the input that `spec` describes."""
        place = next(at for at, one in enumerate(self.graph.input) if one.name == spec.name)
        batch = spec.shape[0]
        if batch == 1 and entry.shape[0] != 1:
            raise refuse_shape(
                f"The model takes one sample at a time, and the steps of input {spec.name!r} "
                f"declare the shape {list(entry.shape)}",
                "Write 1 as the first size, or export the model with a free batch axis",
            )
        name = self._new_name(entry.name or spec.name, own=spec.name)
        batch = 1 if entry.shape[0] == 1 else -1
        shape = (batch, *(int(size) for size in entry.shape[1:]))
        raw = value = Value(name, entry.datatype, shape, entry.layout)
        self.front.bounded(value)
        for step in entry.steps:
            before, value = value, add_input_step(self.front, value, step)
            if isinstance(step, Window):
                if spec.name in self._windows or batch == 1:
                    raise _windows_refused(spec.name)
                self._windows[spec.name] = window_count(before.size("T"), step)
        _check_arrival(spec, value)
        self.renamed[spec.name] = value.name
        self.graph.input[place].CopyFrom(
            helper.make_tensor_value_info(name, ELEMENT_TYPES[raw.datatype], _dims(raw))
        )
        if -1 in shape[1:]:
            self.free.add(name)
        self.lines.append(describe_steps(f"input {name}", raw, entry.steps, spec.name, value))

    def settle_windows(self, names: list[str]) -> None:
        """Check that all inputs are cut into as many windows, if one is."""
        counts = {self._windows.get(name, 0) for name in names}
        if len(counts) > 1:
            raise refuse_shape(
                f"The inputs are cut into different numbers of windows ({sorted(counts)})",
                "Cut all inputs of the model into as many windows",
            )
        self._join = counts.pop()

    # ------------------------------------------------------------ outputs

    def outputs(self, value: Value, entries: list[OutputSteps]) -> Iterator[Any]:
        """Yield the descriptions of what becomes of one output of the model."""
        old = value.name
        if not entries and not self._join:
            yield next(one for one in self.graph.output if one.name == old)
            return
        inner = self.back.name(old, prefix=_MODEL_PREFIX)
        self.renamed[old] = inner
        value = replace(value, name=inner)
        if self._join:
            value = self._rows_of_windows(value, old)
        if not entries:
            yield self._give(value, old)
        for entry in entries:
            yield from self._process(value, entry, old)

    def _process(self, value: Value, entry: OutputSteps, old: str) -> Iterator[Any]:
        name = self._new_name(entry.name or old, own=old)
        _check_known(value, old)
        second: Value | None = None
        first = value
        for step in entry.steps:
            if isinstance(step, TopK):
                first, second = add_top_k(self.back, first, step)
                indices = self._new_name(step.indices or f"{name}_indices", own="")
            else:
                first = add_output_step(self.back, first, step, windows=self._join)
        if first.name == value.name:  # nothing was added, and other entries may begin here too
            first = replace(first, name=self.back.add("Identity", [first.name]))
        yield self._give(first, name)
        if second is not None:
            yield self._give(second, indices)
        self.lines.append(describe_steps(f"output {old}", value, entry.steps, name, first))

    def _rows_of_windows(self, value: Value, old: str) -> Value:
        """Return [N · windows, …] as [N, windows, …]."""
        _check_known(value, old)
        rest = value.shape[1:]
        if -1 in rest or value.shape[0] not in {-1, self._join}:
            raise refuse_shape(
                f"Output {old!r} is {value}; with windows, every output needs the free batch axis "
                "first and fixed sizes behind it",
                "Export the model with fixed shapes but for the batch axis",
            )
        shape = (-1, self._join, *rest)
        return self.back.reshape(value, [*shape], shape)

    def _give(self, value: Value, name: str) -> Any:
        """Name the value as an output and return its description."""
        self.back.rename(value.name, name)
        dims = [None if size < 0 else size for size in value.shape]
        return helper.make_tensor_value_info(name, ELEMENT_TYPES[value.datatype], dims)

    def _new_name(self, name: str, *, own: str) -> str:
        """Return the name of a new input or output; `own` is the one it stands for."""
        if name != own and name in self._taken:
            raise PipelineRefused(
                "processing.tensor",
                f"The name {name[:80]!r} is taken in the model already.",
                "Give the input or output another `name`.",
            )
        if name == own and name not in self._interface:
            raise PipelineRefused(
                "processing.tensor",
                f"Two entries of the steps give the name {name[:80]!r}.",
                "Give each its own `name`.",
            )
        self._interface.discard(name)
        self._taken.add(name)
        return name


def _by_tensor(kind: str, entries: Sequence[Any], names: list[str]) -> dict[str, list[Any]]:
    """Return the entries by the input or output of the model that each is for."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for entry in entries:
        name = entry.tensor or (names[0] if len(names) == 1 else entry.name)
        if name not in found:
            listed = ", ".join(repr(one[:80]) for one in names[:_LISTED])
            raise PipelineRefused(
                "processing.tensor",
                f"The steps are for the {kind} {name[:80]!r}, which the model does not have."
                if name
                else f"An entry of the steps does not say for which {kind} of the model it is.",
                f"Its {kind}s are {listed}; write tensor = {names[0][:80]!r}.",
            )
        if kind == "input" and found[name]:
            raise PipelineRefused(
                "processing.tensor",
                f"Two entries of the steps are for the input {name[:80]!r}.",
                "Put all steps of an input into one [[input]].",
            )
        found[name].append(entry)
    return found


def _modernize(model: Any) -> None:
    """Make constants of what IR 3 lists as inputs with a default: from IR 4 on they need not be."""
    if model.ir_version < _IR_CONSTANTS:
        model.ir_version = _IR_CONSTANTS
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constants]
        model.graph.ClearField("input")
        model.graph.input.extend(inputs)


def _output_values(model: Any) -> dict[str, Value]:
    """Return the outputs of a checked model, with the shapes that inference finds."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values = {}
    for given in inferred.graph.output:
        tensor = given.type.tensor_type
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim
        )
        values[given.name] = Value(given.name, _DATATYPE_NAMES[tensor.elem_type], shape)
    return values


def _check_known(value: Value, name: str) -> None:
    if not value.shape:
        raise refuse_shape(
            f"Output {name!r} has no axes, so that no steps can be put behind it",
            "Export the model with the batch as the first axis of every output",
        )


def _check_arrival(spec: TensorSpec, value: Value) -> None:
    """Check that what the steps make is what the model takes."""
    if value.datatype != spec.datatype:
        raise PipelineRefused(
            "processing.datatype",
            f"The steps of input {spec.name!r} end in {value}; the model takes {spec.datatype}.",
            f'Add {{do = "cast", to = "{spec.datatype}"}} as the last step.',
        )
    if value.shape[1:] != spec.shape[1:]:
        wanted = Value(spec.name, spec.datatype, spec.shape)
        raise refuse_shape(
            f"The steps of input {spec.name!r} end in {value}; the model takes {wanted}",
            "Change `shape`, the resize, the window or the layout, so that both are equal",
        )


def _windows_refused(name: str) -> PipelineRefused:
    return refuse_shape(
        f"The input {name!r} cannot be cut into windows: it is done once, and the windows need the "
        "batch axis",
        'Declare shape = ["N", …] and one window step; the model needs a free batch axis',
    )


def _dims(value: Value) -> list[int | str]:
    """Return the sizes of an input, those that are free with a name of their own."""
    batch: int | str = 1 if value.shape[0] == 1 else "N"
    named = zip(value.axes[1:], value.shape[1:], strict=True)
    return [batch, *(f"{value.name}_{letter}" if size < 0 else size for letter, size in named)]


def _opset(model: Any) -> int:
    """Return the version of the default operator set; declare one if there is none."""
    versions = [entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
    if not versions:
        model.opset_import.append(helper.make_opsetid("", _OPSET_UNUSED))
    return max(versions, default=_OPSET_UNUSED)


def _all_names(graph: Any) -> Iterator[str]:
    """Yield every name of a node or tensor in a graph and its subgraphs."""
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        for value in (*current.input, *current.output, *current.value_info, *current.initializer):
            yield value.name
        yield from (sparse.values.name for sparse in current.sparse_initializer)
        for node in current.node:
            yield from (node.name, *node.input, *node.output)
        waiting.extend(_subgraphs(current))


def _subgraphs(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Give tensors of the main graph other names, also where branches and loops use them."""
    sparse = [tensor.values for tensor in graph.sparse_initializer]
    for tensor in (*graph.initializer, *graph.value_info, *sparse):
        tensor.name = names.get(tensor.name, tensor.name)
    waiting = [(graph, names)]
    while waiting:
        current, names = waiting.pop()
        for node in current.node:
            if not names.keys().isdisjoint((*node.input, *node.output)):
                node.input[:] = [names.get(name, name) for name in node.input]
                node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _subgraphs(current):
            own = _own_names(inner)
            seen = {old: new for old, new in names.items() if old not in own}
            for given in inner.output:
                given.name = seen.get(given.name, given.name)
            waiting.append((inner, seen))


def _own_names(graph: Any) -> set[str]:
    """Return the names that a graph defines itself, which hide those outside."""
    return {
        *(value.name for value in (*graph.input, *graph.initializer)),
        *(name for node in graph.node for name in node.output),
    }
