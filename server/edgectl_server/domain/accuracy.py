"""How often is a model right where nobody says what is true? Estimated from counts alone.

Two assumptions, each with its own estimate, because either fails where the other may hold:

1. **Sureness means what it meant.** For each bin of confidence the signed reference knows how many
   rows were right; the share of the live answers in each bin times that is the expected accuracy
   (NannyML's Confidence-based Performance Estimation, calibrated by isotonic regression: Zadrozny
   and Elkan, KDD 2002). It is blind to a model that errs and is sure.
2. **Classes are as frequent as they were.** By the coupling inequality, the share of answers that
   have changed is at least the total variation between both mixes of answers: so many of those that
   were right may be wrong now. It takes a fleet that sees more nights than before for one that
   errs.

The interval is of the first one: what the reference leaves open about each bin, and that the rows
are a sample. Neighbouring rows resemble one another, and count for fewer (`domain.drift`). Rows of
bins that the reference has never seen may be right or wrong: they widen it to both sides.

An accuracy has fallen where an estimate lies more than `AccuracyLimits.drop` below the reference's,
and the counts that it is made of have changed by more than chance: sureness or classes, judged as
drift is (`domain.drift`), within one budget of false alarms. By the second assumption only sites
and the fleet are judged: single devices have mixes of their own.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_protocol.watching import Feature, Reference
from edgectl_server.domain.drift import (
    CLASSES,
    DriftState,
    Judged,
    Level,
    Limits,
    Window,
    evaluate,
    next_state,
)

__all__ = [
    "AccuracyJudged",
    "AccuracyLimits",
    "AccuracyState",
    "Calibration",
    "Estimate",
    "Unknown",
    "calibration_of",
    "judge_accuracy",
    "next_accuracy_state",
]

AccuracyState = Literal["unknown", "good", "suspected", "low", "recovering"]
Unknown = Literal["", "labels", "rows", "unseen"]
"""Why there is no estimate: no labels at push, too few rows, rows the reference has never seen."""
Cause = Literal["", "confidence", "classes"]
"""By which assumption the accuracy has fallen."""

CONFIDENCE = "confidence"
BINS = len(CONFIDENCE_EDGES) + 1
_Z = NormalDist().inv_cdf(0.975)
"""Of the interval: 95 %."""
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AccuracyLimits:
    """What is a fall.

    Attributes:
        drop: of the accuracy, from which on it is of interest.
        false_alarms: chance of any in an evaluation without any change.
        rows: with fewer rows a group is not judged.
        reference_rows: nothing is estimated by a reference of fewer labelled rows.
        unseen: largest share of rows in bins that the reference has never seen.
    """

    drop: float = 0.05
    false_alarms: float = 0.01
    rows: int = 100
    reference_rows: int = 100
    unseen: float = 0.1


@dataclass(frozen=True)
class Calibration:
    """What sureness means, by the reference.

    Attributes:
        seen: rows by bin of confidence.
        right: those of them that were right.
        shares: how often a row of each bin is right, never falling with confidence.
        weights: independent rows that each share is known from.
        effect: how many rows of the reference are worth one independent row.
    """

    seen: Numbers
    right: Numbers
    shares: Numbers
    weights: Numbers
    effect: float

    @property
    def accuracy(self) -> float:
        """Of the reference itself."""
        return float(self.right.sum() / self.seen.sum())


@dataclass(frozen=True)
class Estimate:
    """How often a model is right, as far as counts tell.

    Attributes:
        accuracy: if sureness means what it meant.
        low: lower end of the interval around it.
        high: upper end.
        by_classes: if classes are as frequent as they were.
        unseen: share of rows in bins that the reference has never seen.
    """

    accuracy: float
    low: float
    high: float
    by_classes: float
    unseen: float


@dataclass(frozen=True)
class AccuracyJudged:
    """One group.

    Attributes:
        level: which kind of group.
        group: the device, the site, or empty for the fleet.
        rows: answers with a class.
        fallen: whether it is right less often than it should; None: nobody can tell.
        cause: by which assumption.
        estimate: None where there is none.
        unknown: why there is none.
        confidence: rows by bin.
    """

    level: Level
    group: str
    rows: int
    fallen: bool | None
    cause: Cause = ""
    estimate: Estimate | None = None
    unknown: Unknown = ""
    confidence: tuple[int, ...] = field(default=())


def calibration_of(reference: Reference, rows_min: int = 1) -> Calibration | None:
    """Return what a reference says of sureness; None without labels, or with too few of them."""
    seen = np.array(reference.confidence, np.float64)
    right = np.array(reference.right, np.float64)
    fits = len(seen) == BINS and bool((right <= seen).all())
    if not fits or seen.sum() < max(1, rows_min) or not reference.classes:
        return None
    effect = next((one.design_effect for one in reference.features if one.name == CONFIDENCE), 1.0)
    shares, weights = _isotonic(seen, right)
    return Calibration(seen, right, shares, weights / effect, effect)


def judge_accuracy(
    reference: Reference, windows: Sequence[Window], limits: AccuracyLimits
) -> list[AccuracyJudged]:
    """Estimate the accuracy of every device, every site and the fleet, the fleet first.

    Args:
        reference: of the manifest.
        windows: of that manifest, of one stretch of time; `Window.histograms` holds one histogram,
            of the confidence on the edges of `edgectl_protocol.histograms`.
        limits: what is a fall.
    """
    calibration = calibration_of(reference, limits.reference_rows)
    asked = Limits(false_alarms=limits.false_alarms, rows=limits.rows)
    return [
        _judge(one, reference, calibration, limits)
        for one in evaluate(_of_confidence(reference), windows, asked)
    ]


def _judge(
    judged: Judged,
    reference: Reference,
    calibration: Calibration | None,
    limits: AccuracyLimits,
) -> AccuracyJudged:
    counts = judged.histograms[CONFIDENCE]
    unknown: Unknown = ""
    if calibration is None:
        unknown = "labels"
    elif judged.rows < limits.rows:
        unknown = "rows"
    elif float(counts[calibration.seen == 0].sum()) > limits.unseen * judged.rows:
        unknown = "unseen"
    told = tuple(counts.tolist())
    if unknown or calibration is None:
        return AccuracyJudged(
            judged.level, judged.group, judged.rows, None, unknown=unknown, confidence=told
        )
    shown = _estimate(calibration, counts, judged.effects[CONFIDENCE])
    apart = _apart(np.array(reference.classes), judged)
    by_classes = max(0.0, calibration.accuracy - apart)
    changed = {one.feature for one in judged.findings}
    least = calibration.accuracy - limits.drop
    cause: Cause = ""
    if shown[0] < least and CONFIDENCE in changed:
        cause = "confidence"
    elif judged.level != "device" and by_classes < least and CLASSES in changed:
        cause = "classes"
    unseen = float(counts[calibration.seen == 0].sum() / judged.rows)
    return AccuracyJudged(
        judged.level,
        judged.group,
        judged.rows,
        bool(cause),
        cause,
        Estimate(*shown, by_classes, unseen),
        confidence=told,
    )


def _estimate(
    calibration: Calibration, counts: npt.NDArray[np.int64], effect: float
) -> tuple[float, float, float]:
    """Return the expected accuracy, and both ends of the interval around it."""
    rows = float(counts.sum())
    mix = counts / rows
    shares, weights = calibration.shares, np.maximum(calibration.weights, 1e-9)
    accuracy = float((mix * shares).sum())
    # Between 0 and 1 even where all rows of a bin were right: one row of either kind is added.
    careful = (shares * weights + 1) / (weights + 2)
    of_reference = _pooled_variance(mix, careful, weights)
    of_sample = float((mix * careful * (1 - careful)).sum()) * effect / rows
    wide = _Z * math.sqrt(of_reference + of_sample)
    unseen = calibration.seen == 0
    down = float((mix * shares)[unseen].sum())
    up = float((mix * (1 - shares))[unseen].sum())
    return accuracy, max(0.0, accuracy - wide - down), min(1.0, accuracy + wide + up)


def _pooled_variance(mix: Numbers, shares: Numbers, weights: Numbers) -> float:
    """Return the variance that the reference's rows leave; bins of one share vary together."""
    starts = np.flatnonzero(np.diff(shares, prepend=-1.0))
    together = np.add.reduceat(mix, starts)
    share, weight = shares[starts], weights[starts]
    return float((together**2 * share * (1 - share) / weight).sum())


