"""Counts of one model in an application's process: as `inference.counts`, for a microsecond.

Rules:

* A prediction pays for what cannot wait: whether a small output is finite, found on a list, because
  for some ten numbers plain Python is faster than NumPy's calls. The rest, class, confidence and
  bins, is worked out later, for many predictions at once.
* Large outputs are counted at once, so that no array of the application's is kept.
* Counts are taken out for the hub, and put back when it could not be told.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from edgectl_agent.inference.hub_messages import Counted
from edgectl_agent.sdk.prediction import Row, classes_of, rows_of
from edgectl_agent.session import DTYPES, Tensor
from edgectl_protocol.histograms import CONFIDENCE_EDGES, LATENCY_EDGES_US
from edgectl_protocol.manifest import BundleConfig

__all__ = ["Counting", "rows_of"]

_LATENCY_EDGES_NS = np.array(LATENCY_EDGES_US) * 1000
_CONFIDENCE_EDGES = np.array(CONFIDENCE_EDGES)
_LATENCY_BINS = len(LATENCY_EDGES_US) + 1
_CONFIDENCE_BINS = len(CONFIDENCE_EDGES) + 1
_SMALL = 64
_PENDING_MAX = 256
"""Small predictions that wait to be counted; then one of them pays for all, some 100 µs."""
_FLOATS = frozenset({"FP16", "FP32", "FP64"})

Seen = list[float] | tuple[Row, ...]
"""Scores of one row, or the rows as they have been worked out."""


class Counting:
    """Counters of one loaded model; safe to use from several threads."""

    def __init__(self, manifest: str, config: BundleConfig) -> None:
        self.manifest = manifest
        self._scores = config.scores
        self._score_output = config.scores.output if config.scores is not None else ""
        self._small, self._dtype = _small_scores(config)
        self._floats = tuple(
            spec.name
            for spec in config.outputs
            if spec.datatype in _FLOATS and spec.name != self._score_output
        )
        self._lock = threading.Lock()
        self._pending: list[tuple[int, bytes]] = []
        """Latency and the bytes of the scores: a copy, and the cheapest one."""
        self._zero()

    def _zero(self) -> None:
        self._requests = self._errors = self._non_finite = self._refused = 0
        self._latency = np.zeros(_LATENCY_BINS, np.int64)
        self._confidence = np.zeros(_CONFIDENCE_BINS, np.int64)
        self._classes = np.zeros(0, np.int64)

    def served(self, latency_ns: int, outputs: Mapping[str, Tensor]) -> Seen | None:
        """Count an answer.

        Args:
            latency_ns: of the model's run alone.
            outputs: by name.

        Returns:
            What is known of its scores; None where an output is not finite.
        """
        for name in self._floats:
            if not _finite(outputs[name]):
                self._unsound(latency_ns)
                return None
        if self._scores is None:
            return self._sound(latency_ns, ())
        array = outputs[self._score_output]
        if array.size == self._small:
            values: list[float] = array.ravel().tolist()
            if not isfinite(sum(values)) and not all(map(isfinite, values)):
                self._unsound(latency_ns)
                return None
            self._pending.append((latency_ns, array.tobytes()))
            if len(self._pending) >= _PENDING_MAX:
                with self._lock:
                    self._work_off()
            return values
        if array.dtype.kind == "f" and not _finite(array):
            self._unsound(latency_ns)
            return None
        return self._sound(latency_ns, rows_of(self._scores, array))

    def failed(self) -> None:
        """Count a request that the model did not answer."""
        with self._lock:
            self._requests += 1
            self._errors += 1

    def refused(self) -> None:
        """Count a request that is outside the contract."""
        with self._lock:
            self._refused += 1

    def take(self) -> Counted | None:
        """Return the counts since the last call and begin anew; None where there are none."""
        with self._lock:
            self._work_off()
            if not self._requests and not self._refused:
                return None
            counted = Counted(
                manifest=self.manifest,
                requests=self._requests,
                errors=self._errors,
                non_finite=self._non_finite,
                refused=self._refused,
                latency=tuple(self._latency.tolist()),
                confidence=tuple(self._confidence.tolist()) if self._scores is not None else (),
                classes=tuple(self._classes.tolist()),
            )
            self._zero()
        return counted

    def put_back(self, counted: Counted) -> None:
        """Take back what could not be told."""
        with self._lock:
            self._requests += counted.requests
            self._errors += counted.errors
            self._non_finite += counted.non_finite
            self._refused += counted.refused
            self._latency += counted.latency
            if counted.confidence:
                self._confidence += counted.confidence
            self._add_classes(np.array(counted.classes, np.int64))

    def _sound(self, latency_ns: int, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        with self._lock:
            self._requests += 1
            self._latency[np.searchsorted(_LATENCY_EDGES_NS, latency_ns, "right")] += 1
            if rows:
                self._add_rows(np.array([row[0] for row in rows]), [row[1] for row in rows])
        return rows

    def _unsound(self, latency_ns: int) -> None:
        with self._lock:
            self._requests += 1
            self._non_finite += 1
            self._latency[np.searchsorted(_LATENCY_EDGES_NS, latency_ns, "right")] += 1

    def _work_off(self) -> None:
        """Count what is pending, under the lock; others may append meanwhile, to the same list."""
        count = len(self._pending)
        if not count:
            return
        latencies, scores = zip(*self._pending[:count], strict=True)
        del self._pending[:count]
        self._requests += count
        places = np.searchsorted(_LATENCY_EDGES_NS, latencies, "right")
        self._latency += np.bincount(places, minlength=_LATENCY_BINS)
        assert self._scores is not None
        rows = np.frombuffer(b"".join(scores), self._dtype).reshape(count, self._small)
        self._add_rows(*classes_of(self._scores, rows))

    def _add_rows(self, indexes: Tensor, confidences: Tensor | list[float]) -> None:
        places = np.searchsorted(_CONFIDENCE_EDGES, confidences, "right")
        self._confidence += np.bincount(places, minlength=_CONFIDENCE_BINS)
        self._add_classes(np.bincount(indexes))

    def _add_classes(self, classes: Tensor) -> None:
        if len(classes) > len(self._classes):
            self._classes = np.pad(self._classes, (0, len(classes) - len(self._classes)))
        self._classes[: len(classes)] += classes


def _small_scores(config: BundleConfig) -> tuple[int, np.dtype[Any]]:
    """Return how many scores one row has, if they are few floats, 0 otherwise, and their type."""
    for spec in config.outputs:
        if config.scores is not None and spec.name == config.scores.output:
            small = spec.datatype in _FLOATS and spec.shape and 0 < spec.shape[-1] <= _SMALL
            return spec.shape[-1] if small else 0, DTYPES[spec.datatype]
    return 0, np.dtype(np.float64)


def _finite(array: Tensor) -> bool:
    if array.size <= _SMALL:
        values = array.ravel().tolist()
        return isfinite(sum(values)) or all(map(isfinite, values))
    return bool(np.isfinite(array).all())
