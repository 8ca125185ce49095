"""An update by a delta beside one by the whole file: a real server, broker and device.

    python -m benchmarks.distribution.delta_updates BASE TARGET [--rounds 3] [--megabits 10]

Two versions of a model are pushed as they are (fp32), a device that runs the first gets the second,
once with deltas and once from a server that makes none, in turns. Between the device and its broker
is an emulated link (`tests/links.py`; 10 ms one way). Told are the seconds that the device was in
the state `downloading`, which for a delta ends when the model has been made of it, and the bytes
that came; of the rounds the median counts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from edgectl.client import Client
from edgectl.demo.processes import Process, Processes, command_of, environment_with
from edgectl.types import PushOptions, PushRequest, RolloutPolicy, RolloutRequest, Selector
from links import Link, Weather

__all__ = ["main"]

_NAME, _DEVICE = "model", "pi-1"
_BOUND_S = 600.0
_LATENCY_S = 0.01


def _server(processes: Processes, folder: Path, bases: int) -> tuple[Process, dict[str, Any]]:
    settings = environment_with(
        EDGECTL_SERVER_DATA=str(folder / "server"),
        EDGECTL_SERVER_LISTEN_PORT="0",
        EDGECTL_SERVER_BROKER_PORT="0",
        EDGECTL_SERVER_DELTA_BASES_MAX=str(bases),
        EDGECTL_SERVER_DELTA_WAIT_S=str(_BOUND_S),
    )
    server = processes.start("server", command_of("edgectl_server", "start"), settings)
    return server, server.wait_line(lambda line: bool(line.get("ready")), _BOUND_S, "ready")


def _push(client: Client, path: Path, version: str) -> None:
    request = PushRequest(
        model=client.upload(path).sha256,
        filename=path.name,
        version=version,
        options=PushOptions(precisions=["fp32"]),
    )
    job = client.push(_NAME, request).job
    assert job is not None
    ended = client.wait_job(job)
    if ended.state != "succeeded":
        raise RuntimeError(f"the push of {path} has {ended.state}: {ended.error}")


def _roll_out(client: Client, version: str) -> str:
    policy = RolloutPolicy(observe_s=0.2)
    request = RolloutRequest(_NAME, version, Selector(all=True), policy)
    rollout = client.start_rollout(request).id
    deadline = time.monotonic() + _BOUND_S
    while client.rollout(rollout).state != "completed":
        if time.monotonic() > deadline:
            raise RuntimeError(f"{client.rollout(rollout)}")
        time.sleep(0.2)
    return rollout


def _downloading_s(client: Client, version: str) -> float:
    """Return how long the device was in that state, by its own clock."""
    events = client.device_events(_DEVICE, limit=100).items
    found = [one for one in events if one.version == version]
    begun = next(one.at for one in found if one.after == "downloading")
    ended = next(one.at for one in found if one.before == "downloading")
    return (ended - begun).total_seconds()


def measure(base: Path, target: Path, weather: Weather, *, bases: int) -> dict[str, float | int]:
    """Update one device once; return seconds and bytes."""
    with tempfile.TemporaryDirectory(prefix="edgectl-deltas-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        with Processes(folder / "logs") as processes:
            _, ready = _server(processes, folder, bases)
            password = (folder / "server" / "admin-password").read_text().strip()
            with Client(ready["url"]) as anonymous:
                token = anonymous.login("admin", password, name="benchmark").token
            client = Client(ready["url"], token)
            enrolment = client.create_enrol_token(uses=1, expires_in_s=600).token
            settings = environment_with(
                EDGECTL_AGENT_SERVER=ready["url"],
                EDGECTL_AGENT_DEVICE=_DEVICE,
                EDGECTL_AGENT_STATE=str(folder / "device"),
                EDGECTL_AGENT_PORT="0",
                EDGECTL_AGENT_TOKEN=enrolment,
                EDGECTL_AGENT_TRANSFER="mqtt",
            )
            agent = _start_agent(processes, settings)
            _push(client, base, "1")
            _roll_out(client, "1")
            _push(client, target, "2")
            agent.ask_to_stop()
            agent.wait_stopped(time.monotonic() + _BOUND_S)
            file = folder / "device" / "identity" / "enrolment.json"
            content = file.read_text()
            (port,) = set(re.findall(r"\bport\W+(\d+)", content))
            with Link(int(port), weather) as link:
                file.write_text(re.sub(rf"\b{port}\b", str(link.port), content))
                _start_agent(processes, settings)
                (device,) = client.rollout_devices(_roll_out(client, "2")).items
                seconds = _downloading_s(client, "2")
            assert device.transfer is not None
            assert (device.transfer.delta is not None) == bool(bases), device.transfer
            client.close()
    return {"seconds": seconds, "bytes": device.transfer.fetched_bytes}


def _start_agent(processes: Processes, settings: dict[str, str]) -> Process:
    agent = processes.start("device", command_of("edgectl_agent", "run"), settings)
    agent.wait_line(lambda line: line.get("event") == "ready", _BOUND_S, "ready")
    return agent


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.delta_updates")
    parser.add_argument("base", type=Path, help="ONNX file that the device runs")
    parser.add_argument("target", type=Path, help="ONNX file that it gets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabits", type=float, default=10.0, help="a second, of the link")
    options = parser.parse_args(arguments)
    weather = Weather(bytes_per_s=options.megabits * 1e6 / 8, latency_s=_LATENCY_S)
    found: dict[str, list[dict[str, float | int]]] = {"delta": [], "whole": []}
    for _ in range(options.rounds):
        for name, bases in (("delta", 8), ("whole", 0)):
            one = measure(options.base, options.target, weather, bases=bases)
            found[name].append(one)
            print(f"{name}: {one['bytes']} bytes, {one['seconds']:.2f} s", flush=True)
    line: dict[str, float | int] = {"megabits": options.megabits, "rounds": options.rounds}
    for name, rounds in found.items():
        line[f"{name}_s"] = round(statistics.median(one["seconds"] for one in rounds), 3)
        line[f"{name}_bytes"] = int(statistics.median(one["bytes"] for one in rounds))
    line["sooner_s"] = round(line["whole_s"] - line["delta_s"], 3)
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
