"""Applies a delta: reads it and the base by ranges, writes the target in order.

Memory is bounded by the format, not by the files: what is held, one dictionary, and the arrays of
one block (see docs/deltas.md). After each block of the target the caller is told, and may begin
there again: the blocks before it that only hold bytes are then carried out anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from edgectl_delta import elements as arithmetic
from edgectl_delta.elements import Array
from edgectl_delta.frames import pieces, unpack
from edgectl_delta.lanes import DecodingTables, decode
from edgectl_protocol.delta_programs import Program, parse_header, parse_program
from edgectl_protocol.deltas import (
    DIGEST_BYTES,
    HEADER_BYTES_MAX,
    Block,
    Copy,
    Destination,
    Elements,
    Frame,
    Held,
    Instruction,
    Predictor,
)
from edgectl_protocol.errors import DeltaRefused

__all__ = ["Applier", "Digest", "Reader", "apply_bytes"]

Reader = Callable[[int, int], bytes]
"""Returns the bytes at an offset, exactly as many as asked for, or fewer at the end."""
_PIECE_BYTES = 256 * 1024


class Digest(Protocol):
    """What `hashlib.sha256` returns."""

    def update(self, content: bytes, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Return the digest."""


class _Span(NamedTuple):
    """Elements with what was computed before their symbols are known."""

    one: Elements
    expected: Array
    keys: Array
    before: bytes
    """Of the base, where steps lead on from there."""
    parameters: Array
    """Of its rows, int16."""


