"""Real processes on a real file system, ended with SIGKILL at random microseconds."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.reality import life
from agent.reality.agents import kill_agents, versions
from agent.reality.life import Files, kill_many

KILLS = int(os.environ.get("EDGECTL_KILLS", "80"))
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_killed_again_and_again_it_forgets_nothing(tmp_path: Path) -> None:
    ledger = kill_many(tmp_path / "state", KILLS, seed=1)
    assert ledger.lives == KILLS
    assert ledger.updates > KILLS / 10, "it did not come far enough to prove anything"
    assert ledger.accepted > 10
    assert len(ledger.kills) > 5, ledger.kills


class InPlace(Files):
    """Somebody writes the pointers and the journal in place, a few bytes at a time."""

    def write_atomic(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.write(path, b"", mode)
        for at in range(0, len(content), 40):
            self.append(path, content[at : at + 40])
            self.sync(path)


def test_the_kills_find_what_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "Files", InPlace)
    with pytest.raises(AssertionError):
        kill_many(tmp_path / "state", 400, seed=1)


def test_whole_agents_are_killed(
    plane: ControlPlane, make_device: Callable[..., Device], tmp_path: Path
) -> None:
    """Real broker, real trial, real inference process."""
    device = make_device()
    seen = kill_agents(plane, device, versions(tmp_path, 2), updates=2, seed=3)
    assert seen.updates == 2
    assert seen.kills >= 2


def test_the_command_kills_and_counts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.device.kills", "--kills", "12", "--agents", "0"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == 12
