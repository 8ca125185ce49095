"""What a model's answers are worth: by which metric, on which data.

``--metric`` names one (`edgectl_server.pipeline.metrics`), or brings its own
(`edgectl_server.pipeline.own_metric`). Otherwise it is chosen in this order, and the report says
which:

1. `map`, with boxes as labels and a detector's outputs;
2. `auc`, of an autoencoder (an output of the input's shape) with labels 0 and 1;
3. `accuracy`, with classes as labels and class scores (a float output [N, C] with 2 ≤ C ≤ 1024) or
   one integer output [N];
4. `auc`, of one score a sample with labels 0 and 1;
5. `rmse`, with numbers as labels and a float output of their shape;
6. `agreement` with fp32, without labels, or without an output that they fit: of the class where
   there are class scores, of the outputs themselves (R²) where there are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgectl_protocol.manifest import Scores
from edgectl_protocol.requirements import OWN_METRIC
from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.detection import find_detections
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Outputs
from edgectl_server.pipeline.metrics import (
    METRICS,
    Answers,
    NotMeasurable,
    class_output,
    is_reconstruction,
    points,
)
from edgectl_server.pipeline.own_metric import OwnMetric

__all__ = [
    "Yardstick",
    "all_finite",
    "check_finite",
    "choose_yardstick",
    "find_scores",
    "same_outputs",
]

CLASSES_MAX = 1024
_SUM_TOLERANCE = 1e-3
_SCORES_RANK = 2


@dataclass(frozen=True)
class Yardstick:
    """How variants are measured, and what fp32 reaches.

    Attributes:
        metric: name of what `value` returns.
        higher_is_better: its direction.
        measure: the metric itself.
        source: which data it is measured on.
        samples: those it is measured on.
        reference: the fp32 model's value.
        outputs: the fp32 model's outputs for `samples`.
        scores: the output of class scores, if there is one.
        explanation: what the metric means, for the report.
    """

    metric: str
    higher_is_better: bool
    measure: Callable[[Answers], float]
    source: Literal["evaluation", "calibration"]
    samples: Samples
    reference: float
    outputs: Outputs
    scores: Scores | None
    explanation: str

    def answers(self, outputs: Outputs) -> Answers:
        """Return a variant's outputs for the samples, with what they are compared with."""
        return Answers(
            outputs=outputs,
            labels=self.samples.labels,
            inputs=self.samples.inputs,
            reference=self.outputs,
            scores=self.scores,
        )

    def value(self, outputs: Outputs) -> float | None:
        """Return the metric of a variant's outputs for the samples.

        None where they hold NaN or infinity, or where it cannot be measured.

        Raises:
            PipelineRefused: ``metric.…``, of a metric of one's own.
        """
        if not all_finite(outputs):
            return None
        try:
            found = self.measure(self.answers(outputs))
        except NotMeasurable:
            return None
        return found if math.isfinite(found) else None

    def drop_points(self, value: float) -> float:
        """Return how much worse than fp32 a value is, in points (`metrics.points`)."""
        return points(self.reference, value, higher_is_better=self.higher_is_better)


