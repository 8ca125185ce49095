"""What a variant's answers prove: readings for the gates, and what a report shows of them.

Computed where the answers are, in the task that ran the variant; what comes back is small. Readings
that need no answers (size, latency, memory) are added when they are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from edgectl_protocol.requirements import OWN_METRIC, Requirement
from edgectl_server.pipeline.comparison import (
    CONFUSION_CLASSES_MAX,
    confusion,
    largest_recall_drop,
    top_disagreements,
)
from edgectl_server.pipeline.execution import Outputs
from edgectl_server.pipeline.gates import Evidence, Matrix, Reading
from edgectl_server.pipeline.metrics import (
    METRICS,
    Answers,
    NotMeasurable,
    agreement,
    predictions,
)
from edgectl_server.pipeline.scoring import Yardstick, all_finite
from edgectl_server.pipeline.spec import Disagreement

__all__ = ["Parent", "collect", "without_data"]


class Parent(Struct, frozen=True):
    """The answers of the version that is replaced, or why there are none."""

    outputs: Outputs | None = None
    reason: str = "no version is replaced"


def collect(
    yardstick: Yardstick,
    outputs: Outputs,
    requirements: Sequence[Requirement],
    parent: Parent,
) -> Evidence:
    """Return what the outputs of a variant for the yardstick's samples prove.

    Args:
        yardstick: how it is measured.
        outputs: of the variant.
        requirements: whose readings are needed.
        parent: for ``parent_agreement``.

    Raises:
        PipelineRefused: ``metric.…``, of a metric of one's own.
    """
    if not all_finite(outputs):
        return Evidence(finite=False)
    value = yardstick.value(outputs)
    readings: dict[str, Reading] = {}
    if value is not None:
        change = f"{yardstick.metric} of fp32 {yardstick.reference:.4g}, of this {value:.4g}"
        readings["drop"] = Reading(yardstick.drop_points(value), change)
    answers = yardstick.answers(outputs)
    for name in {one.name for one in requirements}:
        if name in METRICS or name in {"class_recall_drop", "parent_agreement", OWN_METRIC}:
            readings[name] = _reading(name, yardstick, answers, value, parent)
    return Evidence(
        value=value,
        readings=readings,
        confusion=_confusion(answers),
        disagreements=_disagreements(yardstick, outputs),
    )


def without_data(requirements: Sequence[Requirement]) -> Evidence:
    """Return the evidence of a variant that there is no data to measure with."""
    why = Reading(None, "there is no calibration or evaluation data")
    return Evidence(readings={one.name: why for one in requirements})


def _reading(
    name: str, yardstick: Yardstick, answers: Answers, value: float | None, parent: Parent
) -> Reading:
    try:
        if name == yardstick.metric:
            return Reading(value)
        if name == OWN_METRIC:
            return Reading(None, "no metric.py was pushed")
        if name == "class_recall_drop":
            return _recall_drop(yardstick, answers)
        if name == "parent_agreement":
            return _parent_agreement(answers, parent)
        return Reading(METRICS[name].value(answers))
    except NotMeasurable as error:
        return Reading(None, str(error))


def _recall_drop(yardstick: Yardstick, answers: Answers) -> Reading:
    labels = _classes(answers)
    before = predictions(yardstick.answers(yardstick.outputs))
    found = largest_recall_drop(labels, before, predictions(answers))
    more = f"; {found.skipped} classes have too few samples" if found.skipped else ""
    return Reading(found.points, f"class {found.label}, {found.samples} samples{more}")


def _parent_agreement(answers: Answers, parent: Parent) -> Reading:
    if parent.outputs is None:
        raise NotMeasurable(parent.reason)
    for name, array in parent.outputs.items():
        if name not in answers.outputs or answers.outputs[name].shape != array.shape:
            raise NotMeasurable(f"the replaced version has another output {name[:80]!r}")
    reference = parent.outputs
    compared = Answers(
        {name: answers.outputs[name] for name in reference},
        answers.labels,
        answers.inputs,
        reference=reference,
        scores=answers.scores,
    )
    return Reading(agreement(compared))


def _classes(answers: Answers) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    labels = answers.labels
    if labels is None or labels.dtype.kind != "i" or labels.ndim != 1:
        raise NotMeasurable("the data has no classes as labels")
    return labels


def _confusion(answers: Answers) -> Matrix | None:
    try:
        labels, named = _classes(answers), predictions(answers)
    except NotMeasurable:
        return None
    if answers.scores is not None:
        return confusion(labels, named, answers.outputs[answers.scores.output].shape[1])
    highest = max(int(labels.max()), int(named.max()))
    return confusion(labels, named, highest + 1 if highest < CONFUSION_CLASSES_MAX else 0)


def _disagreements(yardstick: Yardstick, outputs: Outputs) -> tuple[Disagreement, ...]:
    if yardstick.scores is None:
        return ()
    name, labels = yardstick.scores.output, yardstick.samples.labels
    classes = labels if labels is not None and labels.dtype.kind == "i" else None
    return top_disagreements(yardstick.outputs[name], outputs[name], classes)
