"""Counts of what a model has served: numbers that add up, never rows.

A request counts when it has reached the model: one that was refused because it is outside the
contract says nothing about the model and is counted apart. Latency is that of the model's run
alone, as in the trial. One `Counts` belongs to one loaded model, so that no window ever mixes two
digests. Copies of requests are no requests: they are counted by `edgectl_agent.inference.mirror`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from itertools import zip_longest

import numpy as np

from edgectl_agent.core.evidence import Evidence
from edgectl_agent.inference.control import Tally
from edgectl_agent.inference.tensors import all_finite
from edgectl_agent.runtime import Tensor
from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US, bin_of
from edgectl_protocol.manifest import BundleConfig, Scores

__all__ = ["Counts", "predictions_of"]

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
        self._only_scores = config.scores is not None and self._outputs == (config.scores.output,)
        self._lock = threading.Lock()
        self._before: Tally | None = None
        """Of the windows that have ended, since the model began to serve."""
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
            self._window[0] += 1
            self._window[1] += 1

    def refused(self) -> None:
        """Count a request that is outside the contract."""
        with self._lock:
            self._refused += 1

    def served(
        self,
        latency_us: float,
        outputs: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None,
    ) -> bool:
        """Count an answered request and say whether all of its outputs are finite.

        Outputs that are not finite count against the model only if its inputs are: a NaN that an
        application has sent must not take a sound model away.
        """
        finite, predictions = self._look(outputs)
        blamed = not finite and all(
            all_finite(array) for array in (inputs or {}).values() if array.dtype.kind == "f"
        )
        latency_bin = bin_of(LATENCY_EDGES_US, latency_us)
        with self._lock:
            self._window[0] += 1
            if blamed:
                self._window[2] += 1
            self._latency[latency_bin] += 1
            for index, confidence in predictions:
                self._confidence[bin_of(CONFIDENCE_EDGES, confidence)] += 1
                if index >= len(self._classes):
                    self._classes.extend([0] * (index + 1 - len(self._classes)))
                self._classes[index] += 1
        return finite

    def _look(self, outputs: Mapping[str, Tensor]) -> tuple[bool, tuple[tuple[int, float], ...]]:
        """Say whether all outputs are finite, and what they predict."""
        if self._only_scores and self._scores is not None:
            scores = outputs[self._scores.output]
            if scores.ndim and 0 < scores.size == scores.shape[-1] <= _PLAIN_ELEMENTS_MAX:
                values = scores.ravel().tolist()  # once for both: most requests are of this kind
                if not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):
                    return False, ()
                return True, (_prediction(values, softmax=self._scores.kind == "logits"),)
        finite = self.finite(outputs)
        return finite, predictions_of(outputs, self._scores) if finite else ()

    def finite(self, outputs: Mapping[str, Tensor]) -> bool:
        """Say whether all outputs are finite."""
        return all(all_finite(outputs[name]) for name in self._outputs)

    def add(self, tally: Tally) -> None:
        """Add counts that were made elsewhere, such as in an application's own process."""
        with self._lock:
            self._window[0] += tally.requests
            self._window[1] += tally.errors
            self._window[2] += tally.non_finite
            self._refused += tally.refused
            self._latency = list(_added(tuple(self._latency), tally.latency))
            self._confidence = list(_added(tuple(self._confidence), tally.confidence))
            self._classes = list(_added(tuple(self._classes), tally.classes))

    def totals(self, manifest: str) -> Evidence:
        """Return the counts since the model of that manifest began to serve."""
        with self._lock:
            total = _sum(self._before, self._tally())
        return Evidence(
            manifest=manifest,
            requests=total.requests,
            errors=total.errors,
            non_finite=total.non_finite,
            latency=total.latency,
            classes=total.classes,
        )

    def restart(self) -> None:
        """Count anew for `totals`: the model begins to serve. The window goes on."""
        with self._lock:
            self._before = _negative(self._tally())

    def take(self) -> Tally:
        """Return the window's counts and begin the next window."""
        with self._lock:
            tally = self._tally()
            self._before = _sum(self._before, tally)
            self._begin()
        return tally

    def _tally(self) -> Tally:
        return Tally(
            age_s=time.monotonic() - self._since,
            requests=self._window[0],
            errors=self._window[1],
            non_finite=self._window[2],
            refused=self._refused,
            latency=tuple(self._latency),
            confidence=tuple(self._confidence) if self._scores else (),
            classes=tuple(self._classes),
        )


def predictions_of(
    outputs: Mapping[str, Tensor], described: Scores | None
) -> tuple[tuple[int, float], ...]:
    """Return (class, confidence) of each row of scores; nothing where there are no scores."""
    if described is None:
        return ()
    scores = outputs.get(described.output)
    if scores is None or scores.ndim == 0 or not 0 < scores.shape[-1] <= CLASSES_MAX:
        return ()
    if scores.dtype.kind in "iu":
        scores = described.scale * (scores.astype(np.float64) - described.zero_point)
    softmax = described.kind == "logits"
    if scores.size == scores.shape[-1] <= _PLAIN_ELEMENTS_MAX:
        return (_prediction(scores.ravel().tolist(), softmax=softmax),)
    rows = scores.reshape(-1, scores.shape[-1])[:ROWS_MAX].astype(np.float64)
    indexes = rows.argmax(axis=1)
    best = rows.max(axis=1)
    if softmax:
        best = 1.0 / np.exp(rows - best[:, np.newaxis]).sum(axis=1)
    return tuple(zip(indexes.tolist(), best.tolist(), strict=True))


def _sum(before: Tally | None, tally: Tally) -> Tally:
    """Add two tallies; classes that only one of them knows count as zero in the other."""
    if before is None:
        return tally
    return Tally(
        age_s=before.age_s + tally.age_s,
        requests=before.requests + tally.requests,
        errors=before.errors + tally.errors,
        non_finite=before.non_finite + tally.non_finite,
        refused=before.refused + tally.refused,
        latency=_added(before.latency, tally.latency),
        confidence=_added(before.confidence, tally.confidence),
        classes=_added(before.classes, tally.classes),
    )


def _negative(tally: Tally) -> Tally:
    """Return what takes `tally` away when it is added."""
    return Tally(
        age_s=-tally.age_s,
        requests=-tally.requests,
        errors=-tally.errors,
        non_finite=-tally.non_finite,
        refused=-tally.refused,
        latency=tuple(-count for count in tally.latency),
        confidence=tuple(-count for count in tally.confidence),
        classes=tuple(-count for count in tally.classes),
    )


def _added(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(left, right, fillvalue=0)))


def _prediction(scores: list[float], *, softmax: bool) -> tuple[int, float]:
    best = max(scores)
    index = scores.index(best)
    if softmax:
        return index, 1.0 / sum([math.exp(score - best) for score in scores])
    return index, best
