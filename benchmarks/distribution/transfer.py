"""How fast and how cheaply a bundle gets to devices, beside `curl` from nginx, in one run.

    python -m benchmarks.distribution.transfer [--megabytes 25] [--rounds 7] [--devices 100]

1. One device on loopback, TLS on both sides, in turns: the agent's downloader over MQTT (Mosquitto
   and the embedded broker, QoS 1), over HTTP from nginx, and `curl` from the same nginx into a file
   on the same disk. The device's time is from the call to the bundle's files being on disk,
   synchronized and checked, in a process that has fetched it before, as an agent has been up for
   days; curl's is its own ``time_total``, with a handshake, without its start.
   As a second comparison: curl, and then an fdatasync and a SHA-256 of the file, as a device must.
   As bounds: a client that throws away what comes from the same broker (`thrown_away.py`), and the
   processor time of both sides, whose sum by the number of processors no transfer can undercut.
2. Many devices at once over Mosquitto: what the server sends, the time, the broker's memory, and
   what did not come.
3. Bad links of full size (`tests/links.py`): what comes in all for each byte that was missing.

Needs `mosquitto`, `nginx` and `curl` (Debian packages).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from typing import Self

from agent.core.made import MadeBundle, describe, make_bundle
from benchmarks.distribution.broker import started
from benchmarks.distribution.mqtt_clients import Client, Identities
from benchmarks.distribution.thrown_away import throw_away
from edgectl_agent.connection import Connection, Endpoint, Mailbox
from edgectl_agent.device_key import FileKey
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.http_pieces import HttpPieces
from edgectl_agent.http_pull import HttpClient
from edgectl_agent.store import Store
from edgectl_protocol import topics
from edgectl_protocol.manifest import Descriptor, decode_manifest, device_layers
from edgectl_protocol.messages import encode
from edgectl_protocol.pulls import blob_path, manifest_path
from edgectl_server.clock import now
from links import Link, Weather

MODEL = "har"
RESULT = (
    "mosquitto",
    "embedded",
    "http",
    "curl",
    "curl_same_work",
    "mosquitto_alone",
    "embedded_alone",
)
WEATHERS = {
    "slow": Weather(bytes_per_s=256_000 / 8, latency_s=0.3, loss=0.05, rto_s=1.2),
    "dies": Weather(bytes_per_s=2_000_000 / 8, latency_s=0.05, dies_after_s=10.0),
    "stalls": Weather(
        bytes_per_s=2_000_000 / 8, latency_s=0.05, stalls_after_bytes=1_500_000, stall_s=12.0
    ),
}
WEATHER_BYTES = {"slow": 1_000_000, "dies": 10_000_000, "stalls": 5_000_000}
PROCESSES = 4
BOUND_S = 900.0


def bundle_of(size: int, seed: int) -> MadeBundle:
    """Return a bundle whose model is `size` random bytes; the same for the same seed."""
    model = random.Random(seed).randbytes(size)  # noqa: S311 - the same every time
    return make_bundle(describe(MODEL, "1", "fp32"), model, b"golden")


def layer_bytes(bundle: MadeBundle) -> int:
    """Return the bytes that a device without anything lacks."""
    return sum(layer.size for layer in device_layers(decode_manifest(bundle.manifest)))


def largest_layer(bundle: MadeBundle) -> Descriptor:
    """Return the model's."""
    return max(device_layers(decode_manifest(bundle.manifest)), key=lambda one: one.size)


# --- the device ----------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(folder: Path, name: str, port: int) -> Iterator[Connection]:
    """Connect as the agent does."""
    key = folder / f"{name}.key"
    endpoint = Endpoint(
        host="127.0.0.1",
        port=port,
        certificate=folder / f"{name}.pem",
        key=FileKey(key, key.read_bytes()),
        authority=folder / "pki" / "authority.pem",
        device=name,
    )
    up = threading.Event()
    connection = Connection(
        endpoint,
        will=lambda: (topics.state(name), b""),
        on_change=lambda there: up.set() if there else None,
    )
    connection.start()
    try:
        if not up.wait(BOUND_S):
            raise TimeoutError(connection.last_error)
        yield connection
    finally:
        connection.stop()


def fetch(downloader: Downloader, manifest: str) -> float:
    """Fetch a bundle; return the seconds."""
    began = time.perf_counter()
    downloader.fetch(manifest, model=MODEL, progress=lambda _: None, cancelled=lambda: False)
    return time.perf_counter() - began


