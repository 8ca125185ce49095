"""What a model's answers are worth: a table of named metrics, each a number on outputs and labels.

Pure: arrays in, a number out. A metric that has nothing to work on (one class only, no labels)
raises `NotMeasurable`, it never returns a made-up value; what it returns is finite.

A change against fp32 is said in *points* (`points`), so that one ``--max-drop`` fits all: for
scores, where higher is better, 100 times the difference; for errors, where lower is better, percent
of the reference. More points are always worse.

==========  ==================================  ==================================================
name        labels                              output
==========  ==================================  ==================================================
accuracy    class of each sample, int [N]       class scores [N, C], or one integer output [N]
top5        class of each sample, int [N]       class scores [N, C], C > 5
f1          class of each sample, int [N]       as for accuracy
auc         class of each sample, int [N]       class scores [N, C]
auc         0 or 1, int [N]                     one score a sample, float [N] or [N, 1]
auc         1: anomaly, 0: normal, int [N]      the reconstructed input, of the input's shape
rmse        targets, numbers                    the first float output of the targets' shape
map         boxes, float [N, K, 5]              detections, see `edgectl_server.pipeline.detection`
agreement   none                                any, compared with that of fp32
==========  ==================================  ==================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import Scores
from edgectl_server.pipeline import detection
from edgectl_server.pipeline.detection import NotMeasurable

__all__ = [
    "METRICS",
    "Answers",
    "Metric",
    "NotMeasurable",
    "auc_of_ranks",
    "class_output",
    "is_reconstruction",
    "kept_variance",
    "points",
    "predictions",
]

Array = npt.NDArray[Any]
POINTS_MAX = 1e6
"""What a change is at most: an error that was 0 and is not any more has no percentage."""
_TOP = 5
_SCORES_RANK = 2
_RECONSTRUCTED_MIN = 3
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Answers:
    """What a metric may look at; the first axis of every array counts the samples.

    Attributes:
        outputs: of the variant that is measured.
        labels: integers or floats, or None.
        inputs: what the outputs answer.
        reference: outputs of fp32 for the same inputs, for `agreement`.
        scores: the output of class scores, if there is one.
    """

    outputs: dict[str, Array]
    labels: Array | None
    inputs: dict[str, Array]
    reference: dict[str, Array] | None = None
    scores: Scores | None = None


@dataclass(frozen=True)
class Metric:
    """A named measure.

    Attributes:
        name: as in ``--metric``, ``--require`` and reports.
        meaning: for a person.
        value: the number, finite; raises `NotMeasurable`.
        higher_is_better: the direction; see `points`.
        lowest: smallest value it can have.
        highest: largest; infinity for errors.
    """

    name: str
    meaning: str
    value: Callable[[Answers], float]
    higher_is_better: bool = True
    lowest: float = 0.0
    highest: float = 1.0


def points(reference: float, value: float, *, higher_is_better: bool) -> float:
    """Return how much worse `value` is than `reference`, in points; negative: better.

    Scores: 100 * (reference - value). Errors: 100 * (value - reference) / reference, the percentage
    by which the error has grown; at most `POINTS_MAX`, also where the reference is 0.
    """
    if higher_is_better:
        change = 100 * (reference - value)
    elif reference == value:
        change = 0.0
    else:
        change = 100 * (value - reference) / max(abs(reference), 1e-300)
    return float(min(POINTS_MAX, max(-POINTS_MAX, change)))


# ---------------------------------------------------------------- what the outputs mean


def class_output(outputs: dict[str, Array]) -> str | None:
    """Return the integer output [N] that names the class, where there is exactly one."""
    names = [
        name for name, array in outputs.items() if array.ndim == 1 and array.dtype.kind in "iu"
    ]
    return names[0] if len(names) == 1 else None


def predictions(answers: Answers) -> npt.NDArray[np.int64]:
    """Return the class that the model names, int64 [N]; raise `NotMeasurable` if it names none.

    The model's own integer output where it has exactly one (scikit-learn's ``label``), otherwise
    the index of the highest score, the lowest index of equal ones.
    """
    named = class_output(answers.outputs)
    if named is not None:
        return answers.outputs[named].astype(np.int64)
    highest: npt.NDArray[np.int64] = _scores(answers).argmax(axis=1).astype(np.int64)
    return highest


def is_reconstruction(outputs: dict[str, Array], inputs: dict[str, Array]) -> bool:
    """Say whether a model looks like an autoencoder: one input, one output of the same shape.

    Rows of fewer than three numbers say nothing, and rows of shares that sum to one are classes.
    """
    if len(inputs) != 1 or len(outputs) != 1:
        return False
    (given,), (got,) = inputs.values(), outputs.values()
    if given.shape != got.shape or got.dtype.kind != "f" or given.dtype.kind != "f":
        return False
    if got.ndim < _SCORES_RANK or math.prod(got.shape[1:]) < _RECONSTRUCTED_MIN:
        return False
    if got.ndim > _SCORES_RANK:
        return True
    shares = bool((got >= 0).all() and (np.abs(got.sum(axis=1) - 1) <= 1e-3).all())  # noqa: PLR2004
    return not shares


def _scores(answers: Answers) -> Array:
    if answers.scores is None:
        raise NotMeasurable("the model has no output of class scores [N, C]")
    return answers.outputs[answers.scores.output]


def _labels(answers: Answers, kinds: str = "iu") -> Array:
    if answers.labels is None:
        raise NotMeasurable("the data has no labels")
    if answers.labels.dtype.kind not in kinds or answers.labels.ndim != 1:
        raise NotMeasurable("the labels are no classes: expected one integer a sample")
    if answers.labels.size == 0:
        raise NotMeasurable("there are no samples")
    return answers.labels


# ---------------------------------------------------------------- classes


def accuracy(answers: Answers) -> float:
    """Return the share of samples whose class is right."""
    return float(np.mean(predictions(answers) == _labels(answers)))


def top5(answers: Answers) -> float:
    """Return the share of samples whose class is among the five highest scores.

    Of equal scores the lower index comes first, as in `accuracy`; scikit-learn's
    ``top_k_accuracy_score`` takes the higher one.
    """
    labels, scores = _labels(answers), _scores(answers)
    if scores.shape[1] <= _TOP:
        raise NotMeasurable(f"{scores.shape[1]} classes: all are among the best {_TOP}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise NotMeasurable(f"labels from {labels.min()} to {labels.max()} are not all classes")
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    before = (scores > own).sum(axis=1)
    index = np.arange(scores.shape[1])
    before += ((scores == own) & (index[None, :] < labels[:, None])).sum(axis=1)
    return float(np.mean(before < _TOP))


def f1(answers: Answers) -> float:
    """Return the unweighted mean of F1 = 2 TP / (2 TP + FP + FN) over the classes.

    Classes are those that occur in the labels or in the predictions; a class that is never right
    counts 0, as in scikit-learn's ``f1_score(average="macro", zero_division=0)``.
    """
    labels, predicted = _labels(answers).astype(np.int64), predictions(answers)
    classes, index = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    wanted, got = index[: len(labels)], index[len(labels) :]
    right = np.bincount(wanted[wanted == got], minlength=len(classes))
    # 2 TP + FP + FN is how often the class was wanted or named; each class was, at least once.
    named = np.bincount(wanted, minlength=len(classes)) + np.bincount(got, minlength=len(classes))
    return float(np.mean(2 * right / named))


# ---------------------------------------------------------------- ranks


def auc_of_ranks(scores: Array, positive: npt.NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative.

    By the ranks (Mann-Whitney U; Hanley and McNeil 1982): equal scores count one half.

    Raises:
        NotMeasurable: only positives, or only negatives.
    """
    count = int(positive.sum())
    others = positive.size - count
    if not count or not others:
        raise NotMeasurable("AUC needs samples of both kinds, and there is one")
    _, index, times = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(times, dtype=np.float64)
    ranks = (last - (times - 1) / 2)[index]
    above = float(ranks[positive].sum()) - count * (count + 1) / 2
    return above / (count * float(others))


