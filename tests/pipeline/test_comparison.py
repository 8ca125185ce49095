"""A variant beside fp32: recall by class, confusion, disagreements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score

from edgectl_server.pipeline.comparison import (
    confusion,
    largest_recall_drop,
    top_disagreements,
)
from edgectl_server.pipeline.metrics import NotMeasurable

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 80), st.integers(2, 8))
def test_confusion_and_recall_as_scikit_learn_has_them(seed, count, classes):
    random = np.random.default_rng(seed)
    labels, before, after = random.integers(0, classes, (3, count))
    wanted = confusion_matrix(labels, after, labels=np.arange(classes))
    assert confusion(labels, after, classes) == tuple(map(tuple, wanted.tolist()))
    present = np.unique(labels)
    lost = [
        recall_score(labels, named, labels=present, average=None, zero_division=0)
        for named in (before, after)
    ]
    drop = largest_recall_drop(labels, before, after, samples_min=1)
    assert drop.points == pytest.approx(100 * float((lost[0] - lost[1]).max()))
    assert drop.skipped == 0


def test_small_classes_are_left_out():
    labels = np.repeat([0, 1], [50, 3])
    before, after = labels, np.zeros_like(labels)
    drop = largest_recall_drop(labels, before, after)
    assert (drop.points, drop.label, drop.samples, drop.skipped) == (0.0, 0, 50, 1)
    with pytest.raises(NotMeasurable, match="10 samples"):
        largest_recall_drop(labels[-3:], before[-3:], after[-3:])


def test_gains_are_no_loss():
    labels = np.repeat([0, 1], 20)
    assert largest_recall_drop(labels, 1 - labels, labels).points == -100.0


@pytest.mark.parametrize("outside", [-1, 3, 2**40])
def test_classes_outside_have_no_confusion(outside):
    labels = np.array([0, 1, 2])
    assert confusion(labels, np.array([0, 1, outside]), 3) is None
    assert confusion(np.array([0, 1, outside]), labels, 3) is None


def test_too_many_classes_have_no_confusion():
    labels = np.array([0, 1])
    assert confusion(labels, labels, 64) is not None
    assert confusion(labels, labels, 65) is None
    assert confusion(labels, labels, 0) is None


def test_the_surest_disagreements_come_first():
    before = np.array([[9, 0], [2, 1], [5, 0], [0, 1]], np.float32)
    after = np.array([[0, 1], [0, 3], [5, 0], [0, 1]], np.float32)
    found = top_disagreements(before, after, np.array([0, 1, 0, 1]), np.array([10, 20, 30, 40]))
    assert [(one.index, one.label) for one in found] == [(10, 0), (20, 1)]
    assert (found[0].reference_class, found[0].reference_score) == (0, 9.0)
    assert (found[0].variant_class, found[0].variant_score) == (1, 1.0)


@given(seeds, st.integers(0, 60))
def test_at_most_twenty_and_all_disagree(seed, count):
    random = np.random.default_rng(seed)
    before, after = random.normal(size=(2, count, 4)).astype(np.float32)
    found = top_disagreements(before, after, None)
    differ = int((before.argmax(axis=1) != after.argmax(axis=1)).sum())
    assert len(found) == min(20, differ)
    assert all(one.reference_class != one.variant_class and one.label is None for one in found)
