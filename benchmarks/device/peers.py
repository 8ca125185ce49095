"""Other servers of the same models: Starlette with uvicorn, and MLServer in its own environment.

MLServer's environment (some 400 MB) is made on demand in ``~/.cache/edgectl-bench`` and kept.
uvloop is pinned: with 0.22 and newer MLServer 1.7.1 does not start its workers.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks.device.cases import Case
from edgectl_agent.inference.process import child_environment

__all__ = ["MLSERVER", "Peer", "mlserver", "starlette"]

MLSERVER = "1.7.1"
_CACHE = Path.home() / ".cache" / "edgectl-bench" / f"mlserver-{MLSERVER}"
_FOREIGN = Path(__file__).parent / "foreign"
_READY_S_MAX = 60.0


class Peer(NamedTuple):
    """A server that is ready."""

    name: str
    port: int
    pid: int
    ready_s: float


@contextlib.contextmanager
def starlette(folder: Path, cases: Sequence[Case]) -> Iterator[Peer]:
    """Serve `cases` with Starlette and uvicorn, one process."""
    port = _free_port()
    models = [f"{case.name}={case.bundle.model}" for case in cases]
    command = [sys.executable, str(_FOREIGN / "starlette_server.py"), str(port), *models]
    name = f"Starlette {version('starlette')}"
    with _running(name, command, folder, port) as peer:
        yield peer


@contextlib.contextmanager
def mlserver(folder: Path, cases: Sequence[Case]) -> Iterator[Peer]:
    """Serve `cases` with MLServer, without its parallel workers, which cost more."""
    program = _environment()
    port = _free_port()
    settings = {
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "debug": False,
    }
    root = folder / "mlserver"
    root.mkdir()
    (root / "settings.json").write_text(json.dumps(settings))
    for case in cases:
        place = root / case.name
        place.mkdir()
        shutil.copy(_FOREIGN / "mlserver_runtime.py", place)
        described = {
            "name": case.name,
            "implementation": "mlserver_runtime.OnnxModel",
            "parameters": {"uri": case.bundle.model},
        }
        (place / "model-settings.json").write_text(json.dumps(described))
    command = [str(program), "start", str(root)]
    with _running(f"MLServer {MLSERVER}", command, root, port) as peer:
        yield peer


@contextlib.contextmanager
def _running(name: str, command: list[str], folder: Path, port: int) -> Iterator[Peer]:
    started = time.monotonic()
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env=child_environment(),
            start_new_session=True,  # as ours: the kernel shares the processors among sessions
        )
    try:
        while not _listens(port):
            text = (folder / "peer.log").read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"{name} does not start: {text}"
            assert time.monotonic() - started < _READY_S_MAX, f"{name} is not ready: {text}"
            time.sleep(0.02)
        yield Peer(name, port, process.pid, time.monotonic() - started)
    finally:
        process.kill()
        process.wait()


def _environment() -> Path:
    """Return MLServer's program; install it if it is not there."""
    program = _CACHE / "bin" / "mlserver"
    if not (_CACHE / "ready").exists():
        print(f"installing MLServer {MLSERVER} into {_CACHE} (once, some minutes)", flush=True)
        shutil.rmtree(_CACHE, ignore_errors=True)
        venv.create(_CACHE, with_pip=True)
        wanted = [f"mlserver=={MLSERVER}", "uvloop<0.22", f"onnxruntime=={version('onnxruntime')}"]
        python = _CACHE / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (_CACHE / "ready").touch()
    return program


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
