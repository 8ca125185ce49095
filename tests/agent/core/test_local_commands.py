"""The commands for the person at the device, against an agent that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_bundle, make_order
from agent.inference import models
from edgectl_agent.cli import main
from edgectl_agent.redaction_trial import Found, try_redaction
from edgectl_agent.settings import Settings
from edgectl_protocol.messages import UpdatePolicy
from waiting import wait_for

MakeDevice = Callable[..., Device]
QUICK = UpdatePolicy(observe_s=0.3, retry_delay_s_max=1.0, attempts_max=20)


def bundle_of(directory: Path, version: str = "1") -> MadeBundle:
    directory = directory / version
    directory.mkdir()
    made = models.make_bundle(directory, version=version, scores=True)
    return make_bundle(made.config, Path(made.model).read_bytes(), Path(made.golden).read_bytes())


def ordered(plane: ControlPlane, counter: int, bundle: MadeBundle) -> None:
    plane.release(bundle)
    plane.order(make_order(counter, [bundle], at=plane.now, policy=QUICK))


def started(plane: ControlPlane, make_device: MakeDevice, **settings: str) -> Device:
    device = make_device()
    device.settings |= settings
    device.start()
    device.wait("connected")
    return device


def running(device: Device) -> str | None:
    for row in device.told("models"):
        if row["role"] == "running":
            return str(row["version"])
    return None


def test_a_hold_keeps_models_from_being_switched(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = started(plane, make_device)
    told = device.told("hold", "--for", "2h", "--reason", "night shift")
    assert told["holds"]["person"]["reason"] == "night shift"
    assert 7000 < told["holds"]["person"]["left_s"] <= 7200
    ordered(plane, 1, bundle_of(tmp_path))
    assert device.wait("transition", after="waiting")["reason"]["code"] == "update.held"
    shown = device.command("status")[1]
    assert "person: 2 h left, night shift" in shown or "person: 1 h 59 min left" in shown
    assert "connection   connected" in shown
    assert "certificate  until" in shown
    assert "update to 1 (fp32): waiting" in shown
    assert "[update.held]" in shown
    # A script may hold too, and by the file alone; each holder ends its own.
    (device.state / "hold").unlink()
    (device.state / "hold").touch()
    wait_for(lambda: "file" in device.told("hold", "--show")["holds"], "the file's hold")
    device.told("hold", "--name", "camera")
    device.told("hold", "--name", "camera", "--off")
    assert set(device.told("hold", "--show")["holds"]) == {"file"}
    assert running(device) is None
    assert not any(line.get("after") == "activating" for line in device.lines)
    assert device.told("hold", "--off")["holds"] == {}
    device.wait("transition", after="committed")
    assert running(device) == "1"
    assert device.stop() == 0
    # Without an agent the file is written by the command, and counts when the agent starts.
    assert set(device.told("hold", "--for", "10min")["holds"]) == {"person"}
    device.start()
    device.wait("connected")
    assert set(device.told("status")["holds"]) == {"person"}
    assert device.stop() == 0


def test_rollback_returns_to_what_ran_before(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = started(plane, make_device)
    code, _, errors = device.command("rollback", "activity")
    assert (code, "error[rollback.nothing]" in errors) == (1, True), errors
    assert device.command("rollback", "../x")[0] == 2
    ordered(plane, 1, bundle_of(tmp_path))
    plane.wait_state("pi-1", "activity", "committed", version="1")
    ordered(plane, 2, bundle_of(tmp_path, "2"))
    plane.wait_state("pi-1", "activity", "committed", version="2")
    code, output, errors = device.command("rollback", "activity")
    assert code == 0, output + errors
    assert "rolled-back" in output
    assert running(device) == "1"
    status = device.told("status")
    assert status["slots"]["activity"]["running"]["version"] == "1"
    logs = device.command("logs")[1]
    assert "order 2 accepted: activity 2" in logs
    assert "rolling-back -> rolled-back" in logs
    assert re.search(r"^update     20\d\d-\d\d-\d\dT[\d:]{8}Z order 2 accepted", logs, re.MULTILINE)
    following = subprocess.Popen(
        [
            *(sys.executable, "-m", "edgectl_agent", "logs", "--state", str(device.state)),
            *("--follow", "--json", "--lines", "1"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        assert first["from"] == "update"
        assert datetime.fromisoformat(first["at"]).tzinfo is not None
        ordered(plane, 3, bundle_of(tmp_path, "3"))
        for line in following.stdout:
            if "observing -> committed" in json.loads(line)["line"]:
                break
    finally:
        following.kill()
        following.wait()
        following.stdout.close()
    assert device.stop() == 0


def hook(device: Device, name: str, text: str) -> None:
    path = Path(device.settings["hooks"]) / name
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def test_hooks_put_off_and_take_back(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    log = tmp_path / "hooks.log"
    for phase in ("pre-download", "post-download", "pre-rollback", "post-rollback"):
        hook(device, phase, f"echo {phase} $EDGECTL_SLOT $EDGECTL_VERSION >> {log}; exit 1")
    hook(device, "pre-download", f"echo pre-download >> {log}; test -e {tmp_path}/may || exit 75")
    hook(device, "post-activate", f"echo post-activate >> {log}; test $EDGECTL_VERSION = 1")
    device.start()
    ordered(plane, 1, bundle_of(tmp_path))
    failed = device.wait("transition", after="failed")
    assert failed["reason"]["code"] == "hook.failed"
    assert "exit status 75" in failed["reason"]["detail"]
    (tmp_path / "may").touch()
    device.wait("transition", after="committed")
    assert "post-download activity 1" in log.read_text(), "a no after a download is only told"
    ordered(plane, 2, bundle_of(tmp_path, "2"))
    back = device.wait("transition", after="rolled-back")
    assert back["version"] == "2"
    report = plane.wait_state("pi-1", "activity", "rolled-back", version="2")
    assert report["slots"]["activity"]["running"]["version"] == "1"
    assert report["slots"]["activity"]["update"]["reason"]["code"] == "hook.failed"
    assert "pre-rollback activity 2\npost-rollback activity 2" in log.read_text()
    assert device.stop() == 0


def test_a_hook_puts_off_the_switch_and_the_old_model_serves(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    hook(device, "pre-activate", f"test $EDGECTL_VERSION = 1 || test -e {tmp_path}/may || exit 75")
    device.start()
    ordered(plane, 1, bundle_of(tmp_path))
    device.wait("transition", after="committed", version="1")
    ordered(plane, 2, bundle_of(tmp_path, "2"))
    put_off = device.wait("transition", before="activating", version="2")
    assert put_off["reason"]["code"] == "hook.failed"
    assert running(device) == "1"
    (tmp_path / "may").touch()
    device.wait("transition", after="committed", version="2")
    assert device.told("status")["rejected"] == []
    assert device.stop() == 0


def test_doctor_says_what_works_and_what_to_do(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = started(plane, make_device)
    code, output, errors = device.command("doctor", "--json")
    checks: dict[str, dict[str, Any]] = {one["name"]: one for one in json.loads(output)}
    bad = {name: one for name, one in checks.items() if one["status"] == "fail"}
    assert (code, bad) == (0, {}), output + errors
    for name in ("broker", "certificate", "key", "runtime", "agent", "inference endpoint"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "CPUExecutionProvider" in checks["runtime"]["detail"]
    plane.link.close()
    plane.broker.stop()
    assert device.stop() == 0
    (device.state / "identity" / "key.pem").chmod(0o644)
    code, output, errors = device.command("doctor")
    assert code == 1, output + errors
    for words in ("fail  broker", "fail  agent", "fail  state directory", "chmod go="):
        assert words in output, output
    assert output.count("try: ") >= 3


def test_doctor_knows_a_device_that_is_yet_to_enrol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no folder identity/ to remove, as where a key is lost."""
    assert main(["doctor", "--state", str(tmp_path), "--json"]) == 1
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (checks["certificate"]["status"], checks["key"]["status"]) == ("fail", "ok")
    assert checks["key"]["detail"] == "none yet: it is made when this device enrols"


