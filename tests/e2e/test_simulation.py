"""Fifty simulated devices at a real server and both brokers: what it sees of them and their faults.

Who has which fault follows from the seed, so that the test knows it beforehand.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgectl_simulator.draws import Draws
from edgectl_simulator.profiles import Traits, read_profiles
from waiting import wait_for

pytestmark = pytest.mark.e2e

DEVICES = 50
SEED = 5
BOUND_S = 240
PROFILE = """
[trouble]
telemetry_s = 2.0
step_s = 0.2
offline = { share = 0.15, every_s = 4.0, for_s = 2.0 }
slow = { share = 0.1, factor = 6.0 }
failing = { share = 0.1, at = "trial" }
flapping = { share = 0.1, every_s = 3.0 }
wrong_clock = { share = 0.1, offset_s = -259200.0 }
"""


class Simulation:
    """``edgectl simulate`` as an operator starts it."""

    def __init__(self, server, folder: Path, *words: str) -> None:
        token = server.client.create_token("simulation", "operator", expires_in_s=3600).token
        self.errors = folder.with_name(f"{folder.name}.err")
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgectl", "simulate", "--json", "--folder", str(folder),
                 "--seed", str(SEED), *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                env={**os.environ, "EDGECTL_URL": server.url, "EDGECTL_TOKEN": token},
                start_new_session=True,
            )  # fmt: skip

    def stop(self, number: int = signal.SIGINT) -> dict:
        """End it as Ctrl-C does; return the summary."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=BOUND_S)
        assert self.process.returncode == 0, self.errors.read_text()
        return json.loads(out)


@pytest.fixture
def simulate(tmp_path):
    """Start simulations; all that are left are killed in the end."""
    begun = []

    def start(server, *words, folder="fleet"):
        begun.append(Simulation(server, tmp_path / folder, *words))
        return begun[-1]

    yield start
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def having(fault):
    """Return the names of the devices with a fault."""
    profile = read_profiles(PROFILE.encode(), "")["trouble"]
    names = [f"sim-{number:05}" for number in range(1, DEVICES + 1)]
    return {name for name in names if fault in Traits.of(profile, Draws(SEED, name)).names()}


def online(server):
    return {one.id for one in server.client.devices(limit=1000).items if one.online}


def test_a_fleet_with_faults_is_seen_as_it_is(start, simulate, broker, pushed_har, tmp_path):
    server = start.server(data=pushed_har, broker=broker)
    (tmp_path / "trouble.toml").write_text(PROFILE)
    words = ("--devices", str(DEVICES), "--profile", "trouble", "--download", "0.1")
    fleet = simulate(server, *words, "--profiles", str(tmp_path / "trouble.toml"))

    wait_for(lambda: server.client.fleet().devices == DEVICES, "all enrol", bound_s=BOUND_S)
    names = {f"sim-{number:05}" for number in range(1, DEVICES + 1)}
    quiet = names - having("offline") - having("flapping")
    wait_for(lambda: quiet <= online(server), "all connect", bound_s=BOUND_S)
    away = having("offline")
    wait_for(lambda: away - online(server), "some are away", bound_s=BOUND_S)

    rollout = server.roll_out("har", "1", failures_max=DEVICES, observe_s=0.2)
    bad, wrong = having("failing"), having("wrong_clock")

    def settled():
        found = {
            one.device: one for one in server.client.rollout_devices(rollout, limit=1000).items
        }
        states = {name: one.state for name, one in found.items()}
        good = all(states[name] == "committed" for name in set(states) - bad - wrong)
        told = all(states[name] == "rejected" for name in bad - wrong)
        reasons = {name: found[name].reason and found[name].reason.code for name in wrong}
        refused = all(reasons[name] == "order.clock" for name in wrong)
        return found if good and told and refused else None

    try:
        found = wait_for(settled, "the rollout converges", bound_s=BOUND_S)
    except AssertionError:
        rows = server.client.rollout_devices(rollout, limit=1000).items
        left = [one for one in rows if one.state not in {"committed", "rejected"}]
        raise AssertionError(f"{left}\nfailing {bad}, clock {wrong}") from None
    assert all(found[name].reason.code == "trial.golden" for name in bad - wrong)
    assert all(server.client.device(name).refusal.code == "order.clock" for name in wrong)
    assert {one.device for one in server.client.security_events(limit=1000).items} >= wrong

    def slow_ones():
        trials = {name: one.trial["latency_p50_us"] for name, one in found.items() if one.trial}
        return {name for name, latency in trials.items() if latency > 1000}

    assert slow_ones() == having("slow") & {name for name, one in found.items() if one.trial}
    for name in having("flapping"):
        first = server.client.device(name).boot
        wait_for(
            lambda name=name, first=first: server.client.device(name).boot > first,
            f"{name} starts again",
            bound_s=BOUND_S,
        )
    committed = {name for name, one in found.items() if one.state == "committed"}
    wait_for(
        lambda: committed <= {one.device for one in server.client.telemetry("har")},
        "all that run it tell what they count",
        bound_s=BOUND_S,
    )

    summary = fleet.stop()
    assert summary["enrolled"] == DEVICES
    assert summary["faults"] == {
        fault: len(having(fault))
        for fault in ("offline", "slow", "failing", "flapping", "wrong_clock")
        if having(fault)
    }
    assert summary["orders_refused"] == {"order.clock": len(wrong)}
    assert summary["updates_ended"]["committed"] == len(committed)
    assert summary["counts"]["bytes"] > 100_000  # a tenth has fetched the model
    assert summary["connection_problems"] == {}
    assert summary["online"] == 0
    wait_for(lambda: server.client.fleet().online == 0, "all are gone", bound_s=BOUND_S)
    assert not list((tmp_path / "fleet").rglob("*.new"))


