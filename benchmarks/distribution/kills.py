"""Downloads and updates by deltas in real processes that are ended with SIGKILL at any microsecond.

    python -m benchmarks.distribution.kills [--kills 1000] [--seed 0] [--folder /var/tmp]

Each is a fork with the real downloader, patcher and store (`tests/agent/reality/downloads.py` and
`patches.py` there). None may begin with less than the one before it had told of or left, no update
by a delta may end as a download of the whole file, and every bundle that became whole is hashed.
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
from agent.reality.patches import MODEL_BYTES, kill_patches


def main(arguments: list[str] | None = None) -> int:
    """Kill, print, end with one line of JSON; an `AssertionError` is a finding."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.kills")
    parser.add_argument("--kills", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="edgectl-kills-", dir=options.folder) as scratch:
        began = time.monotonic()
        found = kill_downloads(Path(scratch) / "downloads", options.kills, options.seed)
        downloads_s = time.monotonic() - began
        print(
            f"{found.kills.total():,} downloads killed in {downloads_s:.0f} s: {dict(found.kills)}"
        )
        print(
            f"{found.bundles:,} bundles of {CHUNKS} chunks became whole, and all files were right"
        )
        began = time.monotonic()
        patched = kill_patches(Path(scratch) / "patches", options.kills, options.seed)
        patches_s = time.monotonic() - began
    print(f"{patched.kills.total():,} updates killed in {patches_s:.0f} s: {dict(patched.kills)}")
    print(f"{patched.models:,} models of {MODEL_BYTES:,} bytes were made by a delta, all right")
    result = {
        "benchmark": "distribution.kills",
        "kills": found.kills.total(),
        "seconds": round(downloads_s, 1),
        "bundles": found.bundles,
        "chunks_kept": found.fetched_chunks,
        "patches": {
            "kills": patched.kills.total(),
            "where": dict(patched.kills),
            "seconds": round(patches_s, 1),
            "models": patched.models,
        },
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
