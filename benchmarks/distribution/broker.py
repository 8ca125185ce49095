"""The embedded broker beside Mosquitto: what the same clients cost each, in one run, in turns.

    python -m benchmarks.distribution.broker [--rounds 3] [--devices 1000] [--messages 8000]

Both run as edgectl starts them: a process of their own, TLS with client certificates, the access
rules of the protocol, QoS 1. Processor time is that of the broker's process (user, system); memory
its resident bytes. Of the rounds the median counts. One difference stays: what the embedded broker
acknowledges is on disk, with fsync; Mosquitto saves once a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.distribution.mqtt_clients import Client, Identities
from edgectl_protocol import topics
from edgectl_server.clock import now
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.brokers import open_broker
from edgectl_server.distribution.canary import make_canary
from edgectl_server.distribution.mosquitto import MosquittoBroker, find_mosquitto
from edgectl_server.signing.authority import Authority

KINDS = ("embedded", "mosquitto")
DIGEST = "sha256:" + "ab" * 32
MESSAGE_BYTES = 256
CHUNK_BYTES = 64 * 1024
WAITING_MAX = 500  # a quarter of what either broker keeps for a client
PUBLISHERS = 4
READERS = 4
CROWD = 200
HOUR_S = 3600
BOUND_S = 300.0
ROWS = {
    "message_us": "processor time for a message of 256 bytes, in and out (µs)",
    "message_rate": "such messages a second",
    "kept_message_us": "processor time for one to a session that is kept (µs)",
    "kept_message_rate": "such messages a second",
    "megabyte_ms": "processor time for a megabyte in chunks of 64 KiB, in and out (ms)",
    "retained_megabyte_ms": "processor time for a megabyte of retained chunks, out (ms)",
    "retained_megabytes_s": "megabytes of retained chunks a second, to four devices",
    "connect_ms": "processor time for a connect with TLS and a subscription (ms)",
    "crowd_s": "until 200 that connect at once are subscribed (s)",
    "idle_kib": "resident bytes for an idle device (KiB)",
    "idle_cpu_ms": "processor time for 1,000 idle devices that ping once (ms)",
}
HIGHER_IS_BETTER = {"message_rate", "kept_message_rate", "retained_megabytes_s"}


@dataclass(frozen=True)
class Running:
    """A broker under measurement."""

    port: int
    process: psutil.Process

    def processor_s(self) -> float:
        """Return the seconds of processor time that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


# --- the broker's process ------------------------------------------------------------------------


def serve(kind: str, folder: Path, devices: int) -> None:
    """Run a broker until standard input ends; say its port and process first."""
    at = now()
    authority = Authority.open(folder / "pki", at)
    broker = open_broker(
        kind,
        host="127.0.0.1",
        port=0,
        identity=authority.broker_identity((), at),
        state=folder / kind,
        is_revoked=authority.is_revoked,
        crl_pem=lambda: authority.crl_pem(at),
        make_canary=lambda: make_canary(authority, folder / "pki" / "authority.pem", at),
        bounds=BrokerBounds.for_connections(devices + 100),
    )
    pid = broker.pid if isinstance(broker, MosquittoBroker) else os.getpid()
    print(json.dumps({"port": broker.port, "pid": pid}), flush=True)
    sys.stdin.read()
    broker.stop()


