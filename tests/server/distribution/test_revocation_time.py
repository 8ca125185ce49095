"""From decommissioning to being out, against running processes: within a minute on every broker."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import mqtt5
import msgspec
import pytest

from broker.clients import Files, Raw
from e2e.fleet import Server
from edgectl_protocol.enrolment import EnrolReply
from edgectl_server.distribution.mosquitto import find_mosquitto
from server.distribution.own_mosquitto import HOST, OwnMosquitto, free_ports, plan_for
from server.fleet.fleet_helpers import Pi
from waiting import wait_for

BOUND_S = 60.0
TIMER_S = 5.0


class Timer:
    """What systemd's timer does, a little more often."""

    def __init__(self, command: list[str]) -> None:
        self.failures: list[str] = []
        self._command = command
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            done = subprocess.run(
                self._command, capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode:
                self.failures.append(done.stderr)
            self._ending.wait(TIMER_S)

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()


def server_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgectl", "server", *arguments]


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("mosquitto", marks=pytest.mark.mosquitto),
        pytest.param("own", marks=pytest.mark.mosquitto),
    ]
)
def server(request, tmp_path):
    """A running server, on each broker; of one's own it is written by its commands alone."""
    if request.param != "embedded" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    if request.param != "own":
        server = Server(tmp_path / "data", broker=request.param)
        server.start()
        yield server
        server.stop()
        return
    port, kick_port = free_ports(2)
    server = Server(
        tmp_path / "data",
        broker=f"mqtts://{HOST}:{port}",
        settings={"broker_kick_port": str(kick_port)},
    )
    server.start()
    plan = plan_for(tmp_path, port=port, kick_port=kick_port)
    files = Path(plan.directory)
    subprocess.run(
        server_command(
            "broker-config", "--data", str(server.data), "--output", str(files),
            "--directory", plan.directory, "--state", plan.state, "--user", plan.user,
            "--host", HOST, "--listen", HOST, "--port", str(port), "--kick-port", str(kick_port),
            "--server", server.url,
        ),
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    broker = OwnMosquitto(files, Path(plan.state), port, kick_port)
    timer = Timer(
        server_command(
            "revocations", "--server", server.url, "--authority", str(files / "authority.pem"),
            "--output", str(files / "revoked.pem"), "--reload", broker.reload_command,
        )
    )  # fmt: skip
    yield server
    timer.stop()
    broker.stop()
    server.stop()
    assert timer.failures == []


def pi(server: Server, name: str, folder: Path) -> Pi:
    def enrol(request):
        answer = httpx2.post(
            f"{server.url}/api/v1/enrol", json=msgspec.to_builtins(request), timeout=20
        )
        assert answer.status_code == 200, answer.text
        return msgspec.convert(answer.json(), EnrolReply)

    device = Pi(name, folder / name, enrol, server.enrol_token())
    device.connect()
    device.report()
    wait_for(lambda: server.client.device(name).online, f"{name} is online")
    return device


def is_refused(device: Pi) -> bool:
    """Say whether the broker's answer to the device's certificate is an end, not a session."""
    folder = device.folder
    files = Files(folder / "certificate", folder / "key", folder / "authority", 0)
    broker = device.enrolment.broker
    try:
        one = Raw(broker, files=files)
    except (ssl.SSLError, ConnectionError):
        return True
    with one:
        try:
            one.send(mqtt5.ConnectPacket(device.name, clean_start=True, keep_alive=60))
            answer = one.receive()
        except OSError:
            answer = None
    return answer is None or answer.reason_code != 0


# paho leaves its socket to the garbage collector where a handshake fails.
@pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning")
def test_a_decommissioned_device_is_out_within_a_minute(server, tmp_path, record_property):
    wait_for(lambda: httpx2.get(f"{server.url}/api/v1/health/ready").status_code == 200)
    lost, kept = pi(server, "lost", tmp_path), pi(server, "kept", tmp_path)
    begun = time.monotonic()
    server.client.decommission("lost")
    wait_for(lambda: not lost.connected.is_set(), "its connection is ended", bound_s=BOUND_S)
    ended_s = time.monotonic() - begun
    wait_for(lambda: is_refused(lost), "its certificate is refused", bound_s=BOUND_S)
    refused_s = time.monotonic() - begun
    # From now on it does not come back, however often it tries.
    lost.connected.clear()
    assert not lost.connected.wait(3)
    assert is_refused(lost)
    lost.disconnect()
    assert kept.connected.is_set()
    kept.disconnect()
    record_property("seconds", (round(ended_s, 2), round(refused_s, 2)))
    sys.stdout.write(f"ended after {ended_s:.2f} s, refused after {refused_s:.2f} s\n")
    assert refused_s < BOUND_S
