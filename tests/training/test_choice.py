"""Which fit is taken, of rows that are right and wrong by construction."""

from __future__ import annotations

import numpy as np
import pytest

from edgectl_server.training.choice import Tried, choose
from edgectl_server.training.heads import Weights

NONE = np.zeros(0, np.bool_)


def fit(right: list[int], kept: list[int] | None = None) -> Tried:
    """A fit by the numbers of the rows that it answers wrongly, of 100 new and 1,000 old ones."""
    found = [np.ones(100, np.bool_), np.ones(1000, np.bool_)]
    for rows, wrong in zip(found, (right, kept or []), strict=True):
        rows[wrong] = False
    return Tried(Weights(np.zeros((2, 3)), np.zeros(2)), *found)


SERVED = fit(list(range(50)))


def test_the_most_cautious_of_equals_is_taken() -> None:
    bold = fit(list(range(10)))
    cautious = fit(list(range(11)))  # one row worse: 0.01, give or take 0.01
    assert choose(SERVED, [cautious, bold], 3.0) is cautious


def test_what_is_worse_on_the_same_rows_is_worse_even_by_little() -> None:
    """A lead of 3 of 100 rows, where no others differ, is more than its error of 0.017.

    The error of either accuracy alone, 0.03, would have hidden it.
    """
    bold = fit(list(range(10)))
    cautious = fit(list(range(13)))
    assert choose(SERVED, [cautious, bold], 3.0) is bold


def test_rows_that_differ_both_ways_are_noise() -> None:
    bold = fit(list(range(10)))
    cautious = fit(list(range(20, 33)))  # three worse, of 23 that differ
    assert choose(SERVED, [cautious, bold], 3.0) is cautious


@pytest.mark.parametrize(
    ("lost", "within"),
    [(20, True), (24, True), (28, False), (30, False)],  # 30 of 1,000 are the bound; ± 0.005
)
def test_what_may_lose_too_much_of_the_old_is_out(lost: int, within: bool) -> None:
    cautious, bold = fit(list(range(30))), fit([], list(range(lost)))
    taken = choose(SERVED, [cautious, bold], 3.0)
    assert taken is (bold if within else cautious)


def test_where_all_lose_too_much_the_best_on_new_rows_is_taken() -> None:
    """The gates say no then, with figures; there is nothing better to show."""
    cautious, bold = fit(list(range(30)), list(range(90))), fit([], list(range(200)))
    assert choose(SERVED, [cautious, bold], 3.0) is bold


def test_no_old_rows_bind_nothing() -> None:
    served, one = SERVED._replace(kept=NONE), fit([])._replace(kept=NONE)
    assert choose(served, [one], 0.0) is one
