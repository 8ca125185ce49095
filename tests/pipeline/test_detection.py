"""Average precision of detections against pycocotools, and what is refused."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgectl_server.pipeline.detection import (
    BOXES_MAX,
    NotMeasurable,
    find_detections,
    mean_average_precision,
)


def as_coco(rows):
    return [float(rows[0]), float(rows[1]), float(rows[2] - rows[0]), float(rows[3] - rows[1])]


def by_pycocotools(found, labels):
    """Return COCO's AP50 of the same boxes."""
    true = [
        {
            "id": number + 1,
            "image_id": sample + 1,
            "category_id": int(row[0]),
            "bbox": as_coco(row[1:]),
            "area": float((row[3] - row[1]) * (row[4] - row[2])),
            "iscrowd": 0,
        }
        for number, (sample, row) in enumerate(
            (sample, row) for sample, rows in enumerate(labels) for row in rows if row[0] >= 0
        )
    ]
    images = [{"id": sample + 1} for sample in range(len(labels))]
    categories = [{"id": one} for one in sorted({one["category_id"] for one in true})]
    boxes = [
        {"image_id": sample + 1, "category_id": int(row[5]), "bbox": as_coco(row), "score": row[4]}
        for sample, rows in enumerate(found)
        for row in rows
        if row[4] > 0
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": true, "categories": categories}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(boxes), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return float(precision[:, precision[0] > -1].mean())


def boxes(random, *shape):
    low = random.integers(0, 12, (*shape, 2)).astype(np.float64)
    return np.concatenate([low, low + random.integers(1, 8, (*shape, 2))], axis=-1)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 12))
def test_average_precision_as_coco_has_it(seed, samples, true, rows):
    random = np.random.default_rng(seed)
    labels = np.concatenate(
        [random.integers(-1, 3, (samples, true, 1)), boxes(random, samples, true)], axis=-1
    )
    labels[0, 0, 0] = 1
    scores = random.permutation(samples * rows).reshape(samples, rows, 1) / (samples * rows) + 0.01
    scores[random.random(scores.shape) < 0.1] = 0
    scores[0, 0, 0] = 0.5
    found = np.concatenate(
        [boxes(random, samples, rows), scores, random.integers(0, 4, (samples, rows, 1))], axis=-1
    )
    got = mean_average_precision({"y": found}, labels)
    assert got == pytest.approx(by_pycocotools(found, labels))


PERFECT = np.array([[[0, 0, 2, 2, 0.9, 1], [4, 4, 6, 6, 0.8, 0]]], np.float32)
LABELS = np.array([[[1, 0, 0, 2, 2], [0, 4, 4, 6, 6], [-1, 0, 0, 0, 0]]])


def test_all_found_and_none_found():
    assert mean_average_precision({"y": PERFECT}, LABELS) == 1.0
    assert mean_average_precision({"y": PERFECT * 0}, LABELS) == 0.0
    twice = np.concatenate([PERFECT, PERFECT], axis=1)
    assert mean_average_precision({"y": twice}, LABELS) == 1.0, (
        "the second comes after all is found"
    )


def test_three_outputs_are_the_same():
    named = {"boxes": PERFECT[..., :4], "scores": PERFECT[..., 4], "classes": PERFECT[..., 5]}
    assert mean_average_precision(named, LABELS) == 1.0
    assert find_detections(named | {"scores": PERFECT[:, :1, 4]}) is None


def test_boxes_turned_inside_out_overlap_nothing():
    inverted = PERFECT.copy()
    inverted[..., [0, 2]] = inverted[..., [2, 0]]
    assert mean_average_precision({"y": inverted}, LABELS) == 0.0


@pytest.mark.parametrize(
    ("outputs", "labels", "says"),
    [
        ({"y": np.zeros((1, 4))}, LABELS, "no detections"),
        ({"y": PERFECT, "z": PERFECT}, LABELS, "no detections"),
        ({"y": PERFECT}, np.zeros(1), r"\[N, K, 5\]"),
        ({"y": PERFECT}, np.full((1, 2, 5), -1.0), "no box"),
        ({"y": PERFECT}, np.zeros((1, 0, 5)), "no box"),
        ({"y": PERFECT}, np.zeros((1, BOXES_MAX + 1, 5)), "at most"),
    ],
)
def test_what_cannot_be_measured(outputs, labels, says):
    with pytest.raises(NotMeasurable, match=says):
        mean_average_precision(outputs, labels)
