"""From push to committed on three devices, by stages; bytes on the wire beside the bundle's size.

Real processes: a server with everything embedded, three agents. Each device reaches the broker
through a counting TCP relay, so that the bytes are those of the wire: MQTT, TLS and all. They are
counted from the start of the rollout until the device has committed, both directions.

    python -m benchmarks.push [FOLDER]

FOLDER holds ``<name>_v1.onnx`` with ``calibration.npz`` and ``eval.npz``, or their ``_uint8``
forms (pictures, NCHW 0-255, normalized here by CIFAR-10's mean and deviation). Default: the
activity model that comes with edgectl, of 444 KB.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.client import Client
from edgectl.demo import activity_data
from edgectl.demo.processes import Process, Processes, command_of, environment_with
from edgectl.types import PushOptions, PushRequest, RolloutPolicy, RolloutRequest, Selector

DEVICES = ("pi-1", "pi-2", "pi-3")
OBSERVE_S = 1.0
BOUND_S = 300.0
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, None, None]
DEVIATION = np.array([0.247, 0.2435, 0.2616], np.float32)[:, None, None]


class Relay:
    """A TCP relay on a port of its own that counts what passes, in both directions."""

    def __init__(self, target_port: int) -> None:
        self.down = self.up = 0
        self.port = 0
        self._target = target_port
        self._writers: list[asyncio.StreamWriter] = []
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for writer in self._writers:
            writer.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, far_writer]

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, down: bool
        ) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    if down:
                        self.down += len(data)
                    else:
                        self.up += len(data)
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(
            pump(reader, far_writer, down=False), pump(far_reader, writer, down=True)
        )

    def stop(self) -> None:
        """End the relay; what it carries is cut."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(5)


def until(what: str, look: Callable[[], Any]) -> Any:
    """Return the first true value of `look`, within the bound."""
    end = time.monotonic() + BOUND_S
    while not (value := look()):
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come within {BOUND_S:.0f} s")
        time.sleep(0.02)
    return value


def inputs(folder: Path | None, scratch: Path) -> tuple[str, Path, Path, Path]:
    """Return name, model, calibration and evaluation data."""
    if folder is None:
        return "har", activity_data.MODEL, activity_data.CALIBRATION, activity_data.EVALUATION
    model = min(folder.glob("*_v1.onnx"))
    if (folder / "eval.npz").exists():
        return model.stem, model, folder / "calibration.npz", folder / "eval.npz"
    for role in ("calibration", "eval"):
        with np.load(folder / f"{role}_uint8.npz") as data:
            arrays = {key: data[key] for key in data}
        name = next(key for key in arrays if key != "label")
        arrays[name] = (arrays[name].astype(np.float32) / 255 - MEAN) / DEVIATION
        np.savez(scratch / f"{role}.npz", **arrays)
    return model.stem, model, scratch / "calibration.npz", scratch / "eval.npz"


def start_devices(
    client: Client, processes: Processes, scratch: Path, url: str, broker_port: int
) -> dict[str, Relay]:
    """Enrol the devices, each with a relay of its own between it and the broker; start them."""
    token = client.create_enrol_token(uses=len(DEVICES), expires_in_s=600).token
    relays = {}
    for device in DEVICES:
        state = scratch / device
        settings = environment_with(
            EDGECTL_AGENT_SERVER=url,
            EDGECTL_AGENT_DEVICE=device,
            EDGECTL_AGENT_TOKEN=token,
            EDGECTL_AGENT_STATE=str(state),
            EDGECTL_AGENT_PORT="0",
            EDGECTL_AGENT_TELEMETRY_S="1",
        )
        enrolled = state / "identity" / "enrolment.json"
        first = processes.start(f"{device}-enrol", command_of("edgectl_agent", "enrol"), settings)
        until(f"enrolment of {device}", enrolled.exists)
        first.ask_to_stop()
        identity = json.loads(enrolled.read_text())
        relays[device] = Relay(broker_port)
        identity["broker"]["port"] = relays[device].port
        enrolled.write_text(json.dumps(identity))
        processes.start(device, command_of("edgectl_agent", "run"), settings)
    wanted = set(DEVICES)
    until(
        "all devices online", lambda: {d.id for d in client.devices().items if d.online} >= wanted
    )
    return relays


def start_server(processes: Processes, scratch: Path) -> tuple[Process, dict[str, Any]]:
    """Start a server on free ports and return its ready line."""
    settings = environment_with(
        EDGECTL_SERVER_DATA=str(scratch / "server"),
        EDGECTL_SERVER_LISTEN_PORT="0",
        EDGECTL_SERVER_BROKER_PORT="0",
    )
    server = processes.start("server", command_of("edgectl_server", "start"), settings)
    return server, server.wait_line(lambda line: line.get("ready") is True, 60, "ready")


