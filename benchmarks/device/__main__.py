"""The figures of the device, one benchmark after the other, each in a process of its own.

Each prints its comparison; the last line is one JSON object of all, by name. What they measure and
what was seen: ``docs/device-figures.md``.

    python -m benchmarks.device [--only NAME]... [--worlds 2000] [--kills 200] [--requests 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

__all__ = ["main"]

NAMES = ("serving", "swaps", "sdk", "footprint", "simulation", "kills")


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 where one of them has failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--requests", type=int, default=100_000, help="of the swaps")
    parser.add_argument("--worlds", type=int, default=2000, help="of the simulation")
    parser.add_argument("--kills", type=int, default=200, help="of forks")
    parser.add_argument("--agents", type=int, default=4, help="updates in which agents are killed")
    options = parser.parse_args(arguments)
    given = {
        "swaps": [str(options.requests)],
        "simulation": ["--worlds", str(options.worlds)],
        "kills": ["--kills", str(options.kills), "--agents", str(options.agents)],
    }
    results: dict[str, Any] = {"load_before": os.getloadavg(), "processors": os.cpu_count()}
    failed = []
    for name in options.only or NAMES:
        print(f"==== {name}\n", flush=True)
        began = time.monotonic()
        code, results[name] = run(name, given.get(name, []))
        print(f"\n{name}: {time.monotonic() - began:.0f} s, code {code}\n", flush=True)
        if code:
            failed.append(name)
    print(json.dumps({"benchmark": "device", **results, "failed": failed}))
    return 1 if failed else 0


def run(name: str, arguments: list[str]) -> tuple[int, Any]:
    """Run one benchmark, show what it prints, and return its code and its last line."""
    command = [sys.executable, "-m", f"benchmarks.device.{name}", *arguments]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(last, end="", flush=True)
            last = line
    try:
        return process.returncode, json.loads(last)
    except json.JSONDecodeError:
        print(last, end="", flush=True)
        return process.returncode or 1, None


if __name__ == "__main__":
    raise SystemExit(main())