def auc(answers: Answers) -> float:
    """Return the area under the ROC curve.

    - autoencoders (`is_reconstruction`, labels 0 and 1): of the mean squared error between input
      and output, by which an anomaly (1) shall stand out;
    - class scores of two classes: of the second against the first;
    - class scores of more: one class against the rest, the unweighted mean over the classes that
      have samples of both kinds (Provost and Domingos 2000, without their weights). Logits are
      ranked by the logarithm of the odds that their softmax gives, so that logits and
      probabilities of the same model have the same AUC;
    - one score a sample, labels 0 and 1: of that score.
    """
    labels = _labels(answers)
    if is_reconstruction(answers.outputs, answers.inputs) and _is_binary(labels):
        return auc_of_ranks(_reconstruction_error(answers), labels == 1)
    if answers.scores is None:
        if not _is_binary(labels):
            raise NotMeasurable("AUC of one score a sample needs the labels 0 and 1")
        return auc_of_ranks(_single_score(answers.outputs), labels == 1)
    scores = _scores(answers).astype(np.float64)
    if scores.shape[1] == 2:  # noqa: PLR2004
        if not _is_binary(labels):
            raise NotMeasurable("the labels of two classes are 0 and 1")
        return auc_of_ranks(scores[:, 1] - scores[:, 0], labels == 1)
    ranked = _log_odds(scores) if answers.scores.kind == "logits" else scores
    areas = []
    for number in range(scores.shape[1]):
        positive = labels == number
        if positive.any() and not positive.all():
            areas.append(auc_of_ranks(ranked[:, number], positive))
    if not areas:
        raise NotMeasurable("AUC needs samples of two classes or more")
    return float(np.mean(areas))


def _is_binary(labels: Array) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())


def _single_score(outputs: dict[str, Array]) -> Array:
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    if len(floats) == 1 and math.prod(floats[0].shape[1:]) == 1:
        return floats[0].reshape(-1)
    raise NotMeasurable("AUC needs class scores [N, C], one score a sample, or an autoencoder")


