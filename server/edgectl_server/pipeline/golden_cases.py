"""Which samples become golden cases: those that show a wrong model, chosen from the fp32 outputs.

A device replays a few cases and has to decide by them whether the file that came is the model that
was meant. Random samples of a good classifier are mostly easy and mostly of the frequent classes,
so that a damaged rare class or a shifted boundary goes by. Chosen are, in this order, each sample
once:

- with class scores: the closest calls, one for each pair of classes that meet there as long as
  there are others; the most confident sample of every predicted class that is not yet there; the
  most confident of all;
- without: samples spread over the quantiles of what the model answers (the lowest and the highest
  are in it). What an autoencoder answers is how far its output is from its input;
- the largest inputs and the largest outputs, where ranges overflow and saturate;
- random ones, for what nobody has thought of.

Pure: the same samples and outputs give the same cases. All work is on one number a sample, so that
memory is bounded by that of the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgectl_protocol.chunks import BLOB_BYTES_MAX
from edgectl_protocol.manifest import Scores
from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Outputs
from edgectl_server.pipeline.golden import INT8_ATOL_OF_RANGE

__all__ = ["GoldenChoice", "answer_spread", "choose_golden", "fitting_cases"]

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_CLOSE_SHARE = 4
_CONFIDENT_SHARE = 8
_LARGEST_SHARE = 8
_QUANTILE_SHARE = 2
"""One case in so many is chosen for this reason."""
_HUGE = 1e100
"""Its square is still a number."""
_FILE_BYTES_MAX = BLOB_BYTES_MAX - 1024**2
"""Of the cases; what is left is for the headers of the file, and for its encryption."""


@dataclass(frozen=True)
class GoldenChoice:
    """The chosen samples.

    Attributes:
        rows: their places in the samples, int64, ascending, each once.
        kinds: how many were chosen for which reason, in the order of the choice: ``closest``,
            ``class``, ``confident``, ``quantile``, ``largest``, ``random``; none is 0.
    """

    rows: Indices
    kinds: dict[str, int]


class _Chosen:
    """Collects rows, each once, up to a count."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.kinds: dict[str, int] = {}
        self.rows: set[int] = set()

    @property
    def left(self) -> int:
        return self._count - len(self.rows)

    def take(self, kind: str, candidates: Iterable[int], most: int) -> None:
        """Take up to `most` of the candidates, the first first."""
        taken = 0
        for row in candidates:
            if taken >= most or not self.left:
                break
            if int(row) not in self.rows:
                self.rows.add(int(row))
                taken += 1
        if taken:
            self.kinds[kind] = self.kinds.get(kind, 0) + taken


def fitting_cases(samples: Samples, outputs: Outputs) -> int:
    """Return how many cases go into a file that devices can fetch.

    Raises:
        PipelineRefused: ``model.shape``: not one.
    """
    case_bytes = sum(array[:1].nbytes for array in (*samples.inputs.values(), *outputs.values()))
    if case_bytes > _FILE_BYTES_MAX:
        raise PipelineRefused(
            "model.shape",
            f"A sample has {case_bytes} bytes with its outputs, and devices take files of up to "
            f"{BLOB_BYTES_MAX}.",
            "Push a model that works on smaller pieces, such as tiles of a picture.",
        )
    return _FILE_BYTES_MAX // max(1, case_bytes)