def be_devices(folder: Path, kind: str, port: int, manifest: str, names: list[str]) -> None:
    """Connect as `names` and say so; at each line, fetch all at once and say how it was."""
    with contextlib.ExitStack() as stack:
        connections: list[Connection | None] = [
            None if kind == "http" else stack.enter_context(connected(folder, name, port))
            for name in names
        ]
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            with contextlib.ExitStack() as turn:
                downloaders = [
                    _downloader(turn, folder, name, connection or port)
                    for name, connection in zip(names, connections, strict=True)
                ]
                print(json.dumps(_fetch_all(downloaders, manifest)), flush=True)


def _downloader(
    turn: contextlib.ExitStack, folder: Path, name: str, source: Connection | int
) -> Downloader:
    """Return one for a device that has nothing, over a broker or from an HTTP server's port."""
    store = Store(RealDisk(Path(turn.enter_context(_scratch(folder)))))
    background = turn.enter_context(ThreadPoolExecutor(1))
    if isinstance(source, Connection):
        mailbox = Mailbox(source, once=True)
        return Downloader(name, store, mailbox, seal=encode, background=background)
    client = HttpClient(f"https://127.0.0.1:{source}", proof=lambda *_: {})
    return Downloader(
        name,
        store,
        None,  # type: ignore[arg-type] # no broker
        seal=encode,
        background=background,
        after=[HttpPieces(client)],
        broker=False,
    )


def _fetch_all(downloaders: list[Downloader], manifest: str) -> dict[str, object]:
    """Return the seconds of each that has it, or what went wrong, and the bytes received."""
    took: list[float | str] = []

    def work(downloader: Downloader) -> None:
        try:
            took.append(fetch(downloader, manifest))
        except Exception as error:  # noqa: BLE001 - told, and counted as not come
            took.append(repr(error))

    threads = [threading.Thread(target=work, args=(one,)) for one in downloaders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"took": took, "received": sum(one.bytes_received for one in downloaders)}


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="device-", dir=folder) as path:
        yield path


