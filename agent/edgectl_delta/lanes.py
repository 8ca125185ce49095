"""Entropy coding: range asymmetric numeral systems (rANS), many lanes side by side.

Symbol number i belongs to lane i mod lanes. All lanes take one symbol a step, so that a step is a
handful of operations on arrays, in NumPy as with SIMD. A state has 32 bits and stays at or above
2^16; below it takes a word of 16 bits, the lanes in their order. Source: J. Duda, "Asymmetric
numeral systems" (arXiv:1311.2540); F. Giesen, "Interleaved entropy coders" (arXiv:1402.3392).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.deltas import PROBABILITY_BITS, Tables
from edgectl_protocol.errors import DeltaRefused

__all__ = ["DecodingTables", "decode", "encode"]

Array = npt.NDArray[Any]
_ONE = 1 << PROBABILITY_BITS
_LOW = 1 << 16
_MASK = np.uint32(_ONE - 1)
_BITS = np.uint32(PROBABILITY_BITS)
_HALF = np.uint32(16)
_WORD = np.uint32(0xFFFF)


class DecodingTables:
    """For each table and each of the `_ONE` slots: the symbol, its frequency, and the offset."""

    def __init__(self, tables: Tables) -> None:
        count = len(tables.frequencies)
        symbols = np.zeros((count, _ONE), np.uint8)
        steps = np.zeros((count, _ONE), np.uint32)
        for number, row in enumerate(tables.frequencies):
            frequencies = np.array(row, np.uint32)
            starts = np.cumsum(frequencies, dtype=np.uint32) - frequencies
            symbol = np.repeat(np.arange(len(row)), row)
            offset = np.arange(_ONE, dtype=np.uint32) - starts[symbol]
            symbols[number] = symbol
            # A frequency of _ONE, the only symbol of its table, needs 13 bits: so 16 for each.
            steps[number] = frequencies[symbol] << _HALF | offset
        self.symbols = symbols.ravel()
        self.steps = steps.ravel()


def decode(tables: DecodingTables, chosen: Array, states: Array, words: Array) -> Array:
    """Return the symbols.

    Args:
        tables: all of the program.
        chosen: uint8, the table of each symbol.
        states: uint32, of each lane.
        words: uint16.

    Raises:
        DeltaRefused: words are missing or left, or the states do not end as they must.
    """
    count, lanes = len(chosen), len(states)
    place = 0
    slots = chosen.astype(np.uint32) << _BITS
    state = states.copy()
    padded = np.concatenate([words.astype(np.uint32), np.zeros(lanes, np.uint32)])
    for start in range(0, count, lanes) if count else ():
        slot = slots[start : start + lanes]
        active = state[: len(slot)]
        slot |= active & _MASK
        step = tables.steps.take(slot)
        active >>= _BITS
        active *= step >> _HALF
        active += step & _WORD
        low = np.flatnonzero(active < _LOW)
        if len(low):
            end = place + len(low)
            active[low] = active[low] << _HALF | padded[place:end]
            place = end
            if place > len(words):
                raise DeltaRefused("delta.malformed", "symbols need more words than there are")
    if place != len(words) or np.any(state != _LOW):
        raise DeltaRefused("delta.malformed", "symbols do not end where they must")
    return tables.symbols.take(slots)


def encode(
    frequencies: Array, starts: Array, lanes: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    """Return states and words.

    Args:
        frequencies: of each symbol in its table; at least 1.
        starts: sum of the frequencies before it.
        lanes: how many.
    """
    state = np.full(lanes, _LOW, np.uint64)
    frequencies, starts = frequencies.astype(np.uint64), starts.astype(np.uint64)
    bits, room = np.uint64(PROBABILITY_BITS), np.uint64(32 - PROBABILITY_BITS)
    out: list[Array] = []
    count = len(frequencies)
    for start in range((count - 1) // lanes * lanes, -1, -lanes) if count else ():
        frequency = frequencies[start : start + lanes]
        active = state[: len(frequency)]
        high = np.flatnonzero(active >= frequency << room)
        if len(high):
            out.append((active[high] & np.uint64(0xFFFF)).astype(np.uint16))
            active[high] >>= np.uint64(16)
        quotient = active // frequency
        active += (quotient << bits) - quotient * frequency + starts[start : start + lanes]
    words = np.concatenate(out[::-1]) if out else np.zeros(0, np.uint16)
    return state.astype(np.uint32), words
