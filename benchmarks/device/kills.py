"""Real processes that are ended with SIGKILL at random microseconds, thousands of them.

The first kind is a fork with the real machine, journal, store, downloader and serving on a real
file system with real fsync, and imitations of broker, trial and inference process
(`tests/agent/reality/life.py`). The second is the whole agent as its users start it, with a real
broker, real signatures, real trials and a real inference process (`tests/agent/reality/agents.py`).
After each death the next life must know everything that was told before it, and run what was
committed or is observed, byte for byte.

    python -m benchmarks.device.kills --kills 2000 --agents 20
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from agent.reality.agents import Killed, kill_agents, versions
from agent.reality.life import Ledger, kill_many

DISKS = 20
"""State directories that the kills are divided among."""


def forks(folder: Path, kills: int, seed: int) -> list[Ledger]:
    """Kill forks; each state directory is killed upon until its share is done."""
    shares = [kills // DISKS + (number < kills % DISKS) for number in range(DISKS)]
    return [
        kill_many(folder / f"state-{number}", share, seed + number)
        for number, share in enumerate(shares)
        if share
    ]


def agents(folder: Path, updates: int, seed: int) -> Killed:
    """Kill whole agents while they bring `updates` updates to their end."""
    from agent.core.control_plane import ControlPlane
    from agent.core.device import Device

    folder.mkdir()
    plane = ControlPlane(folder / "plane", broker="embedded")
    device = Device(plane.url, plane.token_text, folder / "pi-1")
    try:
        return kill_agents(plane, device, versions(folder, 2), updates=updates, seed=seed)
    finally:
        device.kill()
        plane.close()


def main(arguments: list[str] | None = None) -> int:
    """Kill, print, end with one line of JSON; an `AssertionError` is a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=2000, help="of forks")
    parser.add_argument("--agents", type=int, default=20, help="updates of whole agents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="on the file system that is meant")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="edgectl-kills-", dir=options.folder) as scratch:
        began = time.monotonic()
        ledgers = forks(Path(scratch), options.kills, options.seed)
        took_s = time.monotonic() - began
        states: Counter[str] = sum((one.kills for one in ledgers), Counter())
        updates = sum(one.updates for one in ledgers)
        print(f"{states.total():,} forks killed in {took_s:.0f} s, {updates:,} updates ended")
        for state, count in states.most_common():
            print(f"  {count:>6,}  {state}")
        began = time.monotonic()
        whole = (
            agents(Path(scratch) / "agents", options.agents, options.seed)
            if options.agents
            else Killed()
        )
        whole_s = time.monotonic() - began
    if whole.kills:
        print(f"{whole.kills:,} whole agents killed in {whole_s:.0f} s, {whole.updates:,} updates")
        for state, count in Counter(whole.states).most_common():
            print(f"  {count:>6,}  {state}")
    result = {
        "benchmark": "device.kills",
        "kills": states.total(),
        "seconds": round(took_s, 1),
        "updates": updates,
        "states": dict(states),
        "agents": whole.kills,
        "agents_seconds": round(whole_s, 1),
        "agents_updates": whole.updates,
        "agents_states": dict(Counter(whole.states)),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