def _apart(old: npt.NDArray[np.int64], judged: Judged) -> float:
    """Return the total variation between two mixes of answers, less what chance adds to it.

    The mean of a normal deviation's size is sqrt(2 / pi) of its standard deviation; the variation
    is half of the sum over all classes.
    """
    new = judged.histograms[CLASSES]
    rows = max(1, old.sum()), max(1, new.sum())
    was, now = old / rows[0], new / rows[1]
    pooled = (old + new) / sum(rows)
    chance = 1 / rows[0] + judged.effects[CLASSES] / rows[1]
    noise = float(np.sqrt(pooled * (1 - pooled) * chance).sum()) * math.sqrt(2 / math.pi) / 2
    return max(0.0, float(np.abs(now - was).sum()) / 2 - noise)


def _isotonic(seen: Numbers, right: Numbers) -> tuple[Numbers, Numbers]:
    """Return the share of right rows by bin, never falling, and the rows each is known from.

    Pool adjacent violators (Barlow et al., Statistical Inference under Order Restrictions, 1972).
    Bins that were never seen go with the nearest one below them, else above.
    """
    pools: list[tuple[float, float, int]] = []  # rows, right ones, bins
    leading = 0
    for rows, good in zip(seen.tolist(), right.tolist(), strict=True):
        if not rows:
            if pools:
                pools[-1] = (pools[-1][0], pools[-1][1], pools[-1][2] + 1)
            else:
                leading += 1
            continue
        pools.append((rows, good, 1 + (leading if not pools else 0)))
        while len(pools) > 1 and pools[-2][1] * pools[-1][0] >= pools[-1][1] * pools[-2][0]:
            last = pools.pop()
            pools[-1] = (pools[-1][0] + last[0], pools[-1][1] + last[1], pools[-1][2] + last[2])
    bins = [count for _, _, count in pools]
    shares = np.repeat([good / rows for rows, good, _ in pools], bins)
    return shares, np.repeat([rows for rows, _, _ in pools], bins)


