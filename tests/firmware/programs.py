"""Programs in C: where they are, what they need, how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

__all__ = [
    "CORE",
    "HOST",
    "ROOT",
    "Programs",
    "debian_sources",
    "micropython",
    "monocypher",
    "onnxruntime_for_c",
    "pico_sdk",
]

ROOT = Path(__file__).parents[2]
CORE = ROOT / "firmware-examples/core"
HOST = Path(__file__).parent / "host"


def monocypher() -> Path:
    """Return the folder with monocypher's sources; fetched once, into the user's cache."""
    return _fetched("fetch_monocypher.py", "monocypher", "monocypher")


def debian_sources() -> Path:
    """Return the folder with the sources of lwIP and mbedTLS; fetched once, into the cache."""
    return _fetched("fetch_debian_sources.py", "debian-sources", "lwIP and mbedTLS")


def pico_sdk() -> Path:
    """Return the folder with `pico-sdk`; fetched once, into the user's cache."""
    return _fetched("fetch_debian_sources.py", "debian-sources", "the Pico's SDK", "pico-sdk")


def micropython() -> Path:
    """Return MicroPython: the machine's own, or Debian 13's, fetched once into the cache."""
    own = shutil.which("micropython")
    if own is not None:
        return Path(own)
    return _fetched("fetch_micropython.py", "micropython", "MicroPython") / "micropython"


def onnxruntime_for_c(architecture: str = "amd64") -> Path:
    """Return the folder with onnxruntime's header and library; fetched once, into the cache."""
    return _fetched(
        "fetch_onnxruntime.py",
        f"onnxruntime-{architecture}",
        "onnxruntime for C",
        "--architecture",
        architecture,
    )


def _fetched(script: str, name: str, what: str, *options: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "edgectl-firmware" / name
    done = subprocess.run(
        [sys.executable, ROOT / "firmware-examples" / script, folder, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"needs {what}: {done.stderr.strip()[-300:]}")
    return folder


@dataclass(frozen=True)
class Programs:
    """A folder of programs that were built."""

    folder: Path

    def run(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run one; what a sanitizer finds is a failure of the test."""
        done = subprocess.run(
            [self.folder / name, *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=600,
        )
        assert "Sanitizer" not in done.stderr, done.stderr[-4000:]
        assert "runtime error" not in done.stderr, done.stderr[-4000:]
        return done

    def outputs(self, model: bytes, inputs: npt.NDArray[np.int8]) -> bytes | None:
        """Return the outputs of a flat model, one behind the other; None: it was refused."""
        paths = [self.folder / name for name in ("model.flat", "inputs", "outputs")]
        paths[0].write_bytes(model)
        paths[1].write_bytes(inputs.tobytes())
        done = self.run("run_model", *paths)
        return None if done.returncode else paths[2].read_bytes()
