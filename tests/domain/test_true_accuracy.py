"""Accuracy by labels: what counts, and its interval beside SciPy's."""

import pytest
from scipy import stats

from edgectl_server.domain.true_accuracy import LabelledAnswer, true_accuracy, wilson


@pytest.mark.parametrize(("right", "rows"), [(0, 1), (1, 1), (3, 10), (950, 1000), (0, 40)])
def test_the_interval_is_wilsons(right: int, rows: int) -> None:
    expected = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert wilson(right, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_samples_that_were_chosen_for_being_unsure_do_not_stand_for_all() -> None:
    sure = [LabelledAnswer("random", 1, 1)] * 9 + [LabelledAnswer("random", 1, 0)]
    unsure = [LabelledAnswer("uncertain", 2, 0)] * 6 + [LabelledAnswer("asked", 2, 2)]
    found = true_accuracy([*sure, *unsure])
    assert (found.rows, found.right, found.accuracy) == (10, 9, 0.9)
    assert (found.chosen, found.chosen_right) == (7, 1)
    assert found.low < 0.9 < found.high


def test_without_labels_nothing_is_known() -> None:
    found = true_accuracy([])
    assert (found.rows, found.accuracy, found.low, found.high) == (0, None, 0.0, 1.0)