def push(client: Client, seconds: dict[str, float], *files: Any) -> Any:
    """Upload, run the pipeline, and return the version."""
    name, model, calibration, evaluation = files
    began = time.monotonic()
    digests = [client.upload(file).sha256 for file in (model, calibration, evaluation)]
    seconds["upload"] = time.monotonic() - began
    request = PushRequest(
        model=digests[0],
        filename=model.name,
        calibration=digests[1],
        evaluation=digests[2],
        options=PushOptions(max_drop_points=2.0),
    )
    began = time.monotonic()
    accepted = client.push(name, request)
    assert accepted.job is not None
    job = client.wait_job(accepted.job)
    seconds["pipeline, sign, publish"] = time.monotonic() - began
    if job.state != "succeeded":
        raise SystemExit(f"the push has {job.state}: {job.error}")
    return client.get_version(name, accepted.version)


def roll_out(client: Client, seconds: dict[str, float], name: str, relays: dict[str, Relay]) -> Any:
    """Roll out to all; return the bytes of each device, and its events."""
    before = {device: relay.down + relay.up for device, relay in relays.items()}
    began = time.monotonic()
    request = RolloutRequest(
        name, "1", Selector(devices=list(DEVICES)), RolloutPolicy(observe_s=OBSERVE_S)
    )
    rollout = client.start_rollout(request).id
    until("completion", lambda: client.rollout(rollout).state == "completed")
    seconds["rollout to committed on all"] = time.monotonic() - began
    counts = client.rollout(rollout).counts
    if counts.committed != len(DEVICES):
        raise SystemExit(f"only {counts.committed} devices have committed")
    wire = {device: relay.down + relay.up - before[device] for device, relay in relays.items()}
    return wire, {device: client.device_events(device, limit=50).items for device in DEVICES}


def resident(client: Client, device: str, events: Any) -> dict[str, int]:
    """Return the resident bytes of a device's processes: as it reports them, after the commit."""

    def sampled() -> Any:
        system = client.device(device).system
        return system if system and system.get("inference_rss_bytes") else None

    system = until(f"health of {device}", sampled)
    trial = next(event.trial for event in events if event.trial)
    return {
        "supervisor": system["agent_rss_bytes"],
        "inference": system["inference_rss_bytes"],
        "trial": trial["rss_bytes"],
    }


def device_stages(events: Any) -> dict[str, float]:
    """Return the seconds between a device's transitions, by the state that was left."""
    ordered = sorted(events, key=lambda event: (event.at, event.order))
    pairs = itertools.pairwise(ordered)
    return {a.after: round((b.at - a.at).total_seconds(), 3) for a, b in pairs}


def bare_runtime_bytes() -> int:
    """Return the resident bytes of ``python -c "import onnxruntime"``."""
    program = (
        "import onnxruntime; from pathlib import Path;"
        "print(Path('/proc/self/status').read_text().split('VmRSS:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout) * 1024


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    arguments = sys.argv[1:] if arguments is None else arguments
    folder = Path(arguments[0]) if arguments else None
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgectl-bench-")))
        files = inputs(folder, scratch)
        processes = stack.enter_context(Processes(scratch / "logs"))
        _, ready = start_server(processes, scratch)
        password = (scratch / "server" / "admin-password").read_text().strip()
        with Client(ready["url"]) as anonymous:
            token = anonymous.login("admin", password, name="benchmark").token
        client = stack.enter_context(Client(ready["url"], token))
        broker_port = int(str(ready["broker"]).rsplit(":", 1)[1])
        relays = start_devices(client, processes, scratch, ready["url"], broker_port)
        for relay in relays.values():
            stack.callback(relay.stop)
        version = push(client, seconds, *files)
        wire, events = roll_out(client, seconds, files[0], relays)
        processes_rss = resident(client, DEVICES[0], events[DEVICES[0]])
    best = version.variants[0]
    ratio = max(wire.values()) / best.bundle_bytes
    print(f"push of {files[1].name}, {version.source_bytes:,} bytes, to {len(DEVICES)} devices")
    print(
        f"on {platform.machine()}, {os.cpu_count()} processors, server and devices on one machine"
    )
    for stage, took in seconds.items():
        print(f"  {stage:30} {took:8.2f} s")
    stages = device_stages(events[DEVICES[0]])
    for stage, took in stages.items():
        print(f"    {DEVICES[0]} {stage:24} {took:8.3f} s")
    print(
        f"bundle {best.variant}: {best.bundle_bytes:,} bytes, of which model {best.model_bytes:,}"
    )
    for device, count in wire.items():
        print(f"  wire of {device}: {count:,} bytes, {count / best.bundle_bytes:.4f} of the bundle")
    bare = bare_runtime_bytes()
    for name, rss in {**processes_rss, "python with onnxruntime": bare}.items():
        print(f"  resident, {name:24} {rss / 1e6:6.1f} MB, {rss / bare:.2f} of the bare runtime")
    result = {
        "benchmark": "push",
        "model": files[1].name,
        "source_bytes": version.source_bytes,
        "variant": best.variant,
        "bundle_bytes": best.bundle_bytes,
        "wire_bytes": wire,
        "wire_ratio_max": round(ratio, 4),
        "seconds": {stage: round(took, 3) for stage, took in seconds.items()},
        "device_seconds": stages,
        "rss_bytes": {**processes_rss, "python with onnxruntime": bare},
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
