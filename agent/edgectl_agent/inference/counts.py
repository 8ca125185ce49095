"""Counts of what a model has served: numbers that add up, never rows.

A request counts when it has reached the model: one that was refused because it is outside the
contract says nothing about the model and is counted apart. Latency is that of the model's run
alone, as in the trial. One `Counts` belongs to one loaded model, so that no window ever mixes two
digests. Copies of requests are no requests: they are counted by `edgectl_agent.inference.mirror`.

What most requests give, one row of few scores, is put aside and counted together with what follows:
that costs half of counting each by itself. Who reads the counts has all of them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
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
_ASIDE_MAX = 16


class Counts:
    """Counters of one loaded model; safe to use from several threads."""

    def __init__(self, config: BundleConfig) -> None:
        self._scores = config.scores
        self._outputs = tuple(
            spec.name for spec in config.outputs if spec.datatype in {"FP16", "FP32", "FP64"}
        )
        self._row = 0
        """How many scores one row has, where these are all that there is to look at; else 0."""
        if config.scores is not None and self._outputs == (config.scores.output,):
            shape = next(one.shape for one in config.outputs if one.name == config.scores.output)
            self._row = shape[-1] if shape and 0 < shape[-1] <= _PLAIN_ELEMENTS_MAX else 0
        self._aside: deque[tuple[float, list[float]]] = deque()
        """Latency and scores of answered requests that are not yet counted."""
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
        scores = self._finite_row(outputs)
        if scores is not None:
            self._aside.append((latency_us, scores))
            if len(self._aside) >= _ASIDE_MAX:
                with self._lock:
                    self._settle()
            return True
        finite = self.finite(outputs)
        predictions = predictions_of(outputs, self._scores) if finite else ()
        blamed = not finite and all(
            all_finite(array) for array in (inputs or {}).values() if array.dtype.kind == "f"
        )
        with self._lock:
            self._window[0] += 1
            if blamed:
                self._window[2] += 1
            self._latency[bin_of(LATENCY_EDGES_US, latency_us)] += 1
            self._add_predictions(predictions)
        return finite

    def _finite_row(self, outputs: Mapping[str, Tensor]) -> list[float] | None:
        """Return the scores, where they are one row of the contract's size, and all finite."""
        if not self._row or self._scores is None:
            return None
        array = outputs[self._scores.output]
        if array.size != self._row or array.shape[-1:] != (self._row,):
            return None
        scores: list[float] = array.ravel().tolist()
        if math.isfinite(sum(scores)) or all(map(math.isfinite, scores)):
            return scores
        return None

    def _settle(self) -> None:
        """Count what was put aside; the lock must be held."""
        assert self._scores is not None
        aside = [self._aside.popleft() for _ in range(len(self._aside))]
        if not aside:
            return
        self._window[0] += len(aside)
        for latency_us, _ in aside:
            self._latency[bin_of(LATENCY_EDGES_US, latency_us)] += 1
        rows = np.array([scores for _, scores in aside])
        self._add_predictions(_predictions(rows, softmax=self._scores.kind == "logits"))

    def _add_predictions(self, predictions: Iterable[tuple[int, float]]) -> None:
        for index, confidence in predictions:
            self._confidence[bin_of(CONFIDENCE_EDGES, confidence)] += 1
            if index >= len(self._classes):
                self._classes.extend([0] * (index + 1 - len(self._classes)))
            self._classes[index] += 1

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
        if self._aside:
            self._settle()
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
    return tuple(_predictions(rows, softmax=softmax))


def _predictions(rows: Tensor, *, softmax: bool) -> Iterator[tuple[int, float]]:
    """Return (class, confidence) of each row of scores, which are float64."""
    best = rows.max(axis=1)
    if softmax:
        best = 1.0 / np.exp(rows - best[:, np.newaxis]).sum(axis=1)
    return zip(rows.argmax(axis=1).tolist(), best.tolist(), strict=True)


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
