"""A device whose power fails in the middle of updates: a whole arm64 machine under QEMU.

Not part of ``make test``: ``make test-vm``. One course of one device: the package installed,
enrolled with a server on this machine, a first version committed; then updates, in the middle of
which the power is cut again and again. Each time the machine comes up on what its disk has kept,
the agent by itself, and answers from a version that has proved itself; in the end the update is
committed. Each cut prints one line of JSON.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from e2e.conftest import dense_model, pushed, start  # noqa: F401 - fixtures
from e2e.fleet import Server
from installation.machine import remove
from installation.packages import build
from installation.virtual_machine import HOST, VirtualMachine, make_machine, needs_machine
from waiting import wait_for

UNIT = "edgectl-agent.service"
MODEL = "dense"
LAYERS = 2
SEEDS = {"1": 1, "2": 2}
SETTINGS = {"broker_public_host": HOST, "delta_bases_max": "0"}
"""Whole files: of weights that are random a delta saves nothing, and a rollout waits for it."""
BOUND_S = 900.0
SEED = 7
BEFORE_SWITCH = {"refreshing", "downloading", "verifying", "trial"}


@dataclass(frozen=True)
class Cut:
    """The power fails in a state of the update.

    Attributes:
        state: that it has come to, as the agent says.
        within_s: so long after it has come there at most, drawn anew each time.
        loss: of what the disk was not told to keep: of `forgetful_disk.LOSSES`.
    """

    state: str
    within_s: float
    loss: str


UPDATES = {
    "2": (
        Cut("downloading", 6.0, "all"),
        Cut("trial", 3.0, "some"),
        Cut("activating", 0.0, "all"),
        Cut("observing", 1.0, "nothing"),
    ),
}

ASK = f"""
import sys, time, urllib.request
url = "http://127.0.0.1:8500/v2/models/{MODEL}/infer"
question, end = sys.stdin.buffer.read(), time.monotonic() + float(sys.argv[1])
request = urllib.request.Request(url, question, {{"Content-Type": "application/json"}})
while True:
    try:
        sys.exit(print(urllib.request.urlopen(request, timeout=60).read().decode()))
    except OSError as error:
        if time.monotonic() > end:
            sys.exit(f"no answer: {{error}}")
    time.sleep(0.5)
