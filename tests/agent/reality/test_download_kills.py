"""Downloads and updates by deltas that are killed: none begins again, no file is wrong.

A thousand of each: ``python -m benchmarks.distribution.kills``.
"""

from __future__ import annotations

from pathlib import Path

from agent.reality.downloads import kill_downloads
from agent.reality.patches import kill_patches


def test_sixty_kills_lose_nothing_that_was_told(tmp_path: Path) -> None:
    found = kill_downloads(tmp_path, 60, seed=1)
    assert found.kills.total() == 60
    assert found.fetched_chunks > 0, "it did not come far enough to prove anything"


def test_killed_updates_by_a_delta_go_on_with_it(tmp_path: Path) -> None:
    found = kill_patches(tmp_path, 20, seed=1)
    assert found.kills.total() == 20
    assert found.models > 0, "it did not come far enough to prove anything"
