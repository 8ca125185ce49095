"""Is this model file acceptable? Bounds first, then meaning, then the checker of the ONNX project.

A file is hostile until it has passed. The order matters: nothing here runs, allocates or infers by
what the file declares before the declarations have been bounded. What cannot be bounded by looking
(a constant of 8 GB, a loop of 2^62 rounds) passes, and meets the limits of the process.

The codes are those of `edgectl_server.pipeline.errors`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.operators import check_operator
from edgectl_server.pipeline.shapes import fix_shapes, shape_option, shown_shape
from edgectl_server.pipeline.spec import PipelineLimits

__all__ = ["DATATYPES", "OPSET_MAX", "OPSET_MIN", "ModelFacts", "check_model", "parse_model"]

OPSET_MIN = 7
"""onnxruntime guarantees nothing below."""
OPSET_MAX = 23
"""The newest that onnxruntime 1.23, the oldest on a device, knows."""
ML_OPSET_MAX = 5
"""The newest of ai.onnx.ml that it knows."""
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_STANDARD_DOMAINS = {"": "", "ai.onnx": "", "ai.onnx.ml": "ai.onnx.ml"}
_INTERFACE_MAX = 64
_RANK_MAX = 8
_DIMENSION_MAX = 2**31 - 1
_NAME_MAX = 256
_LISTED = 5

DATATYPES: dict[int, tuple[str, np.dtype[Any]]] = {
    onnx.TensorProto.FLOAT: ("FP32", np.dtype(np.float32)),
    onnx.TensorProto.DOUBLE: ("FP64", np.dtype(np.float64)),
    onnx.TensorProto.FLOAT16: ("FP16", np.dtype(np.float16)),
    onnx.TensorProto.INT8: ("INT8", np.dtype(np.int8)),
    onnx.TensorProto.INT16: ("INT16", np.dtype(np.int16)),
    onnx.TensorProto.INT32: ("INT32", np.dtype(np.int32)),
    onnx.TensorProto.INT64: ("INT64", np.dtype(np.int64)),
    onnx.TensorProto.UINT8: ("UINT8", np.dtype(np.uint8)),
    onnx.TensorProto.UINT16: ("UINT16", np.dtype(np.uint16)),
    onnx.TensorProto.UINT32: ("UINT32", np.dtype(np.uint32)),
    onnx.TensorProto.UINT64: ("UINT64", np.dtype(np.uint64)),
    onnx.TensorProto.BOOL: ("BOOL", np.dtype(np.bool_)),
}
"""ONNX element type → its name in the Open Inference Protocol, and in NumPy."""

_OTHER_FORMATS = (
    (b"\x89PNG", 0, "a PNG picture", ""),
    (b"TFL3", 4, "a TensorFlow Lite model", "convert it with tf2onnx --tflite"),
    (b"PK\x03\x04", 0, "a ZIP archive (a PyTorch checkpoint is one)", "use torch.onnx.export"),
    (b"\x80", 0, "a Python pickle", "export the model to ONNX; pickles are never loaded"),
    (b"\x89HDF", 0, "an HDF5 file (Keras)", "convert it with tf2onnx"),
    (b"GGUF", 0, "a GGUF model", "export the model to ONNX"),
    (b"\x1f\x8b", 0, "a gzip archive", "unpack it first"),
)
_EXPORT_HINT = "push an .onnx file, such as torch.onnx.export, skl2onnx or tf2onnx writes"


@dataclass(frozen=True)
class ModelFacts:
    """What the checks have found out.

    Attributes:
        opset: version of the default operator set.
        nodes: number of nodes, those of subgraphs included.
        parameters: number of elements of all initializers.
        inputs: name, datatype and shape; the first dimension is the batch, -1 or 1.
    """

    opset: int
    nodes: int
    parameters: int
    inputs: tuple[TensorSpec, ...]


def parse_model(content: bytes, limits: PipelineLimits) -> Any:
    """Return the ``onnx.ModelProto`` that `content` is; raise `PipelineRefused` if it is none."""
    if len(content) > limits.source_bytes_max:
        raise PipelineRefused(
            "model.too_large",
            # The reader stops one byte beyond the limit: how long the file is, is not known here.
            f"The model is larger than {limits.source_bytes_max} bytes.",
            "Push a smaller model: devices take files of up to 256 MiB, and preparing adds some.",
        )
    _refuse_other_formats(content)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RecursionError) as error:
        if content[:1] == b"\x08":  # field 1, ir_version: every exporter writes it first
            raise PipelineRefused(
                "model.damaged",
                f"The file begins like an ONNX model but its {len(content)} bytes cannot be read "
                "to the end; it has been cut or altered.",
                "Compare its size and SHA-256 with the original, and push it again.",
            ) from error
        raise PipelineRefused(
            "model.not_onnx", "The file is not an ONNX model.", f"{_EXPORT_HINT}."
        ) from error
    if not model.HasField("graph") or (not model.graph.node and not model.graph.output):
        raise PipelineRefused("model.not_onnx", "The file holds no ONNX graph.", f"{_EXPORT_HINT}.")
    return model


def check_model(
    model: Any,
    limits: PipelineLimits,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    free_inputs: Collection[str] = (),
) -> ModelFacts:
    """Check a parsed model; raise `PipelineRefused` with a code ``model.…``.

    Args:
        model: an ``onnx.ModelProto``; training information is dropped from it, and the shapes of
            its inputs are fixed in it.
        limits: the bounds.
        input_shapes: shapes to fix, by input, see `shapes.fix_shapes`.
        free_inputs: inputs of which not only the batch may be free.
    """
    model.ClearField("training_info")
    _check_text(model, limits)
    opset = _check_opset(model)
    _check_functions(model)
    nodes = _check_graphs(model, limits)
    _check_operators(model, limits)
    fix_shapes(model, input_shapes or {})
    inputs = _check_inputs(model, free_inputs)
    _check_outputs(model)
    _run_checker(model)
    parameters = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    return ModelFacts(opset=opset, nodes=nodes, parameters=parameters, inputs=inputs)


def _refuse_other_formats(content: bytes) -> None:
    if not content:
        raise PipelineRefused("model.not_onnx", "The file is empty.", f"{_EXPORT_HINT}.")
    for magic, offset, what, hint in _OTHER_FORMATS:
        if content[offset : offset + len(magic)] == magic:
            raise PipelineRefused(
                "model.not_onnx",
                f"The file is {what}, not an ONNX model.",
                f"{hint or _EXPORT_HINT}.",
            )


def _check_text(model: Any, limits: PipelineLimits) -> None:
    """Refuse names that are not UTF-8: protobuf hands them out as bytes."""
    if not all(isinstance(name, str) for name in _names_in(model, limits)):
        raise PipelineRefused(
            "model.damaged",
            "A name in the model is not UTF-8 text.",
            "Compare the file's SHA-256 with the original, and push it again.",
        )


def _names_in(model: Any, limits: PipelineLimits) -> Iterator[object]:
    yield from (entry.domain for entry in model.opset_import)
    yield from (function.name for function in model.functions)
    for graph, _ in _walk(model.graph, limits.depth_max):
        for node in graph.node:
            yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
            yield from (attribute.name for attribute in node.attribute)
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for tensor in _tensors_of(graph):
            yield tensor.name
            yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _check_opset(model: Any) -> int:
    if model.ir_version > onnx.IR_VERSION:
        raise PipelineRefused(
            "model.opset",
            f"The model has ONNX IR version {model.ir_version}, at most {onnx.IR_VERSION} is "
            "supported.",
            f"Export it with opset {OPSET_MAX} or lower.",
        )
    versions = [entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
    foreign = sorted({entry.domain for entry in model.opset_import} - _DOMAINS)
    used = {node.domain for graph, _ in _walk(model.graph, 1) for node in graph.node}
    if not versions and used & {"", "ai.onnx"}:
        raise PipelineRefused(
            "model.opset",
            "The model does not say which operator set it is written in.",
            f"Export it with an opset from {OPSET_MIN} to {OPSET_MAX}.",
        )
    opset = max(versions, default=OPSET_MAX)
    if not OPSET_MIN <= min(versions, default=opset) <= opset <= OPSET_MAX:
        raise PipelineRefused(
            "model.opset",
            f"The model has opset {opset}, supported are {OPSET_MIN} to {OPSET_MAX}.",
            "Export it with opset_version=17, or convert it with "
            "onnx.version_converter.convert_version.",
        )
    for entry in [entry for entry in model.opset_import if entry.domain in foreign]:
        model.opset_import.remove(entry)  # declared; whether it is used, the graphs say
    return opset


def _check_functions(model: Any) -> None:
    if model.functions:
        names = ", ".join(sorted({function.name for function in model.functions})[:_LISTED])
        raise PipelineRefused(
            "model.functions",
            f"The model brings {len(model.functions)} functions of its own ({names}).",
            "Inline them: onnx.inliner.inline_local_functions(onnx.load(file)).",
        )


def _walk(graph: Any, depth_max: int) -> Iterator[tuple[Any, int]]:
    """Yield the graph and its subgraphs with their depth; those deeper by one end it."""
    waiting = [(graph, 0)]
    while waiting:
        current, depth = waiting.pop()
        yield current, depth
        if depth > depth_max:
            return
        for node in current.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append((attribute.g, depth + 1))
                waiting.extend((subgraph, depth + 1) for subgraph in attribute.graphs)


def _check_graphs(model: Any, limits: PipelineLimits) -> int:
    """Check the nodes and tensors of all graphs and return the number of nodes."""
    nodes = tensors = 0
    unknown: set[str] = set()
    for graph, depth in _walk(model.graph, limits.depth_max):
        if depth > limits.depth_max:
            raise _limit(f"Subgraphs are nested more than {limits.depth_max} deep")
        nodes += len(graph.node)
        if nodes > limits.nodes_max:
            raise _limit(f"The model has more than {limits.nodes_max} nodes")
        for tensor in _tensors_of(graph):
            tensors += 1
            if tensors > limits.tensors_max:
                raise _limit(f"The model has more than {limits.tensors_max} tensors")
            _check_tensor(tensor)
        unknown.update(_unknown_operators(graph))
    if unknown:
        names = ", ".join(sorted(unknown)[:_LISTED]) + (", …" if len(unknown) > _LISTED else "")
        raise PipelineRefused(
            "model.custom_op",
            f"The model uses operators that devices do not have: {names}.",
            "Export it with standard ONNX operators only (domains ai.onnx and ai.onnx.ml).",
        )
    return nodes


def _check_operators(model: Any, limits: PipelineLimits) -> None:
    """Check every operator against the opset that the model declares."""
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = _STANDARD_DOMAINS.get(entry.domain, entry.domain)
        opsets[domain] = max(opsets.get(domain, 0), entry.version)
    if opsets.get("ai.onnx.ml", 0) > ML_OPSET_MAX:
        raise PipelineRefused(
            "model.opset",
            f"The model has opset {opsets['ai.onnx.ml']} of ai.onnx.ml, supported is up to "
            f"{ML_OPSET_MAX}.",
            f"Export it with target_opset={{'': 17, 'ai.onnx.ml': {ML_OPSET_MAX}}}.",
        )
    for graph, _ in _walk(model.graph, limits.depth_max):
        for node in graph.node:
            check_operator(node, opsets)


def _limit(what: str) -> PipelineRefused:
    return PipelineRefused(
        "model.limit", f"{what}.", "Simplify the model, or raise the server's limit."
    )


def _tensors_of(graph: Any) -> Iterator[Any]:
    """Yield every dense tensor of a graph itself, not of its subgraphs."""
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            sparse.extend(attribute.sparse_tensors)
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _check_tensor(tensor: Any) -> None:
    external = tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data)
    if external:
        places = {entry.key: entry.value for entry in tensor.external_data}
        raise PipelineRefused(
            "model.external_data",
            f"The data of tensor {tensor.name[:80]!r} is in another file "
            f"({places.get('location', 'unnamed')[:80]!r}), which is not part of the push.",
            "Save it as one file: onnx.save(onnx.load('model.onnx'), 'whole.onnx', "
            "save_as_external_data=False).",
        )
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > _DIMENSION_MAX:
        raise PipelineRefused(
            "model.limit",
            f"Tensor {tensor.name[:80]!r} declares the shape {list(tensor.dims)[:_RANK_MAX]}.",
            f"A tensor has at most {_DIMENSION_MAX} elements; export the model again.",
        )


def _unknown_operators(graph: Any) -> Iterator[str]:
    for node in graph.node:
        if node.domain not in _DOMAINS:
            yield f"{node.domain[:80]}::{node.op_type[:80]}"
        elif node.domain in _STANDARD_DOMAINS and not onnx.defs.has(
            node.op_type, _STANDARD_DOMAINS[node.domain]
        ):
            yield node.op_type[:80]


def _check_inputs(model: Any, free: Collection[str]) -> tuple[TensorSpec, ...]:
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    _check_interface("input", values)
    return tuple(_input_spec(value, free=value.name in free) for value in values)


def _check_outputs(model: Any) -> None:
    _check_interface("output", model.graph.output)
    for value in model.graph.output:
        _check_datatype("output", value)


def _check_interface(kind: str, values: Any) -> None:
    names = [value.name for value in values]
    fine = all(0 < len(name) <= _NAME_MAX for name in names) and len(set(names)) == len(names)
    if not fine or not 1 <= len(names) <= _INTERFACE_MAX:
        raise PipelineRefused(
            "model.invalid",
            f"The model has {len(names)} {kind}s; expected 1 to {_INTERFACE_MAX} with distinct "
            f"names of 1 to {_NAME_MAX} characters.",
            "Export it again with input_names and output_names.",
        )


def _check_datatype(kind: str, value: Any) -> str:
    """Return the datatype of an input or output."""
    which = value.type.WhichOneof("value")
    element = value.type.tensor_type.elem_type if which == "tensor_type" else None
    if element is None or element not in DATATYPES:
        got = str(which or "no type").removesuffix("_type")
        if element is not None:
            known = onnx.TensorProto.DataType.values()
            got = onnx.TensorProto.DataType.Name(element) if element in known else str(element)
        zipmap = " For scikit-learn: skl2onnx options={'zipmap': False}." if got != "STRING" else ""
        raise PipelineRefused(
            "model.datatype",
            f"The {kind} {value.name[:80]!r} is of type {got}; expected a tensor of "
            f"{', '.join(name for name, _ in DATATYPES.values())}.",
            f"Export numbers: encode text as integers, classes by their index.{zipmap}",
        )
    return DATATYPES[element][0]


def _input_spec(value: Any, *, free: bool) -> TensorSpec:
    datatype = _check_datatype("input", value)
    tensor = value.type.tensor_type
    dimensions = list(tensor.shape.dim) if tensor.HasField("shape") else []
    sizes = [
        dim.dim_value if dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0 else -1
        for dim in dimensions
    ]
    shown = shown_shape(value)
    if not sizes or len(sizes) > _RANK_MAX or sizes[0] not in {-1, 1}:
        raise PipelineRefused(
            "model.shape",
            f"Input {value.name[:80]!r} has the shape {shown}; expected a batch axis first, free "
            f"or of size 1, and at most {_RANK_MAX} axes.",
            "Export it with a free batch axis, such as torch.onnx.export(…, "
            f"dynamic_axes={{{value.name[:80]!r}: {{0: 'N'}}}})"
            + (
                f", or say its shape, such as {shape_option(value)}."
                if not tensor.HasField("shape")
                else "."
            ),
        )
    if any(size > _DIMENSION_MAX or (size < 0 and not free) for size in sizes[1:]):
        raise PipelineRefused(
            "model.shape",
            f"Input {value.name[:80]!r} has the shape {shown}; only its first axis, the batch, "
            "may be free.",
            f"Push it again with the sizes that your data has, such as {shape_option(value)}.",
        )
    return TensorSpec(name=value.name, datatype=datatype, shape=tuple(sizes))  # type: ignore[arg-type]


def _run_checker(model: Any) -> None:
    """Let the ONNX project's checker and shape inference see the model."""
    try:
        onnx.checker.check_model(model)
        onnx.shape_inference.infer_shapes(model, check_type=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
        ValueError,
        TypeError,
    ) as error:
        reason = " ".join(str(error).split())[:400]
        raise PipelineRefused(
            "model.invalid",
            f"The ONNX checker refuses the model: {reason}",
            "Check it with onnx.checker.check_model(file, full_check=True) and export it again.",
        ) from error
