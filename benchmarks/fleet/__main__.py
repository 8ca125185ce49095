"""What a fleet costs: connect storm, steady telemetry, a rollout in five phases; at growing sizes.

    make bench-fleet                                    # 200 and 400 devices, some minutes
    make bench-fleet ARGS="--sizes 1000,3000,10000"     # the figures; half an hour, two cores
    make bench-fleet ARGS="--brokers mosquitto --no-peer"

Server, broker and simulator share the machine; each one's processor time is counted by process.
The embedded broker is the server's process, so that its part cannot be told apart; it is measured
up to `--embedded-max`. Database: SQLite, as it is by default.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fleet.goosebit import GOOSEBIT, polls
from benchmarks.fleet.running import (
    Fleet,
    Server,
    Used,
    push_once,
    running_fleet,
    running_server,
    until,
)
from edgectl.types import PhaseSpec, RolloutPolicy, RolloutRequest, Selector
from edgectl_server.distribution.mosquitto import find_mosquitto

BROKERS = ("mosquitto", "embedded")
PHASES = (1.0, 10.0, 25.0, 50.0, 100.0)
"""Percent of the fleet that have the version when each phase has ended."""
SPARE_CONNECTIONS = 50
BOUND_S = 3600.0
QUIET_SHARE = 0.3
ROWS = {
    "enrol_ms": "server: processor time for an enrolment (ms)",
    "enrol_rate": "enrolments a second",
    "connect_ms": "server and broker: processor time for a connect and the first state (ms)",
    "connect_s": "until all are online (s)",
    "idle_share": "server: share of a core before there is any device",
    "steady_us": "server: processor time for a device and minute, beyond that (µs)",
    "steady_broker_us": "broker: the same (µs)",
    "telemetry_rate": "telemetry messages taken in a second, as they come",
    "server_mb": "server: resident (MB)",
    "broker_mb": "broker: resident (MB)",
    "database_bytes": "database: growth for a device and hour (bytes)",
    "rollout_s": "a rollout in five phases (s)",
    "rollout_ms": "server: processor time of it for a device (ms)",
    "rollout_broker_ms": "broker: the same (ms)",
    "order_p50_s": "from order to acknowledgement, median (s)",
    "order_p99_s": "the same, 99 of 100 (s)",
    "simulator_s": "the simulator's own processor time, in all (s)",
}


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def storm(server: Server, devices: int) -> dict[str, float]:
    """Measure how all enrol, then how all connect."""
    before = server.used()
    until("enrolled", lambda: server.client.fleet().devices >= devices, BOUND_S)
    enrolled = server.used()
    until("online", lambda: server.client.fleet().online >= devices, BOUND_S)
    online = server.used()
    return {
        "enrol_ms": (enrolled.server_s - before.server_s) / devices * 1e3,
        "enrol_rate": devices / (enrolled.at_s - before.at_s),
        "connect_ms": _both(enrolled, online) / devices * 1e3,
        "connect_s": online.at_s - enrolled.at_s,
    }


def idle(server: Server, seconds: float) -> float:
    """Return the share of a core that a server uses that has nothing to do."""
    before = server.used()
    time.sleep(seconds)
    after = server.used()
    return (after.server_s - before.server_s) / (after.at_s - before.at_s)


def steady(server: Server, devices: int, seconds: float, idle_share: float) -> dict[str, float]:
    """Measure what telemetry costs at one message for a device and minute."""
    before = server.used()
    time.sleep(seconds)
    after = server.used()
    took = after.at_s - before.at_s
    minutes = devices * took / 60
    return {
        "idle_share": idle_share,
        "steady_us": (after.server_s - before.server_s - idle_share * took) / minutes * 1e6,
        "steady_broker_us": (after.broker_s - before.broker_s) / minutes * 1e6,
        "telemetry_rate": minutes / took,
        "server_mb": after.server_bytes / 1e6,
        "broker_mb": after.broker_bytes / 1e6,
        "database_bytes": (after.database_bytes - before.database_bytes) / minutes * 60,
    }


def roll_out(server: Server, devices: int) -> dict[str, float]:
    """Measure a version on its way to all, phase after phase."""
    phases = [PhaseSpec(percent=percent) for percent in PHASES]
    policy = RolloutPolicy(
        max_in_progress=devices, failures_max=devices, observe_s=1.0, phases=phases
    )
    request = RolloutRequest("har", "1", Selector(all=True), policy)
    before = server.used()
    rollout = server.client.start_rollout(request).id
    until("the rollout", lambda: server.client.rollout(rollout).state == "completed", BOUND_S)
    after = server.used()
    return {
        "rollout_s": after.at_s - before.at_s,
        "rollout_ms": (after.server_s - before.server_s) / devices * 1e3,
        "rollout_broker_ms": (after.broker_s - before.broker_s) / devices * 1e3,
    }


def _both(before: Used, after: Used) -> float:
    return after.server_s - before.server_s + after.broker_s - before.broker_s


def measure(options: argparse.Namespace, pushed: Path, broker: str, devices: int) -> dict[str, Any]:
    """Measure one broker at one size."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-fleet-") as scratch:
        data = Path(scratch) / "server"
        shutil.copytree(pushed, data, ignore=shutil.ignore_patterns("*.sock", "broker*"))
        with running_server(data, broker, devices + SPARE_CONNECTIONS) as server:
            idle_share = idle(server, options.seconds / 4)
            folder = Path(scratch) / "fleet"
            with running_fleet(server.client, folder, devices, options.connect_rate) as fleet:
                return _parts(options, server, fleet, devices, idle_share)


