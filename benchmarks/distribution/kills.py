"""Downloads in real processes that are ended with SIGKILL at random microseconds.

    python -m benchmarks.distribution.kills [--kills 1000] [--seed 0] [--folder /var/tmp]

Each is a fork with the real downloader and store (`tests/agent/reality/downloads.py`). None may
begin with less than the one before it had told of, and every bundle that became whole is hashed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from agent.reality.downloads import CHUNKS, kill_downloads


def main(arguments: list[str] | None = None) -> int:
    """Kill, print, end with one line of JSON; an `AssertionError` is a finding."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.kills")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgectl-kills-", dir=options.folder) as scratch:
        found = kill_downloads(Path(scratch), options.kills, options.seed)
    seconds = time.monotonic() - began
    print(f"{found.kills.total():,} downloads killed in {seconds:.0f} s: {dict(found.kills)}")
    print(f"{found.bundles:,} bundles of {CHUNKS} chunks became whole, and all files were right")
    result = {
        "benchmark": "distribution.kills",
        "kills": found.kills.total(),
        "seconds": round(seconds, 1),
        "bundles": found.bundles,
        "chunks_kept": found.fetched_chunks,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
