"""Is the data worth measuring with? Findings about calibration and evaluation data, as rows.

Pure, on samples that `edgectl_server.pipeline.data` has accepted (names, shapes, types, finite).
An *error* makes what is measured meaningless and refuses the push unless ``--allow data`` is given;
a *warning* is in the report; an *info* is for whoever looks. A check that finds nothing has no row.

======================  =========  ==============================================================
name                    severity   found when
======================  =========  ==============================================================
one_class               error      all labels of the evaluation data are one class
scale                   error      the two sets differ in scale by 50 times or more
leakage                 error      half of the evaluation samples or more are calibration samples
leakage                 warning    one in a hundred or more
leakage                 info       fewer
few_calibration         warning    fewer than 32 calibration samples
few_evaluation          warning    fewer than 100 evaluation samples
class_balance           warning    a class has fewer than 10 samples, or 50 times fewer than another
missing_classes         warning    classes of the model that the evaluation data does not have
duplicates              warning    one sample in ten or more is there before, in the same set
constant_features       info       values that are the same in all calibration samples
range                   warning    evaluation values far outside of the calibrated range
raw_pixels              info       whole numbers 0 to 255 for a model of floats
======================  =========  ==============================================================

Cost: a few passes over the data, and a 16-byte hash a sample, of at most `HASHED_SAMPLES_MAX` of
each set; nothing is compared pair by pair. Arrays are looked at in slices, never copied whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.spec import DataCheckRow

__all__ = ["HASHED_SAMPLES_MAX", "check_data"]

Severity = Literal["info", "warning", "error"]

HASHED_SAMPLES_MAX = 100_000
CALIBRATION_MIN = 32
EVALUATION_MIN = 100
CLASS_MIN = 10
IMBALANCE_MAX = 50.0
DUPLICATES_MAX = 0.1
LEAKAGE_WARNING, LEAKAGE_ERROR = 0.01, 0.5
SCALE_MAX = 50.0
OUTSIDE_SHARE_MAX = 0.01
"""Share of evaluation values outside of the calibrated range that is remarkable…"""
OUTSIDE_FAR = 0.5
"""…or one value that is this much of the range outside."""
_PIXEL_MAX = 255
_SMALL = 1.5
_CHUNK_VALUES = 1_000_000
_LISTED = 8
_DETAIL_MAX = 500


@dataclass(frozen=True)
class _Range:
    """Of one input: smallest and largest value, largest magnitude, whether all are whole."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class _Subject:
    calibration: Samples | None
    evaluation: Samples | None
    classes: int | None
    classifies: bool

    def sets(self) -> Iterator[Samples]:
        for samples in (self.calibration, self.evaluation):
            if samples is not None:
                yield samples


def check_data(
    calibration: Samples | None,
    evaluation: Samples | None,
    *,
    classes: int | None = None,
    classifies: bool = True,
) -> tuple[DataCheckRow, ...]:
    """Return what is remarkable about the data, errors first.

    Args:
        calibration: or None.
        evaluation: or None.
        classes: how many the model has, None where it has no class scores.
        classifies: labels are classes, and not targets.
    """
    subject = _Subject(calibration, evaluation, classes, classifies)
    rows = [row for check in _CHECKS for row in check(subject)]
    order = ("error", "warning", "info")
    return tuple(sorted(rows, key=lambda row: order.index(row.severity)))


def _row(name: str, severity: Severity, detail: str, hint: str) -> DataCheckRow:
    return DataCheckRow(name=name, severity=severity, detail=detail[:_DETAIL_MAX], hint=hint)


# ---------------------------------------------------------------- how much


def _sizes(subject: _Subject) -> Iterator[DataCheckRow]:
    calibration, evaluation = subject.calibration, subject.evaluation
    if calibration is not None and calibration.count < CALIBRATION_MIN:
        yield _row(
            "few_calibration",
            "warning",
            f"{calibration.count} calibration samples; from fewer than {CALIBRATION_MIN} the "
            "ranges of activations are a guess.",
            "Calibrate with some hundred samples of what devices will see.",
        )
    if evaluation is not None and evaluation.count < EVALUATION_MIN:
        one = 100 / evaluation.count
        yield _row(
            "few_evaluation",
            "warning",
            f"{evaluation.count} evaluation samples: one sample is {one:.2g} points.",
            f"Evaluate with {EVALUATION_MIN} samples or more; thousands tell half a point apart.",
        )


