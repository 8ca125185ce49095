"""Is this ``.tflite`` file acceptable? Bounds and meaning, before any runtime sees it.

The file is a FlatBuffer (`flatbuffer`) of TensorFlow Lite's ``schema.fbs``, version 3. Checked is
what a runtime would follow: that tensors, buffers, operators and subgraphs name what is there, that
sizes are possible, and that there are no operators from elsewhere (custom, TensorFlow's "flex",
compiled delegates). Whether the operators are used as they should be, LiteRT decides, in a task.

Names of inputs and outputs are those of the only signature, otherwise those of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.flatbuffer import Damaged, Table, TooMuch, root_table
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import PipelineLimits, Precision

__all__ = ["Scaling", "TfliteFacts", "check_tflite", "is_tflite"]

Array = npt.NDArray[Any]
_IDENTIFIER = b"TFL3"
_SCHEMA = 3
_ELEMENTS_PER_TENSOR = 200
"""Numbers that are read for each tensor and node that is allowed: what a real model needs is 30."""
_SUBGRAPHS_MAX = 64
_INTERFACE_MAX = 64
_RANK_MAX = 8
_NAME_MAX = 256
_ELEMENTS_MAX = 2**31 - 1
_LISTED = 5
_INLINE_BUFFER = 1
"""A buffer whose offset is larger lies behind the FlatBuffer."""
_EXTERNAL_GROUPS = 8
"""Fields of a model from here on name other files."""

_DATATYPES = {
    0: "FP32", 1: "FP16", 2: "INT32", 3: "UINT8", 4: "INT64", 6: "BOOL", 7: "INT16", 9: "INT8",
    10: "FP64", 12: "UINT64", 15: "UINT32", 16: "UINT16",
}  # fmt: skip
"""TensorType → its name in the Open Inference Protocol."""
_BYTES = {
    "FP32": 4, "FP16": 2, "INT32": 4, "UINT8": 1, "INT64": 8, "BOOL": 1, "INT16": 2, "INT8": 1,
    "FP64": 8, "UINT64": 8, "UINT32": 4, "UINT16": 2,
}  # fmt: skip
_INT4 = 17
_OTHER_TYPES = {5: "STRING", 8: "COMPLEX64", 11: "COMPLEX128", 13: "RESOURCE", 14: "VARIANT"}
_CUSTOM, _DELEGATE, _PLACEHOLDER = 32, 51, 127
_CALLS = {31: (0,), 118: (0, 1), 119: (0, 1), 129: (0,)}
"""CALL, IF, WHILE, CALL_ONCE, and the options that name a subgraph."""

_HINT = "Convert the model again with tf.lite.TFLiteConverter and its built-in operators alone."


@dataclass(frozen=True)
class Scaling:
    """What the elements of a quantized tensor mean: ``scale * (element - zero_point)``."""

    scale: float
    zero_point: int

    def numbers(self, elements: Array) -> Array:
        """Return the numbers, float32, that elements stand for."""
        return (self.scale * (elements.astype(np.float64) - self.zero_point)).astype(np.float32)

    def elements(self, numbers: Array, dtype: np.dtype[Any]) -> Array:
        """Return the elements nearest to numbers, those beyond the ends at the ends."""
        bounds = np.iinfo(dtype)
        rounded = np.rint(numbers.astype(np.float64) / self.scale) + self.zero_point
        found: Array = np.clip(rounded, bounds.min, bounds.max).astype(dtype)
        return found


@dataclass(frozen=True)
class TfliteFacts:
    """What the checks have found out.

    Attributes:
        inputs: in the order of the file; the first dimension is -1 where any number of samples was
            meant, and 1 otherwise.
        outputs: their names, in the order of the file.
        scalings: of the inputs and outputs that are quantized as a whole, by name.
        precision: of the larger part of the weights.
        nodes: operators of all subgraphs.
        parameters: elements of all constant tensors.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    scalings: dict[str, Scaling]
    precision: Precision
    nodes: int
    parameters: int


@dataclass(frozen=True)
class _Tensor:
    name: str
    kind: int
    shape: tuple[int, ...]
    free: tuple[bool, ...]
    """Which sizes may be others."""
    constant_bytes: int
    scaling: Scaling | None
    quantized: bool


def is_tflite(content: bytes) -> bool:
    """Say whether a file begins like a ``.tflite`` file."""
    return content[4:8] == _IDENTIFIER


