"""Gates between what serves and what was trained."""

from __future__ import annotations

import pytest

from edgectl_server.domain.champions import Bounds, Pair, judge, passed

CASES = [
    ("better on both", Bounds(), Pair(1000, 950, 955), Pair(60, 30, 55), True),
    ("loses a little of the old", Bounds(), Pair(1000, 950, 921), Pair(60, 30, 55), True),
    ("loses too much", Bounds(), Pair(1000, 950, 919), Pair(60, 30, 55), False),
    ("no better", Bounds(), Pair(1000, 950, 950), Pair(60, 30, 30), False),
    ("worse", Bounds(), None, Pair(60, 30, 29), False),
    ("gains too little", Bounds(gain_points_min=5), None, Pair(100, 50, 54), False),
    ("gains enough", Bounds(gain_points_min=5), None, Pair(100, 50, 55), True),
    ("no old data", Bounds(), None, Pair(60, 30, 31), True),
    ("old data of no rows", Bounds(), Pair(0, 0, 0), Pair(60, 30, 31), True),
    ("too few rows", Bounds(), None, Pair(19, 0, 19), False),
    ("no rows at all", Bounds(rows_min=0), None, Pair(0, 0, 0), False),
]


@pytest.mark.parametrize(
    ("bounds", "old", "new", "may"), [one[1:] for one in CASES], ids=[one[0] for one in CASES]
)
def test_who_may_take_the_place(bounds: Bounds, old: Pair | None, new: Pair, *, may: bool) -> None:
    verdicts = judge(bounds, old, new)
    assert passed(verdicts) is may
    assert [one.gate for one in verdicts] == ["new_rows", "gain", "old_rows"]
    assert all(one.detail for one in verdicts)