class Applier:
    """One delta, opened and checked."""

    def __init__(
        self, read_delta: Reader, delta_bytes: int, read_base: Reader, base_bytes: int
    ) -> None:
        """Read header and program.

        Args:
            read_delta: of the delta.
            delta_bytes: its length.
            read_base: of the base.
            base_bytes: its length.

        Raises:
            DeltaRefused: any ``delta.…`` but ``delta.target``.
        """
        self._read_delta = read_delta
        self._read_base = read_base
        self._delta_bytes = delta_bytes
        self.header, start = parse_header(read_delta(0, min(HEADER_BYTES_MAX, delta_bytes)))
        if base_bytes != self.header.base_bytes:
            raise DeltaRefused(
                "delta.base",
                f"it is for a base of {self.header.base_bytes} bytes, not {base_bytes}",
            )
        self._payload = start + self.header.packed_bytes
        packed = self._delta(start, self.header.packed_bytes)
        self.program: Program = parse_program(
            unpack(packed, self.header.program_bytes), self.header
        )
        end = self._payload + sum(block.payload for block in self.program.blocks())
        if end != delta_bytes:
            code = "delta.truncated" if end > delta_bytes else "delta.malformed"
            raise DeltaRefused(code, f"{delta_bytes} bytes, by its program {end}")
        self._tables = DecodingTables(self.program.tables)
        self._maps = {
            kind: np.array(row, np.uint8) for kind, row in self.program.tables.maps.items()
        }
        self._held = bytearray()
        self._dictionary = bytearray()

    def target_bytes_after(self, count: int) -> int:
        """Return how many bytes of the target the first `count` blocks make."""
        return sum(
            block.length
            for block, _ in zip(self.program.blocks(), range(count), strict=False)
            if block.destination is Destination.TARGET
        )

    def check_base(self) -> None:
        """Read the base and compare its digest; whoever knows it by its digest need not.

        Raises:
            DeltaRefused: ``delta.base``.
        """
        digest = hashlib.sha256()
        for offset in range(0, self.header.base_bytes, _PIECE_BYTES):
            length = min(_PIECE_BYTES, self.header.base_bytes - offset)
            digest.update(self._base(offset, length))
        if digest.digest()[:DIGEST_BYTES] != self.header.base_digest:
            raise DeltaRefused("delta.base", "it is for another base of the same length")

    def apply(
        self,
        write: Callable[[bytes], object],
        sha256: bytes,
        *,
        digest: Digest | None = None,
        done_blocks: int = 0,
        checkpoint: Callable[[int, int], object] | None = None,
    ) -> None:
        """Make the target.

        Args:
            write: takes the next bytes of the target.
            sha256: of the target, as it was signed.
            digest: SHA-256 of what has been written already, if anything has.
            done_blocks: how many blocks that was, as `checkpoint` was told.
            checkpoint: told, after each block of the target, how many blocks are done, and how many
                bytes of the target that is.

        Raises:
            DeltaRefused: ``delta.target`` if it is for, or makes, another target, and what is
                wrong otherwise.
        """
        if self.header.target_digest != sha256[:DIGEST_BYTES]:
            raise DeltaRefused("delta.target", "it is for another target")
        digest = hashlib.sha256() if digest is None else digest
        place = self._payload
        length = 0
        self._held.clear()
        self._dictionary.clear()
        for number, block in enumerate(self.program.blocks()):
            if block.destination is not Destination.TARGET:
                into = self._held if block.destination is Destination.HELD else self._dictionary
                for piece in self._run(block, place):
                    into += piece
            elif number >= done_blocks:
                for piece in self._run(block, place):
                    digest.update(piece)
                    write(piece)
            place += block.payload
            if block.destination is Destination.TARGET:
                length += block.length
                if number >= done_blocks and checkpoint is not None:
                    checkpoint(number + 1, length)
        if digest.digest() != sha256:
            raise DeltaRefused("delta.target", "what it makes is not the target")

    def _run(self, block: Block, place: int) -> Iterator[bytes]:
        """Yield the bytes of a block whose payload begins at `place`."""
        spans = self._spans(block, place)
        found = self._differences(block, place, spans)
        place += block.payload - sum(
            one.packed for one in block.instructions if isinstance(one, Frame)
        )
        numbers = iter(range(len(spans)))
        for one in block.instructions:
            if isinstance(one, Elements):
                number = next(numbers)
                span = spans[number]
                made = arithmetic.apply_residuals(one.coded, span.expected, found[number])
                if one.predictor is Predictor.STEPS:
                    made = arithmetic.apply_steps(one, span.before, made, span.parameters)
                yield made.tobytes()
            else:
                yield from self._bytes_of(one, place)
                place += one.packed if isinstance(one, Frame) else 0

    def _bytes_of(self, one: Instruction, place: int) -> Iterator[bytes]:
        match one:
            case Copy(offset, length):
                for start in range(offset, offset + length, _PIECE_BYTES):
                    yield self._base(start, min(_PIECE_BYTES, offset + length - start))
            case Held(offset, length):
                yield bytes(self._held[offset : offset + length])
            case Frame(offset, dictionary, own, packed, length):
                prefix = (
                    bytes(self._dictionary[:dictionary]) if own else self._base(offset, dictionary)
                )

                def read(size: int) -> bytes:
                    nonlocal place
                    place += size
                    return self._delta(place - size, size)

                yield from pieces(read, packed, length, prefix)

    def _spans(self, block: Block, place: int) -> list[_Span]:
        """Predict all elements of a block."""
        packed = self._delta(place, block.parameters)
        shifts_bytes = 2 * block.rows
        wanted = shifts_bytes + 2 * block.multipliers
        content = packed if block.parameters == wanted else unpack(packed, wanted)
        shifts = _joined(content[:shifts_bytes])
        parameters = _joined(content[shifts_bytes:])
        spans = []
        row = scaled = 0
        for one in block.instructions:
            if not isinstance(one, Elements):
                continue
            rows = arithmetic.row_numbers(one)
            shift = shifts[row : row + one.rows].astype(np.int64)[rows]
            row += one.rows
            multiplier, own = None, parameters[:0]
            if one.has_parameters:
                own = parameters[scaled : scaled + one.rows]
                scaled += one.rows
            if one.predictor is Predictor.ROWS:
                multiplier = arithmetic.multiplier_of(own)[rows]
            elif one.predictor is Predictor.RATIO:
                multiplier = self._ratio(one)[rows]
            added = None
            if one.low_rank is not None:
                start = one.low_rank.held
                end = start + one.low_rank.length(one.inner)
                added = arithmetic.correction(one, memoryview(self._held)[start:end])
            if one.predictor is Predictor.ZERO:
                before = b""
            elif one.predictor is Predictor.PRODUCT:
                before = bytes(self._held[one.held : one.held + one.length])
            else:
                before = self._base(one.offset, one.length)
            expected, quarter = arithmetic.predict(one, before, multiplier, added)
            keys = arithmetic.contexts(one.coded, expected, quarter, shift)
            if one.predictor is not Predictor.STEPS:
                before = b""
            spans.append(_Span(one, expected, self._maps[one.coded][keys], before, own))
        return spans

    def _ratio(self, one: Elements) -> Array:
        """Return the base's scales over the target's."""
        before = np.frombuffer(self._base(one.scale, 4 * one.rows), "<f4").astype(np.float64)
        after = np.frombuffer(bytes(self._held[one.held : one.held + 4 * one.rows]), "<f4")
        with np.errstate(all="ignore"):
            return before / after.astype(np.float64)

    def _differences(self, block: Block, place: int, spans: list[_Span]) -> list[Array]:
        """Decode the differences of all elements of a block."""
        place += block.parameters
        states = np.frombuffer(self._delta(place, 4 * block.lanes), "<u4")
        place += 4 * block.lanes
        words = np.frombuffer(self._delta(place, 2 * block.words), "<u2")
        place += 2 * block.words
        chosen = np.concatenate([span.keys for span in spans]) if spans else np.zeros(0, np.uint8)
        symbols = decode(self._tables, chosen, states, words)
        parts = np.split(symbols, np.cumsum([span.one.size for span in spans])[:-1])
        if not spans:
            parts = []
        counts = [
            arithmetic.raw_bits(span.one.coded, part)
            for span, part in zip(spans, parts, strict=True)
        ]
        bits = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        if (int(bits.sum()) + 7) // 8 != block.raw:
            raise DeltaRefused("delta.malformed", "its raw bits have another length")
        values = arithmetic.read_raw(self._delta(place, block.raw), bits)
        raws = np.split(values, np.cumsum([span.one.size for span in spans])[:-1])
        return [
            arithmetic.split_code(span.one.coded, part, raw)
            for span, part, raw in zip(spans, parts, raws, strict=False)
        ]

    def _base(self, offset: int, length: int) -> bytes:
        content = self._read_base(offset, length)
        if len(content) != length:
            raise DeltaRefused("delta.base", "the base is shorter than it was")
        return content

    def _delta(self, offset: int, length: int) -> bytes:
        content = self._read_delta(offset, length) if length else b""
        if len(content) != length or offset + length > self._delta_bytes:
            raise DeltaRefused("delta.truncated", f"it ends before {offset + length} bytes")
        return content


def apply_bytes(delta: bytes, base: bytes, sha256: bytes) -> bytes:
    """Return the target, all in memory: what the server checks its own work with.

    Args:
        delta: all of it.
        base: the file.
        sha256: of the target.

    Raises:
        DeltaRefused: any ``delta.…``.
    """
    out = bytearray()
    applier = Applier(
        lambda offset, length: delta[offset : offset + length],
        len(delta),
        lambda offset, length: base[offset : offset + length],
        len(base),
    )
    applier.check_base()
    applier.apply(out.extend, sha256)
    return bytes(out)


def _joined(planes: bytes) -> Array:
    """Return int16 whose low bytes come first, all of them, then the high ones."""
    halves = np.frombuffer(planes, np.uint8).reshape(2, -1).astype(np.uint16)
    whole: Array = (halves[0] | halves[1] << np.uint16(8)).view(np.int16)
    return whole