def check_tflite(content: bytes, limits: PipelineLimits) -> TfliteFacts:
    """Check a file that `is_tflite`; raise `PipelineRefused` with a code ``model.…``."""
    if len(content) > limits.source_bytes_max:
        raise PipelineRefused(
            "model.too_large",
            f"The model is larger than {limits.source_bytes_max} bytes.",
            "Push a smaller model: devices take files of up to 256 MiB.",
        )
    elements_max = _ELEMENTS_PER_TENSOR * (limits.tensors_max + limits.nodes_max)
    try:
        return _check(content, limits, elements_max)
    except Damaged as error:
        raise _damaged(str(error)) from error
    except TooMuch as error:
        raise _limit("The model's tables name one another too often") from error


def _check(content: bytes, limits: PipelineLimits, elements_max: int) -> TfliteFacts:
    model = root_table(content, elements_max=elements_max)
    version = model.number(0, "u32")
    if version != _SCHEMA:
        raise PipelineRefused(
            "model.unsupported",
            f"The file is of version {version} of TensorFlow Lite's schema, known is {_SCHEMA}.",
            _HINT,
        )
    if any(model.has(field) for field in range(_EXTERNAL_GROUPS, _EXTERNAL_GROUPS + 8)):
        raise _external()
    operators = _operators(model, limits)
    sizes = _buffers(model, len(content), limits)
    subgraphs = model.tables(2)
    if not 1 <= len(subgraphs) <= _SUBGRAPHS_MAX:
        raise _limit(f"The model has {len(subgraphs)} subgraphs, allowed are 1 to {_SUBGRAPHS_MAX}")
    nodes, every, main = 0, list[_Tensor](), list[_Tensor]()
    for number, subgraph in enumerate(subgraphs):
        if len(every) + subgraph.length(0, 4) > limits.tensors_max:
            raise _limit(f"The model has more than {limits.tensors_max} tensors")
        tensors = [_tensor(table, sizes) for table in subgraph.tables(0)]
        every += tensors
        main = main or tensors
        nodes += subgraph.length(3, 4)
        if nodes > limits.nodes_max:
            raise _limit(f"The model has more than {limits.nodes_max} operators")
        _check_nodes(subgraph, len(tensors), operators, (number, len(subgraphs)))
    inputs, outputs = _interface(model, subgraphs[0], main)
    return TfliteFacts(
        inputs=tuple(_input_spec(name, tensor) for name, tensor in inputs),
        outputs=tuple(_output_name(name, tensor) for name, tensor in outputs),
        scalings={name: one.scaling for name, one in (*inputs, *outputs) if one.scaling},
        precision=_precision(every),
        nodes=nodes,
        parameters=sum(math.prod(one.shape) for one in every if one.constant_bytes),
    )


# ------------------------------------------------------------ what the file consists of


def _operators(model: Table, limits: PipelineLimits) -> list[int]:
    """Return the operator of each operator code; refuse those that devices do not have."""
    if model.length(1, 4) > limits.nodes_max:
        raise _limit(f"The model has more than {limits.nodes_max} kinds of operators")
    found, foreign = [], set()
    for code in model.tables(1):
        old = code.number(0, "i8")
        builtin = max(old, code.number(3, "i32"))  # schema.fbs: the larger of the two holds
        name = code.text(1)[:80]
        if builtin == _CUSTOM or name:
            foreign.add(name or "a custom one without a name")
        elif builtin in {_DELEGATE, _PLACEHOLDER} or builtin < 0:
            foreign.add("a compiled delegate" if builtin == _DELEGATE else f"number {builtin}")
        found.append(builtin)
    if foreign:
        names = ", ".join(sorted(foreign)[:_LISTED]) + (", …" if len(foreign) > _LISTED else "")
        flex = any(name.startswith("Flex") for name in foreign)
        raise PipelineRefused(
            "model.custom_op",
            f"The model uses operators that devices do not have: {names}.",
            "Convert it with target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS], without "
            "SELECT_TF_OPS."
            if flex
            else _HINT,
        )
    return found


def _buffers(model: Table, length: int, limits: PipelineLimits) -> list[int]:
    """Return the length of each buffer in bytes."""
    if model.length(4, 4) > 2 * limits.tensors_max:
        raise _limit(f"The model has more than {2 * limits.tensors_max} buffers")
    sizes = []
    for buffer in model.tables(4):
        size, offset = buffer.length(0), buffer.number(1, "u64")
        if offset > _INLINE_BUFFER:
            size = buffer.number(2, "u64")
            if offset + size > length:
                raise Damaged(f"a buffer of {size} bytes at {offset} is outside of the file")
        sizes.append(size)
    return sizes