def test_a_second_run_is_the_same_fleet(start, simulate, tmp_path):
    server = start.server()
    first = simulate(server, "--devices", "3")
    wait_for(lambda: len(online(server)) == 3, "all connect", bound_s=BOUND_S)
    boots = {name: server.client.device(name).boot for name in online(server)}
    prints = {name: server.client.device(name).fingerprint for name in boots}
    assert first.stop(signal.SIGTERM)["enrolled"] == 3
    tokens = len(server.client.enrol_tokens().items)

    second = simulate(server, "--devices", "3")
    wait_for(lambda: len(online(server)) == 3, "they come back", bound_s=BOUND_S)
    wait_for(
        lambda: all(server.client.device(name).boot > boots[name] for name in boots),
        "as devices that were started again",
        bound_s=BOUND_S,
    )
    assert {name: server.client.device(name).fingerprint for name in boots} == prints
    assert server.client.fleet().devices == 3
    assert len(server.client.enrol_tokens().items) == tokens
    assert second.stop()["enrolled"] == 0


def test_killed_and_started_again_it_goes_on(start, simulate):
    server = start.server()
    first = simulate(server, "--devices", "5")
    wait_for(lambda: len(online(server)) == 5, "all connect", bound_s=BOUND_S)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.communicate(timeout=BOUND_S)
    wait_for(lambda: not online(server), "their last wills are heard", bound_s=BOUND_S)
    second = simulate(server, "--devices", "5")
    wait_for(lambda: len(online(server)) == 5, "they come back", bound_s=BOUND_S)
    second.stop()


def test_a_fleet_of_another_server_is_refused(start, simulate):
    one, other = start.server(), start.server("other")
    fleet = simulate(one, "--devices", "2")
    wait_for(lambda: len(online(one)) == 2, "all connect", bound_s=BOUND_S)
    fleet.stop()
    stray = simulate(other, "--devices", "2")
    assert stray.process.wait(BOUND_S) == 1
    assert "error[simulate.foreign]" in stray.errors.read_text()


def test_a_broker_that_is_full_is_said_and_the_others_stay(start, simulate):
    server = start.server(settings={"broker_connections_max": "15"})
    fleet = simulate(server, "--devices", "30")
    wait_for(lambda: len(online(server)) >= 10, "some connect", bound_s=BOUND_S)
    wait_for(lambda: server.client.fleet().devices == 30, "all enrol", bound_s=BOUND_S)
    summary = fleet.stop()
    assert summary["counts"]["refused"] > 0
    assert summary["connection_problems"]
