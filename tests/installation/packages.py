"""Debian packages for tests: built for machines like this one, changed, installed there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from installation.machine import Machine, missing_programs

__all__ = [
    "ROOT",
    "build",
    "build_msgspec",
    "depends",
    "install",
    "lintian",
    "needs_programs",
    "put",
    "with_version",
]

ROOT = Path(__file__).parents[2]

needs_programs = pytest.mark.skipif(
    bool(missing_programs()) or os.geteuid() != 0,
    reason=f"needs root and {', '.join(missing_programs()) or 'nothing else'}: "
    "packaging/install_test_packages.py installs them",
)


def build(
    which: str,
    output: Path,
    *,
    release: str = "bookworm",
    architecture: str = "amd64",
    level: int = 0,
    **settings: str,
) -> Path:
    """Build the package of ``agent`` or ``server``, and return its path."""
    subprocess.run(
        [
            *(sys.executable, str(ROOT / f"packaging/deb/build_{which}.py")),
            *("--release", release, "--architecture", architecture),
            *("--level", str(level), "--output", str(output)),
        ],
        check=True,
        timeout=900,
        env={**os.environ, **settings},
    )
    (package,) = output.glob("*.deb")
    return package


def build_msgspec(output: Path) -> Path:
    """Build the package that Debian does not have for 32-bit ARM, and return its path."""
    command = [
        sys.executable,
        str(ROOT / "packaging/deb/build_msgspec.py"),
        "--output",
        str(output),
    ]
    subprocess.run(command, check=True, timeout=900)
    (package,) = output.glob("python3-msgspec_*.deb")
    return package


def depends(package: Path) -> set[str]:
    """Return the names of the packages that it depends on."""
    command = ["dpkg-deb", "--field", str(package), "Depends"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {re.split(r"[ :|]", one.strip())[0] for one in text.split(",")}


def with_version(
    package: Path, version: str, folder: Path, change: Callable[[Path], None] = lambda _: None
) -> Path:
    """Return the same package under another version, and with its tree changed."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
    change(tree)
    name, _, architecture = package.stem.split("_")
    other = folder / f"{name}_{version}_{architecture}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "--build", str(tree), str(other)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return other


def put(machine: Machine, package: Path) -> str:
    """Copy a package onto the machine, and return its path there."""
    shutil.copy(package, machine.root / "root" / package.name)
    return f"/root/{package.name}"


def install(machine: Machine, path: str) -> str:
    """Install a package there, and return what is said."""
    return machine.run("apt-get", "install", "--quiet=2", "--yes", "--allow-downgrades", path)


def lintian(package: Path) -> subprocess.CompletedProcess[str]:
    """Return what lintian finds."""
    return subprocess.run(
        ["lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning", str(package)],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