def _of_confidence(reference: Reference) -> Reference:
    """Return the reference of what telemetry counts of every answer: sureness and class."""
    seen = reference.confidence or (0,) * BINS
    known = [one for one in reference.features if one.name == CONFIDENCE]
    feature = Feature(
        name=CONFIDENCE,
        edges=CONFIDENCE_EDGES,
        counts=seen if len(seen) == BINS else (0,) * BINS,
        low=0.0,
        high=1.0,
        design_effect=known[0].design_effect if known else 1.0,
    )
    return Reference(
        definition=reference.definition,
        source=reference.source,
        dataset=reference.dataset,
        rows=reference.rows,
        inputs=(),
        features=(feature,),
        classes=reference.classes,
    )


_STATES: dict[DriftState, AccuracyState] = {
    "unknown": "unknown",
    "quiet": "good",
    "suspected": "suspected",
    "drifting": "low",
    "recovering": "recovering",
}
_AS_DRIFT: dict[AccuracyState, DriftState] = {mine: theirs for theirs, mine in _STATES.items()}


def next_accuracy_state(state: AccuracyState, *, fallen: bool | None) -> AccuracyState:
    """Return the state after an evaluation: two in a row decide, as of drift."""
    return _STATES[next_state(_AS_DRIFT[state], fallen)]
