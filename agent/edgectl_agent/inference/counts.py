"""Counts of what a model has served: numbers that add up, never rows.

A request counts when it has reached the model: one that was refused because it is outside the
contract says nothing about the model and is counted apart. Latency is that of the model's run
alone, as in the trial. One `Counts` belongs to one loaded model, so that no window ever mixes two
digests.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

import numpy as np

from edgectl_agent.inference.control import SlotHealth, Tally
from edgectl_agent.runtime import Tensor
from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US, bin_of
from edgectl_protocol.manifest import BundleConfig

__all__ = ["Counts"]

CLASSES_MAX = 1024
"""Models with more classes are counted without them."""
ROWS_MAX = 256
"""Rows of one request whose classes are counted."""
_PLAIN_ELEMENTS_MAX = 64
"""Up to here plain Python is faster than NumPy's calls."""


class Counts:
    """Counters of one loaded model; safe to use from several threads."""

    def __init__(self, config: BundleConfig) -> None:
        self._scores = config.scores
        self._outputs = tuple(
            spec.name for spec in config.outputs if spec.datatype in {"FP16", "FP32", "FP64"}
        )
        self._lock = threading.Lock()
        self._totals = [0, 0, 0]
        self._begin()

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._window = [0, 0, 0]
        self._refused = 0
        self._latency = [0] * (len(LATENCY_EDGES_US) + 1)
        self._confidence = [0] * (len(CONFIDENCE_EDGES) + 1)
        self._classes: list[int] = []

    def failed(self) -> None:
        """Count a request that the model did not answer."""
        with self._lock:
            for counts in (self._totals, self._window):
                counts[0] += 1
                counts[1] += 1

    def refused(self) -> None:
        """Count a request that is outside the contract."""
        with self._lock:
            self._refused += 1

    def served(self, latency_us: float, outputs: Mapping[str, Tensor]) -> bool:
        """Count an answered request and say whether all of its outputs are finite."""
        finite = all(_finite(outputs[name]) for name in self._outputs)
        predictions = self._predictions(outputs) if finite else ()
        with self._lock:
            self._totals[0] += 1
            self._window[0] += 1
            if not finite:
                self._totals[2] += 1
                self._window[2] += 1
            self._latency[bin_of(LATENCY_EDGES_US, latency_us)] += 1
            for index, confidence in predictions:
                self._confidence[bin_of(CONFIDENCE_EDGES, confidence)] += 1
                if index >= len(self._classes):
                    self._classes.extend([0] * (index + 1 - len(self._classes)))
                self._classes[index] += 1
        return finite

    def add(self, tally: Tally) -> None:
        """Add counts that were made elsewhere, such as in an application's own process."""
        with self._lock:
            for counts in (self._totals, self._window):
                counts[0] += tally.requests
                counts[1] += tally.errors
                counts[2] += tally.non_finite
            self._refused += tally.refused
            for ours, theirs in (
                (self._latency, tally.latency),
                (self._confidence, tally.confidence),
            ):
                for place, count in enumerate(theirs):
                    ours[place] += count
            self._classes.extend([0] * (len(tally.classes) - len(self._classes)))
            for place, count in enumerate(tally.classes):
                self._classes[place] += count

    def totals(self, manifest: str) -> SlotHealth:
        """Return the counts since loading, of the model with that manifest."""
        with self._lock:
            requests, errors, non_finite = self._totals
        return SlotHealth(
            manifest=manifest, requests=requests, errors=errors, non_finite=non_finite
        )

    def take(self) -> Tally:
        """Return the window's counts and begin the next window."""
        with self._lock:
            tally = Tally(
                age_s=time.monotonic() - self._since,
                requests=self._window[0],
                errors=self._window[1],
                non_finite=self._window[2],
                refused=self._refused,
                latency=tuple(self._latency),
                confidence=tuple(self._confidence) if self._scores else (),
                classes=tuple(self._classes),
            )
            self._begin()
        return tally

    def _predictions(self, outputs: Mapping[str, Tensor]) -> tuple[tuple[int, float], ...]:
        """Return (class, confidence) of each row of scores; nothing where there are no scores."""
        if self._scores is None:
            return ()
        scores = outputs.get(self._scores.output)
        if scores is None or scores.ndim == 0 or not 0 < scores.shape[-1] <= CLASSES_MAX:
            return ()
        if scores.dtype.kind in "iu":
            scores = self._scores.scale * (scores.astype(np.float64) - self._scores.zero_point)
        softmax = self._scores.kind == "logits"
        if scores.size == scores.shape[-1] <= _PLAIN_ELEMENTS_MAX:
            return (_prediction(scores.ravel().tolist(), softmax=softmax),)
        rows = scores.reshape(-1, scores.shape[-1])[:ROWS_MAX].astype(np.float64)
        indexes = rows.argmax(axis=1)
        best = rows.max(axis=1)
        if softmax:
            best = 1.0 / np.exp(rows - best[:, np.newaxis]).sum(axis=1)
        return tuple(zip(indexes.tolist(), best.tolist(), strict=True))


def _prediction(scores: list[float], *, softmax: bool) -> tuple[int, float]:
    best = max(scores)
    index = scores.index(best)
    if softmax:
        return index, 1.0 / sum([math.exp(score - best) for score in scores])
    return index, best


def _finite(array: Tensor) -> bool:
    # The sum of finite numbers may overflow: it decides only when it is finite itself.
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(array.sum()) or bool(np.isfinite(array).all())
