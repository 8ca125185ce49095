"""Gates between what serves and what was trained."""

from __future__ import annotations

import pytest

from edgectl_server.domain.champions import Bounds, Pair, judge, passed


def pair(rows: int, champion: int, challenger: int, differ: int | None = None) -> Pair:
    """Return two of which, if nothing else is said, one is right wherever the other is."""
    least = abs(champion - challenger)
    return Pair(rows, champion, challenger, least if differ is None else differ)


CASES = [
    ("better on both", Bounds(), pair(1000, 950, 955), pair(60, 30, 55), True),
    ("loses a little of the old", Bounds(), pair(1000, 950, 921), pair(60, 30, 55), True),
    ("loses too much", Bounds(), pair(1000, 950, 919), pair(60, 30, 55), False),
    ("no better", Bounds(), pair(1000, 950, 950), pair(60, 30, 30), False),
    ("worse", Bounds(), None, pair(60, 30, 29), False),
    ("gains too little", Bounds(gain_points_min=5), None, pair(100, 50, 54), False),
    ("gains enough", Bounds(gain_points_min=5), None, pair(100, 50, 55), True),
    ("no old data", Bounds(), None, pair(60, 30, 33), True),
    ("old data of no rows", Bounds(), pair(0, 0, 0), pair(60, 30, 33), True),
    ("one more right", Bounds(), None, pair(20, 10, 11), False),
    ("four more, of sixteen that differ", Bounds(), None, pair(60, 30, 34, 16), False),
    ("four more, of fourteen that differ", Bounds(), None, pair(60, 30, 34, 14), True),
    ("too few rows", Bounds(), None, pair(19, 0, 19), False),
    ("no rows at all", Bounds(rows_min=0), None, pair(0, 0, 0), False),
]


@pytest.mark.parametrize(
    ("bounds", "old", "new", "may"), [one[1:] for one in CASES], ids=[one[0] for one in CASES]
)
def test_who_may_take_the_place(bounds: Bounds, old: Pair | None, new: Pair, *, may: bool) -> None:
    verdicts = judge(bounds, old, new)
    assert passed(verdicts) is may
    assert [one.gate for one in verdicts] == ["new_rows", "gain", "old_rows"]
    assert all(one.detail for one in verdicts)


def test_a_gain_that_chance_may_have_made_is_no_pass_and_no_failure() -> None:
    (_, gain, _) = judge(Bounds(), None, pair(20, 10, 11))
    assert gain.verdict == "not_enough_data"
    assert "1 by one of both alone" in gain.detail
    (_, gain, _) = judge(Bounds(), None, pair(20, 10, 10, 8))
    assert gain.verdict == "failed"
