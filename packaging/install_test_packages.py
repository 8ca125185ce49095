"""Install the Debian packages that tests of real components need, where that is allowed.

    python packaging/install_test_packages.py [LIST]...

Reads `debian-LIST-packages.txt` beside this file, for each LIST; `test` where there is none. Does
nothing when all are there; uses apt-get as root or through password-less sudo; otherwise says what
is missing, and the tests that need it are skipped with a reason (with CI=true they fail).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def wanted(name: str) -> list[str]:
    """Return the package names of a list, without comments."""
    lines = Path(__file__).with_name(f"debian-{name}-packages.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def missing(packages: list[str]) -> list[str]:
    """Return those that dpkg does not know as installed."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages]
    shown = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in installed]


def main() -> int:
    """Install what is missing; fail only where CI=true demands it."""
    strict = os.environ.get("CI") == "true"
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        print(
            "edgectl: no apt-get here; tests of Debian's components will be skipped",
            file=sys.stderr,
        )
        return int(strict)
    lists = sys.argv[1:] or ["test"]
    packages = missing([package for name in lists for package in wanted(name)])
    if not packages:
        return 0
    prefix = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        print(f"edgectl: not allowed to install {' '.join(packages)}; their tests will be skipped.")
        print(f"  try: sudo apt-get install --no-install-recommends {' '.join(packages)}")
        return int(strict)
    print(f"edgectl: installing for the tests: {' '.join(packages)}", flush=True)
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "--quiet=2"],
        ["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            [*prefix, *command], env=settings, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
            print(f"edgectl: {' '.join(command[:2])} failed (see above)", file=sys.stderr)
            return int(strict)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
