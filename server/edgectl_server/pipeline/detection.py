"""Detections against true boxes: COCO's average precision at an overlap of 0.5.

Boxes are ``x1, y1, x2, y2`` in any one unit, x1 <= x2, y1 <= y2; classes are numbers from 0.

- labels: float [N, K, 5], rows ``class, x1, y1, x2, y2``; a row of class -1 is no box, so that
  samples of fewer boxes are filled up;
- outputs: one float output [N, M, 6], rows ``x1, y1, x2, y2, score, class``; or three outputs named
  ``boxes`` [N, M, 4], ``scores`` [N, M] and ``classes`` [N, M]. A row of score 0 or less is none.

Source: the evaluation of COCO (Lin et al. 2014; ``pycocotools/cocoeval.py``) for all areas, without
crowds: of each image the 100 best detections a class, each is given the free true box that it
overlaps most, if by 0.5; precision is made monotonous and read at 101 recalls; the mean is over the
classes that have a true box.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BOXES_MAX", "NotMeasurable", "find_detections", "mean_average_precision"]

Array = npt.NDArray[Any]
BOXES_MAX = 1000
"""True boxes of a sample; more are refused."""
_DETECTIONS_MAX = 100
_OVERLAP_MIN = 0.5
_LABEL_COLUMNS, _COLUMNS, _RANK = 5, 6, 3
_RECALLS = np.linspace(0.0, 1.0, 101)


class NotMeasurable(Exception):
    """There is not enough for a metric to be computed; the text says what is missing."""


class Detections(NamedTuple):
    """What a model has found: float [N, M, 4], [N, M], [N, M]."""

    boxes: Array
    scores: Array
    classes: Array


def find_detections(outputs: dict[str, Array]) -> Detections | None:
    """Return the boxes, scores and classes of a detector's outputs, None if it is none."""
    if set(outputs) >= {"boxes", "scores", "classes"}:
        found = Detections(outputs["boxes"], outputs["scores"], outputs["classes"])
        shape = found.boxes.shape
        if len(shape) == _RANK and shape[2] == 4:  # noqa: PLR2004
            return found if found.scores.shape == found.classes.shape == shape[:2] else None
        return None
    rows = [
        array
        for array in outputs.values()
        if array.ndim == _RANK and array.shape[2] == _COLUMNS and array.dtype.kind == "f"
    ]
    if len(rows) != 1:
        return None
    return Detections(rows[0][..., :4], rows[0][..., 4], rows[0][..., 5])


def mean_average_precision(outputs: dict[str, Array], labels: Array) -> float:
    """Return AP at an overlap of 0.5, 0 to 1.

    Args:
        outputs: see the module.
        labels: float [N, K, 5], see the module.

    Raises:
        NotMeasurable: no detector, other labels, or no true box.
    """
    found = find_detections(outputs)
    if found is None:
        raise NotMeasurable("the outputs are no detections: [N, M, 6], or boxes, scores, classes")
    if labels.ndim != _RANK or labels.shape[2] != _LABEL_COLUMNS:
        raise NotMeasurable("mAP needs labels [N, K, 5] of class, x1, y1, x2, y2")
    if labels.shape[1] > BOXES_MAX:
        raise NotMeasurable(f"{labels.shape[1]} boxes a sample, at most {BOXES_MAX}")
    wanted = {int(one): 0 for one in np.unique(labels[..., 0]) if one >= 0}
    if not wanted:
        raise NotMeasurable("the labels hold no box")
    ranked: dict[int, list[tuple[Array, Array]]] = {one: [] for one in wanted}
    for sample in range(labels.shape[0]):
        true = labels[sample].astype(np.float64)
        likely = found.scores[sample] > 0
        named = found.classes[sample]
        for number in {*np.unique(true[:, 0]), *np.unique(named[likely])} & set(wanted):
            boxes = true[true[:, 0] == number, 1:]
            own = likely & (named == number)
            scores = found.scores[sample][own].astype(np.float64)
            order = np.argsort(-scores, kind="stable")[:_DETECTIONS_MAX]
            hits = _match(found.boxes[sample][own][order].astype(np.float64), boxes)
            wanted[int(number)] += len(boxes)
            ranked[int(number)].append((scores[order], hits))
    return float(np.mean([_average_precision(ranked[one], wanted[one]) for one in wanted]))


def _average_precision(ranked: list[tuple[Array, Array]], wanted: int) -> float:
    """Return the average precision of a class.

    Args:
        ranked: of each sample the scores of the detections, and which of them are right.
        wanted: number of true boxes, at least 1.
    """
    scores = np.concatenate([score for score, _ in ranked])
    hit = np.concatenate([hits for _, hits in ranked])[np.argsort(-scores, kind="stable")]
    if not hit.size:
        return 0.0
    right = np.cumsum(hit)
    recall = right / wanted
    precision = right / np.arange(1, len(hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.mean(np.append(precision, 0.0)[np.minimum(at, len(precision))]))


def _match(boxes: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> Array:
    """Say of each box, best score first, whether it finds a true box that is still free."""
    hit = np.zeros(len(boxes), dtype=bool)
    if not len(boxes) or not len(true):
        return hit
    overlap = _overlap(boxes, true)
    for row in range(len(boxes)):
        best = len(true) - 1 - int(overlap[row, ::-1].argmax())  # COCO takes the last of equal ones
        if overlap[row, best] >= min(_OVERLAP_MIN, 1 - 1e-10):
            hit[row] = True
            overlap[:, best] = -1.0
    return hit


def _overlap(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> Array:
    """Return intersection over union, [len(left), len(right)]; of two empty boxes 0."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (left, right)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    share: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return share
