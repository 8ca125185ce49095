"""A variant beside fp32, sample by sample and class by class. Pure, on the classes they name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgectl_server.pipeline.metrics import NotMeasurable
from edgectl_server.pipeline.spec import Disagreement

__all__ = [
    "CONFUSION_CLASSES_MAX",
    "RecallDrop",
    "confusion",
    "largest_recall_drop",
    "top_disagreements",
]

Array = npt.NDArray[Any]
Classes = npt.NDArray[np.int64]

CONFUSION_CLASSES_MAX = 64
DISAGREEMENTS_MAX = 20
SAMPLES_MIN = 10
"""Of a class: with fewer, one sample is more than ten points of its recall."""


class RecallDrop(NamedTuple):
    """The class that a variant has lost the most of."""

    points: float
    label: int
    samples: int
    skipped: int
    """Classes with too few samples to say."""


def largest_recall_drop(
    labels: Classes, before: Classes, after: Classes, *, samples_min: int = SAMPLES_MIN
) -> RecallDrop:
    """Return the largest loss of recall of a class, in points; negative where all have gained.

    The recall of a class is the share of its samples that are named as it.

    Args:
        labels: true class of each sample, int64 [N].
        before: what fp32 names.
        after: what the variant names.
        samples_min: classes of fewer samples are left out.

    Raises:
        NotMeasurable: no class has as many samples.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    enough = counts >= samples_min
    if not enough.any():
        raise NotMeasurable(f"no class has {samples_min} samples or more")
    right_before = np.bincount(index[before == labels], minlength=len(classes))
    right_after = np.bincount(index[after == labels], minlength=len(classes))
    lost = np.where(enough, 100.0 * (right_before - right_after) / counts, -np.inf)
    worst = int(lost.argmax())
    return RecallDrop(
        points=float(lost[worst]),
        label=int(classes[worst]),
        samples=int(counts[worst]),
        skipped=int((~enough).sum()),
    )


def confusion(labels: Classes, named: Classes, classes: int) -> tuple[tuple[int, ...], ...] | None:
    """Return how often which class was named: a row a true class, a column a named one.

    None with more than `CONFUSION_CLASSES_MAX` classes, and where a class is outside of them.
    """
    if not 0 < classes <= CONFUSION_CLASSES_MAX:
        return None
    if any(one.size and (one.min() < 0 or one.max() >= classes) for one in (labels, named)):
        return None
    counts = np.bincount(labels * classes + named, minlength=classes * classes)
    return tuple(tuple(int(one) for one in row) for row in counts.reshape(classes, classes))


def top_disagreements(
    before: Array, after: Array, labels: Classes | None, rows: Classes | None = None
) -> tuple[Disagreement, ...]:
    """Return the samples whose class has changed, those first that fp32 was surest of.

    How sure it was is the lead of its best score over the score of what the variant says.

    Args:
        before: class scores of fp32, float [N, C].
        after: those of the variant.
        labels: true classes, or None.
        rows: index of each sample in the file, if they were drawn from it.
    """
    said, says = before.argmax(axis=1), after.argmax(axis=1)
    changed = np.flatnonzero(said != says)
    lead = before[changed, said[changed]].astype(np.float64) - before[changed, says[changed]]
    order = changed[np.argsort(-lead, kind="stable")][:DISAGREEMENTS_MAX]
    return tuple(
        Disagreement(
            index=int(at if rows is None else rows[at]),
            label=None if labels is None else int(labels[at]),
            reference_class=int(said[at]),
            reference_score=round(float(before[at, said[at]]), 6),
            variant_class=int(says[at]),
            variant_score=round(float(after[at, says[at]]), 6),
        )
        for at in order
    )
