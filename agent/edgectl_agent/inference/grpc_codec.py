"""Infer requests and answers as gRPC messages.

Source: kserve/open-inference-protocol, ``specification/protocol/open_inference_grpc.proto``. Inputs
come in binary form (`raw_input_contents`), as typed contents, or from shared memory; the outputs go
the way that the inputs came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET, UnsetType

from edgectl_agent.inference.grpc_messages import message
from edgectl_agent.inference.peer import Peer
from edgectl_agent.inference.protocol import (
    KEEP,
    Call,
    Extent,
    Regions,
    check_complete,
    extent_of,
    find_spec,
    read_region,
    select_outputs,
    write_region,
)
from edgectl_agent.inference.refusals import Refused
from edgectl_agent.inference.service import Computed
from edgectl_agent.inference.shared_memory import SharedMemory
from edgectl_agent.inference.slots import Served
from edgectl_agent.inference.tensors import check_fits, from_raw, shaped, to_raw
from edgectl_agent.runtime import DTYPES, Tensor
from edgectl_protocol.manifest import BundleConfig, TensorSpec

__all__ = ["GrpcCodec", "GrpcContent", "uses_memory"]

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of each datatype; FP16 has none and travels in binary form."""
_TENSORS_MAX = 64
_ID_LENGTH_MAX = 1024
_DIMENSIONS_MAX = 8
_REGION = "shared_memory_region"


class GrpcContent(NamedTuple):
    """An infer request."""

    request: Any
    """A ``ModelInferRequest``."""
    peer: Peer


class GrpcCodec:
    """See `edgectl_agent.inference.service.Codec`; a refusal is its own answer."""

    def __init__(self, memory: SharedMemory | None) -> None:
        self._memory = memory

    def read(self, content: GrpcContent, served: Served) -> Call:
        """Return the arrays of a request; raise `Refused` for what is outside the contract."""
        request, config = content.request, served.bundle.config
        if len(request.inputs) > _TENSORS_MAX or len(request.outputs) > _TENSORS_MAX:
            raise Refused(f"a request has at most {_TENSORS_MAX} inputs and outputs")
        if len(request.id) > _ID_LENGTH_MAX:
            raise Refused(f"a request's id has at most {_ID_LENGTH_MAX} characters")
        regions = self._regions(content)
        raws = list(request.raw_input_contents)
        unread = iter(raws)
        inputs: dict[str, Tensor] = {}
        for given in request.inputs:
            spec = find_spec(config.inputs, given.name, "input")
            if spec.name in inputs:
                raise Refused(f"input {spec.name!r} is given twice")
            shape = tuple(given.shape[: _DIMENSIONS_MAX + 1])
            check_fits(spec.name, given.datatype, shape, spec)
            if raws and given.HasField("contents"):
                raise Refused(f"input {spec.name!r} has contents beside raw_input_contents")
            inputs[spec.name] = _array(given, spec, shape, unread if raws else None, regions)
        if next(unread, None) is not None:
            raise Refused(f"there are {len(raws)} raw_input_contents, more than inputs")
        check_complete(inputs, config)
        return _call(request, inputs, config, regions, raw=bool(raws))

    def write(self, call: Call, computed: Computed, served: Served) -> Any:
        """Return a ``ModelInferResponse``; raise `Refused` where an output has no place."""
        bundle = served.bundle
        response = message("ModelInferResponse")(
            model_name=bundle.slot, model_version=bundle.version
        )
        if not isinstance(call.id, UnsetType):
            response.id = call.id
        response.parameters["manifest"].string_param = bundle.manifest
        response.parameters["variant"].string_param = bundle.variant
        if not computed.finite:
            response.parameters["non_finite"].bool_param = True
        for spec in call.outputs:
            array = computed.outputs[spec.name]
            output = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
            if spec.name in call.extents:
                _set_parameters(output, write_region(call, spec, array))
            elif spec.name in call.raw:
                response.raw_output_contents.append(bytes(to_raw(array, spec.datatype)))
            else:
                values = array.ravel().tolist()
                if spec.datatype == "BYTES":
                    values = [str(value).encode() for value in values]
                getattr(output.contents, _CONTENTS[spec.datatype]).extend(values)
        return response

    def refuse(self, refused: Refused) -> Any:
        """Return the refusal, which the transport turns into a status."""
        return refused

    def _regions(self, content: GrpcContent) -> Regions | None:
        if self._memory is None or not uses_memory(content.request):
            return None
        return self._memory.of(content.peer.user)


def uses_memory(request: Any) -> bool:
    """Say whether a tensor of an infer request is in shared memory."""
    tensors = (*request.inputs, *request.outputs)
    return any(_REGION in tensor.parameters for tensor in tensors)


def _array(
    given: Any, spec: TensorSpec, shape: tuple[int, ...], raws: Any, regions: Regions | None
) -> Tensor:
    """Return one input; `raws` gives the next in binary form, None where none is."""
    if _REGION in given.parameters:
        extent = extent_of(spec.name, _parameters(given))
        return from_raw(
            spec.name, read_region(spec.name, extent, shape, spec, regions), shape, spec.datatype
        )
    if raws is not None:
        raw = next(raws, None)
        if raw is None:
            raise Refused(f"input {spec.name!r} is missing in raw_input_contents")
        return from_raw(spec.name, raw, shape, spec.datatype)
    if spec.datatype not in _CONTENTS:
        raise Refused(f"input {spec.name!r} is {spec.datatype}: send it in raw_input_contents")
    values: Any = list(getattr(given.contents, _CONTENTS[spec.datatype]))
    try:
        if spec.datatype == "BYTES":
            values = [value.decode() for value in values]
        array = np.array(values, DTYPES[spec.datatype])
    except (UnicodeDecodeError, OverflowError) as error:
        raise Refused(f"data of input {spec.name!r} is not {spec.datatype}: {error}") from error
    return shaped(spec.name, array, shape)


def _call(
    request: Any,
    inputs: dict[str, Tensor],
    config: BundleConfig,
    regions: Regions | None,
    *,
    raw: bool,
) -> Call:
    """Return the call of a request, whose outputs are in binary form where its inputs were."""
    outputs = config.outputs
    if request.outputs:
        outputs = select_outputs([output.name for output in request.outputs], config)
    extents: dict[str, Extent] = {}
    for output in request.outputs:
        parameters = _parameters(output)
        if parameters.get("classification"):
            raise Refused(f"output {output.name!r}: classification is not supported")
        if _REGION in parameters:
            extents[output.name] = extent_of(output.name, parameters)
    if extents and regions is None:
        raise Refused("shared memory is not switched on here: see the setting shared_memory")
    # Either all outputs are in binary form or none is, and FP16 cannot be otherwise.
    raw = raw or bool(extents) or any(spec.datatype not in _CONTENTS for spec in outputs)
    names = frozenset(spec.name for spec in outputs) if raw else frozenset()
    keep = KEEP in request.parameters and request.parameters[KEEP].bool_param
    return Call(inputs, outputs, request.id or UNSET, names, extents, regions, keep=keep)


def _parameters(tensor: Any) -> dict[str, Any]:
    """Return a tensor's parameters as plain values."""
    return {
        key: getattr(value, value.WhichOneof("parameter_choice") or "int64_param")
        for key, value in tensor.parameters.items()
    }


def _set_parameters(tensor: Any, parameters: Mapping[str, Any]) -> None:
    for key, value in parameters.items():
        if isinstance(value, str):
            tensor.parameters[key].string_param = value
        else:
            tensor.parameters[key].int64_param = value