"""
ANSWER_S = 600.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[VirtualMachine]:
    package = build("agent", tmp_path / "package", architecture="arm64")
    # Gigabytes, and a disk is what this is about: not in memory.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    machine = make_machine(folder, "bookworm", package)
    try:
        yield machine
    finally:
        machine.stop()
        remove(folder)


class Answers:
    """What each version answers to one question, and what the device does."""

    def __init__(self, machine: VirtualMachine, models: dict[str, Path]) -> None:
        row = np.random.default_rng(SEED).standard_normal((1, 1024)).astype(np.float32)
        tensor = {"name": "input", "shape": [1, 1024], "datatype": "FP32", "data": row[0].tolist()}
        self._machine = machine
        self._question = json.dumps({"inputs": [tensor]})
        self._expected = {
            version: onnxruntime.InferenceSession(path).run(None, {"input": row})[0][0]
            for version, path in models.items()
        }

    def version(self) -> str:
        """Wait for an answer, and return the version whose it is."""
        said = self._machine.run("python3", "-c", ASK, str(ANSWER_S), given=self._question)
        answer = json.loads(said)
        found = np.array(answer["outputs"][0]["data"], np.float32)
        same = [
            version
            for version, wanted in self._expected.items()
            if np.allclose(found, wanted, rtol=1e-3, atol=1e-7)
        ]
        assert same == [answer["model_version"]], f"{same}: what answers is no version as a whole"
        return str(answer["model_version"])


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    def tell(**line: Any) -> None:
        with capsys.disabled():
            print("\n" + json.dumps({"benchmark": "power-cuts", **line}), flush=True)

    return tell


def install(machine: VirtualMachine, server: Server) -> None:
    """Install the package and bring the device into the fleet, as an operator does."""
    machine.run("sh", "-c", "dpkg --install /root/edgectl-agent_*_arm64.deb")
    # A link on which a download takes its time, trials in an emulated machine, and what happens on
    # the console as well.
    settings = "bandwidth = 500000\ntrial_timeout_s = 900\n"
    machine.run("tee", "-a", "/etc/edgectl/agent.toml", given=settings)
    folder = f"/etc/systemd/system/{UNIT}.d"
    machine.run("mkdir", folder)
    override = "[Service]\nStandardOutput=journal+console\nTimeoutStartSec=600\n"
    machine.run("tee", f"{folder}/console.conf", given=override)
    machine.run(
        *("edgectl-agent", "setup", "--server", server.url.replace("127.0.0.1", HOST)),
        *("--device", "pi-1", "--token-file", "-"),
        given=server.enrol_token(),
        codes=(0, 1, 3),  # emulated, it may take longer than people are told to wait
    )
    wait_for(
        lambda: any(one.id == "pi-1" and one.online for one in server.client.devices().items),
        "the device online",
        bound_s=BOUND_S,
    )


def transitions(machine: VirtualMachine, version: str) -> list[str]:
    """Return the states to which the update to `version` has come since the machine was started."""
    return re.findall(rf"{MODEL} {version} \(fp32\): \S+ -> ([a-z-]+)", machine.said)


def forgets(machine: VirtualMachine, tell: Callable[..., None]) -> None:
    """Show that a power cut here takes what a real one takes, and nothing else."""
    write = "printf %s {} | dd of=/root/{} bs=512 conv=sync,notrunc,{} oflag={} status=none"
    machine.run("sh", "-c", write.format("before", "unflushed", "fsync", "direct"))
    machine.run("sh", "-c", write.format("kept", "flushed", "fsync", "direct"))
    # The file system itself flushes every five seconds.
    alone = "mount -o remount,commit=600 / && sync && "
    machine.run("sh", "-c", alone + write.format("after!", "unflushed", "nocreat", "direct"))
    kept, lost = machine.cut_power("all")
    machine.start()
    boot_s = machine.wait_booted()
    assert "recovery complete" in machine.said, "the file system was in use"
    read = ("head", "--bytes=4")
    assert machine.run(*read, "/root/flushed") == "kept"
    assert machine.run(*read, "/root/unflushed") == "befo", "it had reached the disk, unflushed"
    tell(cut="idle", loss="all", writes_kept=kept, writes_lost=lost, boot_s=round(boot_s, 1))


def cut(
    machine: VirtualMachine, planned: Cut, version: str, answers: Answers, seed: int
) -> dict[str, Any]:
    """Cut the power in a state, start the machine again, and see what it answers."""
    wait_for(
        lambda: planned.state in transitions(machine, version),
        f"{version} to be {planned.state}",
        bound_s=BOUND_S,
    )
    threading.Event().wait(random.Random(seed).uniform(0, planned.within_s))
    machine.stop()
    came_to = transitions(machine, version)[-1]
    kept, lost = machine.cut_power(planned.loss, seed)
    begun = time.monotonic()
    machine.start()
    boot_s = machine.wait_booted()
    assert "recovery complete" in machine.said, "the file system was in use"
    answered = answers.version()
    answer_s = time.monotonic() - begun
    assert machine.shows(UNIT, "ActiveState") == "active"
    proved = {str(int(version) - 1)} | ({version} if came_to not in BEFORE_SWITCH else set())
    assert answered in proved, f"{answered} answers; cut while {version} was {came_to}"
    return {
        "cut": came_to,
        "loss": planned.loss,
        "writes_kept": kept,
        "writes_lost": lost,
        "boot_s": round(boot_s, 1),
        "answer_s": round(answer_s, 1),
        "update_to": version,
        "answered": answered,
        "restarts": int(machine.shows(UNIT, "NRestarts")),
    }


@needs_machine
@pytest.mark.timeout(4 * 3600)
def test_the_power_fails_in_the_middle_of_updates(
    machine: VirtualMachine,
    start: Any,  # noqa: F811 - a fixture
    pushed: Any,  # noqa: F811 - a fixture
    tmp_path: Path,
    tell: Callable[..., None],
) -> None:
    models = {
        version: dense_model(tmp_path / f"{version}.onnx", layers=LAYERS, seed=seed)
        for version, seed in SEEDS.items()
    }
    data = pushed(MODEL, models, precisions=["fp32"])
    server = start.server(data=data, settings=SETTINGS)
    answers = Answers(machine, models)
    machine.start()
    tell(first_boot_s=round(machine.wait_booted(), 1))
    forgets(machine, tell)
    try:
        install(machine, server)
        server.wait_rollout(server.roll_out(MODEL, "1", observe_s=2), bound_s=BOUND_S)
        assert answers.version() == "1"
        for version, cuts in UPDATES.items():
            rollout = server.roll_out(MODEL, version, observe_s=20)
            for number, planned in enumerate(cuts):
                seed = SEED + 100 * int(version) + number
                tell(**cut(machine, planned, version, answers, seed))
            server.wait_rollout(rollout, bound_s=BOUND_S)
            assert answers.version() == version
            tell(committed=version)
    except AssertionError:
        print(machine.said[-5000:])
        raise
