"""Open Inference Protocol v2, REST: bodies to arrays and back, as JSON, in binary form, or mixed.

Source: kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``, and of
triton-inference-server/server ``docs/protocol/extension_binary_data.md`` and
``extension_shared_memory.md``. Everything in a request is checked against the model's signed
contract before an array is made: names, datatypes, shapes, element count, and every element's type.
What is wrong is one `Refused`, with a sentence that names what was expected and what came.

JSON has no NaN and no infinity: a request in JSON cannot hold one, and an output that does shows
``null`` there and ``"non_finite": true`` among the response's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.refusals import Refused
from edgectl_agent.inference.tensors import (
    check_fits,
    from_json,
    from_list,
    from_raw,
    raw_size,
    shape_of_raw,
    to_raw,
)
from edgectl_agent.runtime import Tensor
from edgectl_protocol.manifest import BundleConfig, TensorSpec

__all__ = [
    "KEEP",
    "Buffer",
    "Call",
    "Extent",
    "Heads",
    "Regions",
    "any_decoder",
    "check_complete",
    "decoder_of",
    "encode_outputs",
    "extent_of",
    "find_spec",
    "parse_call",
    "read_region",
    "response_parameters",
    "select_outputs",
    "write_region",
]

Buffer = bytes | bytearray | memoryview
_Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Name = Annotated[str, Meta(max_length=256)]
_DIMENSIONS_MAX = 8
KEEP = "keep_sample"
"""Parameter of a request: true asks for a sample of it, where the model's policy has it."""
_RAW_SIZE = "binary_data_size"
_REGION = "shared_memory_region"
Data = TypeVar("Data")
"""Of an input in JSON: `Raw`, or a list of the elements."""


class _Input(Struct, Generic[Data]):
    name: _Name
    shape: Annotated[tuple[_Size, ...], Meta(max_length=_DIMENSIONS_MAX)]
    datatype: str
    data: Data | UnsetType = UNSET
    parameters: dict[str, Any] = {}


class _Wanted(Struct):
    name: _Name
    parameters: dict[str, Any] = {}


class _Request(Struct, Generic[Data]):
    inputs: Annotated[list[_Input[Data]], Meta(min_length=1, max_length=64)]
    id: Annotated[str, Meta(max_length=1024)] | UnsetType = UNSET
    parameters: dict[str, Any] = {}
    outputs: Annotated[list[_Wanted], Meta(max_length=64)] = []


