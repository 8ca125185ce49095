"""Consensus and agreement: against published examples and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from edgectl_server.domain.agreement import Consensus, Vote, cohen, consensus_of, fleiss, pairs


def vote(label: str | None, source: str = "person", number: int = 0) -> Vote:
    return Vote(source, "x", label, number)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([], Consensus("")),
        ([vote(None)], Consensus("skipped")),
        ([vote("a"), vote(None)], Consensus("labelled", "a", 0)),
        ([vote("a"), vote("b", number=1)], Consensus("conflict")),
        ([vote("a"), vote("b", number=1), vote("b", number=1)], Consensus("labelled", "b", 1)),
        ([vote("a"), vote("a"), vote("b", "field", 1)], Consensus("labelled", "b", 1)),
        ([vote("a"), vote(None, "field")], Consensus("labelled", "a", 0)),
        ([vote("a", "field"), vote("b", "field", 1), vote("a")], Consensus("conflict")),
    ],
)
def test_what_votes_amount_to(votes: list[Vote], expected: Consensus) -> None:
    assert consensus_of(votes) == expected


def test_cohen_is_that_of_scikit_learn() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(20):
        one = numbers.integers(0, 4, 60)
        other = np.where(numbers.random(60) < 0.6, one, numbers.integers(0, 4, 60))
        found = cohen([(int(a), int(b)) for a, b in zip(one, other, strict=True)])
        assert found == pytest.approx(cohen_kappa_score(one, other))
    assert cohen([]) is None
    assert cohen([(1, 1), (1, 1)]) is None


def test_fleiss_of_the_worked_example() -> None:
    """Ten subjects, fourteen raters, five categories: kappa 0.210, as published with the method."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    samples = [[n for n, times in enumerate(row) for _ in range(times)] for row in table]
    assert fleiss(samples) == pytest.approx(0.210, abs=0.0005)
    assert fleiss([*samples, [3]]) == fleiss(samples), "one label says nothing about agreement"
    assert fleiss([[1], []]) is None
    assert fleiss([[1, 1], [1, 1]]) is None


def test_pairs_are_of_the_busiest() -> None:
    told = {str(n): {"a": 0, "b": n % 2, **({"c": 0} if n < 3 else {})} for n in range(10)}
    found = pairs(told, labellers_max=2)
    assert [(one.one, one.other, one.samples, one.agreed) for one in found] == [("a", "b", 10, 5)]
    assert len(pairs(told, labellers_max=3)) == 3