class Devices:
    """A process with some devices, ready to begin."""

    def __init__(self, folder: Path, kind: str, port: int, manifest: str, names: list[str]) -> None:
        command = [sys.executable, "-m", __spec__.name, "--be", kind, str(port), manifest]
        self._process = subprocess.Popen(
            [*command, "--folder", str(folder), "--names", ",".join(names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.process = psutil.Process(self._process.pid)
        self._line("ready")

    def begin(self) -> None:
        """Let them fetch."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def come(self) -> tuple[list[float], list[str], int]:
        """Return the seconds of each that has it, what others say, and the bytes received."""
        told = self._line("took")
        took = [one for one in told["took"] if isinstance(one, float)]
        return took, [one for one in told["took"] if isinstance(one, str)], told["received"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _line(self, key: str) -> dict:  # type: ignore[type-arg]
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a device process has ended with {self._process.wait()}")
        told: dict = json.loads(line)  # type: ignore[type-arg]
        assert key in told, told
        return told


# --- the servers ---------------------------------------------------------------------------------


def publish(identities: Identities, bundle: MadeBundle, port: int) -> None:
    """Put a bundle on the broker as the server does, through `port`."""

    async def work() -> None:
        server = Client("server", identities.context("server"))
        await server.connect(port)
        for topic, payload in bundle.retained.items():
            await server.publish(topic, [payload], retain=True)
        await server.close()

    asyncio.run(work())


@contextlib.contextmanager
def nginx(
    folder: Path, authority: Identities, bundle: MadeBundle
) -> Iterator[tuple[int, psutil.Process]]:
    """Serve a bundle's files by HTTPS at the addresses that devices ask, by port and process."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    files = folder / "www"
    content = {manifest_path(MODEL, bundle.digest): bundle.manifest}
    content |= {blob_path(MODEL, digest): blob for digest, blob in bundle.blobs.items()}
    for layer in decode_manifest(bundle.manifest).layers:
        if layer.chunk_index is not None:
            index = bundle.retained[topics.chunk_index(layer.digest)]
            content[blob_path(MODEL, layer.chunk_index)] = index
    for path, blob in content.items():
        target = files / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(blob)
    identity = authority.authority.broker_identity(("127.0.0.1",), now())
    port = _free_port()
    text = f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; default_type application/octet-stream;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} ssl; root {files};
    ssl_certificate {identity.certificate}; ssl_certificate_key {identity.key};
  }}
}}
"""
    if os.geteuid() == 0:
        text = "user root;" + text
    (folder / "nginx.conf").write_text(text)
    with subprocess.Popen(
        [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.log")]
    ) as process:
        try:
            _wait_listening(port)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_listening(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


# --- one device ----------------------------------------------------------------------------------


def curl(folder: Path, port: int, bundle: MadeBundle) -> tuple[float, float]:
    """Return the seconds of curl, and with what a device does besides."""
    largest = largest_layer(bundle)
    target = folder / "curled"
    target.unlink(missing_ok=True)
    said = subprocess.run(
        [
            *("curl", "-s", "-S", "--fail", "-o", str(target), "-w", "%{time_total}"),
            *("--cacert", str(folder / "pki" / "authority.pem")),
            f"https://127.0.0.1:{port}{blob_path(MODEL, largest.digest)}",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    began = time.perf_counter()
    with target.open("rb") as file:
        os.fdatasync(file.fileno())
        total = hashlib.file_digest(file, "sha256").hexdigest()
    after = time.perf_counter() - began
    assert largest.digest == f"sha256:{total}"
    return float(said.stdout), float(said.stdout) + after


def one_device(
    options: argparse.Namespace, folder: Path, identities: Identities
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the median seconds of each way, and the mean processor seconds of both sides."""
    bundle = bundle_of(options.megabytes * 1_000_000, 1)
    largest = largest_layer(bundle)
    identities.context("pi-1")
    found: dict[str, list[float]] = {name: [] for name in RESULT}
    spent: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        ports, servers = {}, {}
        for kind in ("mosquitto", "embedded"):
            running = stack.enter_context(started(kind, folder, 20))
            publish(identities, bundle, running.port)
            ports[kind], servers[kind] = running.port, running.process
        ports["http"], servers["http"] = stack.enter_context(nginx(folder, identities, bundle))
        devices = {
            kind: stack.enter_context(Devices(folder, kind, port, bundle.digest, ["pi-1"]))
            for kind, port in ports.items()
        }
        for turn in range(options.rounds + 1):
            _say(f"one device, {turn} of {options.rounds}" if turn else "one device, not counted")
            for kind, device in devices.items():
                sides = {"device": device.process, "server": servers[kind]}
                before = {side: _processor_s(process) for side, process in sides.items()}
                device.begin()
                took, problems, _ = device.come()
                assert not problems, problems
                found[kind] += took
                rows = spent.setdefault(kind, dict.fromkeys(sides, 0.0))
                for side, process in sides.items() if turn else ():
                    rows[side] += (_processor_s(process) - before[side]) / options.rounds
            for kind in ("mosquitto", "embedded"):
                context = identities.context("pi-2")
                alone = throw_away(ports[kind], context, "pi-2", largest.digest, largest.size)
                found[f"{kind}_alone"].append(alone)
            plain, same_work = curl(folder, ports["http"], bundle)
            found["curl"].append(plain)
            found["curl_same_work"].append(same_work)
    return {name: statistics.median(values[1:]) for name, values in found.items()}, spent


def _processor_s(process: psutil.Process) -> float:
    """Return the seconds of processor time of a process and its children, to some 10 ms."""
    parts = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in parts))


# --- many devices --------------------------------------------------------------------------------


def many_devices(
    options: argparse.Namespace, folder: Path, identities: Identities
) -> dict[str, float]:
    """All fetch at once over Mosquitto; the server's connection goes through a counting link."""
    bundle = bundle_of(options.megabytes * 1_000_000, 2)
    names = [f"device-{number}" for number in range(options.devices)]
    for name in names:
        identities.context(name)
    with (
        started("mosquitto", folder, options.devices) as running,
        contextlib.ExitStack() as crowd,
    ):
        before = running.process.memory_info().rss
        with Link(running.port) as link:
            publish(identities, bundle, link.port)
            egress = link.bytes_up
        holding = running.process.memory_info().rss
        _say(f"{options.devices} devices connect")
        groups = [
            crowd.enter_context(
                Devices(folder, "mosquitto", running.port, bundle.digest, names[part::PROCESSES])
            )
            for part in range(min(PROCESSES, len(names)))
        ]
        highest, over = [holding], threading.Event()
        watch = threading.Thread(target=_watch, args=(running.process, highest, over))
        watch.start()
        _say(f"{options.devices} devices fetch")
        began = time.perf_counter()
        for group in groups:
            group.begin()
        ended = [group.come() for group in groups]
        took = time.perf_counter() - began
        over.set()
        watch.join()
    problems = [one for _, said, _ in ended for one in said]
    for problem in problems[:5]:
        _say(problem)
    wanted = layer_bytes(bundle)
    return {
        "devices": options.devices,
        "not_come": len(problems),
        "seconds": took,
        "server_egress_ratio": egress / wanted,
        "received_ratio": sum(received for _, _, received in ended) / wanted / options.devices,
        "broker_bundle_megabytes": (holding - before) / 1e6,
        "broker_peak_megabytes": highest[0] / 1e6,
    }


