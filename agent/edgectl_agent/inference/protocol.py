"""Open Inference Protocol v2, REST, JSON tensors: bytes to arrays and back.

Source: kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``. Everything in
a request is checked against the model's signed contract before an array is made: names, datatypes,
shapes, element count, and every element's type. What is wrong is one `Refused`, with a sentence
that names what was expected and what came.

JSON has no NaN and no infinity: a request cannot hold one, and an output that does shows ``null``
there and ``"non_finite": true`` among the response's parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.refusals import Refused
from edgectl_agent.runtime import DTYPES, Tensor, shape_fits
from edgectl_protocol.manifest import BundleConfig, TensorSpec

__all__ = ["Call", "encode_outputs", "parse_call", "response_parameters"]

_Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Name = Annotated[str, Meta(max_length=256)]
_NESTED = re.compile(rb"\s*\[\s*\[")
_DIMENSIONS_MAX = 8


class _Input(Struct):
    name: _Name
    shape: Annotated[tuple[_Size, ...], Meta(max_length=_DIMENSIONS_MAX)]
    datatype: str
    data: Raw | UnsetType = UNSET
    parameters: dict[str, Any] = {}


class _Wanted(Struct):
    name: _Name
    parameters: dict[str, Any] = {}


class _Request(Struct):
    inputs: Annotated[list[_Input], Meta(min_length=1, max_length=64)]
    id: Annotated[str, Meta(max_length=1024)] | UnsetType = UNSET
    parameters: dict[str, Any] = {}
    outputs: Annotated[list[_Wanted], Meta(max_length=64)] = []


class _Output(Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any]


class _Response(Struct):
    model_name: str
    model_version: str
    parameters: Raw
    outputs: list[_Output]
    id: str | UnsetType = UNSET


class Call(NamedTuple):
    """A request that fits the contract."""

    inputs: dict[str, Tensor]
    outputs: tuple[TensorSpec, ...]
    """Those that are wanted, in the order of the answer."""
    id: str | UnsetType


_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def parse_call(body: bytes | bytearray, config: BundleConfig) -> Call:
    """Return the arrays of an infer request; raise `Refused` for anything outside the contract."""
    try:
        request = _decode_request(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"not an inference request: {error}") from error
    if request.parameters.get("binary_data_output"):
        raise Refused("binary tensors are not supported yet: leave out binary_data_output")
    inputs: dict[str, Tensor] = {}
    for given in request.inputs:
        spec = _spec(config.inputs, given.name, "input")
        if given.name in inputs:
            raise Refused(f"input {given.name!r} is given twice")
        inputs[given.name] = _array(given, spec)
    if len(inputs) != len(config.inputs):
        missing = [spec.name for spec in config.inputs if spec.name not in inputs]
        raise Refused(f"input {missing[0]!r} is missing")
    return Call(inputs, _wanted(request.outputs, config), request.id)


def response_parameters(bundle: Bundle, *, non_finite: bool) -> Raw:
    """Return the parameters of every answer of `bundle`, which name what has answered."""
    parameters: dict[str, Any] = {"manifest": bundle.manifest, "variant": bundle.variant}
    if non_finite:
        parameters["non_finite"] = True
    return Raw(_encode(parameters))


def encode_outputs(
    call: Call, outputs: Mapping[str, Tensor], bundle: Bundle, parameters: Raw
) -> bytes:
    """Return the response's body.

    Args:
        call: the request; its `id` is echoed and its `outputs` are selected.
        outputs: arrays by output name, as the model has given them.
        bundle: what has answered.
        parameters: from `response_parameters`.
    """
    return _encode(
        _Response(
            model_name=bundle.slot,
            model_version=bundle.version,
            parameters=parameters,
            outputs=[
                _Output(
                    name=spec.name,
                    shape=outputs[spec.name].shape,
                    datatype=spec.datatype,
                    data=outputs[spec.name].ravel().tolist(),
                )
                for spec in call.outputs
            ],
            id=call.id,
        )
    )


def _spec(specs: tuple[TensorSpec, ...], name: str, side: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    known = ", ".join(repr(spec.name) for spec in specs)
    raise Refused(f"the model has no {side} {name!r}: it has {known}")


def _wanted(wanted: list[_Wanted], config: BundleConfig) -> tuple[TensorSpec, ...]:
    if not wanted:
        return config.outputs
    for output in wanted:
        if output.parameters.get("binary_data"):
            raise Refused(
                f"output {output.name!r}: binary tensors are not supported yet, ask without them"
            )
    specs = tuple(_spec(config.outputs, output.name, "output") for output in wanted)
    if len({spec.name for spec in specs}) != len(specs):
        raise Refused("an output is asked for twice")
    return specs


def _array(given: _Input, spec: TensorSpec) -> Tensor:
    """Return the array of one input tensor, flat or nested, row-major."""
    name = given.name
    if given.datatype != spec.datatype:
        raise Refused(f"input {name!r} has datatype {given.datatype!r}, expected {spec.datatype}")
    if not shape_fits(given.shape, spec):
        raise Refused(
            f"input {name!r} has shape {list(given.shape)}, expected {list(spec.shape)}"
            + (" where -1 is any size from 1" if -1 in spec.shape else "")
        )
    if isinstance(given.data, UnsetType):
        raise Refused(_no_data(name, given.parameters))
    nested = len(spec.shape) > 1 and _NESTED.match(given.data) is not None
    try:
        values = _decoder(spec.datatype, len(spec.shape) if nested else 1).decode(given.data)
        array = _from_list(values, spec.datatype)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, ValueError) as error:
        reason = "rows differ in length" if "inhomogeneous" in str(error) else str(error)
        raise Refused(f"data of input {name!r} is not {spec.datatype}: {reason}") from error
    if nested:
        if array.shape != given.shape:
            raise Refused(
                f"data of input {name!r} is nested as {list(array.shape)}, "
                f"its shape says {list(given.shape)}"
            )
        return array
    if array.size != math.prod(given.shape):
        raise Refused(
            f"input {name!r} has {array.size} elements, "
            f"its shape {list(given.shape)} needs {math.prod(given.shape)}"
        )
    return array.reshape(given.shape)


def _no_data(name: str, parameters: Mapping[str, Any]) -> str:
    if "binary_data_size" in parameters:
        return f"input {name!r}: binary tensors are not supported yet, send its data as JSON"
    if any(key.startswith("shared_memory") for key in parameters):
        return f"input {name!r}: shared memory is not supported, send its data as JSON"
    return f"input {name!r} has no data"


def _from_list(values: list[Any], datatype: str) -> Tensor:
    """Return an array of checked elements; raise OverflowError for one that does not fit."""
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=DTYPES[datatype])
    # The sum of finite numbers can overflow, so that it decides only when it is finite.
    if array.dtype.kind == "f" and not _all_finite(array):
        raise OverflowError("a number is too large for it")
    return array


def _all_finite(array: Tensor) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(array.sum()) or bool(np.isfinite(array).all())


@lru_cache(maxsize=256)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Return a decoder of `depth` nested lists that admits only elements of `datatype`."""
    kind = DTYPES[datatype].kind
    element: Any = {"b": bool, "f": float, "O": str}.get(kind, int)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)
