"""A server and a simulated fleet as processes, and what they have used."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from edgectl.client import Client
from edgectl.types import PushOptions, PushRequest

__all__ = ["Fleet", "Server", "Used", "push_once", "running_fleet", "running_server", "until"]

ACTIVITY = Path(__file__).parents[2] / "server/edgectl/demo/activity"
_READY_S = 120.0
_END_S = 180.0
_PAUSE_S = 0.2
_LOG_SHOWN = 6000


class Used(NamedTuple):
    """Processor time in seconds, resident and stored bytes, at one moment."""

    at_s: float
    server_s: float
    broker_s: float
    """Of a broker with a process of its own; 0 for the embedded one, which is the server."""
    server_bytes: int
    broker_bytes: int
    database_bytes: int


class Server(NamedTuple):
    """One that is ready."""

    url: str
    data: Path
    process: psutil.Process
    client: Client

    def used(self) -> Used:
        """Return what it has used since its start."""
        brokers = [one for one in self.process.children() if one.name() == "mosquitto"]
        return Used(
            at_s=time.monotonic(),
            server_s=_processor_s(self.process),
            broker_s=sum(_processor_s(one) for one in brokers),
            server_bytes=self.process.memory_info().rss,
            broker_bytes=sum(one.memory_info().rss for one in brokers),
            database_bytes=sum(file.stat().st_size for file in self.data.glob("edgectl.sqlite*")),
        )


class Fleet(NamedTuple):
    """A simulation under way."""

    process: subprocess.Popen[bytes]

    def used_s(self) -> float:
        """Return the processor time of the simulator itself."""
        return _processor_s(psutil.Process(self.process.pid))

    def end(self) -> dict[str, Any]:
        """Stop it in good order; return its summary."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=_END_S)
        summary: dict[str, Any] = json.loads(out)
        return summary


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def running_server(data: Path, broker: str, connections: int) -> Iterator[Server]:
    """Start a server in `data`, and stop it in the end."""
    command = [
        *(sys.executable, "-P", "-m", "edgectl_server", "start", "--json", "--log-level", "error"),
        *("--data", str(data), "--port", "0", "--broker", broker, "--broker-port", "0"),
        *("--broker-connections-max", str(connections)),
    ]
    with (data.parent / f"{data.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        password = (data / "admin-password").read_text().strip()
        with Client(ready["url"]) as anonymous:
            token = anonymous.login("admin", password, name="bench").token
        with Client(ready["url"], token) as client:
            yield Server(ready["url"], data, psutil.Process(process.pid), client)
    finally:
        process.terminate()
        process.wait(_END_S)
        process.stdout.close()
        _show_end(data.parent / f"{data.name}.log")


def _show_end(log: Path) -> None:
    text = log.read_bytes()[-_LOG_SHOWN:].decode(errors="replace")
    if text:
        print(f"the end of the server's log:\n{text}", file=sys.stderr, flush=True)


def push_once(
    folder: Path, versions: Sequence[str] = ("1",), options: PushOptions | None = None
) -> Path:
    """Return the data folder of a server with one model, to be copied for each run."""
    data = folder / "pushed"
    with running_server(data, "embedded", 50) as server:
        client = server.client
        files = {name: client.upload(ACTIVITY / file).sha256 for name, file in (
            ("model", "har_v1.onnx"), ("calibration", "calibration.npz"),
            ("evaluation", "eval.npz"),
        )}  # fmt: skip
        for version in versions:
            request = PushRequest(
                filename="har_v1.onnx", version=version, options=options or PushOptions(), **files
            )
            job = client.push("har", request).job
            assert job is not None
            state = client.wait_job(job).state
            assert state == "succeeded", state
    return data


@contextlib.contextmanager
def running_fleet(client: Client, folder: Path, devices: int, rate: float) -> Iterator[Fleet]:
    """Start a steady fleet, and see to it that it ends."""
    token = client.create_enrol_token(uses=devices, expires_in_s=86400).token
    plan = {
        "server": client.url,
        "folder": str(folder),
        "devices": devices,
        "token": token,
        "connect_rate": rate,
        "as_json": True,
    }
    with folder.with_name(f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgectl_simulator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ,
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan).encode())
    process.stdin.close()
    process.stdin = None
    try:
        yield Fleet(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def until(what: str, look: Callable[[], bool], bound_s: float) -> float:
    """Wait for it; return the seconds that it took."""
    begun = time.monotonic()
    while not look():
        if time.monotonic() - begun > bound_s:
            raise TimeoutError(f"{what}: not within {bound_s:g} s")
        time.sleep(_PAUSE_S)
    return time.monotonic() - begun
