"""The runtime tells nobody what a device does, and is told nothing that it need not know."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from edgectl_agent.inference.process import InferenceProcess, child_environment

ACTIVITY = Path(__file__).parents[3] / "server/edgectl/demo/activity/har_v1.onnx"
PROGRAM = """
import sys
import edgectl_agent.onnx_session as runtime
session = runtime.onnxruntime.InferenceSession(sys.argv[1])
"""


def files_left_by(program: str, home: Path) -> list[str]:
    """Run a program with a home folder of its own; return what it has left there."""
    home.mkdir()
    # The runtime is also silent where CI is set, which would make the second test meaningless.
    silencing = {"ORT_DISABLE_TELEMETRY", "CI"}
    environment = {k: v for k, v in os.environ.items() if k not in silencing}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    command = [sys.executable, "-c", program, str(ACTIVITY)]
    subprocess.run(command, env=environment, check=True, timeout=60)
    return [str(path) for path in home.rglob("*") if path.is_file()]


def test_no_identifier_is_left_in_the_home_folder(tmp_path):
    assert files_left_by(PROGRAM, tmp_path / "ours") == []


def test_the_runtime_alone_would_leave_one(tmp_path):
    alone = PROGRAM.replace("edgectl_agent.onnx_session as runtime", "onnxruntime").replace(
        "runtime.onnxruntime.", "onnxruntime."
    )
    assert files_left_by(alone, tmp_path / "alone") != []


def test_processes_that_run_a_model_do_not_get_the_secrets_of_the_agent(tmp_path, monkeypatch):
    secrets = ("EDGECTL_AGENT_TOKEN", "AWS_SECRET_ACCESS_KEY", "ANYTHING")
    for name in secrets:
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("TZ", "UTC")
    assert child_environment()["TZ"] == "UTC"
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    process.start()
    try:
        (child,) = (
            one for one in psutil.Process().children() if "edgectl_agent.inference" in one.cmdline()
        )
        assert "hunter2" not in child.environ().values()
    finally:
        process.stop()
