"""Rules of data, as for CI: each looks at the facts of a dataset and says what it has found.

===============  ==================================================================================
``schema``       every sample has the dataset's inputs, and they are those of the model's newest
                 version
``finite``       no input holds NaN or infinity
``ranges``       features lie where the model's signed reference has them: at most 5 % of the rows
                 outside of all it has seen (else failed); distributed alike (else a warning, for
                 what was chosen because it is hard is distributed otherwise)
``classes``      every class is in train (else failed) and in validation and test (else a warning);
                 the largest has at most 20 times the rows of the least (else a warning)
``rows``         every class has `Bounds.class_rows_min` rows in train
``duplicates``   no input is in two splits (else failed), or twice in one (else a warning)
``devices``      no device is in two splits; where they were made by time, a warning
``labels``       no input has two labels
===============  ==================================================================================

Small, named, pure. A rule that has nothing to look at says ``not_enough_data``, never ``passed``.
The distance of two distributions is that of Kolmogorov and Smirnov on the reference's edges; what
chance gives is bounded by sqrt(-ln(level / 2) / 2) * sqrt((n + m) / (n * m)).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from edgectl_datasets.documents import SPLITS, Row
from edgectl_datasets.facts import Facts
from edgectl_protocol.watching import Feature

__all__ = ["CHECKS", "Bounds", "Finding", "check"]

Status = Literal["passed", "failed", "warning", "not_enough_data"]
OUTSIDE_SHARE_MAX = 0.05
DISTANCE_MIN = 0.1
"""Of the cumulative shares; smaller ones are of no interest, however sure they are."""
LEVEL = 0.001
JUDGED_ROWS_MIN = 30
IMBALANCE_MAX = 20
_SHOWN_MAX = 10


class Bounds(Struct, frozen=True, kw_only=True):
    """What whoever asks may choose."""

    class_rows_min: int = 10
    """Of each class, in train."""


class Finding(Struct, frozen=True, kw_only=True):
    """What one rule has found; `samples` are some of those that it is about."""

    check: str
    status: Status
    detail: str
    samples: tuple[str, ...] = ()


def check(facts: Facts, bounds: Bounds | None = None) -> tuple[Finding, ...]:
    """Return what every rule has found, in the order of `CHECKS`."""
    chosen = bounds or Bounds()
    return tuple(rule(name, facts, chosen) for name, rule in CHECKS.items())


def _schema(name: str, facts: Facts, _: Bounds) -> Finding:
    if facts.misfits:
        sample, what = next(iter(facts.misfits.items()))
        detail = f"{len(facts.misfits)} samples are of other inputs; {sample}: {what}"
        return _finding(name, "failed", detail, facts.misfits)
    if facts.model_inputs is not None and tuple(facts.model_inputs) != facts.dataset.inputs:
        theirs = ", ".join(f"{one.name} {one.datatype} {one.shape}" for one in facts.model_inputs)
        return _finding(name, "failed", f"the model takes other inputs by now: {theirs}")
    return _finding(name, "passed", f"{len(facts.contents)} samples have the dataset's inputs")


def _finite(name: str, facts: Facts, _: Bounds) -> Finding:
    if facts.not_finite:
        detail = f"{len(facts.not_finite)} samples hold NaN or infinity"
        return _finding(name, "failed", detail, facts.not_finite)
    return _finding(name, "passed", "every element is a number")


def _ranges(name: str, facts: Facts, _: Bounds) -> Finding:
    if facts.reference is None or not facts.features:
        return _finding(name, "not_enough_data", "there is no reference of the model's inputs")
    outside, moved = [], []
    for feature in facts.reference.features:
        values = facts.features.get(feature.name)
        if values is None:
            continue
        values = values[np.isfinite(values)]
        if len(values) < JUDGED_ROWS_MIN:
            continue
        share = float(np.mean((values < feature.low) | (values > feature.high)))
        if share > OUTSIDE_SHARE_MAX:
            outside.append(f"{feature.name} {share:.0%}")
        distance = _distance(feature, values)
        if distance > _chance(len(values), sum(feature.counts)):
            moved.append(f"{feature.name} {distance:.2f}")
    if outside:
        return _finding(name, "failed", f"outside of all that the reference has: {_some(outside)}")
    if moved:
        detail = f"distributed otherwise than the reference (distance): {_some(moved)}"
        return _finding(name, "warning", detail)
    rows = max(len(values) for values in facts.features.values())
    if rows < JUDGED_ROWS_MIN:
        return _finding(name, "not_enough_data", f"{rows} rows, {JUDGED_ROWS_MIN} are needed")
    return _finding(name, "passed", f"{len(facts.features)} features are as in the reference")


def _classes(name: str, facts: Facts, _: Bounds) -> Finding:
    classes = facts.dataset.classes
    if not classes:
        return _finding(name, "not_enough_data", "the model has no classes")
    counted = {split: Counter[int]() for split in SPLITS}
    for row in facts.rows:
        counted[row.split][row.number] += 1
    missing = {
        split: [one for number, one in enumerate(classes) if not counts[number]]
        for split, counts in counted.items()
        if counts or split == "train"
    }
    if missing["train"]:
        return _finding(name, "failed", f"not in train: {_some(missing['train'])}")
    for split, lacking in missing.items():
        if lacking:
            return _finding(name, "warning", f"not in {split}: {_some(lacking)}")
    rows = [counted["train"][number] for number in range(len(classes))]
    if max(rows) > IMBALANCE_MAX * min(rows):
        few, many = classes[rows.index(min(rows))], classes[rows.index(max(rows))]
        detail = f"{many} has {max(rows)} rows in train, {few} {min(rows)}"
        return _finding(name, "warning", detail)
    return _finding(name, "passed", f"{len(classes)} classes, {min(rows)} to {max(rows)} in train")


def _rows(name: str, facts: Facts, bounds: Bounds) -> Finding:
    classes = facts.dataset.classes
    if not classes:
        return _finding(name, "not_enough_data", "the model has no classes")
    counted = Counter(row.number for row in facts.rows if row.split == "train")
    few = [
        f"{one} {counted[number]}"
        for number, one in enumerate(classes)
        if counted[number] < bounds.class_rows_min
    ]
    if few:
        detail = f"fewer than {bounds.class_rows_min} rows in train: {_some(few)}"
        return _finding(name, "failed", detail)
    return _finding(name, "passed", f"{bounds.class_rows_min} rows of each class or more in train")


def _duplicates(name: str, facts: Facts, _: Bounds) -> Finding:
    across: list[list[Row]] = []
    within: list[list[Row]] = []
    for alike in _alike(facts):
        splits = {row.split for row in alike}
        (across if len(splits) > 1 else within).append(alike)
    if across:
        detail = f"{len(across)} inputs are in two splits"
        return _finding(name, "failed", detail, (row.sample for one in across for row in one))
    if within:
        detail = f"{len(within)} inputs are there twice or more, in one split each"
        return _finding(name, "warning", detail, (row.sample for one in within for row in one))
    return _finding(name, "passed", f"{len(facts.contents)} inputs, none twice")


def _devices(name: str, facts: Facts, _: Bounds) -> Finding:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in facts.rows:
        splits[row.device].add(row.split)
    leaking = sorted(device for device, found in splits.items() if len(found) > 1)
    if not leaking:
        return _finding(name, "passed", f"{len(splits)} devices, each in one split")
    detail = f"{len(leaking)} of {len(splits)} devices are in two splits: {_some(leaking)}"
    if facts.dataset.split.by == "time":
        return _finding(name, "warning", f"split by time: {detail}")
    return _finding(name, "failed", detail)


def _labels(name: str, facts: Facts, _: Bounds) -> Finding:
    labelled = sum(row.label is not None for row in facts.rows)
    if not labelled:
        return _finding(name, "not_enough_data", "no row has a label")
    torn = [alike for alike in _alike(facts) if len({row.label for row in alike} - {None}) > 1]
    if torn:
        detail = f"{len(torn)} inputs have two labels"
        return _finding(name, "failed", detail, (row.sample for one in torn for row in one))
    return _finding(name, "passed", f"{labelled} of {len(facts.rows)} rows have a label")


CHECKS: dict[str, Callable[[str, Facts, Bounds], Finding]] = {
    "schema": _schema,
    "finite": _finite,
    "ranges": _ranges,
    "classes": _classes,
    "rows": _rows,
    "duplicates": _duplicates,
    "devices": _devices,
    "labels": _labels,
}


def _alike(facts: Facts) -> list[list[Row]]:
    """Return rows of the same input, where there is more than one."""
    by_content: defaultdict[str, list[Row]] = defaultdict(list)
    for row in facts.rows:
        if row.sample in facts.contents:
            by_content[facts.contents[row.sample]].append(row)
    return [rows for rows in by_content.values() if len(rows) > 1]


def _distance(feature: Feature, values: npt.NDArray[np.float64]) -> float:
    bins = np.searchsorted(np.asarray(feature.edges), values, side="right")
    ours = np.bincount(bins, minlength=len(feature.counts)) / len(values)
    theirs = np.asarray(feature.counts, np.float64) / max(1, sum(feature.counts))
    return float(np.abs(np.cumsum(ours) - np.cumsum(theirs)).max())


def _chance(rows: int, reference_rows: int) -> float:
    """Return the distance from which a difference is no chance, and of interest."""
    reference_rows = max(1, reference_rows)
    size = math.sqrt((rows + reference_rows) / (rows * reference_rows))
    return max(DISTANCE_MIN, math.sqrt(-math.log(LEVEL / 2) / 2) * size)


def _finding(name: str, status: Status, detail: str, samples: Iterable[str] = ()) -> Finding:
    shown = tuple(sample for _, sample in zip(range(_SHOWN_MAX), samples, strict=False))
    return Finding(check=name, status=status, detail=detail, samples=shown)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return ", ".join(names[:_SHOWN_MAX]) + more