# ---------------------------------------------------------------- labels


def _labels(subject: _Subject) -> Iterator[DataCheckRow]:
    """Class balance of the evaluation data."""
    samples = subject.evaluation
    if samples is None or samples.labels is None or not subject.classifies:
        return
    labels = samples.labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return
    names, counts = np.unique(labels, return_counts=True)
    if len(names) == 1:
        yield _row(
            "one_class",
            "error",
            f"All {samples.count} evaluation samples are of class {names[0]}: a model that says "
            "nothing else is perfect.",
            "Evaluate with samples of every class.",
        )
        return
    least, most = int(counts.argmin()), int(counts.argmax())
    ratio = counts[most] / counts[least]
    if counts[least] < CLASS_MIN or ratio >= IMBALANCE_MAX:
        small = int((counts < CLASS_MIN).sum())
        yield _row(
            "class_balance",
            "warning",
            f"{len(names)} classes; class {names[least]} has {counts[least]} samples and class "
            f"{names[most]} {counts[most]} ({ratio:.3g} times as many); {small} classes have fewer "
            f"than {CLASS_MIN}.",
            "Add samples of the small classes, or measure with --metric f1, which weighs classes "
            "alike.",
        )
    if subject.classes is not None:
        present = int(((names >= 0) & (names < subject.classes)).sum())
        if present < subject.classes:
            gone = sorted(set(range(subject.classes)) - {int(one) for one in names})
            shown = ", ".join(map(str, gone[:_LISTED])) + (" …" if len(gone) > _LISTED else "")
            yield _row(
                "missing_classes",
                "warning",
                f"{len(gone)} of {subject.classes} classes have no evaluation samples: {shown}.",
                "What quantization does to them is not measured: add samples of each.",
            )


# ---------------------------------------------------------------- samples that are there twice


def _hashes(samples: Samples) -> Array:
    """Return a hash a sample, over all its inputs: uint64 [n, 2], of at most the bound."""
    step = max(1, math.ceil(samples.count / HASHED_SAMPLES_MAX))
    arrays = [samples.inputs[name] for name in sorted(samples.inputs)]
    found = np.empty((math.ceil(samples.count / step), 2), dtype=np.uint64)
    for place, at in enumerate(range(0, samples.count, step)):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array[at]).data if array.ndim > 1 else array[at])
        found[place] = np.frombuffer(digest.digest(), dtype=np.uint64)
    return found


def _keys(hashes: Array) -> Array:
    return np.ascontiguousarray(hashes).view("V16").reshape(-1)


def _repetitions(subject: _Subject) -> Iterator[DataCheckRow]:
    """Duplicates within a set, and samples of the evaluation that calibrate."""
    keys = {samples.role: _keys(_hashes(samples)) for samples in subject.sets()}
    for role, own in keys.items():
        again = len(own) - len(np.unique(own))
        share = again / len(own)
        if share >= DUPLICATES_MAX:
            yield _row(
                "duplicates",
                "warning",
                f"{again} of {len(own)} {role} samples ({100 * share:.1f} %) are there before.",
                "Remove them: they count more than others.",
            )
    if len(keys) < 2:  # noqa: PLR2004
        return
    shared = int(np.isin(keys["evaluation"], keys["calibration"]).sum())
    if not shared:
        return
    count = len(keys["evaluation"])
    share = shared / count
    severity: Severity = "info"
    if share >= LEAKAGE_WARNING:
        severity = "error" if share >= LEAKAGE_ERROR else "warning"
    yield _row(
        "leakage",
        severity,
        f"{shared} of {count} evaluation samples ({100 * share:.1f} %) are in the calibration too.",
        "Evaluate with samples that calibration, and training, have not seen.",
    )


# ---------------------------------------------------------------- values


def _range(array: Array) -> _Range:
    return _Range(float(array.min()), float(array.max()))


