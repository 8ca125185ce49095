"""How far a row is outside of a reference, and from what was taken lately."""

from __future__ import annotations

import numpy as np
import pytest

from edgectl_protocol.watching import Feature
from edgectl_statistics.places import RECENT_MAX, Recent, Yardstick

NARROW = Feature(name="narrow", edges=(1.0, 2.0, 3.0), counts=(1, 1, 1, 1), low=0.0, high=4.0)
WIDE = Feature(name="wide", edges=(100.0,), counts=(2, 2), low=-1000.0, high=1000.0)
ALWAYS = Feature(name="always", edges=(7.0,), counts=(0, 4), low=7.0, high=7.0)


@pytest.mark.parametrize(
    ("row", "beyond"),
    [
        ((0.0, 1000.0, 7.0), 0.0),
        ((5.0, 0.0, 7.0), 0.25),
        ((-4.0, 0.0, 7.0), 1.0),
        ((4.5, -2000.0, 7.0), 0.5),
        ((2.0, 0.0, 8.0), 1 / 7),
        ((np.nan, 0.0, 7.0), 0.0),
        ((np.nan, 1500.0, 7.0), 0.25),
        ((np.nan, np.nan, np.nan), 0.0),
        ((1e300, 0.0, 7.0), 1e12),
    ],
)
def test_how_far_outside_is_in_units_of_the_references_range(
    row: tuple[float, ...], beyond: float
) -> None:
    yardstick = Yardstick((NARROW, WIDE, ALWAYS))
    assert yardstick.beyond(np.array([row])) == pytest.approx(beyond)


def test_of_many_rows_the_furthest_counts() -> None:
    rows = np.array([[2.0, 0.0, 7.0], [12.0, 0.0, 7.0], [5.0, 0.0, 7.0]])
    assert Yardstick((NARROW, WIDE, ALWAYS)).beyond(rows) == pytest.approx(2.0)


def test_a_range_that_is_no_number_is_no_trouble() -> None:
    huge = Feature(name="x", edges=(0.0,), counts=(1, 1), low=-1.7e308, high=1.7e308)
    assert Yardstick((huge,)).beyond(np.array([[1.0]])) == 0.0


def test_a_place_is_a_share_of_the_bins() -> None:
    yardstick = Yardstick((NARROW, WIDE))
    places = yardstick.places
    np.testing.assert_allclose(places(np.array([0.5, 0.0])), [0.0, 0.0])
    np.testing.assert_allclose(places(np.array([1.0, 100.0])), [1 / 3, 1.0])
    np.testing.assert_allclose(places(np.array([1e9, 1e9])), [1.0, 1.0])
    np.testing.assert_allclose(places(np.array([np.nan, np.nan])), [0.0, 0.0])


def test_the_nearest_one_counts_and_the_oldest_goes() -> None:
    recent = Recent(2)
    assert recent.distance(np.zeros(2, np.float32)) == 1.0, "the first is unlike all before it"
    recent.add(np.array([0.0, 0.0], np.float32))
    recent.add(np.array([1.0, 1.0], np.float32))
    assert recent.distance(np.array([1.0, 0.0], np.float32)) == pytest.approx(np.sqrt(0.5))
    assert recent.distance(np.array([1.0, 1.0], np.float32)) == 0.0
    for _ in range(RECENT_MAX - 1):
        recent.add(np.array([1.0, 1.0], np.float32))
    assert recent.distance(np.array([0.0, 0.0], np.float32)) == 1.0, "the first has gone"
    recent.clear()
    assert recent.distance(np.array([1.0, 1.0], np.float32)) == 1.0
