"""Which rows are trained on, which validate, which test: so that none leaks into another.

Rules:

1. Rows of one device resemble one another. A device is therefore in one split only, and in which
   one follows from its name alone: a device that tests stays a test in every later dataset of the
   same seed and ratios, so that no model is ever tested on what another one has learnt.
   (``device``: SHA-256 over seed and name, as a share of the whole, against the ratios.)
2. Where few devices would leave a split empty that is wanted, they are put in the order of that
   hash and dealt out by rank, one at least to each wanted split, and by their rows. Those of a
   dataset that is continued stay where they were. (``rank``)
3. Where there are fewer devices than wanted splits, the oldest rows train and the newest test:
   devices do leak then, and whoever reads the rule is told so. (``time``)

Pure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Literal, NamedTuple

from edgectl_datasets.documents import SPLITS, SplitName

__all__ = ["RATIOS", "Ratios", "split_rows"]

Ratios = tuple[float, float, float]
RATIOS: Ratios = (0.7, 0.15, 0.15)
_TOLERANCE = 1e-6


class Split(NamedTuple):
    """In which split each row is, in the order of the rows, and by which rule."""

    of: tuple[SplitName, ...]
    by: Literal["device", "rank", "time"]


def split_rows(
    rows: Sequence[tuple[str, datetime, str]],
    ratios: Ratios = RATIOS,
    seed: str = "",
    *,
    known: Mapping[str, SplitName] | None = None,
) -> Split:
    """Put rows into splits.

    Args:
        rows: of each its device, when it was captured, and its sample (which makes the order
            total).
        ratios: shares of train, validation and test; they add up to 1.
        seed: another one gives other splits.
        known: where devices were in the dataset that this one continues.

    Raises:
        ValueError: the ratios are no shares of a whole.
    """
    if any(not 0 <= one <= 1 for one in ratios) or abs(sum(ratios) - 1) > _TOLERANCE:
        raise ValueError(f"ratios {ratios} are no shares of a whole")
    wanted = [name for name, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0]
    sizes = Counter(device for device, _, _ in rows)
    if len(sizes) < len(wanted):
        return Split(_by_time(rows, ratios), "time")
    shares = {device: _share(seed, device) for device in sizes}
    kept = {device: split for device, split in (known or {}).items() if device in sizes}
    of = {device: _split_at(share, ratios) for device, share in shares.items()} | kept
    if set(of.values()) >= set(wanted):
        return Split(tuple(of[device] for device, _, _ in rows), "device")
    in_order = sorted(sizes, key=lambda device: (shares[device], device))
    of = _by_rank(in_order, sizes, ratios, kept)
    return Split(tuple(of[device] for device, _, _ in rows), "rank")


def _share(seed: str, device: str) -> float:
    digest = hashlib.sha256(f"{seed}\n{device}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _split_at(share: float, ratios: Ratios) -> SplitName:
    """Return the split in whose part of the whole a share lies."""
    wanted = [name for name, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0]
    ends = accumulate(ratio for ratio in ratios if ratio > 0)
    return next((name for name, end in zip(wanted, ends, strict=True) if share < end), wanted[-1])


def _by_rank(
    in_order: Sequence[str], sizes: Counter[str], ratios: Ratios, kept: Mapping[str, SplitName]
) -> dict[str, SplitName]:
    """Deal devices out: each to the split that lacks most, while enough are left for empty ones."""
    wanted = [(name, ratio) for name, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0]
    total = sum(sizes.values())
    got: Counter[SplitName] = Counter()
    of = dict(kept)
    for device, split in kept.items():
        got[split] += sizes[device]
    others = [device for device in in_order if device not in kept]
    for number, device in enumerate(others):
        empty = [one for one in wanted if not got[one[0]]]
        must = len(others) - number <= len(empty)
        choice = empty if must else wanted
        name = max(choice, key=lambda one: one[1] - got[one[0]] / total)[0]
        of[device] = name
        got[name] += sizes[device]
    return of


def _by_time(rows: Sequence[tuple[str, datetime, str]], ratios: Ratios) -> tuple[SplitName, ...]:
    in_order = sorted(range(len(rows)), key=lambda number: rows[number][1:])
    of: list[SplitName] = ["train"] * len(rows)
    for rank, number in enumerate(in_order):
        of[number] = _split_at((rank + 0.5) / len(rows), ratios)
    return tuple(of)
