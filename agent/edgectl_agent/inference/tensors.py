"""Tensors as they travel: bytes or JSON to arrays and back, checked against one tensor's contract.

Source of the binary form: triton-inference-server/server,
``docs/protocol/extension_binary_data.md``: row-major, little-endian, no padding; a BYTES element is
its length in four bytes, then its content. BYTES are UTF-8 here, because the runtimes' strings are.

An array of a fixed-size datatype lies over the request's own bytes, unless these are not aligned
for it: a kernel on a 32-bit ARM may end the process on a load that is not.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from struct import pack, pack_into
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from edgectl_agent.inference.refusals import Refused
from edgectl_agent.runtime import DTYPES, Tensor, shape_fits
from edgectl_protocol.manifest import TensorSpec

__all__ = [
    "all_finite",
    "check_fits",
    "element_of",
    "from_json",
    "from_list",
    "from_raw",
    "raw_size",
    "shape_of_raw",
    "shaped",
    "to_raw",
]

_NESTED = re.compile(rb"\s*\[\s*\[")
_LENGTH_BYTES = 4
_PACKED = {"FP16": "e", "FP32": "f", "FP64": "d"}
"""Letters of `struct`, which packs a list of floats twice as fast as NumPy reads it. Its standard
sizes (``=``) refuse what is too large; the native ones would make infinities of it."""
_PACKED_AT_ONCE = 4096
"""Elements; a call takes all of them as arguments."""
_PLAIN_ELEMENTS_MAX = 64
"""Up to here plain Python is faster than NumPy's calls."""
_FEW = 1024
"""Up to so many elements one call that looks at all of them is cheaper than two; with more, the
product may use threads."""
_COPIED_BYTES_MAX = 4096
"""Up to here a copy is cheaper than a view."""


