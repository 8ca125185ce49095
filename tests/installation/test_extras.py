"""Each extra alone is enough for what it promises: its modules import, its commands run.

The wheel is built once and installed by ordinary pip into a fresh environment an extra, so that
what is missing in `pyproject.toml` is missing here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_S = 60
INSTALL_S = 240
RUN_S = 60

OF_AGENT = {"edgectl_delta", "edgectl_protocol", "edgectl_statistics", "edgectl_agent"}
PROMISES = {
    "": ({"edgectl", "edgectl_protocol"}, "edgectl"),
    "server": (
        {
            "edgectl",
            "edgectl_broker",
            "edgectl_datasets",
            "edgectl_delta",
            "edgectl_protocol",
            "edgectl_server",
            "edgectl_statistics",
        },
        "edgectl",
    ),
    "datasets": (
        {"edgectl", "edgectl_datasets", "edgectl_protocol", "edgectl_statistics"},
        "edgectl",
    ),
    "simulator": ({"edgectl", "edgectl_protocol", "edgectl_simulator"}, "edgectl"),
    "agent": (
        {"edgectl_delta", "edgectl_protocol", "edgectl_statistics", "edgectl_agent"},
        "edgectl-agent",
    ),
    "agent,grpc": (
        {"edgectl_delta", "edgectl_protocol", "edgectl_statistics", "edgectl_agent"},
        "edgectl-agent",
    ),
}
OF_GRPC = {
    f"edgectl_agent.inference.{name}" for name in ("grpc_codec", "grpc_messages", "grpc_server")
}
"""Modules that only the extra of that name can import."""
ON_DEBIAN = {"edgectl_delta.pyzstd_names"}
"""Modules for what Debian has in the place of our libraries: `tests/agent/test_pyzstd.py`."""

IMPORT_ALL = """
import importlib, pkgutil, sys
names, _, skipped = " ".join(sys.argv[1:]).partition(" without ")
for name in names.split():
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith("__main__") and module.name not in skipped.split():
            importlib.import_module(module.name)
        print(module.name)
"""


def _build(project: Path, out: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=project,
        env=os.environ | {"EDGECTL_SKIP_UI": "1"},
        check=True,
        timeout=BUILD_S,
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def _packages(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    return {top for top in tops if not top.endswith(".dist-info")}


def _install(wheel: str, environment: Path) -> Path:
    """Make an environment with `wheel` in it and return its folder of commands."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)],
        check=True,
        timeout=RUN_S,
    )
    commands = environment / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python")]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-compile", wheel], check=True, timeout=INSTALL_S
    )
    return commands


def _output(command: list[str], folder: Path) -> str:
    """Run `command` away from the sources and return what it has printed."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=RUN_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _modules(package: str) -> set[str]:
    """Return the names of the modules that the sources of `package` have."""
    (source,) = ROOT.glob(f"*/{package}")
    names = set()
    for path in source.rglob("*.py"):
        parts = path.relative_to(source.parent).with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    scripts = "edgectl_server.storage.migrations"  # run by alembic from files, never imported
    return {name for name in names if not name.startswith(scripts)} - {package}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("extra", PROMISES, ids=lambda extra: extra or "alone")
def test_an_extra_alone_keeps_its_promise(extra: str, wheel: Path, tmp_path: Path) -> None:
    packages, command = PROMISES[extra]
    commands = _install(f"{wheel}[{extra}]" if extra else str(wheel), tmp_path / "environment")

    skipped = ON_DEBIAN if "grpc" in extra else OF_GRPC | ON_DEBIAN
    python = [str(commands / "python"), "-c", IMPORT_ALL]
    printed = _output([*python, *sorted(packages), "without", *sorted(skipped)], tmp_path)
    assert set().union(*map(_modules, packages)) <= set(printed.split())

    shown = _output([str(commands / command), "--help"], tmp_path)
    assert command in shown


def test_who_signs_offline_needs_the_extra_keys_alone(wheel: Path, tmp_path: Path) -> None:
    commands = _install(f"{wheel}[keys]", tmp_path / "environment")
    edgectl = str(commands / "edgectl")
    made = _output([edgectl, "keys", "generate", "ana.pem", "--no-passphrase"], tmp_path)
    assert "give ana.pub" in made
    assert "--previous" in _output([edgectl, "keys", "sign", "--help"], tmp_path)
    installed = {path.name for path in tmp_path.glob("environment/lib/*/site-packages/*")}
    assert not installed & {"fastapi", "numpy", "onnxruntime", "sqlalchemy"}


def test_the_wheel_has_every_package(wheel: Path) -> None:
    promised = set().union(*(packages for packages, _ in PROMISES.values()))
    assert _packages(wheel) == promised


def test_the_thin_wheel_is_the_agent_and_the_protocol(tmp_path: Path) -> None:
    wheel = _build(ROOT / "packaging/agent", tmp_path)
    assert _packages(wheel) == {
        "edgectl_agent",
        "edgectl_delta",
        "edgectl_protocol",
        "edgectl_statistics",
    }


def test_the_thin_wheel_asks_for_what_the_extra_asks_for() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    thin = tomllib.loads((ROOT / "packaging/agent/pyproject.toml").read_text())["project"]
    needed = {*whole["optional-dependencies"]["agent"], "msgspec>=0.20"}
    assert set(thin["dependencies"]) == needed
    for extra in ("grpc", "litert", "pkcs11"):
        assert thin["optional-dependencies"][extra] == whole["optional-dependencies"][extra]
    assert thin["version"] == whole["version"]
