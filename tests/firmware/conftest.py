"""The C core, built with each compiler; what is missing is named."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.conftest import TestAuthority
from firmware.programs import HOST, Programs, monocypher
from once import made_once

VECTORS = Path(__file__).parent.parent / "vectors/firmware.json"


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """What Python says, for C to say it too."""
    document: dict[str, Any] = json.loads(VECTORS.read_text())
    return document


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Programs]:
    """Build the programs of the tests, with sanitizers unless said otherwise, once each."""

    def make(
        compiler: str, *programs: str, settings: tuple[str, ...] = (), sanitize: str | None = None
    ) -> Programs:
        if shutil.which(compiler) is None or shutil.which("make") is None:
            pytest.skip(f"needs {compiler} and make (Debian packages of those names)")

        def compiled(folder: Path) -> Programs:
            command = [
                "make", "--silent", f"--jobs={min(2, os.cpu_count() or 1)}", f"CC={compiler}",
                f"BUILD={folder}", f"MONOCYPHER={monocypher()}", *settings,
                *(str(folder / one) for one in programs),
            ]  # fmt: skip
            if sanitize is not None:
                command.append(f"SANITIZE={sanitize}")
            done = subprocess.run(command, cwd=HOST, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            return Programs(folder)

        name = (*programs, *settings, sanitize or "")
        return made_once(tmp_path_factory, compiler, compiled, of=name)

    return make


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestAuthority, TestAuthority]:
    """Ours, and one that nobody has asked for."""
    folder = tmp_path_factory.mktemp("pki")
    return TestAuthority(folder / "ours"), TestAuthority(folder / "theirs")


@pytest.fixture(scope="session")
def bundles(vectors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every bundle of the vectors, by name, and the file ``key``."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "key").write_bytes(base64.b64decode(vectors["key"]))
    for one in vectors["bundles"]:
        (folder / one["name"]).write_bytes(base64.b64decode(one["bundle"]))
    return folder
