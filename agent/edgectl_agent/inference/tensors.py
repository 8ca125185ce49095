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
    "from_json",
    "from_raw",
    "raw_size",
    "shape_of_raw",
    "shaped",
    "to_raw",
]

_NESTED = re.compile(rb"\s*\[\s*\[")
_LENGTH_BYTES = 4
_SQUARES_MAX = {
    "FP16": float(np.finfo(np.float16).max) ** 2,
    "FP32": float(np.finfo(np.float32).max) ** 2,
    "FP64": float(np.finfo(np.float64).max),
}
"""No element is too large for a datatype when the sum of all squares is not beyond this."""
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
        array = _from_list(values, spec.datatype)
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
    # The product with itself is the fastest look at a few elements, and warns of nothing. That of
    # finite numbers can overflow, so that it decides only when it is finite.
    return (array.size <= _FEW and math.isfinite(np.vdot(array, array))) or bool(
        np.isfinite(array).all()
    )


def _from_list(values: list[Any], datatype: str) -> Tensor:
    """Return an array of checked elements; raise OverflowError for one that does not fit."""
    kind = DTYPES[datatype]
    if datatype not in _SQUARES_MAX:
        return np.array(values, dtype=kind)
    if len(values) <= _FEW:
        wide = np.array(values, dtype=np.float64)
        if np.vdot(wide, wide) <= _SQUARES_MAX[datatype]:
            return wide.astype(kind, copy=False)
    with np.errstate(over="ignore"):  # costs more than all of the above
        array = np.array(values, dtype=kind)
    if not np.isfinite(array).all():
        raise OverflowError("a number is too large for it")
    return array


@lru_cache(maxsize=256)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Return a decoder of `depth` nested lists that admits only elements of `datatype`."""
    kind = DTYPES[datatype].kind
    element: Any = {"b": bool, "f": float, "O": str}.get(kind, int)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)