def check_fits(name: str, datatype: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
    """Raise `Refused` unless an input of `datatype` and `shape` is what `spec` says."""
    if datatype != spec.datatype:
        note = "" if datatype in DTYPES else ", which no model here takes"
        raise Refused(
            f"input {name!r} has datatype {datatype[:32]!r}{note}, expected {spec.datatype}"
        )
    if not shape_fits(shape, spec):
        raise Refused(
            f"input {name!r} has shape {list(shape)}, expected {list(spec.shape)}"
            + (" where -1 is any size from 1" if -1 in spec.shape else "")
        )


def raw_size(datatype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor in binary form; of BYTES, the fewest that it can have."""
    size = _LENGTH_BYTES if datatype == "BYTES" else DTYPES[datatype].itemsize
    return math.prod(shape) * size


def from_raw(name: str, raw: bytes | memoryview, shape: tuple[int, ...], datatype: str) -> Tensor:
    """Return the array of an input in binary form; raise `Refused`.

    Args:
        name: of the input.
        raw: its bytes, all of them.
        shape: what its author says.
        datatype: of the contract.
    """
    needed = raw_size(datatype, shape)
    if datatype == "BYTES":
        return _texts(name, raw, shape, needed)
    if len(raw) != needed:
        raise Refused(
            f"input {name!r} has {len(raw)} bytes, its shape {list(shape)} needs {needed}"
        )
    if datatype == "BOOL" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise Refused(f"data of input {name!r} is not BOOL: a byte is neither 0 nor 1")
    array = np.frombuffer(raw, DTYPES[datatype])
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def _texts(name: str, raw: bytes | memoryview, shape: tuple[int, ...], needed: int) -> Tensor:
    count = math.prod(shape)
    if len(raw) < needed:
        raise Refused(
            f"input {name!r} has {len(raw)} bytes, its {count} elements need at least {needed}"
        )
    content = bytes(raw)
    array = np.empty(count, dtype=np.object_)
    at = 0
    for number in range(count):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(content[at:begin], "little")
        if begin > len(content) or at > len(content):
            raise Refused(
                f"element {number} of input {name!r} goes beyond its {len(content)} bytes"
            )
        try:
            array[number] = content[begin:at].decode()
        except UnicodeDecodeError as error:
            raise Refused(f"element {number} of input {name!r} is not UTF-8: {error}") from error
    if at != len(content):
        raise Refused(f"input {name!r} has {len(content)} bytes, its {count} elements have {at}")
    return array.reshape(shape)


def to_raw(array: Tensor, datatype: str) -> bytes | memoryview:
    """Return an output in binary form, over the array's own memory where it is large."""
    if datatype == "BYTES":
        parts = []
        for text in array.ravel().tolist():
            content = text if isinstance(text, bytes) else str(text).encode()
            parts += [len(content).to_bytes(_LENGTH_BYTES, "little"), content]
        return b"".join(parts)
    if array.nbytes <= _COPIED_BYTES_MAX:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def shape_of_raw(raw: bytes | memoryview, spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of an input that came without one; raise `Refused` where that is open."""
    open_sizes = spec.shape.count(-1)
    if spec.datatype == "BYTES" or open_sizes > 1:
        raise Refused(f"input {spec.name!r} needs its shape: send the JSON object before the bytes")
    rest = raw_size(spec.datatype, tuple(size for size in spec.shape if size != -1))
    return tuple(len(raw) // rest if size == -1 else size for size in spec.shape)


def from_json(name: str, data: Raw, shape: tuple[int, ...], spec: TensorSpec) -> Tensor:
    """Return the array of an input as JSON, flat or nested, row-major; raise `Refused`."""
    nested = len(spec.shape) > 1 and _NESTED.match(data) is not None
    try:
        values = _decoder(spec.datatype, len(spec.shape) if nested else 1).decode(data)
        array = _from_nested(values, spec.datatype) if nested else _from_list(values, spec.datatype)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, ValueError) as error:
        reason = "rows differ in length" if "inhomogeneous" in str(error) else str(error)
        raise Refused(f"data of input {name!r} is not {spec.datatype}: {reason}") from error
    if nested:
        if array.shape != shape:
            raise Refused(
                f"data of input {name!r} is nested as {list(array.shape)}, "
                f"its shape says {list(shape)}"
            )
        return array
    return shaped(name, array, shape)


def from_list(name: str, values: list[Any], shape: tuple[int, ...], spec: TensorSpec) -> Tensor:
    """Return the array of an input whose elements, all of `element_of`, were decoded already.

    Raises:
        Refused: an element does not fit the datatype, or there are more or fewer than `shape` has.
    """
    try:
        array = _from_list(values, spec.datatype)
    except (OverflowError, ValueError) as error:
        raise Refused(f"data of input {name!r} is not {spec.datatype}: {error}") from error
    return shaped(name, array, shape)


def element_of(datatype: str) -> type:
    """Return the type of one element as JSON has it."""
    return {"b": bool, "f": float, "O": str}.get(DTYPES[datatype].kind, int)


def shaped(name: str, array: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return flat elements in their shape; raise `Refused` when there are more or fewer."""
    if array.size != math.prod(shape):
        raise Refused(
            f"input {name!r} has {array.size} elements, "
            f"its shape {list(shape)} needs {math.prod(shape)}"
        )
    return array.reshape(shape)


def all_finite(array: Tensor) -> bool:
    """Say whether no element is a NaN or an infinity."""
    # The sum, or the product with itself, is the fastest look at a few elements, and warns of
    # nothing. That of finite numbers can overflow, so that it decides only when it is finite.
    if array.size <= _PLAIN_ELEMENTS_MAX:
        values = array.ravel().tolist()
        return math.isfinite(sum(values)) or all(map(math.isfinite, values))
    return (array.size <= _FEW and math.isfinite(np.vdot(array, array))) or bool(
        np.isfinite(array).all()
    )


def _from_list(values: list[Any], datatype: str) -> Tensor:
    """Return an array of checked elements; raise OverflowError for one that does not fit."""
    kind = DTYPES[datatype]
    letter = _PACKED.get(datatype)
    if letter is None:
        return np.array(values, dtype=kind)
    try:
        if len(values) <= _PACKED_AT_ONCE:
            return np.frombuffer(pack(f"={len(values)}{letter}", *values), kind)
        array = np.empty(len(values), kind)
        for at in range(0, len(values), _PACKED_AT_ONCE):
            part = values[at : at + _PACKED_AT_ONCE]
            pack_into(f"={len(part)}{letter}", array.data, at * kind.itemsize, *part)
    except OverflowError as error:
        raise OverflowError("a number is too large for it") from error
    return array


def _from_nested(values: list[Any], datatype: str) -> Tensor:
    """The same for lists of lists; raise ValueError where these differ in length."""
    if datatype not in _PACKED:
        return np.array(values, dtype=DTYPES[datatype])
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=DTYPES[datatype])
    if not np.isfinite(array).all():
        raise OverflowError("a number is too large for it")
    return array


@lru_cache(maxsize=256)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Return a decoder of `depth` nested lists that admits only elements of `datatype`."""
    element: Any = element_of(datatype)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)
