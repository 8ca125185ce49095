"""Run every benchmark, one after another: ``python -m benchmarks [FOLDER]``."""

from __future__ import annotations

import sys

from benchmarks import encryption, push, trust
from benchmarks.device import footprint, serving, swaps


def main() -> int:
    """Run all; the folder of models goes to those that take one."""
    for name, run in (
        ("push", lambda: push.main(sys.argv[1:])),
        ("footprint", footprint.main),
        ("serving", serving.main),
        ("swaps", lambda: swaps.main([])),
        ("encryption", lambda: encryption.main(sys.argv[1:])),
        ("trust", trust.main),
    ):
        print(f"== {name}", flush=True)
        code = run()
        if code:
            return code
        print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