class _Output(Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class _Response(Struct):
    model_name: str
    model_version: str
    parameters: Raw
    outputs: list[_Output]
    id: str | UnsetType = UNSET


Heads = dict[tuple[tuple[int, ...], ...], bytes]
"""What answers begin with, by the outputs' shapes: the JSON object before outputs that are all in
binary form, or that of one output in JSON, up to its data."""


class Extent(NamedTuple):
    """A part of a region of shared memory."""

    region: str
    offset: int
    size: int


class Regions(Protocol):
    """Shared memory, as one client may use it. Both raise `Refused`."""

    def read(self, extent: Extent) -> memoryview:
        """Return a copy of what lies there now."""
        ...

    def write(self, extent: Extent, content: bytes | memoryview) -> None:
        """Put `content` there, which may be shorter."""
        ...


class Call(NamedTuple):
    """A request that fits the contract."""

    inputs: dict[str, Tensor]
    outputs: tuple[TensorSpec, ...]
    """Those that are wanted, in the order of the answer."""
    id: str | UnsetType = UNSET
    raw: frozenset[str] = frozenset()
    """Outputs that are wanted in binary form."""
    extents: Mapping[str, Extent] = {}
    """Outputs that go into shared memory, and where."""
    regions: Regions | None = None
    heads: Heads | None = None
    """Of answers to requests of the same form."""
    keep: bool = False
    """Whether the application asks for a sample of it."""

    @property
    def name(self) -> str:
        """As the application calls the request; empty: it does not."""
        return self.id if isinstance(self.id, str) else ""


Decode = Callable[[Buffer], _Request[Any]]
any_decoder: Decode = msgspec.json.Decoder(_Request[Raw]).decode
"""Sets the text of the data apart."""
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder().encode


def decoder_of(element: type) -> Decode:
    """Return a decoder of requests whose data is flat and of `element`, in one pass.

    Where it is not, `any_decoder` decides.
    """
    flat: Decode = msgspec.json.Decoder(_Request[list[element]]).decode  # type: ignore[valid-type]

    def decode(body: Buffer) -> _Request[Any]:
        try:
            return flat(body)
        except _UNDECODABLE:
            return any_decoder(body)

    return decode


def parse_call(
    body: Buffer,
    config: BundleConfig,
    *,
    header_length: int | None = None,
    regions: Regions | None = None,
    decode: Decode = any_decoder,
) -> Call:
    """Return the arrays of an infer request; raise `Refused` for anything outside the contract.

    Args:
        body: the JSON object, and after it the inputs in binary form.
        config: the model's contract.
        header_length: bytes of the JSON object; None is all of the body. Where it is 0, the body is
            the model's only input.
        regions: shared memory; None where there is none.
        decode: from `decoder_of` the type of the elements of every input, where that is one.
    """
    raw = memoryview(b"")
    if header_length is not None:
        if header_length > len(body):
            raise Refused(
                f"Inference-Header-Content-Length is {header_length}, "
                f"the body has {len(body)} bytes"
            )
        whole = memoryview(body)
        body, raw = whole[:header_length], whole[header_length:]
        if header_length == 0:
            return _bare(raw, config)
    try:
        request = decode(body)
    except _UNDECODABLE as error:
        raise Refused(f"not an inference request: {error}") from error
    inputs: dict[str, Tensor] = {}
    at = 0
    for given in request.inputs:
        spec = find_spec(config.inputs, given.name, "input")
        if given.name in inputs:
            raise Refused(f"input {given.name!r} is given twice")
        check_fits(given.name, given.datatype, given.shape, spec)
        if type(given.data) is list and not given.parameters:
            inputs[given.name] = from_list(given.name, given.data, given.shape, spec)
            continue
        inputs[given.name], length = _array(given, spec, raw[at:], regions)
        at += length
    if at != len(raw):
        raise Refused(
            f"{len(raw)} bytes follow the JSON object, the inputs' binary_data_size say {at}"
        )
    check_complete(inputs, config)
    if not request.outputs and not request.parameters:
        return Call(inputs, config.outputs, request.id)
    return _wanted(request, inputs, config, regions)


def _bare(raw: memoryview, config: BundleConfig) -> Call:
    """Return the call of a body without a JSON object."""
    if len(config.inputs) != 1:
        raise Refused("a body without a JSON object is for models with one input")
    (spec,) = config.inputs
    shape = shape_of_raw(raw, spec)
    check_fits(spec.name, spec.datatype, shape, spec)
    return Call(
        {spec.name: from_raw(spec.name, raw, shape, spec.datatype)},
        config.outputs,
        UNSET,
        frozenset(output.name for output in config.outputs),
    )


def _array(
    given: _Input[Any], spec: TensorSpec, raw: memoryview, regions: Regions | None
) -> tuple[Tensor, int]:
    """Return one input, and how many of the bytes `raw` are its own."""
    name, parameters = given.name, given.parameters
    has_data = not isinstance(given.data, UnsetType)
    if has_data + (_RAW_SIZE in parameters) + (_REGION in parameters) > 1:
        raise Refused(f"input {name!r} has data in two places: send it once")
    if not isinstance(given.data, UnsetType):
        read = from_list if type(given.data) is list else from_json
        return read(name, given.data, given.shape, spec), 0
    if _REGION in parameters:
        content = read_region(name, extent_of(name, parameters), given.shape, spec, regions)
        return from_raw(name, content, given.shape, spec.datatype), 0
    if _RAW_SIZE not in parameters:
        raise Refused(f"input {name!r} has no data")
    size = _whole(name, parameters, _RAW_SIZE)
    if size > len(raw):
        raise Refused(
            f"input {name!r} has {_RAW_SIZE} {size}, and {len(raw)} bytes are left: "
            "is Inference-Header-Content-Length right?"
        )
    return from_raw(name, raw[:size], given.shape, spec.datatype), size


def read_region(
    name: str, extent: Extent, shape: tuple[int, ...], spec: TensorSpec, regions: Regions | None
) -> memoryview:
    """Return an input's bytes from shared memory; raise `Refused`."""
    needed = raw_size(spec.datatype, shape)
    if spec.datatype != "BYTES" and extent.size != needed:
        raise Refused(
            f"input {name!r} has shared_memory_byte_size {extent.size}, "
            f"its shape {list(shape)} needs {needed}"
        )
    if regions is None:
        raise Refused("shared memory is not switched on here: see the setting shared_memory")
    return regions.read(extent)


def extent_of(name: str, parameters: Mapping[str, Any]) -> Extent:
    """Return where in shared memory a tensor is; raise `Refused` for what is none."""
    region = parameters[_REGION]
    if not isinstance(region, str):
        raise Refused(f"{_REGION} of {name!r} is no name")
    offset = 0
    if "shared_memory_offset" in parameters:
        offset = _whole(name, parameters, "shared_memory_offset")
    return Extent(region, offset, _whole(name, parameters, "shared_memory_byte_size"))


def _whole(name: str, parameters: Mapping[str, Any], key: str) -> int:
    value = parameters.get(key)
    if type(value) is not int or not 0 <= value < 2**63:
        raise Refused(f"{key} of {name!r} is no number of bytes")
    return value


def check_complete(inputs: Mapping[str, Tensor], config: BundleConfig) -> None:
    """Raise `Refused` unless every input of the contract is there."""
    if len(inputs) != len(config.inputs):
        missing = [spec.name for spec in config.inputs if spec.name not in inputs]
        raise Refused(f"input {missing[0]!r} is missing")


def find_spec(specs: tuple[TensorSpec, ...], name: str, side: str) -> TensorSpec:
    """Return the tensor of that name; raise `Refused` where the contract has none."""
    for spec in specs:
        if spec.name == name:
            return spec
    known = ", ".join(repr(spec.name) for spec in specs)
    raise Refused(f"the model has no {side} {name[:64]!r}: it has {known}")


def _wanted(
    request: _Request[Any], inputs: dict[str, Tensor], config: BundleConfig, regions: Regions | None
) -> Call:
    """Return the call of a request that says how it wants the outputs."""
    all_raw = request.parameters.get("binary_data_output", False)
    keep = request.parameters.get(KEEP) is True
    if not request.outputs:
        raw = frozenset(spec.name for spec in config.outputs) if all_raw else frozenset()
        return Call(inputs, config.outputs, request.id, raw, keep=keep)
    names = select_outputs([output.name for output in request.outputs], config)
    extents = {}
    raws = set()
    for output in request.outputs:
        if output.parameters.get("classification"):
            raise Refused(f"output {output.name!r}: classification is not supported")
        if _REGION in output.parameters:
            extents[output.name] = extent_of(output.name, output.parameters)
        elif output.parameters.get("binary_data", all_raw):
            raws.add(output.name)
    if extents and regions is None:
        raise Refused("shared memory is not switched on here: see the setting shared_memory")
    return Call(inputs, names, request.id, frozenset(raws), extents, regions, keep=keep)


def select_outputs(names: Iterable[str], config: BundleConfig) -> tuple[TensorSpec, ...]:
    """Return the outputs that are asked for; raise `Refused` for unknown or repeated ones."""
    specs = tuple(find_spec(config.outputs, name, "output") for name in names)
    if len({spec.name for spec in specs}) != len(specs):
        raise Refused("an output is asked for twice")
    return specs


def response_parameters(bundle: Bundle, *, non_finite: bool) -> Raw:
    """Return the parameters of every answer of `bundle`, which name what has answered."""
    parameters: dict[str, Any] = {"manifest": bundle.manifest, "variant": bundle.variant}
    if non_finite:
        parameters["non_finite"] = True
    return Raw(_encode(parameters))


def encode_outputs(
    call: Call, outputs: Mapping[str, Tensor], bundle: Bundle, parameters: Raw
) -> tuple[bytes, list[bytes | memoryview]]:
    """Return the response's JSON object, and the outputs in binary form that follow it.

    Args:
        call: the request; its `id` is echoed and its `outputs` are selected.
        outputs: arrays by output name, as the model has given them.
        bundle: what has answered.
        parameters: from `response_parameters`.

    Raises:
        Refused: an output does not fit into its part of shared memory.
    """
    described = []
    tail: list[bytes | memoryview] = []
    for spec in call.outputs:
        array = outputs[spec.name]
        output = _Output(spec.name, array.shape, spec.datatype)
        if spec.name in call.raw:
            content = to_raw(array, spec.datatype)
            output.parameters = {_RAW_SIZE: len(content)}
            tail.append(content)
        elif spec.name in call.extents:
            output.parameters = write_region(call, spec, array)
        else:
            output.data = array.ravel().tolist()
        described.append(output)
    response = _Response(bundle.slot, bundle.version, parameters, described, call.id)
    return _encode(response), tail


def write_region(call: Call, spec: TensorSpec, array: Tensor) -> dict[str, Any]:
    """Put an output into shared memory and return what says so; raise `Refused`."""
    extent = call.extents[spec.name]
    content = to_raw(array, spec.datatype)
    if len(content) > extent.size:
        raise Refused(
            f"output {spec.name!r} has {len(content)} bytes, "
            f"its shared_memory_byte_size is {extent.size}"
        )
    assert call.regions is not None, "checked with the request"
    call.regions.write(extent, content)
    return {
        _REGION: extent.region,
        "shared_memory_offset": extent.offset,
        "shared_memory_byte_size": len(content),
    }
