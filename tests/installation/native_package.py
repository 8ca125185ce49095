"""The agent's package for all architectures on a booted Debian 13, to the purge.

Not part of ``make test``: ``make test-native-package``. The same course as of the package that
brings its libraries; these here are Debian's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import activity, start  # noqa: F401 - fixtures
from installation.machine import ARCHIVE, Machine, booted, make_root, remove
from installation.packages import build, depends, lintian, needs_programs
from installation.test_debian_package import course


def native(output: Path, **settings: str) -> Path:
    return build("agent", output, release="trixie", architecture="all", **settings)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native(tmp_path_factory.mktemp("package"))


@pytest.fixture
def machine(package: Path) -> Iterator[Machine]:
    # Device nodes and programs must work there, which memory file systems may forbid.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        with booted(
            make_root(folder, "trixie", sorted(depends(package)), archive=ARCHIVE)
        ) as machine:
            yield machine
    finally:
        remove(folder)


@needs_programs
@pytest.mark.timeout(1800)
def test_the_course_of_a_device(
    machine: Machine,
    package: Path,
    start: Any,  # noqa: F811 - a fixture
    activity: dict[str, Any],  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    course(machine, package, start.server(), activity, tmp_path)


def test_two_builds_are_the_same_bytes(package: Path, tmp_path: Path) -> None:
    again = native(tmp_path / "again", TZ="Asia/Tokyo", LC_ALL="C")
    assert again.read_bytes() == package.read_bytes()


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_nothing_that_is_not_documented(package: Path) -> None:
    done = lintian(package)
    assert done.returncode == 0, done.stdout
