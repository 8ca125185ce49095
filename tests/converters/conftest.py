"""Real converters in real environments, installed once a machine; models that they make themselves.

The environments lie in the user's cache folder, named after their requirements, so that only the
first run installs them.
"""

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from edgectl_server.converters.conversion import Conversion, ConverterLimits, convert
from edgectl_server.converters.environments import Environments
from edgectl_server.converters.formats import recognise
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import Progress
from once import made_once

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgectl-converters"
MAKERS = Path(__file__).parent / "makers"


@pytest.fixture(scope="session")
def environments() -> Environments:
    return Environments(CACHE, build_s_max=1200.0)


def pythons(environments: Environments, name: str) -> Path:
    return environments.python(name, tell=print, cancelled=lambda: False)


@pytest.fixture(scope="session")
def make(environments: Environments, tmp_path_factory: pytest.TempPathFactory):
    """Run a script of `makers` with a converter's Python, once; returns the folder it filled."""

    def run(script: str, converter: str, *arguments: object) -> Path:
        def make(folder: Path) -> Path:
            python = pythons(environments, converter)
            command = [python, "-s", "-P", "-W", "ignore", MAKERS / f"{script}.py", *arguments]
            subprocess.run(command, cwd=folder, timeout=240, check=True)
            return folder

        return made_once(tmp_path_factory, script, make)

    return run


@pytest.fixture(scope="session")
def sklearn_models(make) -> Path:
    return make("sklearn_models", "sklearn")


class Converted(NamedTuple):
    conversion: Conversion
    progress: list[Progress]


@pytest.fixture
def converted(environments: Environments, tmp_path: Path) -> Callable[..., Converted]:
    """Convert a file by the name that it has."""

    def run(source: Path, data: Path | None = None, **limits: int) -> Converted:
        work = tmp_path / "work"
        work.mkdir()
        progress: list[Progress] = []
        conversion = convert(
            source,
            recognise(source, source.name),
            work,
            data=data,
            environments=environments,
            limits=ConverterLimits(**limits),
            on_progress=progress.append,
            cancelled=lambda: False,
        )
        return Converted(conversion, progress)

    return run


@pytest.fixture
def refused(converted) -> Callable[..., PipelineRefused]:
    """Convert a file that must be refused."""

    def run(source: Path, data: Path | None = None, **limits: int) -> PipelineRefused:
        with pytest.raises(PipelineRefused) as caught:
            converted(source, data, **limits)
        assert caught.value.detail
        return caught.value

    return run


def archive(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copy an archive, member by member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target
