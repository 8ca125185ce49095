"""In which row the answers of two models differ most, and how far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edgectl_agent.golden import compare
from edgectl_agent.runtime import Tensor
from edgectl_protocol.manifest import Tolerance

__all__ = [
    "Difference",
    "difference_of_classes",
    "difference_of_finite",
    "difference_of_numbers",
]

_FAR = 1e12
"""Of an answer that is not finite, or of another size."""


class Difference(NamedTuple):
    """The row of a request in which two models differ most."""

    row: int
    far: float
    """More is further; of classes the lesser confidence of the two."""


def difference_of_classes(
    ours: tuple[tuple[int, float], ...], theirs: tuple[tuple[int, float], ...], rows: int
) -> Difference | None:
    """Return where the best classes differ; None where they are the same.

    Args:
        ours: class and confidence, from `predictions_of`; perhaps several of each row.
        theirs: of the other model.
        rows: of the request.
    """
    if len(ours) != len(theirs):
        return Difference(0, _FAR)
    each = max(1, len(ours) // max(1, rows))
    found = [
        (min(own[1], other[1]), at // each)
        for at, (own, other) in enumerate(zip(ours, theirs, strict=True))
        if own[0] != other[0]
    ]
    if not found:
        return None
    far, row = max(found)
    return Difference(row, far)


def difference_of_numbers(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerances: Mapping[str, Tolerance]
) -> Difference | None:
    """Return where outputs differ by more than is tolerated; None where none does.

    Args:
        ours: outputs by name, which the tolerances are relative to.
        theirs: of the other model.
        tolerances: by output; others are not compared.

    Returns:
        The furthest row, with its largest difference in units of what is tolerated.
    """
    furthest: Difference | None = None
    for name, tolerance in tolerances.items():
        if name not in ours:
            return Difference(0, _FAR)
        if compare(theirs[name], ours[name], tolerance)[0]:
            continue
        found = _furthest(theirs[name], ours[name], tolerance)
        if furthest is None or found.far > furthest.far:
            furthest = found
    return furthest


def difference_of_finite(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Difference:
    """Return the first row in which one model answers with a number and the other does not."""
    for name in ours.keys() & theirs.keys():
        one, other = ours[name], theirs[name]
        if one.shape == other.shape and one.dtype.kind == other.dtype.kind == "f" and one.ndim:
            unlike = (np.isfinite(one) != np.isfinite(other)).reshape(len(one), -1).any(axis=1)
            if unlike.any():
                return Difference(int(unlike.argmax()), _FAR)
    return Difference(0, _FAR)


def _furthest(got: Tensor, wanted: Tensor, tolerance: Tolerance) -> Difference:
    if got.shape != wanted.shape or got.dtype.kind in "OUS" or not got.ndim or not len(got):
        return Difference(0, _FAR)
    left = got.reshape(len(got), -1).astype(np.float64)
    right = wanted.reshape(len(wanted), -1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        allowed = tolerance.atol + tolerance.rtol * np.abs(right)
        far = np.where(left == right, 0.0, np.abs(left - right) / np.maximum(allowed, 1e-12))
    of_rows = np.nan_to_num(far, nan=_FAR, posinf=_FAR).max(axis=1)
    row = int(of_rows.argmax())
    return Difference(row, min(float(of_rows[row]), _FAR))