def _watch(process: psutil.Process, highest: list[int], over: threading.Event) -> None:
    while not over.wait(0.1):
        highest[0] = max(highest[0], process.memory_info().rss)


# --- bad links -----------------------------------------------------------------------------------


def bad_links(folder: Path, identities: Identities) -> dict[str, dict[str, float]]:
    """Return, for each link, over Mosquitto and HTTP, what came for each byte missing."""
    identities.context("pi-1")
    found: dict[str, dict[str, float]] = {}
    for number, (name, weather) in enumerate(WEATHERS.items()):
        bundle = bundle_of(WEATHER_BYTES[name], 3 + number)
        found[name] = {}
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(started("mosquitto", folder, 20))
            publish(identities, bundle, running.port)
            ports = {
                "mosquitto": running.port,
                "http": stack.enter_context(nginx(folder, identities, bundle))[0],
            }
            for kind, port in ports.items():
                _say(f"a link that is {name}: {kind}")
                with (
                    Link(port, weather, seed=number) as link,
                    Devices(folder, kind, link.port, bundle.digest, ["pi-1"]) as devices,
                ):
                    devices.begin()
                    took, problems, _ = devices.come()
                    assert not problems, problems
                    found[name][kind] = round(link.bytes_down / layer_bytes(bundle), 4)
                    found[name][f"{kind}_seconds"] = round(took[0], 1)
                    found[name][f"{kind}_connections"] = link.connections
    return found


# --- the run -------------------------------------------------------------------------------------


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.transfer")
    parser.add_argument("--megabytes", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--devices", type=int, default=100, help="at once; 0 leaves them out")
    parser.add_argument("--no-bad-links", action="store_true", help="they take four minutes")
    parser.add_argument("--be", nargs=3, metavar=("KIND", "PORT", "DIGEST"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant")
    parser.add_argument("--names", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.be:
        kind, port, manifest = options.be
        be_devices(options.folder, kind, int(port), manifest, options.names.split(","))
        return 0
    for program in ("nginx", "curl", "mosquitto"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin"):
            print(f"{program} is missing: apt install {program}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-", dir=options.folder) as scratch:
        folder = Path(scratch)
        identities = Identities(folder, now())
        seconds, spent = one_device(options, folder, identities)
        crowd = many_devices(options, folder, identities) if options.devices else {}
        links = {} if options.no_bad_links else bad_links(folder, identities)
    print(f"on {platform.machine()}, {os.cpu_count()} processors, all on one machine, TLS")
    print(f"one device, {options.megabytes} MB, median of {options.rounds}")
    for name in RESULT:
        rate = options.megabytes / seconds[name]
        share = seconds["curl"] / seconds[name]
        beside = seconds["curl_same_work"] / seconds[name]
        print(
            f"  {name:16} {seconds[name] * 1e3:7.0f} ms {rate:7.0f} MB/s"
            f"   {share:.2f} of curl, {beside:.2f} of curl with the same work"
        )
    processors = os.cpu_count() or 1
    for kind, rows in spent.items():
        parts = " + ".join(f"{value * 1e3:.0f} ms of the {side}" for side, value in rows.items())
        least = sum(rows.values()) / processors
        print(f"  {kind:16} processor: {parts}; by {processors} processors {least * 1e3:.0f} ms,"
              f" {seconds['curl'] / least:.2f} of curl at best")  # fmt: skip
    for row, value in crowd.items():
        print(f"  {row:26} {value:10,.3f}")
    for name, rows in links.items():
        print(f"  {name:8} {rows}")
    print(
        json.dumps(
            {
                "benchmark": "transfer",
                "megabytes": options.megabytes,
                "rounds": options.rounds,
                "seconds": {name: round(value, 4) for name, value in seconds.items()},
                "of_curl": {
                    name: round(seconds["curl"] / seconds[name], 3)
                    for name in ("mosquitto", "embedded", "http")
                },
                "of_curl_same_work": {
                    name: round(seconds["curl_same_work"] / seconds[name], 3)
                    for name in ("mosquitto", "embedded", "http")
                },
                "processor_s": {
                    kind: {side: round(value, 4) for side, value in rows.items()}
                    for kind, rows in spent.items()
                },
                "crowd": {row: round(value, 4) for row, value in crowd.items()},
                "bad_links": links,
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
