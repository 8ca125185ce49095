"""Makes the smallest delta that leads from one file to another.

Three codecs are tried, and the smallest result is kept: the whole file; the file compressed with
the base as its dictionary; and the tensors, each predicted from its predecessor. The delta is
applied here before it is returned: what does not make the target byte for byte is our bug.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from edgectl_delta.decoder import apply_bytes
from edgectl_delta.frames import pack
from edgectl_protocol.delta_programs import write_header, write_program
from edgectl_protocol.deltas import (
    DICTIONARY_BYTES_MAX,
    FRAME_BYTES_MAX,
    Block,
    Codec,
    Destination,
    Frame,
    Header,
    Tables,
)
from edgectl_server.deltas.prediction import Effort
from edgectl_server.deltas.tensor_codec import encode_tensors

__all__ = ["Delta", "DeltaLimits", "encode", "write_delta"]

_SMALL_BYTES = 16 * 1024
"""Of a delta for which less elaborate predictions are tried too: what they need may cost more."""


@dataclass(frozen=True)
class DeltaLimits:
    """Bounds of the work; a file beyond them gets no delta of the kind.

    Attributes:
        file_bytes_max: of base and target.
        patch_bytes_max: of base and target, for the codec that compresses with a dictionary.
        level: of zstd.
    """

    file_bytes_max: int = 256 * 2**20
    patch_bytes_max: int = 64 * 2**20
    level: int = 19


@dataclass(frozen=True)
class Delta:
    """A delta, what chose it, and what each codec would have taken, in bytes."""

    content: bytes
    codec: Codec
    costs: dict[str, int] = field(default_factory=dict)


def encode(base: bytes, target: bytes, limits: DeltaLimits | None = None) -> Delta:
    """Return the smallest delta from `base` to `target`.

    Raises:
        ValueError: one of them is too long.
    """
    limits = limits or DeltaLimits()
    if max(len(base), len(target)) > limits.file_bytes_max:
        raise ValueError(f"files of {len(base)} and {len(target)} bytes, at most "
                         f"{limits.file_bytes_max}")  # fmt: skip
    found: dict[Codec, bytes] = {}
    for effort in Effort:
        if len(found.get(Codec.TENSOR, b"")) > _SMALL_BYTES:
            break
        made = encode_tensors(base, target, effort)
        if made is None:  # too much would be held: less elaborate predictions hold less
            continue
        content = write_delta(Codec.TENSOR, base, target, *made)
        found[Codec.TENSOR] = min(found.get(Codec.TENSOR, content), content, key=len)
    if max(len(base), len(target)) <= limits.patch_bytes_max:
        frames = _frames(target, lambda start: _near(base, len(target), start), limits.level)
        found[Codec.PATCH] = write_delta(Codec.PATCH, base, target, *frames(base))
    frames = _frames(target, lambda _: (0, 0), limits.level)
    found[Codec.WHOLE] = write_delta(Codec.WHOLE, base, target, *frames(base))
    codec = min(found, key=lambda one: len(found[one]))
    made_here = apply_bytes(found[codec], base, hashlib.sha256(target).digest())
    assert made_here == target, f"a delta by {codec.name} is wrong"
    costs = {one.name.lower(): len(content) for one, content in found.items()}
    return Delta(found[codec], codec, costs)


def write_delta(
    codec: Codec,
    base: bytes,
    target: bytes,
    tables: Tables,
    blocks: list[tuple[Block, bytes]],
) -> bytes:
    """Return the bytes of a delta."""
    program = write_program(tables, [block for block, _ in blocks])
    packed = pack(program)
    header = Header(
        codec,
        hashlib.sha256(base).digest(),
        hashlib.sha256(target).digest(),
        len(base),
        len(target),
        len(program),
        len(packed),
    )
    return b"".join((write_header(header), packed, *(payload for _, payload in blocks)))


_NO_TABLES = Tables({}, (), ())


def _frames(
    target: bytes, near: Callable[[int], tuple[int, int]], level: int
) -> Callable[[bytes], tuple[Tables, list[tuple[Block, bytes]]]]:
    """Return what compresses the target in frames, each against a range of the base."""

    def make(base: bytes) -> tuple[Tables, list[tuple[Block, bytes]]]:
        blocks = []
        for start in range(0, len(target), FRAME_BYTES_MAX):
            part = target[start : start + FRAME_BYTES_MAX]
            offset, length = near(start)
            content = pack(part, base[offset : offset + length], level=level)
            frame = Frame(offset, length, False, len(content), len(part))
            blocks.append((Block(Destination.TARGET, 0, 0, 0, 0, (frame,)), content))
        return _NO_TABLES, blocks

    return make


def _near(base: bytes, target_bytes: int, start: int) -> tuple[int, int]:
    """Return the range of the base that is most like the frame at `start`."""
    if len(base) <= DICTIONARY_BYTES_MAX:
        return 0, len(base)
    middle = start * len(base) // max(target_bytes, 1) + FRAME_BYTES_MAX // 2
    offset = min(max(middle - DICTIONARY_BYTES_MAX // 2, 0), len(base) - DICTIONARY_BYTES_MAX)
    return offset, DICTIONARY_BYTES_MAX
