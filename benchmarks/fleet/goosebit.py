"""gooseBit, the nearest open-source peer: what a device's poll costs it, on the same machine.

Its devices ask every minute whether there is something for them, as hawkBit's do over HTTP; ours
hold a connection. Its environment is made on demand in ``~/.cache/edgectl-bench`` and kept.
No device is authenticated and no TLS is spoken: what gooseBit is spared here, ours pays.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil

__all__ = ["GOOSEBIT", "polls"]

GOOSEBIT = "0.2.12"
_CACHE = Path.home() / ".cache" / "edgectl-bench" / f"goosebit-{GOOSEBIT}"
_READY_S_MAX = 120.0
_AT_ONCE = 4


def polls(folder: Path, devices: int, count: int) -> dict[str, float]:
    """Let `devices` poll `count` times in all; return what one cost.

    Returns:
        ``poll_ms`` of processor time, ``polls_per_core_s``, ``rss_mb``.
    """
    with _running(folder) as (url, process), httpx2.Client(trust_env=False, timeout=60) as client:
        for number in range(devices):  # those that are new cost more, and are not what it is about
            client.get(f"{url}/bench-{number}").raise_for_status()
        times = process.cpu_times()
        before = times.user + times.system
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = pool.map(lambda n: client.get(f"{url}/bench-{n % devices}"), range(count))
            for answer in asked:
                answer.raise_for_status()
        times = process.cpu_times()
        used_s = times.user + times.system - before
        return {
            "poll_ms": used_s / count * 1e3,
            "polls_per_core_s": count / used_s,
            "rss_mb": process.memory_info().rss / 1e6,
        }


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    python = _environment()
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "GOOSEBIT_PORT": str(port),
        "GOOSEBIT_DB_URI": f"sqlite:///{folder}/db.sqlite3",
        "GOOSEBIT_ARTIFACTS_DIR": str(folder / "artifacts"),
    }
    with (folder / "log").open("wb") as log:
        made = (
            "import asyncio; from tortoise import Tortoise as t; "
            "from goosebit.db.config import TORTOISE_CONF as c\n"
            "async def run():\n"
            "    await t.init(c); await t.generate_schemas(); await t.close_connections()\n"
            "asyncio.run(run())"
        )
        subprocess.run(
            [python, "-c", made],
            env=environment, check=True, stdout=log, stderr=log, timeout=_READY_S_MAX,
        )  # fmt: skip
        served = (
            "import uvicorn; from goosebit import app; "
            f"uvicorn.run(app, host='127.0.0.1', port={port}, access_log=False)"
        )
        process = subprocess.Popen(
            [python, "-c", served], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        base = f"http://127.0.0.1:{port}/DEFAULT/controller/v1"
        _wait(base, process)
        yield base, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _READY_S_MAX
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            httpx2.get(f"{url}/bench-0", trust_env=False).raise_for_status()
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("gooseBit does not start; its log is in the folder of the run")
        time.sleep(0.2)


def _environment() -> str:
    """Return the Python of its environment, made now if it is not there."""
    python = _CACHE / "bin" / "python"
    ready = _CACHE / "ready"
    if not ready.exists():
        print(f"  making an environment for gooseBit {GOOSEBIT}", file=sys.stderr, flush=True)
        venv.create(_CACHE, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", f"goosebit=={GOOSEBIT}"]
        subprocess.run(command, check=True)
        ready.touch()
    return str(python)
