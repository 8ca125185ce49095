"""The SDK in processes of their own: another user, a fork, an end, an import."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import msgspec
import pytest

import edgectl_agent
from agent.sdk.conftest import activity_bundle
from edgectl_agent import Model
from edgectl_agent.inference.process import InferenceProcess
from waiting import wait_for


def test_the_last_counts_are_told_at_the_end_of_the_process(
    process: InferenceProcess, hub: Path, tmp_path: Path
) -> None:
    process.load(activity_bundle(tmp_path))
    program = (
        "import sys, numpy\n"
        "from edgectl_agent import Model\n"
        "model = Model('activity', socket=sys.argv[1])\n"
        "for _ in range(7): model.predict(numpy.zeros((6, 128), 'float32'))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(hub)], check=True, timeout=60)
    assert wait_for(lambda: process.health("activity").requests) == 7
    assert "process" in (tmp_path / "log").read_text()


def test_a_file_of_another_user_is_read_through_its_descriptor(tmp_path: Path) -> None:
    """The application's user may connect, and open no file of the agent's."""
    bundle = activity_bundle(tmp_path)
    files = []
    for file in (bundle.model, bundle.golden):
        files.append(tmp_path / Path(file).name)
        if not files[-1].exists():
            files[-1].write_bytes(Path(file).read_bytes())
        files[-1].chmod(0o600)
    program = (
        "import os, sys\n"
        "import edgectl_agent.sdk, edgectl_agent.onnx_session\n"
        "from edgectl_agent import Model\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    open(sys.argv[2], 'rb')\n"
        "    sys.exit('the file could be opened')\n"
        "except PermissionError: pass\n"
        "model = Model('activity', socket=sys.argv[1])\n"
        "print(model.in_process, model.version, model.predict([[0.0] * 128] * 6).label)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        hub = Path(folder) / "models.sock"
        process = InferenceProcess(
            host="127.0.0.1", port=0, socket=None, hub=hub, hub_group="nogroup"
        )
        process.start()
        try:
            process.load(msgspec.structs.replace(bundle, model=str(files[0]), golden=str(files[1])))
            done = subprocess.run(
                [sys.executable, "-c", program, str(hub), str(files[0])],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=60,
            )
        finally:
            process.stop()
    assert done.stdout.startswith("True 1 class")


def test_a_child_after_a_fork_starts_anew(
    process: InferenceProcess, hub: Path, tmp_path: Path
) -> None:
    process.load(activity_bundle(tmp_path))
    program = (
        "import os, sys, numpy\n"
        "from edgectl_agent import Model\n"
        "model = Model('activity', socket=sys.argv[1])\n"
        "x = numpy.zeros((6, 128), 'float32')\n"
        "for _ in range(3): model.predict(x)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    for _ in range(4): model.predict(x)\n"
        "    model.close()\n"
        "    os._exit(0)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "for _ in range(5): model.predict(x)\n"
        "sys.exit(status)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(hub)], check=True, timeout=60)
    wait_for(lambda: process.health("activity").requests == 12)


def test_a_model_that_nobody_uses_any_more_is_freed(
    process: InferenceProcess, hub: Path, tmp_path: Path
) -> None:
    process.load(activity_bundle(tmp_path))
    model = Model("activity", socket=hub)
    gone, thread = weakref.ref(model), model._follower._thread
    assert thread is not None
    del model
    gc.collect()
    assert gone() is None
    wait_for(lambda: not thread.is_alive())


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """A module that was imported would be found before what has the same name."""
    modules = {path.stem for path in Path(edgectl_agent.__file__).parent.iterdir()}
    assert not modules & set(edgectl_agent.__all__)


def test_the_package_is_light_until_the_sdk_is_asked_for() -> None:
    program = (
        "import sys, edgectl_agent\n"
        "assert not {'numpy', 'onnxruntime', 'edgectl_agent.sdk'} & set(sys.modules)\n"
        "from edgectl_agent import Model\n"
        "assert 'onnxruntime' not in sys.modules, 'a runtime is imported with the first model'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    with pytest.raises(AttributeError):
        edgectl_agent.Nothing  # noqa: B018
