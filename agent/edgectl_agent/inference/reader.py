"""Reads the requests for one model, those of the usual forms fast.

Rules:

* What is accepted, and the words of a refusal, are those of `parse_call`: what the fast ways do not
  take goes there.
* JSON: the elements are decoded with the object around them, where all inputs have the same type of
  element and come flat. Otherwise their text is set apart first, and decoded a second time.
* Binary form: a client that asks again and again sends the same JSON object before the bytes. What
  it means was checked once and depends on the contract and the body's length alone, so that it is
  remembered: names, shapes, and where each input's bytes are. So is the JSON object before the
  outputs, by their shapes, where all are finite and in binary form.
* The same of an answer in JSON with one output, up to its data, which comes last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.protocol import (
    Buffer,
    Call,
    Heads,
    Regions,
    any_decoder,
    decoder_of,
    encode_outputs,
    parse_call,
)
from edgectl_agent.inference.tensors import element_of, to_raw
from edgectl_agent.runtime import DTYPES, Tensor
from edgectl_protocol.manifest import BundleConfig, TensorSpec

__all__ = ["FORMS_MAX", "FORM_BYTES_MAX", "Reader", "encode_again"]

FORMS_MAX = 32
FORM_BYTES_MAX = 1024
_HEADS_MAX = 32
_DATA = b'"data":'
_encode = msgspec.json.Encoder().encode


class _Part(NamedTuple):
    """Where one input is in the body."""

    name: str
    kind: np.dtype[Any]
    size: int
    at: int
    shape: tuple[int, ...]


class _Form(NamedTuple):
    """What a JSON object before tensors in binary form means."""

    length: int
    """Of the whole body, in bytes."""
    parts: tuple[_Part, ...]
    outputs: tuple[TensorSpec, ...]
    raw: frozenset[str]
    heads: Heads | None
    """None where some output is in JSON, or its length is not that of its shape."""
    keep: bool


class Reader:
    """Reads the requests for one contract; safe to use from several threads."""

    def __init__(self, config: BundleConfig) -> None:
        self._config = config
        elements = {element_of(spec.datatype) for spec in config.inputs}
        self._decode = decoder_of(elements.pop()) if len(elements) == 1 else any_decoder
        self._forms: dict[bytes, _Form] = {}
        one = len(config.outputs) == 1 and config.outputs[0].datatype != "BYTES"
        self._heads: Heads | None = {} if one else None

    def read(
        self, body: Buffer, *, header_length: int | None = None, regions: Regions | None = None
    ) -> Call:
        """Return the arrays of a request; see `parse_call`."""
        if header_length is None:
            call = parse_call(body, self._config, regions=regions, decode=self._decode)
            plain = isinstance(call.id, UnsetType) and not call.raw and not call.extents
            if plain and self._heads is not None and len(call.outputs) == 1:
                return Call(call.inputs, call.outputs, heads=self._heads, keep=call.keep)
            return call
        if header_length > FORM_BYTES_MAX or regions is not None:
            return parse_call(body, self._config, header_length=header_length, regions=regions)
        head = bytes(body[:header_length])
        form = self._forms.get(head)
        if form is not None and form.length == len(body):
            return _again(form, body)
        call = parse_call(body, self._config, header_length=header_length)
        self._learn(head, call, len(body))
        return call

    def _learn(self, head: bytes, call: Call, length: int) -> None:
        """Remember what `head` means, if all inputs are bytes that need no look at each element."""
        if call.extents or not isinstance(call.id, UnsetType):
            return  # the next request will have another id
        datatypes = {spec.name: spec.datatype for spec in self._config.inputs}
        parts, at = [], len(head)
        for name, array in call.inputs.items():
            if not array.size or datatypes[name] in {"BOOL", "BYTES"}:
                return
            kind = DTYPES[datatypes[name]]
            parts.append(_Part(name, kind, math.prod(array.shape), at, array.shape))
            at += array.nbytes
        if at != length:
            return  # an input in JSON has no bytes here, so that the sum is beyond the body
        if len(self._forms) >= FORMS_MAX:
            self._forms.clear()
        sized = all(one.name in call.raw and one.datatype != "BYTES" for one in call.outputs)
        heads: Heads | None = {} if sized else None
        self._forms[head] = _Form(
            length, tuple(parts), call.outputs, call.raw, heads, keep=call.keep
        )


def _again(form: _Form, body: Buffer) -> Call:
    inputs = {}
    for name, kind, size, at, shape in form.parts:
        array = np.frombuffer(body, kind, size, at)
        if not array.flags.aligned:
            array = array.copy()
        inputs[name] = array.reshape(shape)
    return Call(inputs, form.outputs, UNSET, form.raw, {}, None, form.heads, form.keep)


def encode_again(
    call: Call, outputs: Mapping[str, Tensor], bundle: Bundle, parameters: Raw
) -> tuple[bytes, list[bytes | memoryview]]:
    """Return finite outputs as `encode_outputs` does; `call` must be of a remembered form."""
    heads = call.heads
    assert heads is not None, "its form has none"
    arrays = [outputs[spec.name] for spec in call.outputs]
    shapes = tuple([array.shape for array in arrays])
    head = heads.get(shapes)
    if head is None:
        head, tail = encode_outputs(call, outputs, bundle, parameters)
        if len(heads) >= _HEADS_MAX:
            heads.clear()
        heads[shapes] = head if call.raw else head[: head.rindex(_DATA) + len(_DATA)]
        return head, tail
    if call.raw:
        return head, [to_raw(outputs[spec.name], spec.datatype) for spec in call.outputs]
    return b"%b%b}]}" % (head, _encode(arrays[0].ravel().tolist())), []
