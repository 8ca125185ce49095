"""``edgectl-agent connect`` as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from onnx import TensorProto

from agent.sdk.test_flows import passing
from edgectl_agent.inference.process import InferenceProcess
from waiting import wait_for


def test_results_must_not_come_back_as_inputs(hub: Path) -> None:
    done = connect(
        hub, "flow", "--from", "mqtt://localhost/a/#", "--to", "mqtt://localhost:1883/a/b"
    )
    assert done.returncode == 2
    assert b"results would come back as inputs" in done.stderr


def connect(hub: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "edgectl_agent", "connect", *arguments, "--json",
         "--models-socket", str(hub)],
        capture_output=True,
        timeout=100,
        check=False,
    )  # fmt: skip


def test_the_command_line(process: InferenceProcess, hub: Path, tmp_path: Path) -> None:
    process.load(passing(tmp_path, ["N", 4], TensorProto.FLOAT))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "one.json").write_text("[1, 2, 3, 4]")
    (folder / "bad.json").write_text("{")
    source = f"folder:{folder}?once=1&settle_s=0&poll_s=0.01"
    out = tmp_path / "out.jsonl"
    done = connect(hub, "flow", "--from", source, "--to", "-", "--to", f"file:{out}")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["source"] == "one.json"
    assert row["outputs"]["mean"] == 2.5
    assert json.loads(out.read_text()) == row
    counts = json.loads(done.stderr.splitlines()[-1])
    assert (counts["predicted"], counts["malformed"]) == (1, 1)
    assert counts["sinks"]["-"] == {"sent": 1, "dropped": 0, "retried": 0}
    wait_for(lambda: process.health("flow").requests == 1)


def test_the_command_line_is_ended_by_a_signal(
    process: InferenceProcess, hub: Path, tmp_path: Path
) -> None:
    process.load(passing(tmp_path, ["N", 4], TensorProto.FLOAT))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "one.json").write_text("[1, 2, 3, 4]")
    running = subprocess.Popen(
        [sys.executable, "-m", "edgectl_agent", "connect", "flow", "--models-socket", str(hub),
         "--from", f"folder:{folder}?settle_s=0&poll_s=0.01"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["source"] == "one.json"
    running.terminate()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0
    assert b"received 1, predicted 1" in errors
