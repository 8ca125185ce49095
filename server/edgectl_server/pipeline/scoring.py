"""What a model's answers are worth: accuracy on labels, or agreement with the fp32 model.

In this order, and the report says which:

1. `accuracy`, with labels and class scores (a float output [N, C] with 2 ≤ C ≤ 1024): the share of
   samples whose class is right. The class is the model's own integer output [N] where it has
   exactly one (scikit-learn's ``label``), otherwise the index of the highest score.
2. `agreement`, with class scores but no labels: the share of samples whose highest score is that of
   the fp32 model.
3. `agreement`, without class scores: R² of the outputs against those of the fp32 model, the share
   of their variance that is kept; the lowest over all float outputs, at least 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import Scores
from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Outputs

__all__ = [
    "Yardstick",
    "check_finite",
    "choose_yardstick",
    "find_scores",
    "kept_variance",
    "same_outputs",
]

CLASSES_MAX = 1024
_SUM_TOLERANCE = 1e-3
_SCORES_RANK = 2


@dataclass(frozen=True)
class Yardstick:
    """How variants are measured, and what fp32 reaches.

    Attributes:
        metric: what `value` returns.
        source: which data it is measured on.
        samples: those it is measured on.
        reference: the fp32 model's value.
        outputs: the fp32 model's outputs for `samples`.
        scores: the output of class scores, if there is one.
        classes: the integer output that names the class, if there is exactly one.
        explanation: what the metric means, for the report.
    """

    metric: Literal["accuracy", "agreement"]
    source: Literal["evaluation", "calibration"]
    samples: Samples
    reference: float
    outputs: Outputs
    scores: Scores | None
    classes: str | None
    explanation: str

    def value(self, outputs: Outputs) -> float:
        """Return the metric, 0 to 1, of a variant's outputs for the samples."""
        if not all(np.isfinite(array).all() for array in outputs.values() if _is_float(array)):
            return 0.0
        if self.metric == "accuracy":
            assert self.samples.labels is not None
            return _share(_predictions(outputs, self.scores, self.classes), self.samples.labels)
        if self.scores is not None:
            name = self.scores.output
            return _share(outputs[name].argmax(axis=1), self.outputs[name].argmax(axis=1))
        return kept_variance(outputs, self.outputs)


def find_scores(outputs: Outputs) -> Scores | None:
    """Return the first output that holds one score a class, judged by its values on data."""
    for name, array in outputs.items():
        if _is_float(array) and array.ndim == _SCORES_RANK and 2 <= array.shape[1] <= CLASSES_MAX:  # noqa: PLR2004
            sums = array.astype(np.float64).sum(axis=1)
            likely = (array >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all()
            return Scores(output=name, kind="probabilities" if likely else "logits")
    return None


def choose_yardstick(
    samples: Samples, outputs: Outputs, scores: Scores | None
) -> tuple[Yardstick, tuple[str, ...]]:
    """Choose the metric for the data there is.

    Args:
        samples: evaluation data, or calibration data in its place.
        outputs: the fp32 model's outputs for them.
        scores: see `find_scores`.

    Returns:
        The yardstick, and warnings for the report.

    Raises:
        PipelineRefused: ``data.label``: a label is no class of the model.
    """
    assert samples.role != "random", "made-up samples measure nothing"
    warnings = []
    classes = _class_output(outputs)
    if scores is not None and samples.labels is not None:
        if classes is None:
            _check_labels(samples, outputs[scores.output].shape[1])
        reference = _share(_predictions(outputs, scores, classes), samples.labels)
        metric: Literal["accuracy", "agreement"] = "accuracy"
        explanation = f"accuracy on {samples.count} labelled samples of the {samples.role} data"
    else:
        metric, reference = "agreement", 1.0
        what = "the same class as fp32" if scores else "R² against the outputs of fp32"
        explanation = f"agreement: {what} on {samples.count} samples of the {samples.role} data"
        if samples.labels is None:
            warnings.append(
                f"No labels: measured is {explanation}, which does not say how good fp32 is. "
                "Push evaluation data with 'label' to measure accuracy."
            )
        else:
            warnings.append(
                f"The model has no output of class scores [N, C], so the labels cannot be used; "
                f"measured is {explanation}."
            )
    if samples.role == "calibration":
        warnings.append(
            "No evaluation data: measured on the calibration data, which static recipes have seen."
        )
    yardstick = Yardstick(
        metric=metric,
        source=samples.role,
        samples=samples,
        reference=reference,
        outputs=outputs,
        scores=scores,
        classes=classes,
        explanation=explanation,
    )
    return yardstick, tuple(warnings)


def check_finite(outputs: Outputs) -> None:
    """Raise `PipelineRefused` ``model.non_finite`` if an output holds NaN or infinity."""
    for name, array in outputs.items():
        if _is_float(array) and not np.isfinite(array).all():
            raise PipelineRefused(
                "model.non_finite",
                f"Output {name[:80]!r} of the model holds NaN or infinity for finite inputs.",
                "Check the model, and whether the data is scaled as it was in training.",
            )


def kept_variance(outputs: Outputs, wanted: Outputs) -> float:
    """Return R² against the wanted outputs, 0 to 1: the lowest over all float outputs.

    Without a float output it is the share of values that are equal.
    """
    return min(
        (
            _variance_kept(outputs[name], reference)
            for name, reference in wanted.items()
            if _is_float(reference)
        ),
        default=_equal_share(outputs, wanted),
    )


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


def _share(left: Array, right: Array) -> float:
    return float(np.mean(left == right))


def _predictions(outputs: Outputs, scores: Scores | None, classes: str | None) -> Array:
    if classes is not None:
        return outputs[classes]
    assert scores is not None
    highest: npt.NDArray[np.int64] = outputs[scores.output].argmax(axis=1)
    return highest


def _class_output(outputs: Outputs) -> str | None:
    names = [
        name for name, array in outputs.items() if array.ndim == 1 and array.dtype.kind in "iu"
    ]
    return names[0] if len(names) == 1 else None


def _check_labels(samples: Samples, classes: int) -> None:
    assert samples.labels is not None
    lowest, highest = int(samples.labels.min()), int(samples.labels.max())
    if lowest < 0 or highest >= classes:
        raise PipelineRefused(
            "data.label",
            f"Array 'label' of the {samples.role} data has values from {lowest} to {highest}; "
            f"expected class indices 0 to {classes - 1}.",
            "Number the classes as the model's scores are ordered, from 0.",
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


def _equal_share(outputs: Outputs, references: Outputs) -> float:
    return min(
        (float(np.mean(outputs[name] == reference)) for name, reference in references.items()),
        default=1.0,
    )