def _log_odds(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return log(p / (1 - p)) of each class's softmax p.

    For the likeliest class 1 - p is summed from the others: close to 1 it would round to nothing,
    and different certainties would be equal.
    """
    rows = np.arange(len(logits))
    best = logits.argmax(axis=1)
    shifted = logits - logits[rows, best][:, None]
    terms = np.exp(shifted)
    terms[rows, best] = 0.0
    others = terms.sum(axis=1)
    logarithm = shifted - np.log1p(others)[:, None]
    share = np.minimum(np.exp(logarithm), 0.5)
    odds: npt.NDArray[np.float64] = logarithm - np.log1p(-share)
    with np.errstate(divide="ignore"):
        odds[rows, best] = -np.log(others)
    return odds


def _reconstruction_error(answers: Answers) -> npt.NDArray[np.float64]:
    (given,), (got,) = answers.inputs.values(), answers.outputs.values()
    errors = [
        np.square(got[rows].astype(np.float64) - given[rows]).reshape(rows.stop - rows.start, -1)
        for rows in _chunks(got)
    ]
    return np.concatenate([error.mean(axis=1) for error in errors])


def _chunks(array: Array) -> Iterator[slice]:
    """Yield slices of rows that hold some millions of values together."""
    step = max(1, _CHUNK_VALUES // max(1, math.prod(array.shape[1:])))
    for start in range(0, array.shape[0], step):
        yield slice(start, min(start + step, array.shape[0]))


# ---------------------------------------------------------------- numbers and boxes


def rmse(answers: Answers) -> float:
    """Return the root of the mean squared difference between output and target.

    Over all samples and values; [N, 1] and [N] are the same shape. The worst value is no limit.
    """
    if answers.labels is None:
        raise NotMeasurable("the data has no labels")
    target = answers.labels
    for array in answers.outputs.values():
        if array.dtype.kind == "f" and _squeezed(array.shape) == _squeezed(target.shape):
            got = array.reshape(target.shape)
            total = sum(
                float(np.square(got[rows].astype(np.float64) - target[rows]).sum())
                for rows in _chunks(got)
            )
            return math.sqrt(total / max(1, got.size))
    raise NotMeasurable(f"no float output has the shape of the targets, {list(target.shape)}")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + tuple(axis for axis in shape[1:] if axis != 1)


def mean_average_precision(answers: Answers) -> float:
    """Return COCO's AP at IoU 0.5; see `edgectl_server.pipeline.detection`."""
    if answers.labels is None:
        raise NotMeasurable("the data has no labels")
    return detection.mean_average_precision(answers.outputs, answers.labels)


# ---------------------------------------------------------------- agreement


def agreement(answers: Answers) -> float:
    """Return how far the answers are those of fp32.

    With class scores: the share of samples of the same class. Without: R², the share of the
    variance of the outputs of fp32 that is kept, the lowest over all float outputs, at least 0;
    of models without float outputs the share of equal values.
    """
    assert answers.reference is not None, "fp32's own outputs are there"
    if answers.scores is not None:
        name = answers.scores.output
        same = answers.outputs[name].argmax(axis=1) == answers.reference[name].argmax(axis=1)
        return float(np.mean(same))
    return kept_variance(answers.outputs, answers.reference)


def kept_variance(outputs: dict[str, Array], wanted: dict[str, Array]) -> float:
    """Return R² against the wanted outputs, 0 to 1: the lowest over all float outputs.

    Without a float output it is the share of values that are equal.
    """
    return min(
        (
            _variance_kept(outputs[name], reference)
            for name, reference in wanted.items()
            if reference.dtype.kind == "f"
        ),
        default=_equal_share(outputs, wanted),
    )


def _equal_share(outputs: dict[str, Array], wanted: dict[str, Array]) -> float:
    return min(
        (float(np.mean(outputs[name] == reference)) for name, reference in wanted.items()),
        default=1.0,
    )


def _variance_kept(array: Array, reference: Array) -> float:
    """Return R² of `array` against `reference`, at least 0; axis 0 counts the samples."""
    wanted = reference.astype(np.float64)
    wrong = float(np.square(array.astype(np.float64) - wanted).sum())
    spread = float(np.square(wanted - wanted.mean(axis=0, keepdims=True)).sum())
    if spread == 0.0:
        return 1.0 if wrong == 0.0 else 0.0
    kept = 1.0 - wrong / spread
    return max(0.0, kept) if math.isfinite(kept) else 0.0


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "share of right classes", accuracy),
        Metric("top5", "share of samples whose class is among the five best", top5),
        Metric("f1", "mean F1 of the classes (macro)", f1),
        Metric("auc", "area under the ROC curve", auc),
        Metric(
            "rmse",
            "root mean squared error",
            rmse,
            higher_is_better=False,
            highest=math.inf,
        ),
        Metric("map", "mean average precision at IoU 0.5", mean_average_precision),
        Metric("agreement", "agreement with fp32", agreement),
    )
}
