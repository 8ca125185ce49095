"""Hot swaps under load: what fails, and what the slowest request waits; the same with MLServer.

Clients ask without a pause, each on its own connection, while the model is swapped for another
version of itself: each swap loads and warms up the new one beside the old one. Then, in the same
run, a rollback: the previous model is still resident, and the time is taken from the decision until
an answer comes from it. MLServer reloads the same model by its repository API under the same load.

    python -m benchmarks.device.swaps [REQUESTS]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.device import peers
from benchmarks.device.asking import ask, connect, json_request
from benchmarks.device.cases import Case, activity
from edgectl_agent.inference.process import InferenceProcess
from edgectl_protocol.names import digest_of

__all__ = ["main", "measure"]

REQUESTS = 100_000
SWAPS = 20
CLIENTS = 2
ROLLBACKS = 10
PEER_REQUESTS = 4000
PEER_SWAPS = 6
_AROUND_S = 0.05
"""Requests that end so soon after a swap still count as during it."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the comparison, end with one line of JSON."""
    asked = int(arguments[0]) if arguments else REQUESTS
    results = measure(asked)
    print(f"{CLIENTS} clients without a pause; worst and median of all requests, in ms\n")
    print(f"{'':<16}{'requests':>10}{'failed':>8}{'swaps':>7}{'worst':>9}{'worst':>9}{'median':>8}")
    print(f"{'':<16}{'':>10}{'':>8}{'':>7}{'swapping':>9}{'else':>9}{'':>8}")
    for name in ("edgectl", "mlserver"):
        row = results[name]
        print(
            f"{name:<16}{row['requests']:>10}{row['failed']:>8}{row['swaps']:>7}"
            f"{row['worst_swapping_ms']:>9.1f}{row['worst_else_ms']:>9.1f}{row['median_ms']:>8.2f}"
        )
    back = results["rollback"]
    print(
        f"\n{ROLLBACKS} rollbacks, from the decision to an answer of the previous model: "
        f"median {back['median_ms']:.1f} ms, worst {back['worst_ms']:.1f} ms"
    )
    print(json.dumps({"benchmark": "swaps", **results}))
    return 0


def measure(asked: int = REQUESTS) -> dict[str, dict[str, Any]]:
    """Return what clients saw of edgectl's swaps and rollbacks and of MLServer's reloads."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as name:
        folder = Path(name)
        case = activity(folder)
        process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
        process.start()
        try:
            process.load(case.bundle)
            port = int(process.endpoint.rpartition(":")[2])
            ours = _load(case, port, asked, SWAPS, lambda n: process.load(_version(case, n)))
            rollback = _rollbacks(case, port, process)
        finally:
            process.stop()
        with peers.mlserver(folder, [case]) as peer:
            reload = f"http://127.0.0.1:{peer.port}/v2/repository/models/{case.name}/load"
            theirs = _load(case, peer.port, PEER_REQUESTS, PEER_SWAPS, lambda _: _post(reload))
    return {"edgectl": ours, "mlserver": theirs, "rollback": rollback}


def _load(
    case: Case, port: int, asked: int, swaps: int, swap: Callable[[int], object]
) -> dict[str, Any]:
    """Ask `asked` times from several clients, swapping at even distances."""
    request = json_request(case)
    seen: list[tuple[float, float]] = []  # begin and end of every request
    failures: list[str] = []

    def client() -> None:
        with connect(port) as connection:
            while len(seen) < asked and not failures:
                began = time.monotonic()
                try:
                    ask(connection, request)
                except (OSError, AssertionError) as error:
                    failures.append(repr(error))
                seen.append((began, time.monotonic()))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    windows = []
    for number in range(swaps):
        while len(seen) < asked * (number + 0.5) / swaps and not failures:
            time.sleep(0.001)
        began = time.monotonic()
        swap(number)
        windows.append((began, time.monotonic() + _AROUND_S))
    for thread in threads:
        thread.join()
    during = [
        end - began
        for began, end in seen
        if any(began < closed and end > opened for opened, closed in windows)
    ]
    outside = [
        end - began
        for began, end in seen
        if not any(began < closed and end > opened for opened, closed in windows)
    ]
    return {
        "requests": len(seen),
        "failed": len(failures),
        "swaps": swaps,
        "worst_swapping_ms": round(max(during) * 1000, 2),
        "worst_else_ms": round(max(outside) * 1000, 2),
        "median_ms": round(statistics.median(during + outside) * 1000, 3),
        "failures": failures[:3],
    }


def _rollbacks(case: Case, port: int, process: InferenceProcess) -> dict[str, float]:
    """Swap to another version and back, and time the way back."""
    old, new = _version(case, 1001), _version(case, 1002)
    process.load(old)
    request = json_request(case)
    took = []
    with connect(port) as connection:
        for _ in range(ROLLBACKS):
            process.load(new)
            assert new.manifest.encode() in ask(connection, request)
            began = time.monotonic()
            process.load(old)
            assert old.manifest.encode() in ask(connection, request)
            took.append((time.monotonic() - began) * 1000)
    return {"median_ms": round(statistics.median(took), 2), "worst_ms": round(max(took), 2)}


def _version(case: Case, number: int) -> Any:
    return msgspec.structs.replace(
        case.bundle, version=f"swap-{number}", manifest=digest_of(str(number).encode())
    )


def _post(url: str) -> None:
    request = urllib.request.Request(url, b"{}", method="POST")  # noqa: S310 - ours, on loopback
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        answer.read()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
