"""The benchmark of kills in short: it runs, and finds nothing wrong."""

from pathlib import Path

import pytest
from benchmarks.fleet import kills

pytestmark = pytest.mark.e2e


def test_five_kills_lose_and_double_no_order(tmp_path: Path) -> None:
    found = kills.run(kills=5, devices=12, seed=20261129, folder=tmp_path)
    assert found["wrong"] == []
    assert (found["kills"], found["updates_ended"]) == (5, {"committed": 12 * found["rollouts"]})
    assert found["in_the_middle"] >= 3


def test_what_is_wrong_is_found() -> None:
    """A history with a doubled order, a gap, and a phase that comes too early."""

    class Damaged:
        def rows(self, query: str, *values: str) -> list:
            if values:
                ordered = [
                    (n, "device_ordered", f'{{"device": "a", "order": {n}}}') for n in (1, 2)
                ]
                committed = (4, "device_committed", '{"device": "a"}')
                return [*ordered, committed, (5, "phase_began", "{}")]
            return [("a", 2), ("b", 0)]

    wrong = " ".join(kills.check(Damaged(), ["r"], ["a", "b"]))
    assert "its events have a gap" in wrong
    assert "device_ordered of a: 2" in wrong
    assert "device_ordered of b: 0" in wrong
    assert "2 devices were ordered in phase 1, 1 may be" in wrong
    assert "a: ordered with [1, 2]" in wrong
    assert "2 phases began" in wrong