def _parts(
    options: argparse.Namespace, server: Server, fleet: Fleet, devices: int, idle_share: float
) -> dict[str, Any]:
    found = storm(server, devices)
    say(f"{devices} online after {found['connect_s']:.0f} s")
    found |= steady(server, devices, options.seconds, idle_share)
    found |= roll_out(server, devices)
    until("quiet", lambda: idle(server, 1.0) < QUIET_SHARE, BOUND_S)  # all answers are out
    found["simulator_s"] = fleet.used_s()
    summary = fleet.end()
    times = summary["order_acknowledged_s"]
    assert times["count"] == devices, summary
    assert summary["updates_ended"] == {"committed": devices}, summary
    found |= {"order_p50_s": times["p50"], "order_p99_s": times["p99"]}
    return {row: found[row] for row in ROWS}


def show(broker: str, found: dict[int, dict[str, float]]) -> None:
    """Print one broker's figures, a column a size."""
    print(f"\n{broker:72}" + "".join(f"{size:>12,}" for size in found))
    for row, text in ROWS.items():
        print(f"{text:72}" + "".join(f"{one[row]:12,.2f}" for one in found.values()))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet")
    parser.add_argument("--sizes", default="200,400", help="devices, comma-separated")
    parser.add_argument("--brokers", default=",".join(BROKERS))
    parser.add_argument("--embedded-max", type=int, default=1000, help="its stated limit")
    parser.add_argument("--seconds", type=float, default=60.0, help="of steady telemetry")
    parser.add_argument("--connect-rate", type=float, default=200.0)
    parser.add_argument("--polls", type=int, default=500, help="of gooseBit")
    parser.add_argument("--no-peer", action="store_true", help="leave gooseBit out")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    brokers = options.brokers.split(",")
    if "mosquitto" in brokers and find_mosquitto() is None:
        print("mosquitto is missing: apt install mosquitto", file=sys.stderr)
        return 2
    found: dict[str, dict[int, dict[str, float]]] = {}
    peer: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-fleet-") as scratch:
        say("a model is pushed")
        pushed = push_once(Path(scratch))
        for broker in brokers:
            for size in sizes:
                if broker == "embedded" and size > options.embedded_max:
                    continue
                say(f"{broker}: {size} devices")
                found.setdefault(broker, {})[size] = measure(options, pushed, broker, size)
        if not options.no_peer:
            say(f"gooseBit {GOOSEBIT}")
            peer = polls(Path(scratch) / "goosebit", devices=20, count=options.polls)
    print(f"on {platform.machine()}, {os.cpu_count()} processors, simulator on the same machine")
    for broker, sizes_found in found.items():
        show(broker, sizes_found)
    if peer:
        print(
            f"\ngooseBit {GOOSEBIT}: {peer['poll_ms']:.2f} ms of processor for a poll, "
            f"{peer['polls_per_core_s']:.0f} a second and core, {peer['rss_mb']:.0f} MB"
        )
    print(json.dumps({"benchmark": "fleet", "found": _rounded(found), "goosebit": _rounded(peer)}))
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    raise SystemExit(main())
