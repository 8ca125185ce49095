"""What the agent reads from /proc and /sys, beside what other tools say."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import onnxruntime
import psutil
import pytest

from edgectl_agent import health
from edgectl_agent.health import capabilities, system_sample
from edgectl_protocol.messages import Capabilities, SystemSample, decode, encode


def test_capabilities_are_this_machine(tmp_path: Path) -> None:
    found = capabilities({"site": "porto"}, tmp_path)
    assert found.machine == platform.machine()
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_bytes == psutil.virtual_memory().total
    free = psutil.disk_usage(str(tmp_path)).free
    assert abs(found.disk_free_bytes - free) < 1e9
    assert found.runtimes["onnxruntime"] == onnxruntime.__version__
    assert found.labels == {"site": "porto"}
    assert found.os.endswith(platform.release())
    flags = Path("/proc/cpuinfo").read_text()
    assert all(feature in flags for feature in found.cpu_features)
    assert found.cpu_features == tuple(sorted(found.cpu_features))
    if found.machine in {"x86_64", "aarch64"}:
        assert found.cpu_features
    assert decode(Capabilities, encode(found)) == found


def test_a_state_directory_that_is_not_made_yet_has_its_disks_space(tmp_path: Path) -> None:
    assert capabilities({}, tmp_path / "a" / "b").disk_free_bytes > 0


def test_sample_is_now(tmp_path: Path) -> None:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    sample = system_sample(at, tmp_path, 12345)
    assert sample.at == at
    assert sample.inference_rss_bytes == 12345
    rss = psutil.Process().memory_info().rss
    assert abs(sample.agent_rss_bytes - rss) < 50e6
    assert 0 < sample.memory_available_bytes <= psutil.virtual_memory().total
    assert sample.temperature_c is None or -40 < sample.temperature_c < 150
    assert decode(SystemSample, encode(sample)) == sample


def test_the_supervisors_side_imports_no_runtime() -> None:
    """NumPy and the runtime cost 40 MB that the supervisor must not pay."""
    program = (
        "import sys, edgectl_agent.health, edgectl_agent.spool, edgectl_agent.trial, "
        "edgectl_agent.inference.process, pathlib\n"
        "edgectl_agent.health.capabilities({}, pathlib.Path('.'))\n"
        "heavy = {'numpy', 'onnxruntime', 'httptools', 'asyncio', 'importlib.metadata'} "
        "& set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_litert_is_either_of_its_distributions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(tmp_path, monkeypatch)
    assert health.runtimes() == {}
    _install(tmp_path, "tflite_runtime", "2.14.0")
    assert health.runtimes() == {"litert": "2.14.0"}
    _install(tmp_path, "ai_edge_litert", "1.4.0")
    assert health.runtimes() == {"litert": "1.4.0"}, "the newer one is what is used"
    (tmp_path / "onnxruntime").mkdir()
    assert health.runtimes() == {"litert": "1.4.0"}, "a folder of that name is no runtime"


def test_a_runtimes_version_is_what_the_package_index_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert health.runtimes()["onnxruntime"] == metadata.version("onnxruntime")
    _only(tmp_path, monkeypatch)
    _install(tmp_path, "onnxruntime", "1.2.3")
    older = tmp_path / "onnxruntime.egg-info"  # as Debian's packages have it: without the version
    (tmp_path / "onnxruntime-1.2.3.dist-info").rename(older)
    (older / "METADATA").rename(older / "PKG-INFO")
    assert health.runtimes() == {"onnxruntime": "1.2.3"}
    shutil.rmtree(older)
    assert health.runtimes() == {}, "of which version it is, nobody knows"


def _only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be installed but what is in the folder."""
    monkeypatch.setattr(sys, "path", [str(folder)])
    for name in ("onnxruntime", "ai_edge_litert", "tflite_runtime"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def _install(folder: Path, name: str, version: str) -> None:
    package, about = folder / name, folder / f"{name}-{version}.dist-info"
    package.mkdir()
    (package / "__init__.py").touch()
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    importlib.invalidate_caches()
