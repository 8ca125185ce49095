"""Downloads that are killed: none begins again from nothing, no file is wrong.

A thousand of them: ``python -m benchmarks.distribution.kills``.
"""

from __future__ import annotations

from pathlib import Path

from agent.reality.downloads import kill_downloads


def test_sixty_kills_lose_nothing_that_was_told(tmp_path: Path) -> None:
    found = kill_downloads(tmp_path, 60, seed=1)
    assert found.kills.total() == 60
    assert found.fetched_chunks > 0, "it did not come far enough to prove anything"
