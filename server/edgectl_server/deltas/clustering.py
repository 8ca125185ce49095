"""Probability tables: as many as pay, each for the keys whose symbols are alike."""

from __future__ import annotations

import numpy as np

from edgectl_delta.elements import Array
from edgectl_protocol.deltas import ALPHABETS, KEYS, PROBABILITY_BITS, Kind, Tables

__all__ = ["make_tables"]

_ONE = 1 << PROBABILITY_BITS
_TABLE_BITS = 24.0
_SYMBOL_BITS = 6.0
"""About what a table, and a symbol in it, takes in the program."""
_RUN_BITS = 9.0
_TABLES_OF_KIND_MAX = 20


def make_tables(histograms: dict[Kind, Array]) -> Tables:
    """Return tables for what was counted.

    Args:
        histograms: by kind, counts [keys, alphabet].
    """
    maps: dict[Kind, tuple[int, ...]] = {}
    kinds: list[Kind] = []
    rows: list[tuple[int, ...]] = []
    for kind, histogram in sorted(histograms.items()):
        assert histogram.shape == (KEYS, ALPHABETS[kind])
        groups = _cluster(histogram)
        named = [0] * KEYS
        for number, group in enumerate(groups):
            for key in group:
                named[key] = number
        # A key that nothing has gets the table of the one before: the map is smaller so.
        used = {key for group in groups for key in group}
        last = named[min(used)]
        for key in range(KEYS):
            last = named[key] if key in used else last
            named[key] = last + len(rows)
        maps[kind] = tuple(named)
        for group in groups:
            kinds.append(kind)
            rows.append(_frequencies(histogram[group].sum(axis=0)))
    return Tables(maps, tuple(kinds), tuple(rows))


def _price(counts: Array) -> Array:
    """Return the bits of symbols with their own table, and of the table; by row."""
    totals = counts.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(counts > 0, counts * np.log2(totals / counts), 0.0)
    used = (counts > 0).sum(axis=-1)
    priced: Array = bits.sum(axis=-1) + _TABLE_BITS + _SYMBOL_BITS * used
    return priced


def _cluster(histogram: Array) -> list[list[int]]:
    """Merge keys, the pair that gains most first, while something is gained."""
    groups = [[int(key)] for key in np.flatnonzero(histogram.sum(axis=1))]
    counts = histogram[[group[0] for group in groups]].astype(np.float64)
    prices = _price(counts)
    gains = np.full((len(groups), len(groups)), -np.inf)
    for one in range(len(groups)):
        _fill_gains(gains, counts, prices, one)
    while len(groups) > 1:
        one, other = divmod(int(np.argmax(gains)), len(groups))
        if gains[one, other] <= 0 and len(groups) <= _TABLES_OF_KIND_MAX:
            break
        one, other = min(one, other), max(one, other)
        groups[one] += groups.pop(other)
        counts[one] += counts[other]
        counts = np.delete(counts, other, axis=0)
        prices = np.delete(prices, other)
        prices[one] = _price(counts[one])
        gains = np.delete(np.delete(gains, other, axis=0), other, axis=1)
        _fill_gains(gains, counts, prices, one)
    return groups


def _fill_gains(gains: Array, counts: Array, prices: Array, one: int) -> None:
    """Set what merging group `one` with each other gains."""
    found = prices + prices[one] - _price(counts + counts[one])
    found[one] = -np.inf
    gains[one] = found
    gains[:, one] = found


def _smooth(counts: Array) -> list[tuple[int, int]]:
    """Cut symbols into runs of one probability: the cheapest, given what a run takes.

    Returns:
        First symbol of each run and the one after its last.
    """
    width = len(counts)
    total = float(counts.sum())
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    best = np.full(width + 1, np.inf)
    best[0] = 0.0
    came = np.zeros(width + 1, np.int64)
    for end in range(1, width + 1):
        start = np.arange(end)
        inside = sums[end] - sums[start]
        with np.errstate(divide="ignore", invalid="ignore"):
            data = np.where(inside > 0, inside * np.log2(total * (end - start) / inside), 0.0)
        cost = best[:end] + data + _RUN_BITS
        came[end] = int(np.argmin(cost))
        best[end] = cost[came[end]]
    runs = []
    end = width
    while end:
        runs.append((int(came[end]), end))
        end = int(came[end])
    return runs[::-1]


def _frequencies(counts: Array) -> tuple[int, ...]:
    """Return frequencies that add up to one, none of a symbol that occurs being zero."""
    total = int(counts.sum())
    found = np.zeros(len(counts), np.int64)
    for start, end in _smooth(counts):
        inside = int(counts[start:end].sum())
        if inside:
            found[start:end] = max(1, inside * _ONE // (total * (end - start)))
    # What is missing or too much goes to the largest: the price of it is least there.
    while (rest := _ONE - int(found.sum())) != 0:
        largest = int(np.argmax(found))
        step = max(rest, 1 - int(found[largest]))
        found[largest] += step
    return tuple(int(one) for one in found)