def _tensor(table: Table, sizes: Sequence[int]) -> _Tensor:
    shape = table.integers(0)
    name = table.text(3)
    if any(size < 0 for size in shape) or math.prod(shape) > _ELEMENTS_MAX:
        raise PipelineRefused(
            "model.limit",
            f"Tensor {name[:80]!r} declares the shape {shape[:_RANK_MAX]}.",
            f"A tensor has at most {_ELEMENTS_MAX} elements; convert the model again.",
        )
    buffer, kind = table.number(2, "u32"), table.number(1, "i8")
    if buffer >= max(1, len(sizes)):
        raise Damaged(f"tensor {name[:80]!r} is in buffer {buffer} of {len(sizes)}")
    held = sizes[buffer] if sizes else 0
    datatype = _DATATYPES.get(kind)
    if held and datatype and not table.has(6) and math.prod(shape) * _BYTES[datatype] > held:
        raise Damaged(f"tensor {name[:80]!r} of shape {shape[:_RANK_MAX]} has {held} bytes")
    signature = table.integers(7) if table.has(7) else shape
    if len(signature) != len(shape):
        signature = shape
    quantization = table.table(4)
    scales = [] if quantization is None else quantization.floats(2)
    return _Tensor(
        name=name,
        kind=kind,
        shape=tuple(shape),
        free=tuple(size < 0 for size in signature),
        constant_bytes=held,
        scaling=_scaling(quantization, scales),
        quantized=bool(scales),
    )


def _scaling(quantization: Table | None, scales: list[float]) -> Scaling | None:
    """Return what the elements mean, where one scale is for all of them."""
    if quantization is None or len(scales) != 1:
        return None
    if not (math.isfinite(scales[0]) and scales[0] > 0):
        return None
    zeros = quantization.integers(3, 8)
    zero = zeros[0] if len(zeros) == 1 else 0
    if not -(2**31) <= zero < 2**31:
        return None
    return Scaling(scales[0], zero)


def _check_nodes(
    subgraph: Table, tensors: int, operators: Sequence[int], place: tuple[int, int]
) -> None:
    """Check that operators name what is there, and only subgraphs behind their own.

    Args:
        subgraph: the table.
        tensors: how many it has.
        operators: by operator code.
        place: number of the subgraph, and how many there are. Converters write a subgraph before
            those that it calls; a circle of calls would never end.
    """
    for node in subgraph.tables(3):
        code = node.number(0, "u32")
        if code >= len(operators):
            raise Damaged(f"an operator has the code {code} of {len(operators)}")
        used = (*node.integers(1), *node.integers(2), *node.integers(8))
        if used and not (min(used) >= -1 and max(used) < tensors):
            raise Damaged(f"an operator uses tensor {max(used)} of {tensors}")
        options = node.table(4) if operators[code] in _CALLS and node.has(4) else None
        if options is None:
            continue
        for field in _CALLS[operators[code]]:
            called = options.number(field, "i32")
            if not place[0] < called < place[1]:
                raise PipelineRefused(
                    "model.invalid",
                    f"Subgraph {place[0]} calls subgraph {called} of {place[1]}; a subgraph may "
                    "call those behind it alone.",
                    _HINT,
                )


# ------------------------------------------------------------ what applications see


def _interface(
    model: Table, subgraph: Table, tensors: Sequence[_Tensor]
) -> tuple[list[tuple[str, _Tensor]], list[tuple[str, _Tensor]]]:
    """Return inputs and outputs with their names."""
    found = []
    places = subgraph.integers(1), subgraph.integers(2)
    signed = _signature(model)
    for kind, indices, names in zip(("input", "output"), places, signed, strict=True):
        if not 1 <= len(indices) <= _INTERFACE_MAX:
            raise PipelineRefused(
                "model.invalid",
                f"The model has {len(indices)} {kind}s; expected 1 to {_INTERFACE_MAX}.",
                _HINT,
            )
        if not all(0 <= index < len(tensors) for index in indices):
            raise Damaged(f"an {kind} is tensor {max(indices)} of {len(tensors)}")
        found.append(_named(kind, indices, names, tensors))
    return found[0], found[1]