def _parts(array: Array) -> Iterator[Array]:
    """Yield rows of about a million values together."""
    step = max(1, _CHUNK_VALUES // max(1, math.prod(array.shape[1:])))
    for at in range(0, array.shape[0], step):
        yield array[at : at + step]


def _constant(subject: _Subject) -> Iterator[DataCheckRow]:
    samples = subject.calibration
    if samples is None or samples.count < CALIBRATION_MIN:
        return
    for name, array in samples.inputs.items():
        same = np.asarray(array.min(axis=0) == array.max(axis=0))
        constant = int(same.sum())
        if constant:
            where = [list(map(int, at)) for at in np.argwhere(same)[:_LISTED]]
            yield _row(
                "constant_features",
                "info",
                f"{constant} of {same.size} values of input {name[:80]!r} are the same in all "
                f"{samples.count} calibration samples, such as at {where}.",
                "Check that no sensor was off; the model may rely on values that never came.",
            )


def _values(subject: _Subject) -> Iterator[DataCheckRow]:
    """Ranges of the two sets, input by input."""
    for name in next(iter(subject.sets()), Samples("random", {})).inputs:
        arrays = {samples.role: samples.inputs[name] for samples in subject.sets()}
        if any(array.dtype.kind == "b" or not array.size for array in arrays.values()):
            continue
        ranges = {role: _range(array) for role, array in arrays.items()}
        if len(ranges) == 2:  # noqa: PLR2004
            found = _scale(name, ranges["calibration"], ranges["evaluation"])
            if found is None:
                found = _outside(name, ranges["calibration"], arrays["evaluation"])
            if found is not None:
                yield found
        for role, array in arrays.items():
            if array.dtype.kind == "f" and _raw_pixels(ranges[role], array):
                yield _row(
                    "raw_pixels",
                    "info",
                    f"Input {name[:80]!r} takes floats, and the {role} data holds whole numbers "
                    f"from {ranges[role].low:g} to {ranges[role].high:g}.",
                    "Fine where the model scales pixels itself; otherwise scale as in training.",
                )


def _scale(name: str, calibrated: _Range, evaluated: _Range) -> DataCheckRow | None:
    smaller, larger = sorted((calibrated.largest, evaluated.largest))
    if larger == 0 or larger < SCALE_MAX * smaller:
        return None
    which = "evaluation" if evaluated.largest == larger else "calibration"
    ratio = "infinitely" if smaller == 0 else f"{larger / smaller:.3g} times"
    pixels = smaller <= _SMALL and _PIXEL_MAX / 2 <= larger <= _PIXEL_MAX + 1
    looks = " It looks like pixels 0 to 255 beside pixels 0 to 1." if pixels else ""
    return _row(
        "scale",
        "error",
        f"Input {name[:80]!r}: calibration has {calibrated.low:.4g} to {calibrated.high:.4g}, "
        f"evaluation {evaluated.low:.4g} to {evaluated.high:.4g}; the {which} data is {ratio} "
        f"larger.{looks}",
        "Prepare both sets as the model takes them: one of them is not scaled as the other.",
    )


def _outside(name: str, calibrated: _Range, array: Array) -> DataCheckRow | None:
    """Compare with the range of the whole input: activations are quantized by tensor."""
    below = above = 0
    for part in _parts(array):
        below += int((part < calibrated.low).sum())
        above += int((part > calibrated.high).sum())
    if not below + above:
        return None
    own = _range(array)
    width = calibrated.high - calibrated.low
    far = max(calibrated.low - own.low, own.high - calibrated.high)
    share = (below + above) / array.size
    relative = far / width if width > 0 else math.inf
    if share < OUTSIDE_SHARE_MAX and relative < OUTSIDE_FAR:
        return None
    shown = f"{100 * relative:.0f} % of the range" if math.isfinite(relative) else "the range is 0"
    return _row(
        "range",
        "warning",
        f"Input {name[:80]!r}: {100 * share:.2f} % of the evaluation values are outside of the "
        f"calibrated {calibrated.low:.4g} to {calibrated.high:.4g}; the farthest is {far:.4g} "
        f"beyond ({shown}).",
        "int8 clips what is outside: calibrate with samples of the whole range.",
    )


def _raw_pixels(seen: _Range, array: Array) -> bool:
    if seen.low < 0 or not _PIXEL_MAX / 2 <= seen.high <= _PIXEL_MAX:
        return False
    return all(bool((part == np.rint(part)).all()) for part in _parts(array))


_CHECKS: tuple[Callable[[_Subject], Iterator[DataCheckRow]], ...] = (
    _sizes,
    _labels,
    _repetitions,
    _constant,
    _values,
)
