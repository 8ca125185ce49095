"""Two fleets' mixtures: no shift found where devices merely differ, and one found where it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.random import Generator
from scipy import stats

from edgectl_server.domain.mixtures import (
    DEVICES_MIN,
    _beyond_f,
    compare_bins,
    compare_classes,
)

TRIALS = 400
MIXTURE = (0.5, 0.2, 0.15, 0.1, 0.05)


def fleet(
    random: Generator, devices: int, mixture: Sequence[float], correlation: float
) -> list[list[int]]:
    """Devices that see mixtures of their own, with as many requests as they like."""
    if correlation:
        own = random.dirichlet(np.asarray(mixture) * (1 / correlation - 1), devices)
    else:
        own = np.tile(mixture, (devices, 1))
    totals = random.integers(150, 1000, devices)
    return [random.multinomial(total, one).tolist() for total, one in zip(totals, own, strict=True)]


@pytest.mark.parametrize(("new", "reference"), [(1, 9), (3, 7), (10, 50)])
@pytest.mark.parametrize("correlation", [0.0, 0.01, 0.1])
def test_devices_that_differ_are_no_shift(new: int, reference: int, correlation: float) -> None:
    random = np.random.default_rng(7)
    found = [
        compare_classes(
            fleet(random, new, MIXTURE, correlation), fleet(random, reference, MIXTURE, correlation)
        )
        for _ in range(TRIALS)
    ]
    chances = np.asarray([one.p_value for one in found if one is not None])
    assert len(chances) == TRIALS
    assert (chances < 0.05).mean() < 0.13, "nominally 0.05; few devices say little of themselves"
    assert (chances < 0.001).mean() < 0.02


def test_taking_requests_for_independent_would_find_a_shift_in_every_fleet() -> None:
    """Guards the guard: the correction is what keeps the test above."""
    random = np.random.default_rng(7)
    found = 0
    for _ in range(100):
        sums = [np.sum(fleet(random, some, MIXTURE, 0.1), axis=0) for some in (10, 50)]
        found += stats.chi2_contingency(np.stack(sums)).pvalue < 0.001
    assert found > 90


@pytest.mark.parametrize(("correlation", "power"), [(0.0, 1.0), (0.02, 0.9)])
def test_a_real_shift_is_found(correlation: float, power: float) -> None:
    random = np.random.default_rng(7)
    shifted = (0.2, 0.5, 0.15, 0.1, 0.05)
    found = [
        compare_classes(
            fleet(random, 10, shifted, correlation), fleet(random, 50, MIXTURE, correlation)
        )
        for _ in range(100)
    ]
    assert np.mean([one is not None and one.p_value < 0.001 for one in found]) >= power
    assert np.mean([one.distance for one in found if one is not None]) == pytest.approx(
        0.3, abs=0.05
    )


def test_distances_are_those_of_the_sums() -> None:
    shift = compare_classes([[8, 2], [8, 2]], [[5], [0, 5], [5, 5], [0, 0, 0]])
    assert shift is not None
    assert shift.distance == pytest.approx(0.3)
    bins = compare_bins([[8, 0, 2], [8, 0, 2]], [[5, 0, 0], [0, 0, 5], [5, 0, 5]])
    assert bins is not None
    assert bins.distance == pytest.approx(0.3)
    # Half of the mass one bin further is a Kolmogorov-Smirnov distance of a half, wherever.
    near = compare_bins([[10, 10, 0, 0]] * 3, [[20, 0, 0, 0]] * 3)
    far = compare_bins([[10, 0, 0, 10]] * 3, [[20, 0, 0, 0]] * 3)
    assert near is not None
    assert far is not None
    assert near.distance == far.distance == 0.5


@pytest.mark.parametrize(
    ("new", "reference"),
    [
        ([], [[5, 5]] * 9),
        ([[5, 5]] * 9, []),
        ([[5, 5]], [[5, 5]] * (DEVICES_MIN - 2)),
        ([[0, 0]] * 9, [[5, 5]] * 9),
    ],
)
def test_too_few_devices_say_nothing(new: list[list[int]], reference: list[list[int]]) -> None:
    assert compare_classes(new, reference) is None
    assert compare_bins(new, reference) is None


@pytest.mark.parametrize(
    ("new", "reference"),
    [
        ([[7]] * 3, [[9]] * 3),  # one class
        ([[1, 0, 0]] * 3, [[0, 0, 1]] * 3),  # too few of anything
        ([[2**62, 2**62]] * 3, [[2**62, 1]] * 3),  # as much as a device may claim
        ([[1] * 1024] * 3, [[1] * 1000] * 3),
    ],
)
def test_odd_counts_give_a_probability(new: list[list[int]], reference: list[list[int]]) -> None:
    shift = compare_classes(new, reference)
    assert shift is not None
    assert 0 <= shift.distance <= 1
    assert 0 <= shift.p_value <= 1


@pytest.mark.parametrize("above", [1, 4, 19])
@pytest.mark.parametrize("devices", [3, 8, 98])
def test_the_tail_of_f_is_that_of_scipy(above: int, devices: int) -> None:
    for chance in (0.2, 0.05, 0.01, 0.001):
        value = float(stats.f.isf(chance, above, devices * above))
        found = _beyond_f(value, above, devices * above)
        assert chance * 0.9 <= found <= chance * 3, "where it errs, it finds less"
    assert _beyond_f(0.0, above, devices * above) > 0.9
