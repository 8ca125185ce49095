"""The server is killed at random moments of rollouts in five phases: no order lost, none doubled.

    python -m benchmarks.fleet.kills                        # 100 kills, 100 devices; a quarter hour
    python -m benchmarks.fleet.kills --kills 5 --devices 20

Each kill is SIGKILL to server and embedded broker, while they start or some time after; the
simulated devices live on and come back. When a rollout has completed before the last kill, the
next one brings the other version. What must hold is read from the database as it lies on the disk,
after every kill and in the end, and from what the devices have counted:

1. No number of an order goes back, and none is given twice to a device.
2. Each rollout orders each device once and counts its commitment once; its events have no gap.
3. The phases begin once each and in their order, and none orders more devices than its share.
4. Devices have ended exactly one update for each rollout, all committed.

It ends with 1 where one of them does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fleet.running import push_once, running_fleet, until
from edgectl.client import Client
from edgectl.types import PhaseSpec, PushOptions, RolloutPolicy, RolloutRequest, Selector

__all__ = ["Killed", "check", "is_completed", "logged_in", "roll_out", "run"]

PHASES = (1.0, 10.0, 25.0, 50.0, 100.0)
VERSIONS = ("1", "2")
AT_ONCE_SHARE = 20
"""So many waves at least has a rollout."""
STARTING = 5
"""One kill in so many meets a server that starts."""
ALIVE_S_MAX = 4.0
START_S_MAX = 1.5
BOUND_S = 900.0
_LOG_SHOWN = 8000
REQUEST_S = 180.0
"""A machine that has other work too is slow, and that is no finding."""
_COUNTERS = "SELECT id, order_counter FROM device"
_EVENTS = "SELECT revision, kind, data FROM rollout_event WHERE rollout = ? ORDER BY revision"
_OPEN = "SELECT count(*) FROM rollout_device WHERE state IN ('pending', 'in_progress')"


class Killed:
    """A server on the same addresses and data, however often it starts.

    Args:
        data: its folder.
        arguments: more of the command line.
        broker: ``embedded``, or ``mosquitto``, which is a process of its own.
    """

    def __init__(
        self, data: Path, arguments: Sequence[str] = (), *, broker: str = "embedded"
    ) -> None:
        self.data = data
        self._arguments = (*arguments, "--broker", broker)
        self._ports = _free_ports(2)
        self._log = data.with_name("server.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it; return at once."""
        port, broker_port = self._ports
        command = [
            *(sys.executable, "-P", "-m", "edgectl_server", "start", "--json"),
            *("--log-level", "error", "--data", str(self.data), "--port", str(port)),
            *("--broker-port", str(broker_port), *self._arguments),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log)

    def wait_ready(self) -> str:
        """Wait until it serves; return its address."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended by itself with {self._process.wait()}")
        url: str = json.loads(line)["url"]
        return url

    @property
    def broker_port(self) -> int:
        """Where its broker listens."""
        return self._ports[1]

    def kill_broker(self) -> bool:
        """Kill a broker with a process of its own, where it stands; say whether there was one."""
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children():
                if child.name() == "mosquitto":
                    child.kill()
                    return True
        return False

    def kill(self) -> None:
        """Kill it where it stands."""
        assert self._process is not None
        assert self._process.poll() is None, "the server ended by itself"
        self._end()

    def close(self) -> None:
        """Leave nothing behind."""
        self._end()
        self._log.close()

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def rows(self, query: str, *values: str) -> list[Any]:
        """Read its database as it lies on the disk, also while it is dead."""
        file = self.data / "edgectl.sqlite"
        with contextlib.closing(sqlite3.connect(file, timeout=30)) as found:
            return found.execute(query, values).fetchall()


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def roll_out(client: Client, devices: int, version: str, at_once: int = 0) -> str:
    """Begin a rollout in five phases and waves of `at_once`, 0: many; return its name."""
    policy = RolloutPolicy(
        max_in_progress=at_once or max(1, devices // AT_ONCE_SHARE),
        failures_max=devices,
        observe_s=0.5,
        phases=[PhaseSpec(percent=percent) for percent in PHASES],
    )
    return client.start_rollout(RolloutRequest("har", version, Selector(all=True), policy)).id


def is_completed(client: Client, rollout: str) -> bool:
    """Ask whether a rollout has ended; a server that is busy is asked again."""
    return client.patiently(lambda: client.rollout(rollout)).state == "completed"


def run(kills: int, devices: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill a server so often; return what was seen, with all that was wrong in ``wrong``."""
    points = random.Random(seed)  # noqa: S311 - a course that can be repeated
    server = Killed(push_once(folder, VERSIONS, PushOptions(precisions=["fp32"])))
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        server.launch()
        client = stack.enter_context(logged_in(server.wait_ready(), server.data))
        fleet = stack.enter_context(running_fleet(client, folder / "fleet", devices, 500.0))
        until("online", lambda: client.fleet().online >= devices, BOUND_S)
        rollouts = [roll_out(client, devices, VERSIONS[0])]
        in_the_middle, wrong = 0, list[str]()
        before = dict(server.rows(_COUNTERS))
        for kill in range(kills):
            if kill % STARTING == STARTING - 1:
                time.sleep(points.uniform(0.0, START_S_MAX))
            else:
                if kill:
                    server.wait_ready()
                if is_completed(client, rollouts[-1]):
                    rollouts.append(roll_out(client, devices, VERSIONS[len(rollouts) % 2]))
                time.sleep(points.uniform(0.0, ALIVE_S_MAX))
            server.kill()
            in_the_middle += server.rows(_OPEN)[0][0] > 0
            now = dict(server.rows(_COUNTERS))
            lower = [name for name, number in before.items() if now[name] < number]
            wrong += [f"kill {kill}: the counter of {name} went back" for name in lower]
            before = now
            server.launch()
            _say(f"{kill + 1} of {kills} kills, rollout {len(rollouts)}")
        server.wait_ready()
        until("the end", lambda: is_completed(client, rollouts[-1]), BOUND_S)
        summary = fleet.end()
        last = dict(server.rows(_COUNTERS))
        names, orders = sorted(last), sum(last.values())
        wrong += check(server, rollouts, names)
        if summary["updates_ended"] != {"committed": devices * len(rollouts)}:
            wrong.append(f"devices have ended {summary['updates_ended']}")
    return {
        "kills": kills,
        "devices": devices,
        "seed": seed,
        "rollouts": len(rollouts),
        "orders": orders,
        "in_the_middle": in_the_middle,
        "updates_ended": summary["updates_ended"],
        "connects": summary["counts"].get("connected", 0),
        "orders_received": summary["counts"].get("order", 0),
        "orders_refused": summary["orders_refused"],
        "wrong": wrong,
    }


