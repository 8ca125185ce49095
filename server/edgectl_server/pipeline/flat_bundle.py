"""What a microcontroller installs: a signed header, golden cases, the flat model.

docs/firmware-format.md is the specification; `firmware-examples/core/bundle.c` reads it. The server
signs with a key that is for this alone: a device without an operating system pins one key, and has
neither the room nor the clock for more.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgectl_server.pipeline.flat_format import FlatInvalid
from edgectl_server.pipeline.flat_reading import decode_flat

__all__ = ["HEADER_BYTES", "MicrocontrollerBundle", "make_microcontroller_bundle", "read_payload"]

HEADER_BYTES: Final = 224
NAME_BYTES: Final = 64
COUNTER_MAX: Final = 2**64 - 1
_ALIGNMENT = 4
_HEADER = struct.Struct(f"<4sIQIIII{NAME_BYTES}s64s")
_MAGIC = b"EMB1"


@dataclass(frozen=True)
class MicrocontrollerBundle:
    """What is in one.

    Attributes:
        name: of the model.
        counter: larger is newer.
        cases: golden inputs with the outputs to them, as int8 values.
        model: the flat model's file.
    """

    name: str
    counter: int
    cases: tuple[tuple[bytes, bytes], ...]
    model: bytes


def make_microcontroller_bundle(
    bundle: MicrocontrollerBundle, sign: Callable[[bytes], bytes]
) -> bytes:
    """Return the file of a bundle.

    Args:
        bundle: what is in it.
        sign: returns the Ed25519 signature of a message.

    Raises:
        FlatInvalid: the model is none, a case has another size, or the name is too long.
    """
    model = decode_flat(bundle.model)
    sizes = (model.tensors[model.input].elements, model.tensors[model.output].elements)
    if not bundle.cases or any((len(one), len(two)) != sizes for one, two in bundle.cases):
        raise FlatInvalid(f"golden cases have to be {sizes[0]} and {sizes[1]} bytes, at least one")
    name = bundle.name.encode()
    if len(name) > NAME_BYTES or not 0 < bundle.counter <= COUNTER_MAX:
        raise FlatInvalid(f"a name of {len(name)} bytes, or a counter of {bundle.counter}")
    cases = b"".join(one + two for one, two in bundle.cases)
    cases += bytes(-len(cases) % _ALIGNMENT)
    payload = cases + bundle.model
    header = _HEADER.pack(
        _MAGIC,
        len(payload),
        bundle.counter,
        model.arena_bytes,
        len(bundle.cases),
        len(cases),
        0,
        name,
        hashlib.sha512(payload).digest(),
    )
    return header + sign(header) + payload


def read_payload(content: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    """Return golden cases and flat model of a bundle whose signature has been checked elsewhere.

    Raises:
        FlatInvalid: it is none.
    """
    if len(content) < HEADER_BYTES or content[:4] != _MAGIC:
        raise FlatInvalid("not a bundle for microcontrollers")
    _, length, _, _, count, offset, *_ = _HEADER.unpack_from(content)
    payload = content[HEADER_BYTES:]
    if length != len(payload) or offset >= length:
        raise FlatInvalid("a bundle that is not whole")
    model = decode_flat(payload[offset:])
    given, taken = model.tensors[model.input].elements, model.tensors[model.output].elements
    if count * (given + taken) > offset:
        raise FlatInvalid(f"{count} golden cases that are not there")
    cases = tuple(
        (payload[at : at + given], payload[at + given : at + given + taken])
        for at in range(0, count * (given + taken), given + taken)
    )
    return cases, payload[offset:]
