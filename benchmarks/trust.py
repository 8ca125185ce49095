"""What verification costs a device and the server: bytes, processor time, memory, latency.

The repository is signed by our server's code; the device is our verifier, in a process of its own
behind retained topics that answer at once, so that no network is measured. A refresh is all that
the device does before it downloads: root, timestamp, snapshot and the targets roles on the path to
one bundle. Beside it the same lookup with the verifier in the same process, which is what the
process of its own costs; and the same targets in one role, which is what a repository without
delegations would send.

    python -m benchmarks.trust
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient import FetcherInterface

from edgectl_agent.clock import now
from edgectl_agent.core.record import Floor
from edgectl_agent.inference.process import child_environment
from edgectl_agent.trust.process import Trust
from edgectl_agent.trust.verifier import Verifier
from edgectl_protocol import topics
from edgectl_protocol.messages import Candidate, MetadataHead, Order, SlotOrder, encode
from edgectl_protocol.metadata import parse_metadata_file, target_path
from edgectl_protocol.names import digest_of, hex_of
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.signing.repository import Repository, Target

COUNTS = (10, 1_000, 10_000)
RUNS = 7
ORDERS_S = 1.0
BASE_URL = "bench:///"
MEMORY = {
    "bare Python": "",
    "supervisor": "import edgectl_agent.supervisor",
    "supervisor that signs its reports": (
        "import edgectl_agent.supervisor\n"
        "from pathlib import Path\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "from cryptography.hazmat.primitives.serialization import *\n"
        "from edgectl_agent.device_key import FileKey\n"
        "made = ec.generate_private_key(ec.SECP256R1()).private_bytes(\n"
        "    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())\n"
        "FileKey(Path('key.pem'), made).sign(b'x')"
    ),
}
MEMORY["supervisor that signs and verifies by itself"] = (
    MEMORY["supervisor that signs its reports"] + "\nimport edgectl_agent.trust.verifier"
)


class Retained:
    """Topics that answer at once, and count."""

    def __init__(self, messages: dict[str, bytes]) -> None:
        self._messages = messages
        self._next: list[tuple[str, bytes]] = []
        self.bytes = self.files = 0

    def connected(self) -> bool:
        """Always."""
        return True

    def subscribe(self, names: Sequence[str]) -> None:
        """Answer."""
        for name in names:
            content = self._messages[name]
            self.bytes += len(content)
            self.files += 1
            self._next.append((name, content))

    def unsubscribe(self, names: Sequence[str]) -> None:  # noqa: ARG002
        """Nothing is left."""
        self._next.clear()

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:  # noqa: ARG002
        """Return what was asked for."""
        return self._next.pop(0) if self._next else None

    def publish(self, topic: str, payload: bytes) -> None:
        """Trust publishes nothing."""


class Direct(FetcherInterface):
    """The same messages for a verifier in this process."""

    def __init__(self, messages: dict[str, bytes], roots: int) -> None:
        self._messages = messages
        self._roots = roots

    def _fetch(self, url: str) -> Iterator[bytes]:
        from tuf.api.exceptions import DownloadHTTPError

        role, version = parse_metadata_file(url.removeprefix(BASE_URL))
        if role == "root" and version is not None and version > self._roots:
            raise DownloadHTTPError("no such root", 404)
        return iter((self._messages[topics.metadata(role, version)],))


class Published(NamedTuple):
    """A repository as devices see it."""

    messages: dict[str, bytes]
    first_root: bytes
    roots: int
    target: str
    manifest: str
    flat_bytes: int
    """Of a targets file that names all of them."""
    signer: OrderSigner


class Cost(NamedTuple):
    """Of one refresh."""

    files: int
    bytes: int
    wall_ms: float
    processor_ms: float
    """Of the verifying process alone."""
    peak_rss_bytes: int


def main() -> int:
    """Measure, print the comparison, end with one line of JSON."""
    print(
        f"median of {RUNS}; {platform.machine()}, {os.cpu_count()} processors, "
        f"Python {platform.python_version()}\n"
    )
    result: dict[str, Any] = {"benchmark": "trust", "refresh": []}
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as scratch:
        print(
            f"{'targets':>8}  {'refresh':<26}{'files':>6}{'bytes':>10}{'wall ms':>9}{'cpu ms':>8}"
        )
        for count in COUNTS:
            published = publish(Path(scratch) / f"server-{count}", count)
            rows = refreshes(Path(scratch) / f"device-{count}", published)
            for name, cost in rows.items():
                print(
                    f"{count:>8}  {name:<26}{cost.files:>6}{cost.bytes:>10,}"
                    f"{cost.wall_ms:>9.1f}{cost.processor_ms:>8.1f}"
                )
            ratio = published.flat_bytes / rows["first"].bytes
            print(
                f"{'':>8}  in one role it would be {published.flat_bytes:,} bytes: {ratio:.1f} x\n"
            )
            result["refresh"].append(
                {
                    "targets": count,
                    "flat_bytes": published.flat_bytes,
                    **{name: cost._asdict() for name, cost in rows.items()},
                }
            )
        result["orders"] = orders(Path(scratch) / "orders", published)
    result["memory"] = memory(rows["first"].peak_rss_bytes)
    print(json.dumps(result))
    return 0


# ---------------------------------------------------------------- the server's side


def publish(directory: Path, count: int) -> Published:
    """Sign for `count` targets, ten versions of each model."""
    repository = Repository.open(directory / "tuf", Keys.open(directory / "keys"), now())
    digests = [digest_of(f"manifest {number}".encode()) for number in range(count)]
    paths = [target_path(f"model-{n // 10}", str(n % 10), "int8") for n in range(count)]
    targets = [Target(path, digest, 1500) for path, digest in zip(paths, digests, strict=True)]
    repository.add_targets(targets, now())
    messages = {
        topics.metadata(role, version): content for role, version, content in repository.metadata()
    }
    messages[topics.head()] = encode(MetadataHead(root=repository.root_version))
    flat = Targets(
        expires=now().replace(microsecond=0),
        targets={one.path: TargetFile(1500, {"sha256": hex_of(one.digest)}, one.path)
                 for one in targets},
    )  # fmt: skip
    return Published(
        messages,
        repository.first_root,
        repository.root_version,
        paths[count // 2],
        digests[count // 2],
        len(Metadata(flat).to_bytes(JSONSerializer(compact=True))),
        OrderSigner(Keys.open(directory / "keys")),
    )


# ---------------------------------------------------------------- the device's side


def refreshes(directory: Path, published: Published) -> dict[str, Cost]:
    """Return the cost of a first refresh, and of those after which nothing has changed."""
    runs: dict[str, list[Cost]] = {
        "first": [], "nothing new, process starts": [], "nothing new, process runs": [],
    }  # fmt: skip
    here: list[float] = []
    for number in range(RUNS):
        cache = directory / str(number)
        transport = Retained(published.messages)
        trust = Trust(cache, published.first_root, transport)
        try:
            runs["first"].append(cost_of(trust, transport, published))
            trust.close()
            runs["nothing new, process starts"].append(cost_of(trust, transport, published))
            runs["nothing new, process runs"].append(cost_of(trust, transport, published))
        finally:
            trust.close()
        here.append(in_this_process(directory / f"here-{number}", published))
    costs = {
        name: Cost(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in runs.items()
    }
    first = costs["first"]
    took = statistics.median(here)
    costs["first, in one process"] = Cost(first.files, first.bytes, took, took, 0)
    return costs


def cost_of(trust: Trust, transport: Retained, published: Published) -> Cost:
    """Look the target up."""
    files, length, spent = transport.files, transport.bytes, processor_ms(trust)
    began = time.perf_counter()
    trust.find(published.target, published.manifest, Floor(), lambda: False)
    wall_ms = (time.perf_counter() - began) * 1000
    return Cost(
        transport.files - files,
        transport.bytes - length,
        round(wall_ms, 2),
        round(processor_ms(trust) - spent, 2),
        peak_rss_bytes(trust),
    )


def in_this_process(cache: Path, published: Published) -> float:
    """Return the milliseconds of a first refresh with everything imported and no process."""
    fetcher = Direct(published.messages, published.roots)
    began = time.perf_counter()
    verifier = Verifier(cache, published.first_root, fetcher, base_url=BASE_URL)
    verifier.find(published.target, published.manifest, Floor())
    return round((time.perf_counter() - began) * 1000, 2)


def processor_ms(trust: Trust) -> float:
    """Return what the verifying process has used since its start."""
    if trust.process_id is None:
        return 0.0
    fields = Path(f"/proc/{trust.process_id}/schedstat").read_text("ascii").split()
    return int(fields[0]) / 1e6


def peak_rss_bytes(trust: Trust) -> int:
    """Return the most that it has held."""
    rows = Path(f"/proc/{trust.process_id}/status").read_text("ascii").splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM:"))


# ---------------------------------------------------------------- orders


def order(counter: int, published: Published) -> Order:
    """Return an order of one slot."""
    candidate = Candidate(variant="int8", target=published.target, manifest=published.manifest)
    return Order(
        device="pi-1",
        counter=counter,
        nonce=f"{counter:032x}",
        issued_at=now(),
        expires_at=now() + timedelta(days=7),
        slots={"har": SlotOrder(model="har", version="1", candidates=(candidate,))},
    )


def orders(directory: Path, published: Published) -> dict[str, float]:
    """Return how fast the server signs, and how long a device takes to believe."""
    signed: list[bytes] = []
    began = time.perf_counter()
    while time.perf_counter() - began < ORDERS_S:
        signed.append(published.signer.sign(order(len(signed) + 1, published)))
    rate = len(signed) / (time.perf_counter() - began)
    trust = Trust(directory, published.first_root, Retained(published.messages))
    try:
        cold, warm = [], []
        for number in range(RUNS):
            trust.close()
            cold.append(milliseconds(lambda: trust.check_order(signed[2 * number], never)))  # noqa: B023
            warm.append(milliseconds(lambda: trust.check_order(signed[2 * number + 1], never)))  # noqa: B023
        same = milliseconds(lambda: trust.check_order(signed[2 * RUNS - 1], never))
    finally:
        trust.close()
    found = {
        "signed_per_s": round(rate),
        "bytes": len(signed[0]),
        "checked_ms_process_starts": statistics.median(cold),
        "checked_ms_process_runs": statistics.median(warm),
        "checked_ms_same_bytes_again": same,
    }
    print(f"orders of {found['bytes']} bytes")
    print(f"  signed on the server      {found['signed_per_s']:>9,.0f} per s")
    print(f"  checked, process starts   {found['checked_ms_process_starts']:>9.1f} ms")
    print(f"  checked, process runs     {found['checked_ms_process_runs']:>9.1f} ms")
    print(f"  the same bytes again      {found['checked_ms_same_bytes_again']:>9.2f} ms\n")
    return found


def never() -> bool:
    """Nobody takes anything back."""
    return False


def milliseconds(call: Callable[[], object]) -> float:
    """Return how long `call` takes."""
    began = time.perf_counter()
    call()
    return round((time.perf_counter() - began) * 1000, 3)


# ---------------------------------------------------------------- memory


def memory(process_peak_bytes: int) -> dict[str, int]:
    """Return what the supervisor holds, with and without what it has handed over."""
    found = {
        name: int(statistics.median(resident(program) for _ in range(RUNS)))
        for name, program in MEMORY.items()
    }
    found["verifying process, at its peak"] = process_peak_bytes
    print("resident memory")
    for name, size in found.items():
        print(f"  {name:<46}{size / 1e6:>7.1f} MB")
    return found


def resident(program: str) -> int:
    """Return the resident bytes of Python after `program`."""
    seen = (
        "\nfrom pathlib import Path\n"
        "print(Path('/proc/self/status').read_text().split('VmRSS:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program + seen],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=child_environment(),
    )
    return int(done.stdout) * 1024


if __name__ == "__main__":
    raise SystemExit(main())