def check(server: Killed, rollouts: list[str], names: list[str]) -> list[str]:
    """Return what is wrong with the history that the database holds."""
    wrong: list[str] = []
    ordered: dict[str, list[int]] = {name: [] for name in names}
    for rollout in rollouts:
        rows = server.rows(_EVENTS, rollout)
        events = [(revision, kind, json.loads(data)) for revision, kind, data in rows]
        if [one[0] for one in events] != list(range(1, len(events) + 1)):
            wrong.append(f"{rollout}: its events have a gap")
        for kind in ("device_ordered", "device_committed"):
            seen = Counter(data["device"] for _, found, data in events if found == kind)
            wrong += [
                f"{rollout}: {kind} of {name}: {seen[name]}" for name in names if seen[name] != 1
            ]
        for _, kind, data in events:
            if kind == "device_ordered":
                ordered[data["device"]].append(data["order"])
        kinds = [kind for _, kind, _ in events]
        wrong += [f"{rollout}: {one}" for one in _check_phases(kinds, len(names))]
    counters = dict(server.rows(_COUNTERS))
    for name, numbers in ordered.items():
        if numbers != sorted(set(numbers)) or len(numbers) != len(rollouts):
            wrong.append(f"{name}: ordered with {numbers}")
        elif counters[name] != numbers[-1]:
            wrong.append(f"{name}: its counter is {counters[name]}, its last order {numbers[-1]}")
    return wrong


def _check_phases(kinds: list[str], devices: int) -> list[str]:
    phase, ordered, newest = 0, 0, 0  # newest: of this tick, which logs its phase after its orders
    wrong = []
    for kind in [*kinds, "end"]:
        if kind == "device_ordered":
            ordered, newest = ordered + 1, newest + 1
            continue
        before = ordered - newest if kind == "phase_began" else ordered
        most = math.ceil(PHASES[min(phase, len(PHASES) - 1)] / 100 * devices)
        if kind not in {"gates", "phase_settled"}:
            if before > most:
                wrong.append(f"{before} devices were ordered in phase {phase + 1}, {most} may be")
            newest = 0
        phase += kind == "phase_began"
    if phase != len(PHASES) - 1:
        wrong.append(f"{phase + 1} phases began")
    return wrong


@contextlib.contextmanager
def logged_in(url: str, data: Path) -> Iterator[Client]:
    """Return a client of its admin."""
    password = (data / "admin-password").read_text().strip()
    with Client(url, timeout_s=REQUEST_S) as anonymous:
        token = anonymous.login("admin", password, name="kills").token
    with Client(url, token, timeout_s=REQUEST_S) as client:
        yield client


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Kill, check and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet.kills")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-kills-") as scratch:
        try:
            found = run(options.kills, options.devices, options.seed, Path(scratch))
        except Exception:
            for log in Path(scratch).rglob("server.log"):
                _say(f"the end of the server's log:\n{log.read_text()[-_LOG_SHOWN:]}")
            raise
    print(
        f"{found['kills']} kills, {found['in_the_middle']} of them in the middle of a rollout; "
        f"{found['rollouts']} rollouts in {len(PHASES)} phases over {found['devices']} devices, "
        f"{found['connects']} connects\n"
        f"orders: {found['orders']} issued, {len(found['wrong'])} findings"
    )
    for one in found["wrong"]:
        print(f"wrong: {one}")
    print(json.dumps({"benchmark": "kills", **found}))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