def _signature(model: Table) -> tuple[dict[int, str], dict[int, str]]:
    """Return the names in the only signature, by tensor; nothing where there are more, or none."""
    if model.length(7, 4) != 1:
        return {}, {}
    (signature,) = model.tables(7)
    if signature.number(4, "u32") != 0:
        return {}, {}
    pairs = [
        [(one.number(1, "u32"), one.text(0)) for one in signature.tables(field)] for field in (0, 1)
    ]
    return dict(pairs[0]), dict(pairs[1])


def _named(
    kind: str, indices: Sequence[int], names: dict[int, str], tensors: Sequence[_Tensor]
) -> list[tuple[str, _Tensor]]:
    for chosen in (
        [names.get(index, "") for index in indices],
        [tensors[index].name.removesuffix(":0") for index in indices],
        [f"{kind}_{number}" if number else kind for number in range(len(indices))],
    ):
        fine = all(0 < len(name) <= _NAME_MAX and name.isprintable() for name in chosen)
        if fine and len(set(chosen)) == len(chosen) and "label" not in chosen:
            return [(name, tensors[index]) for name, index in zip(chosen, indices, strict=True)]
    raise AssertionError("numbered names are fine")


def _input_spec(name: str, tensor: _Tensor) -> TensorSpec:
    datatype: Any = _datatype("input", name, tensor)
    sizes = tensor.shape
    batch = bool(sizes) and sizes[0] == 1 and len(sizes) <= _RANK_MAX
    if not batch or any(tensor.free[1:]) or 0 in sizes:
        shown = [
            "?" if free else size
            for size, free in zip(tensor.shape[:_RANK_MAX], tensor.free, strict=False)
        ]
        raise PipelineRefused(
            "model.shape",
            f"Input {name[:80]!r} has the shape {shown}; expected a batch axis first, of size 1 or "
            f"free, all other sizes fixed, and at most {_RANK_MAX} axes.",
            "Convert it with a fixed shape: tf.lite.TFLiteConverter.from_concrete_functions of a "
            "function with tf.TensorSpec([1, …]).",
        )
    return TensorSpec(name=name, datatype=datatype, shape=(-1 if tensor.free[0] else 1, *sizes[1:]))


def _output_name(name: str, tensor: _Tensor) -> str:
    _datatype("output", name, tensor)
    return name


def _datatype(kind: str, name: str, tensor: _Tensor) -> str:
    datatype = _DATATYPES.get(tensor.kind)
    if datatype is None:
        shown = _OTHER_TYPES.get(tensor.kind, f"type {tensor.kind}")
        raise PipelineRefused(
            "model.datatype",
            f"The {kind} {name[:80]!r} is of type {shown}; expected a tensor of "
            f"{', '.join(_DATATYPES.values())}.",
            "Convert a model that takes and gives numbers.",
        )
    return datatype


def _precision(tensors: Sequence[_Tensor]) -> Precision:
    """Return the precision of the larger part of the weights."""
    held: dict[Precision, int] = {"int8": 0, "fp16": 0, "fp32": 0}
    for kind, size in _weights(tensors):
        held[kind] += size
    if not any(held.values()):
        return "int8" if any(one.quantized for one in tensors) else "fp32"
    return max(held, key=lambda kind: held[kind])


def _weights(tensors: Sequence[_Tensor]) -> Iterator[tuple[Precision, int]]:
    """Yield kind and bytes of each constant tensor that can be a weight."""
    for one in tensors:
        datatype = "INT4" if one.kind == _INT4 else _DATATYPES.get(one.kind)
        if one.quantized and datatype in {"INT8", "UINT8", "INT4"}:
            yield "int8", one.constant_bytes
        elif datatype == "FP32":
            yield "fp32", one.constant_bytes
        elif datatype == "FP16":
            yield "fp16", one.constant_bytes


def _damaged(what: str) -> PipelineRefused:
    return PipelineRefused(
        "model.damaged",
        f"The file begins like a TensorFlow Lite model, and cannot be read: {what}.",
        "Compare its size and SHA-256 with the original, and push it again.",
    )


def _limit(what: str) -> PipelineRefused:
    return PipelineRefused(
        "model.limit", f"{what}.", "Simplify the model, or raise the server's limit."
    )


def _external() -> PipelineRefused:
    return PipelineRefused(
        "model.external_data",
        "Weights of the model are in other files, which are not part of the push.",
        "Convert it to one file.",
    )
