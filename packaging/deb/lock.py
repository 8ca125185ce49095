"""Write the lock files of the Debian packages: which wheels go in, by version and hash.

    python packaging/deb/lock.py agent
    python packaging/deb/lock.py server

One file for each package and Debian release, for all its architectures together; pip resolves for
each of them what the project asks for. The package for all architectures gets those of its release
that it holds. Run it when dependencies are to be renewed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from build_agent import AGENT
from releases import ARCHITECTURES, RELEASES, Release, pip_target

HERE = Path(__file__).parent
HEAD = "# Written by packaging/deb/lock.py: the wheels of edgectl-{package} for Debian {name}.\n"
EXTRAS = ("server", "postgresql")
"""Of the whole distribution, that are in the server's package."""
_NATIVE = AGENT.native.wheels if AGENT.native else ()


def main() -> int:
    """Resolve for each release and architecture, and write what was found."""
    if sys.argv[1:] not in (["agent"], ["server"]):
        print("usage: lock.py agent|server", file=sys.stderr)
        return 2
    package = sys.argv[1]
    for release in RELEASES.values():
        found: dict[str, set[str]] = {}
        for architecture in ARCHITECTURES:
            for wheel, digest in _resolve(release, architecture, _wanted(package)):
                found.setdefault(wheel, set()).add(digest)
        lock = release.lock if package == "agent" else release.server_lock
        lock.write_text(HEAD.format(package=package, name=release.name) + _lines(found))
        print(f"{lock.name}: {len(found)} packages", flush=True)
        if package == "agent" and AGENT.native and AGENT.native.release == release.name:
            kept = {one: digests for one, digests in found.items() if _name(one) in _NATIVE}
            head = HEAD.format(package=package, name=f"{release.name}, all architectures")
            AGENT.native.lock.write_text(head + _lines(kept))
    return 0


def _name(wheel: str) -> str:
    return wheel.partition("==")[0]


def _wanted(package: str) -> list[str]:
    """Return what a package asks for."""
    if package == "agent":
        project = tomllib.loads((HERE.parent / "agent/pyproject.toml").read_text())["project"]
        return list(project["dependencies"])
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])]


def _resolve(release: Release, architecture: str, wanted: list[str]) -> list[tuple[str, str]]:
    """Return (name==version, SHA-256) of every wheel that pip would take."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", str(report),
            *pip_target(release, architecture, Path(folder) / "target"), *wanted,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        chosen: list[Mapping[str, Any]] = json.loads(report.read_text())["install"]
    return [
        (
            f"{one['metadata']['name'].lower()}=={one['metadata']['version']}",
            one["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for one in chosen
    ]


def _lines(found: Mapping[str, set[str]]) -> str:
    return "".join(
        " \\\n    ".join([package, *(f"--hash=sha256:{digest}" for digest in sorted(digests))])
        + "\n"
        for package, digests in sorted(found.items())
    )


if __name__ == "__main__":
    raise SystemExit(main())