def choose_golden(
    samples: Samples,
    outputs: Outputs,
    scores: Scores | None,
    *,
    count: int,
    seed: int,
) -> GoldenChoice:
    """Choose golden cases.

    Args:
        samples: what can be chosen.
        outputs: of the fp32 model for them, one row a sample.
        scores: the output of class scores, if there is one.
        count: at most so many; fewer where there are fewer samples.
        seed: of the random ones.
    """
    assert count >= 1, count
    total = samples.count
    chosen = _Chosen(min(count, total))
    if scores is not None:
        margin_min = _margin_min(outputs, scores)
        _choose_by_class(chosen, outputs[scores.output], samples.labels, count, margin_min)
    else:
        answers = _answers(samples.inputs, outputs)
        chosen.take("quantile", _spread(answers, count // _QUANTILE_SHARE), count)
    largest = max(1, count // _LARGEST_SHARE)
    for arrays in (samples.inputs, outputs):
        chosen.take("largest", _descending(_magnitudes(arrays, total)), largest)
    chosen.take("random", np.random.default_rng(seed).permutation(total).tolist(), count)
    rows = np.array(sorted(chosen.rows), np.int64)
    return GoldenChoice(rows=rows, kinds=chosen.kinds)


def some_are_too_close(outputs: Outputs, scores: Scores) -> bool:
    """Say whether a call is closer than it may be for another processor."""
    values = np.sort(np.nan_to_num(outputs[scores.output].astype(np.float64)), axis=1)
    return bool(np.any(values[:, -1] - values[:, -2] < _margin_min(outputs, scores)))


def score_spreads(outputs: Outputs, scores: Scores) -> Numbers:
    """Return the highest less the lowest score of each class, float64 [classes]."""
    values = np.nan_to_num(outputs[scores.output].astype(np.float64))
    spreads: Numbers = values.max(axis=0) - values.min(axis=0)
    return spreads


def answer_spread(inputs: Mapping[str, Array], outputs: Outputs) -> float:
    """Return how far apart the lowest and the highest answer are, of a model without scores."""
    answers = _answers(inputs, outputs)
    return float(answers.max() - answers.min())


def _choose_by_class(
    chosen: _Chosen, scores: Array, labels: Array | None, count: int, margin_min: float
) -> None:
    """Choose by the two highest scores of each sample."""
    values = np.nan_to_num(scores.astype(np.float64))
    order = np.argsort(-values, axis=1, kind="stable")[:, :2]
    highest = np.take_along_axis(values, order, axis=1)
    margins = highest[:, 0] - highest[:, 1]
    predicted: Indices = order[:, 0].astype(np.int64)
    by_closeness = np.lexsort((_right(predicted, labels), margins))
    close = [int(row) for row in by_closeness if margins[row] >= margin_min]
    by_confidence = by_closeness[::-1]
    names, firsts = np.unique(predicted[by_confidence], return_index=True)
    best = {int(name): int(by_confidence[first]) for name, first in zip(names, firsts, strict=True)}
    # Every class comes first: what it leaves is for the closest calls.
    room = max(0, count - len(best))
    chosen.take("closest", _one_a_pair(close, order), min(room, count // _CLOSE_SHARE))
    there = {int(predicted[row]) for row in chosen.rows}
    frequent = np.argsort(-np.bincount(predicted, minlength=1), kind="stable")
    missing = [best[int(name)] for name in frequent if int(name) in best and name not in there]
    chosen.take("class", missing, count)
    chosen.take("confident", by_confidence.tolist(), count // _CONFIDENT_SHARE)


def _right(predicted: Indices, labels: Array | None) -> npt.NDArray[np.bool_]:
    """Say which are right: of calls that are equally close, those that fp32 gets wrong go first."""
    if labels is None or labels.shape != predicted.shape or labels.dtype.kind not in "iu":
        return np.ones(len(predicted), bool)
    right: npt.NDArray[np.bool_] = predicted == labels
    return right


def _margin_min(outputs: Outputs, scores: Scores) -> float:
    """Return how close a call may be, in units of the scores.

    Where a device has to give the very class of an integer output, a call within the noise of
    another processor would turn a good model down: scores may be off by `INT8_ATOL_OF_RANGE`, the
    two highest in opposite directions.
    """
    if all(array.dtype.kind == "f" for array in outputs.values()):
        return 0.0
    values = np.nan_to_num(outputs[scores.output])
    return 2 * INT8_ATOL_OF_RANGE * float(values.max() - values.min())


def _one_a_pair(close: list[int], order: Array) -> list[int]:
    """Put the closest call of each pair of classes before the other close calls."""
    seen: set[tuple[int, int]] = set()
    first: list[int] = []
    later: list[int] = []
    for row in close:
        low, high = sorted((int(order[row, 0]), int(order[row, 1])))
        (later if (low, high) in seen else first).append(row)
        seen.add((low, high))
    return first + later


def _answers(inputs: Mapping[str, Array], outputs: Outputs) -> Numbers:
    """Return one number a sample: what the model answers, or how far it is from its input."""
    answers = np.zeros(next(iter(inputs.values())).shape[0])
    given, got = next(iter(inputs.values())), next(iter(outputs.values()))
    rebuilds = len(inputs) == len(outputs) == 1 and given.shape == got.shape
    for row in range(len(answers)):  # one by one: a copy of all in float64 may not fit
        values = np.clip(np.nan_to_num(got[row].astype(np.float64)), -_HUGE, _HUGE)
        if rebuilds:
            values = np.square(values - given[row])
        answers[row] = values.mean() if values.size else 0.0
    return answers


def _spread(answers: Numbers, count: int) -> list[int]:
    """Return rows at even distances in the order of their answers, both ends first."""
    order = np.argsort(answers, kind="stable")
    places = np.linspace(0, len(order) - 1, max(2, count)).round().astype(np.int64)
    ends = [0, len(order) - 1]
    return [int(order[place]) for place in [*ends, *places]]


def _magnitudes(arrays: Mapping[str, Array], total: int) -> Numbers:
    """Return the largest absolute value of each sample, as a share of the largest of its array."""
    largest: Numbers = np.zeros(total)
    for array in arrays.values():
        flat = array.reshape(total, -1)
        if not flat.shape[1]:
            continue
        high, low = flat.max(axis=1).astype(np.float64), flat.min(axis=1).astype(np.float64)
        values = np.nan_to_num(np.maximum(high, -low))
        largest = np.maximum(largest, values / max(1e-12, float(np.abs(values).max())))
    return largest


def _descending(values: Numbers) -> list[int]:
    return [int(row) for row in np.argsort(-values, kind="stable")]
