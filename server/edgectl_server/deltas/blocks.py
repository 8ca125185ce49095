"""Blocks of instructions, and their payloads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgectl_delta import elements as arithmetic
from edgectl_delta.elements import Array
from edgectl_delta.frames import pack
from edgectl_delta.lanes import encode
from edgectl_protocol.deltas import (
    ALPHABETS,
    BLOCK_ELEMENTS_MAX,
    INSTRUCTIONS_MAX,
    KEYS,
    ROWS_MAX,
    STEPS_MAX,
    Block,
    Destination,
    Elements,
    Instruction,
    Kind,
    Tables,
)

__all__ = ["Draft", "Span", "count_symbols"]

_LANES_MAX = 256
_MANY, _MANY_LANES = BLOCK_ELEMENTS_MAX // 2, 64
"""From so many elements at least so many lanes: in all, steps are bounded."""
_BYTES_A_LANE = 600
"""A lane costs four bytes: as many lanes as cost two thirds of a percent."""


@dataclass(frozen=True)
class Span:
    """Elements with all that is known of them."""

    one: Elements
    multipliers: Array
    shifts: Array
    keys: Array
    symbols: Array
    counts: Array
    """Raw bits of each element."""
    raws: Array

    @staticmethod
    def of(
        *,
        one: Elements, before: bytes, actual: Array, multiplier: Array | None, parameters: Array,
        shifts: Array, added: Array | None = None,
    ) -> Span:  # fmt: skip
        """Compute keys and symbols, given what the elements are predicted from.

        `actual` are bits of the elements; of STEPS how many steps, as int8.
        """
        rows = arithmetic.row_numbers(one)
        spread = None if multiplier is None else multiplier[rows]
        expected, quarter = arithmetic.predict(one, before, spread, added)
        keys = arithmetic.contexts(one.coded, expected, quarter, shifts.astype(np.int64)[rows])
        found = arithmetic.residuals(one.coded, expected, actual)
        symbols, counts, raws = arithmetic.to_code(one.coded, found)
        return Span(one, parameters, shifts, keys, symbols, counts, raws)


@dataclass
class Draft:
    """A block that is being filled."""

    destination: Destination = Destination.TARGET
    instructions: list[Instruction] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    elements: int = 0
    rows: int = 0

    def has_room(self, elements: int, rows: int) -> bool:
        """Say whether so many more may be added."""
        return (
            self.elements + elements <= BLOCK_ELEMENTS_MAX
            and self.rows + rows <= ROWS_MAX
            and len(self.instructions) < INSTRUCTIONS_MAX
        )

    def add(self, span: Span) -> None:
        """Add elements."""
        self.instructions.append(span.one)
        self.spans.append(span)
        self.elements += span.one.size
        self.rows += span.one.rows

    def finish(self, tables: Tables) -> tuple[Block, bytes]:
        """Return the block and its payload."""
        parameters = b""
        if self.rows:
            shifts = np.concatenate([span.shifts for span in self.spans])
            multipliers = np.concatenate([span.multipliers for span in self.spans])
            stored = _split(shifts) + _split(multipliers)
            packed = pack(stored)
            parameters = packed if len(packed) < len(stored) else stored
        lanes, states, words, raw = 0, b"", b"", b""
        if self.elements:
            frequencies, starts = self._probabilities(tables)
            lanes = _lanes(frequencies)
            found, made = encode(frequencies, starts, lanes)
            states, words = found.astype("<u4").tobytes(), made.astype("<u2").tobytes()
            raw = arithmetic.write_raw(
                np.concatenate([span.counts for span in self.spans]),
                np.concatenate([span.raws for span in self.spans]),
            )
        block = Block(
            self.destination, lanes, len(words) // 2, len(raw), len(parameters),
            tuple(self.instructions),
        )  # fmt: skip
        return block, b"".join((parameters, states, words, raw, *self.frames))

    def _probabilities(self, tables: Tables) -> tuple[Array, Array]:
        """Return frequency and start of each symbol in its table."""
        frequencies, starts = [], []
        for span in self.spans:
            named = np.array(tables.maps[span.one.coded])[span.keys]
            width = ALPHABETS[span.one.coded]
            rows = np.zeros((len(tables.frequencies), width), np.int64)
            for number, row in enumerate(tables.frequencies):
                rows[number, : len(row)] = row[:width]
            frequencies.append(rows[named, span.symbols])
            starts.append((rows.cumsum(axis=1) - rows)[named, span.symbols])
        return np.concatenate(frequencies), np.concatenate(starts)


def count_symbols(drafts: list[Draft]) -> dict[Kind, Array]:
    """Return by kind how often each symbol comes with each key."""
    found: dict[Kind, Array] = {}
    for span in (span for draft in drafts for span in draft.spans):
        width = ALPHABETS[span.one.coded]
        counted = np.bincount(span.keys * width + span.symbols, minlength=KEYS * width)
        found[span.one.coded] = found.get(span.one.coded, 0) + counted.reshape(KEYS, width)
    return found


def _lanes(frequencies: Array) -> int:
    """Return how many lanes are fast and cost little."""
    size = float((12 - np.log2(frequencies)).sum()) / 8
    least = -(-len(frequencies) // STEPS_MAX)
    if len(frequencies) >= _MANY:
        least = max(least, _MANY_LANES)
    return max(least, min(_LANES_MAX, int(size / _BYTES_A_LANE)), 1)


def _split(numbers: Array) -> bytes:
    """Return the low bytes of int16, then the high ones."""
    bits = numbers.astype("<i2").view("<u2")
    return (bits & 255).astype(np.uint8).tobytes() + (bits >> 8).astype(np.uint8).tobytes()