@contextlib.contextmanager
def started(kind: str, folder: Path, devices: int) -> Iterator[Running]:
    """Start a broker in a process of its own, with a state of its own."""
    command = [sys.executable, "-m", __spec__.name, "--serve", kind, str(folder)]
    with subprocess.Popen(
        [*command, "--devices", str(devices)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            yield Running(ready["port"], psutil.Process(ready["pid"]))
        finally:
            process.stdin.close()


# --- what is measured ----------------------------------------------------------------------------


async def everybody(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do all at once, within the bound."""
    return await asyncio.wait_for(asyncio.gather(*calls), BOUND_S)


async def messages(running: Running, identities: Identities, count: int) -> dict[str, float]:
    """Devices report to the server, whose session ends with its connection or is kept."""
    found = await _reports(running, identities, count, session_s=0)
    kept = await _reports(running, identities, count, session_s=HOUR_S)
    return found | {f"kept_{row}": value for row, value in kept.items()}


async def _reports(
    running: Running, identities: Identities, count: int, *, session_s: int
) -> dict[str, float]:
    server = Client("server", identities.context("server"))
    names = [f"device-{number}" for number in range(PUBLISHERS)]
    devices = [Client(name, identities.context(name)) for name in names]
    await everybody([server.connect(running.port, session_s=session_s)])
    await everybody([one.connect(running.port) for one in devices])
    await server.subscribe("edgectl/v1/#")
    payloads = [bytes(MESSAGE_BYTES)] * (count // PUBLISHERS)
    total = len(payloads) * PUBLISHERS
    room = asyncio.Semaphore(WAITING_MAX)
    before, began = running.processor_s(), time.monotonic()
    sending = [one.publish(topics.event(one.name), payloads, room=room) for one in devices]
    await everybody([server.take(total, room), *sending])
    took, used = time.monotonic() - began, running.processor_s() - before
    await everybody([one.close() for one in (server, *devices)])
    return {"message_us": used / total * 1e6, "message_rate": total / took}


async def megabytes(running: Running, identities: Identities, count: int) -> dict[str, float]:
    """The server publishes chunks to a device that listens."""
    server = Client("server", identities.context("server"))
    device = Client("device-0", identities.context("device-0"))
    await everybody([one.connect(running.port) for one in (server, device)])
    await device.subscribe("edgectl/v1/blob/#")
    before = running.processor_s()
    room = asyncio.Semaphore(WAITING_MAX * MESSAGE_BYTES // CHUNK_BYTES + 20)
    sending = server.publish(_chunk_topic(), [os.urandom(CHUNK_BYTES)] * count, room=room)
    size, _ = await everybody([device.take(count, room), sending])
    used = running.processor_s() - before
    await everybody([one.close() for one in (server, device)])
    return {"megabyte_ms": used / (size / 1e6) * 1e3}


async def retained(running: Running, identities: Identities, count: int) -> dict[str, float]:
    """Devices fetch a blob of `count` chunks, each by its own topic."""
    server = Client("server", identities.context("server"))
    devices = [Client(f"device-{n}", identities.context(f"device-{n}")) for n in range(READERS)]
    await everybody([one.connect(running.port) for one in (server, *devices)])
    await server.publish(_chunk_topic(), [os.urandom(CHUNK_BYTES)] * count, retain=True)
    wanted = [topics.chunk(DIGEST, number) for number in range(count)]

    async def fetch(device: Client) -> int:
        size = 0
        for start in range(0, count, 20):
            part = wanted[start : start + 20]
            await device.subscribe(*part)
            size += await device.take(len(part))
            await device.unsubscribe(*part)
        return size

    before, began = running.processor_s(), time.monotonic()
    size = sum(await everybody([fetch(one) for one in devices]))
    took, used = time.monotonic() - began, running.processor_s() - before
    await server.publish(_chunk_topic(), [b""] * count, retain=True)
    await everybody([one.close() for one in (server, *devices)])
    return {
        "retained_megabyte_ms": used / (size / 1e6) * 1e3,
        "retained_megabytes_s": size / 1e6 / took,
    }


def _chunk_topic() -> str:
    return topics.chunk(DIGEST, 0).removesuffix("0") + "%d"


async def crowd(running: Running, identities: Identities, count: int) -> dict[str, float]:
    """All connect in one moment, as after a power cut."""
    for number in range(count):
        identities.context(f"crowd-{number}")  # certificates are made before it is measured
    before, began = running.processor_s(), time.monotonic()
    devices = await _come(running, identities, range(count))
    took, used = time.monotonic() - began, running.processor_s() - before
    await everybody([one.close() for one in devices])
    return {"connect_ms": used / count * 1e3, "crowd_s": took}


async def _come(running: Running, identities: Identities, numbers: Sequence[int]) -> list[Client]:
    names = [f"crowd-{number}" for number in numbers]
    devices = [Client(name, identities.context(name)) for name in names]

    async def come(device: Client) -> None:
        await device.connect(running.port)
        await device.subscribe(f"edgectl/v1/d/{device.name}/down/#")

    await everybody([come(one) for one in devices])
    return devices


async def idle(
    running: Running, identities: Identities, count: int, seconds: float
) -> dict[str, float]:
    """Devices that are connected and subscribed, and say nothing but that they live."""
    await everybody([one.close() for one in await _come(running, identities, range(20))])
    empty = running.process.memory_info().rss
    devices = []
    for start in range(0, count, CROWD):  # in crowds: the memory of handshakes at once is not it
        numbers = range(start, min(start + CROWD, count))
        devices += await _come(running, identities, numbers)
    grown = running.process.memory_info().rss - empty
    before = running.processor_s()
    for part in range(10):
        await everybody([one.ping() for one in devices[part::10]])
        await asyncio.sleep(seconds / 10)
    used = running.processor_s() - before
    await everybody([one.close() for one in devices])
    return {"idle_kib": grown / count / 1024, "idle_cpu_ms": used * 1e3 / count * 1000}


# --- the run -------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Measure both brokers in turns; return the medians by broker and row."""
    identities = Identities(folder, now())
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    with contextlib.ExitStack() as stack:
        brokers = {
            kind: stack.enter_context(started(kind, folder, options.devices)) for kind in KINDS
        }
        crowd_size = min(CROWD, options.devices)
        for kind, running in brokers.items():
            _say(f"{kind}: {options.devices} idle devices")
            for row, value in asyncio.run(
                idle(running, identities, options.devices, options.seconds)
            ).items():
                found[kind][row] = [value]
        for turn in range(options.rounds):
            for kind, running in brokers.items():
                for name, part, count in (
                    ("messages", messages, options.messages),
                    ("megabytes", megabytes, options.chunks),
                    ("retained", retained, options.chunks),
                    ("crowd", crowd, crowd_size),
                ):
                    _say(f"{kind}, {turn + 1} of {options.rounds}: {name}")
                    for row, value in asyncio.run(part(running, identities, count)).items():
                        found[kind].setdefault(row, []).append(value)
    return {
        kind: {row: statistics.median(values) for row, values in rows.items()}
        for kind, rows in found.items()
    }


def _ratio(ours: float, theirs: float) -> float | None:
    """Return their quotient; None where the load was too small to be seen at all."""
    return round(ours / theirs, 3) if theirs > 0 else None


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.broker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1000, help="idle devices")
    parser.add_argument("--seconds", type=float, default=10.0, help="of idleness")
    parser.add_argument("--messages", type=int, default=8000, help="of each round")
    parser.add_argument("--chunks", type=int, default=200, help="of 64 KiB, of each round")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]), options.devices)
        return 0
    if find_mosquitto() is None:
        print("mosquitto is missing: apt install mosquitto", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch:
        medians = measure(options, Path(scratch))
    ratios = {row: _ratio(medians["embedded"][row], medians["mosquitto"][row]) for row in ROWS}
    print(
        f"on {platform.machine()}, {os.cpu_count()} processors, clients on the same machine; "
        f"median of {options.rounds}"
    )
    print(f"{'':72} {'embedded':>10} {'mosquitto':>10} {'ratio':>7}")
    for row, text in ROWS.items():
        ours, theirs = medians["embedded"][row], medians["mosquitto"][row]
        better = " (higher is better)" if row in HIGHER_IS_BETTER else ""
        ratio = "too few" if ratios[row] is None else f"{ratios[row]:.2f}"
        print(f"{text + better:72} {ours:10,.2f} {theirs:10,.2f} {ratio:>7}")
    rounded = {
        kind: {row: round(one, 3) for row, one in rows.items()} for kind, rows in medians.items()
    }
    print(
        json.dumps(
            {
                "benchmark": "broker",
                "rounds": options.rounds,
                "devices": options.devices,
                **rounded,
                "ratio": ratios,
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
