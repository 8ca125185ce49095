"""``edgectl demo``, as a newcomer runs it: real processes, real model, real data."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from edgectl.demo import activity_data
from waiting import alive

pytestmark = pytest.mark.e2e

BOUND_S = 240


def demo(folder, *arguments, **options):
    command = [sys.executable, "-m", "edgectl", "demo", "--data", str(folder / "demo"), *arguments]
    with (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True, **options
        )


def family(process):
    return psutil.Process(process.pid).children(recursive=True)


def wait_gone(processes, bound_s=20.0):
    deadline = time.monotonic() + bound_s
    while left := alive(processes):
        assert time.monotonic() < deadline, [one.cmdline() for one in left]
        time.sleep(0.05)


def mentioning(folder):
    """Every process that has the folder on its command line or in its environment."""
    found = []
    for one in psutil.process_iter():
        try:
            text = " ".join([*one.cmdline(), *one.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if str(folder / "demo") in text:
            found.append(one)
    return found


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def broker(request):
    if request.param == "mosquitto" and not shutil.which(
        "mosquitto", path=os.environ["PATH"] + ":/usr/sbin"
    ):
        pytest.skip("mosquitto is not installed; packaging/install_test_packages.py installs it")
    return request.param


@pytest.fixture(scope="module")
def unattended(tmp_path_factory):
    """``unattended(broker)``: the folder of a whole run on it, and what that printed."""

    @functools.cache
    def run(broker):
        folder = tmp_path_factory.mktemp(broker)
        process = demo(folder, "--exit", "--json", "--broker", broker)
        out, _ = process.communicate(timeout=BOUND_S)
        assert process.returncode == 0, (folder / "stderr").read_text()[-3000:]
        wait_gone(mentioning(folder))
        return folder, out

    return run


def test_demo_shows_the_whole_loop_unattended(unattended, broker):
    folder, out = unattended(broker)
    result = json.loads(out)
    assert result["versions"]["model"] == "har@1"
    variants = set(result["sizes"]) - {"source"}
    smallest = min(result["sizes"][name] for name in variants)
    assert smallest < 0.4 * result["sizes"]["source"], "int8 is about a quarter"
    assert result["accuracies"]["reference"] > 0.94
    assert result["accuracies"]["device"] > 0.85
    assert set(result["devices"]) == {"pi-1", "pi-2", "pi-3"}
    assert {one["state"] for one in result["devices"].values()} == {"committed"}
    assert sum(one["requests"] for one in result["telemetry"] if one["device"] == "pi-1") == 40
    stages = ["server", "devices", "push", "rollout", "inference", "telemetry", "rollback", "total"]
    assert list(result["seconds"]) == stages
    rollback = result["rollback"]
    assert (rollback["version"], rollback["state"]) == ("har@2", "rolled_back")
    assert rollback["reason"]["code"] == "observe.non_finite"
    heard = rollback["application"]
    assert heard["failed"] == 0
    assert set(heard["answers"]) == {"1", "2"}
    assert set(heard["without_number"]) == {"2"}
    assert heard["last"] == "1", "the version before answers again"
    password = (folder / "demo" / "server" / "admin-password").read_text().strip()
    assert password not in out + (folder / "stderr").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["demo", "stderr"]


def test_demo_goes_on_with_a_kept_folder(unattended):
    folder, _ = unattended("embedded")
    process = demo(folder, "--exit", "--json", "--keep")
    out, _ = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, (folder / "stderr").read_text()[-3000:]
    assert json.loads(out)["versions"]["model"] == "har@1"


def test_demo_stays_until_interrupted_and_leaves_nothing(tmp_path):
    with demo(tmp_path, "--devices", "1") as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C stops everything"):
                break
        else:
            pytest.fail((tmp_path / "stderr").read_text()[-3000:])
        text = "".join(lines)
        assert "\x1b" not in text
        for part in ("har@1: accuracy", "pi-1: committed", "accuracy on the device", "Open http"):
            assert part in text
        assert any(label in text for label in activity_data.LABELS)
        running = family(process)
        assert len(running) >= 5, "keeper and server, keeper and agent, inference"
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.returncode == 0
    wait_gone([*running, *mentioning(tmp_path)], bound_s=60)
    assert (tmp_path / "demo" / "server" / "admin-password").exists()


def test_demo_that_is_killed_leaves_no_process(tmp_path):
    with demo(tmp_path, "--devices", "1") as process:
        for line in process.stdout:
            if line.startswith("5. "):  # everything runs, and is busy
                break
        running = family(process)
        assert len(running) >= 5
        process.kill()
        process.wait(20)
    wait_gone([*running, *mentioning(tmp_path)])


def test_demo_that_fails_says_why_and_stops_what_it_started(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = demo(tmp_path, "--exit", "--json", "--port", port)
        out, _ = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    result = json.loads(out)
    assert result["error"]["code"] == "demo.process"
    assert result["error"]["stage"] == "server"
    assert "error[demo.process]" in (tmp_path / "stderr").read_text()
    wait_gone(mentioning(tmp_path))
