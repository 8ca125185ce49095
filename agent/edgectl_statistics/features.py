"""From the arrays of a model to the features of its reference, and to counts on its edges.

Order of features: of class scores confidence, margin (between the two largest) and entropy; then of
each described input, then of each described output. What is beyond `FEATURES_MAX` is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import Scores, TensorSpec
from edgectl_protocol.watching import BINS_MAX, FEATURES_MAX, WatchedFeature, WatchedTensor
from edgectl_statistics.tensors import Numbers, describe, names_of, watched_tensor

__all__ = ["Bins", "Described", "Plan", "plan_of"]

SCORE_FEATURES = ("confidence", "margin", "entropy")
CLASSES_MAX = 1024
OUTPUT_COLUMNS_MAX = 8
"""A model without class scores that answers with larger tables has them described as moments."""
EMBEDDING_MIN = 16
"""Numbers a row from which on an output is taken as an embedding."""
_SMALLEST = 1e-12
_TABLE_RANK = 2
Arrays = Mapping[str, npt.NDArray[Any]]


class Described(NamedTuple):
    """Rows as numbers.

    Attributes:
        values: float64 [N, features]; NaN where there is no number.
        classes: int64 [N], the class of each row, of a model with class scores; else empty.
    """

    values: Numbers
    classes: npt.NDArray[np.int64]


class Plan(NamedTuple):
    """What of a model is described.

    Attributes:
        inputs: which of its inputs.
        outputs: which of its outputs; of a model with class scores its embeddings alone.
        scores: its class scores; None where it has none, or more classes than are counted.
    """

    inputs: tuple[WatchedTensor, ...]
    outputs: tuple[WatchedTensor, ...]
    scores: Scores | None

    def names(self, inputs: Arrays, outputs: Arrays) -> tuple[str, ...]:
        """Return the names of the features, given arrays of rows of this model."""
        names = list(SCORE_FEATURES) if self.scores is not None else []
        for tensors, arrays in ((self.inputs, inputs), (self.outputs, outputs)):
            for one in tensors:
                names += names_of(one, arrays[one.name].shape[1:])
        return tuple(names[:FEATURES_MAX])

    def describe(self, inputs: Arrays, outputs: Arrays) -> Described:
        """Describe rows.

        Args:
            inputs: [N, ...] by name.
            outputs: [N, ...] by name, the answers to them.
        """
        parts: list[Numbers] = []
        classes = np.zeros(0, np.int64)
        if self.scores is not None:
            described, classes = _of_scores(outputs[self.scores.output], self.scores)
            parts.append(described)
        parts += [describe(one, inputs[one.name]) for one in self.inputs]
        parts += [describe(one, outputs[one.name]) for one in self.outputs]
        values = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        values = values[:, :FEATURES_MAX]
        values[~np.isfinite(values)] = np.nan
        return Described(values, classes)


def plan_of(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], scores: Scores | None
) -> Plan | None:
    """Say what of a model is described; None where nothing can be."""
    given = [watched_tensor(one.name, one.shape[1:], one.datatype) for one in inputs]
    watched_inputs = tuple(one for one in given if one is not None)
    by_name = {one.name: one for one in outputs}
    if scores is not None and not 1 < by_name[scores.output].shape[-1] <= CLASSES_MAX:
        scores = None
    numbers = [
        _watched_output(one)
        for one in outputs
        if one.datatype in {"FP16", "FP32", "FP64"} and len(one.shape) > 1
    ]
    watched_outputs = tuple(
        one
        for one in numbers
        if scores is None or (one.kind == "embedding" and one.name != scores.output)
    )
    if scores is None and not watched_inputs and not watched_outputs:
        return None
    return Plan(watched_inputs, watched_outputs, scores)


def _watched_output(spec: TensorSpec) -> WatchedTensor:
    columns = spec.shape[1] if len(spec.shape) == _TABLE_RANK else 0
    if columns >= EMBEDDING_MIN:
        return WatchedTensor(name=spec.name, kind="embedding")
    table = 0 < columns <= OUTPUT_COLUMNS_MAX
    return WatchedTensor(name=spec.name, kind="tabular" if table else "moments")


def _of_scores(array: npt.NDArray[Any], scores: Scores) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """Return confidence, margin and entropy (in nats) of each row, and its class."""
    rows = array.reshape(len(array), -1)[:, : array.shape[-1]].astype(np.float64)
    if array.dtype.kind in "iu":
        rows = scores.scale * (rows - scores.zero_point)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if scores.kind == "logits":
            rows = np.exp(rows - rows.max(axis=1, keepdims=True))
        shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), _SMALLEST)
        best = np.partition(shares, -2, axis=1)[:, -2:]
        logarithms = np.log(np.clip(shares, _SMALLEST, None))
        entropy = -(shares * logarithms).sum(axis=1)
    found = np.stack([best[:, 1], best[:, 1] - best[:, 0], entropy], axis=1)
    return found, shares.argmax(axis=1)


class Bins:
    """Counts values of all features at once, on the edges of a reference."""

    def __init__(self, features: Sequence[WatchedFeature]) -> None:
        count = len(features)
        self._edges = np.full((count, BINS_MAX - 1), np.inf)
        self._low = np.array([one.low for one in features])
        self._high = np.array([one.high for one in features])
        self._sizes = [len(one.edges) + 1 for one in features]
        for row, one in zip(self._edges, features, strict=True):
            row[: len(one.edges)] = one.edges
        self._first = np.arange(count) * BINS_MAX
        self.counts: npt.NDArray[np.int64]
        self.missing: npt.NDArray[np.int64]
        self.outside: npt.NDArray[np.int64]
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.counts = np.zeros(self._edges.shape[0] * BINS_MAX, np.int64)
        self.missing = np.zeros(self._edges.shape[0], np.int64)
        self.outside = np.zeros(self._edges.shape[0], np.int64)

    def add(self, values: Numbers) -> None:
        """Count rows, [N, features]."""
        places = (values[:, :, np.newaxis] >= self._edges).sum(axis=2)  # a NaN is above nothing
        places += self._first
        nowhere = np.isnan(values)
        if nowhere.any():
            self.missing += nowhere.sum(axis=0)
            places = places[~nowhere]
        self.counts += np.bincount(places.ravel(), minlength=len(self.counts))
        self.outside += ((values < self._low) | (values > self._high)).sum(axis=0)

    def add_counts(
        self,
        histograms: Sequence[Sequence[int]],
        missing: Sequence[int],
        outside: Sequence[int],
    ) -> None:
        """Add counts of the same features; `missing` and `outside` may be empty."""
        for first, histogram in zip(self._first.tolist(), histograms, strict=True):
            self.counts[first : first + len(histogram)] += np.asarray(histogram, np.int64)
        if missing:
            self.missing += np.asarray(missing, np.int64)
        if outside:
            self.outside += np.asarray(outside, np.int64)

    def histograms(self) -> tuple[tuple[int, ...], ...]:
        """Return the counts of each feature, one more than it has edges."""
        rows = self.counts.reshape(-1, BINS_MAX).tolist()
        return tuple(tuple(row[:size]) for row, size in zip(rows, self._sizes, strict=True))