def find_scores(outputs: Outputs, inputs: dict[str, Array] | None = None) -> Scores | None:
    """Return the first output that holds one score a class, judged by its values on data.

    A reconstruction of the input has as many columns as a sample has values, and no classes; the
    scores of a detector are of boxes.
    """
    if is_reconstruction(outputs, inputs or {}) or find_detections(outputs) is not None:
        return None
    for name, array in outputs.items():
        if _is_float(array) and array.ndim == _SCORES_RANK and 2 <= array.shape[1] <= CLASSES_MAX:  # noqa: PLR2004
            sums = array.astype(np.float64).sum(axis=1)
            likely = (array >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all()
            return Scores(output=name, kind="probabilities" if likely else "logits")
    return None


def choose_yardstick(
    samples: Samples,
    outputs: Outputs,
    scores: Scores | None,
    *,
    metric: str = "",
    own: OwnMetric | None = None,
) -> tuple[Yardstick, tuple[str, ...]]:
    """Choose the metric for the data there is.

    Args:
        samples: evaluation data, or calibration data in its place.
        outputs: the fp32 model's outputs for them.
        scores: see `find_scores`.
        metric: name of the metric that is asked for; empty: by the data.
        own: the metric that was pushed, in its place.

    Returns:
        The yardstick, and warnings for the report.

    Raises:
        PipelineRefused: ``data.label``: a label is no class of the model; ``data.dtype``: labels
            of a classifier are no integers; ``pipeline.metric``: what is asked for cannot be
            measured; ``metric.…``, of a metric of one's own.
    """
    assert samples.role != "random", "made-up samples measure nothing"
    answers = Answers(outputs, samples.labels, samples.inputs, reference=outputs, scores=scores)
    _check_labels(samples, outputs, scores)
    warnings: list[str] = []
    higher_is_better = True
    if own is not None:
        reference, higher_is_better = own.measure(answers)
        name, measure = OWN_METRIC, _same_direction(own, higher_is_better=higher_is_better)
        explanation = f"metric.py on {samples.count} samples of the {samples.role} data"
    else:
        name, reference = _asked(metric, answers) if metric else _by_the_data(answers)
        measure, higher_is_better = METRICS[name].value, METRICS[name].higher_is_better
        explanation, more = _explain(name, answers, samples, asked=bool(metric))
        warnings += more
    if samples.role == "calibration":
        warnings.append(
            "No evaluation data: measured on the calibration data, which static recipes have seen."
        )
    yardstick = Yardstick(
        metric=name,
        higher_is_better=higher_is_better,
        measure=measure,
        source=samples.role,
        samples=samples,
        reference=reference,
        outputs=outputs,
        scores=scores,
        explanation=explanation,
    )
    return yardstick, tuple(warnings)


def _same_direction(own: OwnMetric, *, higher_is_better: bool) -> Callable[[Answers], float]:
    """Return the metric alone; its direction must not depend on the answers."""

    def measure(answers: Answers) -> float:
        value, higher = own.measure(answers)
        if higher != higher_is_better:
            raise PipelineRefused(
                "metric.failed",
                "metric.py cannot be used: HIGHER_IS_BETTER is not the same each time.",
                "Set it once, at the top of the file.",
            )
        return value

    return measure


def _asked(metric: str, answers: Answers) -> tuple[str, float]:
    try:
        return metric, METRICS[metric].value(answers)
    except NotMeasurable as error:
        raise PipelineRefused(
            "pipeline.metric",
            f"The model cannot be measured by {metric}: {error}.",
            "Push data with the labels that the metric needs, or leave --metric out.",
        ) from error


def _by_the_data(answers: Answers) -> tuple[str, float]:
    for name in _candidates(answers):
        try:
            return name, METRICS[name].value(answers)
        except NotMeasurable:  # such as labels of one class only: the data checks say it
            continue
    return "agreement", 1.0


def _candidates(answers: Answers) -> tuple[str, ...]:
    """Return the metrics that fit labels and outputs, the best first; see the module."""
    labels, outputs = answers.labels, answers.outputs
    if labels is None:
        return ()
    if find_detections(outputs) is not None:
        return ("map",)
    binary = labels.dtype.kind == "i" and bool(((labels == 0) | (labels == 1)).all())
    if is_reconstruction(outputs, answers.inputs):
        return ("auc",) if binary else ("rmse",)
    if labels.dtype.kind == "i" and (answers.scores is not None or class_output(outputs)):
        return ("accuracy",)
    return ("auc", "rmse") if binary else ("rmse",)


def _explain(
    name: str, answers: Answers, samples: Samples, *, asked: bool
) -> tuple[str, tuple[str, ...]]:
    """Return what is measured, and warnings where it is not what one would want."""
    where = f"{samples.count} samples of the {samples.role} data"
    if name != "agreement":
        return f"{METRICS[name].meaning} ({name}) on {where}", ()
    what = "the same class as fp32" if answers.scores else "R² against the outputs of fp32"
    explanation = f"agreement: {what} on {where}"
    if asked:
        return explanation, ()
    if samples.labels is None:
        warning = (
            f"No labels: measured is {explanation}, which does not say how good fp32 is. "
            "Push evaluation data with 'label' to measure accuracy."
        )
    else:
        warning = (
            "The model has no output of class scores [N, C] nor of the labels' shape, so that "
            f"the labels cannot be used; measured is {explanation}."
        )
    return explanation, (warning,)


def check_finite(outputs: Outputs) -> None:
    """Raise `PipelineRefused` ``model.non_finite`` if an output holds NaN or infinity."""
    for name, array in outputs.items():
        if not all_finite({name: array}):
            raise PipelineRefused(
                "model.non_finite",
                f"Output {name[:80]!r} of the model holds NaN or infinity for finite inputs.",
                "Check the model, and whether the data is scaled as it was in training.",
            )


def all_finite(outputs: Outputs) -> bool:
    """Say whether no output holds NaN or infinity."""
    return all(bool(np.isfinite(array).all()) for array in outputs.values() if _is_float(array))


def same_outputs(left: Outputs, right: Outputs, tolerance: float) -> bool:
    """Say whether outputs are equal: floats within `tolerance` of the largest, others exactly."""
    if left.keys() != right.keys():
        return False
    for name, array in left.items():
        other = right[name]
        if array.shape != other.shape or array.dtype != other.dtype:
            return False
        if not _is_float(array):
            if not np.array_equal(array, other):
                return False
            continue
        scale = max(1e-6, float(np.abs(array).max(initial=0.0)))
        if not np.allclose(array, other, rtol=0.0, atol=tolerance * scale, equal_nan=True):
            return False
    return True


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"


def _check_labels(samples: Samples, outputs: Outputs, scores: Scores | None) -> None:
    """Refuse labels that are no classes of a model whose classes are the columns of its scores."""
    labels = samples.labels
    if labels is None or scores is None or class_output(outputs) is not None:
        return
    if labels.dtype.kind == "f":
        if labels.shape == outputs[scores.output].shape:
            return  # targets
        raise PipelineRefused(
            "data.dtype",
            f"Array 'label' of the {samples.role} data is {labels.dtype}, expected integers.",
            "Give each sample the index of its class: label.astype('int64').",
        )
    classes = outputs[scores.output].shape[1]
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise PipelineRefused(
            "data.label",
            f"Array 'label' of the {samples.role} data has values from {lowest} to {highest}; "
            f"expected class indices 0 to {classes - 1}.",
            "Number the classes as the model's scores are ordered, from 0.",
        )