def test_a_missing_socket_of_the_endpoint_is_said(
    plane: ControlPlane, make_device: MakeDevice
) -> None:
    device = started(plane, make_device, socket="no/such/folder.sock")
    (problem,) = device.told("status")["endpoint_problems"]
    assert "no/such/folder.sock" in problem
    assert problem in device.command("status")[1]
    code, output, _ = device.command("doctor")
    assert code == 0
    assert f"answers; {problem}" in " ".join(output.split())
    assert device.stop() == 0


def test_doctor_tries_what_is_done_to_samples(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = started(plane, make_device)
    ordered(plane, 1, bundle_of(tmp_path))
    plane.wait_state("pi-1", "activity", "committed")
    assert device.stop() == 0
    program = tmp_path / "programs" / "redact"
    program.parent.mkdir(mode=0o755)

    def tried(text: str, mode: int = 0o755) -> Found:
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(mode)
        settings = Settings(
            state=str(device.state), redact_command=str(program), redact_timeout_s=2.0
        )
        return try_redaction(settings)

    found = tried("exec cat")
    assert (found.good, "activity redacted" in found.detail) == (True, True), found
    assert "activity dropped" in tried("exit 0").detail
    for text, mode, told in (
        ("exit 3", 0o755, "[redaction.failed]"),
        ("sleep 60", 0o755, "[redaction.timeout]"),
        ("echo no sample", 0o755, "[redaction.changed]"),
        (f"echo x > {tmp_path}/leak && exec cat", 0o755, "[redaction.failed]"),
        ("exec cat", 0o777, "others may write it"),
        ("exec cat", 0o644, "not executable"),
    ):
        found = tried(text, mode)
        assert (found.good, told in found.detail) == (False, True), (text, found)
        assert found.next
    assert not (tmp_path / "leak").exists()
    config = tmp_path / "agent.toml"
    config.write_text('redact_command = "/nowhere/redact"\n')
    code, output, _ = device.command("doctor", "--config", str(config))
    assert (code, "/nowhere/redact is not there" in " ".join(output.split())) == (1, True)


def test_bench_measures_what_a_slot_runs_and_files(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = started(plane, make_device)
    assert device.command("bench", "activity")[0] == 1
    ordered(plane, 1, bundle_of(tmp_path))
    plane.wait_state("pi-1", "activity", "committed")
    (row,) = device.told("bench", "activity", "--runs", "50")
    assert (row["model"], row["verdict"]) == ("activity 1 (fp32)", "ok")
    assert row["runs"] >= 50  # whole rounds over the golden inputs
    assert 0 < row["latency_p50_us"] <= row["latency_p95_us"]
    assert row["rss_bytes"] > 20e6
    (row,) = device.told("bench", str(models.HAR), "--runs", "20")
    assert (row["verdict"], row["runs"], row["threads"]) == ("ok", 20, 1)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    code, output, _ = device.command("bench", str(tmp_path / "broken.onnx"))
    assert (code, "rejected" in output) == (1, True), output
    assert "P95" in output
    assert device.command("bench", "activity", "--runs", "0")[0] == 2
    assert device.stop() == 0


@pytest.mark.parametrize("command", ["status", "models", "logs", "hold"])
def test_without_a_state_directory_the_next_step_is_said(command: str, tmp_path: Path) -> None:
    device = Device("http://127.0.0.1:9", "", tmp_path / "missing")
    code, _, errors = device.command(command)
    assert (code, "error[state.missing]" in errors, "try: " in errors) == (1, True, True)
    assert not device.state.exists()


@pytest.mark.parametrize("text", ["2", "h", "-1h", "0s", "31d", "1e9d", "2 h", "9" * 400 + "d"])
def test_what_is_no_time_is_wrong_usage(text: str, tmp_path: Path) -> None:
    device = Device("http://127.0.0.1:9", "", tmp_path / "state")
    device.state.mkdir()
    code, _, errors = device.command("hold", f"--for={text}")
    assert (code, "error[hold.duration]" in errors) == (2, True), errors
