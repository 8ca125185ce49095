"""What a converter that a hostile model has taken over can reach, and what ends it."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from converters.conftest import pythons
from edgectl_server.converters import conversion, foreign
from edgectl_server.converters.conversion import ConverterLimits, convert
from edgectl_server.pipeline import confinement, system_calls, watched
from edgectl_server.pipeline.child import read_outcome
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineFailed, PipelineRefused

pytestmark = pytest.mark.timeout(600)
FOREIGN = Path(foreign.__path__[0])

# Stands in for the work; all around it is real.
ATTACK = """
import os, socket, subprocess
from pathlib import Path

def convert(job, tell):
    data, parent, port = Path(job["data"]), job["parent"], job["port"]
    attempts = {
        "read a key": lambda: (data / "keys" / "root.pem").read_bytes(),
        "list the data": lambda: list(data.iterdir()),
        "change the input": lambda: Path(job["source"]).write_bytes(b"mine"),
        "change its libraries": lambda: (Path(subprocess.__file__).parent / "x.py").write_text("1"),
        "write elsewhere": lambda: Path("/tmp", "edgectl-" + parent).write_bytes(b"mine"),
        "run a program": lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True),
        "read the parent's environment": lambda: Path("/proc", parent, "environ").read_bytes(),
        "connect": lambda: socket.create_connection(("127.0.0.1", port), 1).close(),
        "import the server": lambda: __import__("edgectl_server.push"),
        "read the input": lambda: Path(job["source"]).read_bytes(),
        "write its own": lambda: Path("own").write_bytes(b"fine"),
        "give a file away": lambda: os.chown("own", 1, 1),
        "import its libraries": lambda: __import__("skl2onnx"),
    }
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, ImportError):
            continue
        done.append(name)
    return {"done": done}
"""


@pytest.fixture
def scene(environments, tmp_path):
    """A server's data folder with a job in it, and how to start the child there."""
    data = tmp_path / "data"
    work = data / "jobs" / "work"
    for folder in (data / "keys", work):
        folder.mkdir(parents=True)
    (data / "keys" / "root.pem").write_text("secret")
    source = data / "jobs" / "source"
    source.write_text("model")
    script = tmp_path / "attack.py"
    python = pythons(environments, "sklearn")

    def start(text: str, **job: object) -> tuple[subprocess.Popen[bytes], Path]:
        script.write_text(text)
        description = {
            "confinement": confinement.__file__,
            "system_calls": system_calls.__file__,
            "watched": watched.__file__,
            "modules": {"refusal": str(FOREIGN / "refusal.py"), "attack": str(script)},
            "script": "attack",
            "limits": {
                "memory_bytes": 2**33, "cpu_s": 60, "file_bytes_max": 2**30, "files_max": 256
            },
            "inputs": [str(source)],
            "job": {"source": str(source), "data": str(data), "parent": str(os.getpid()), **job},
        }  # fmt: skip
        (work / "job.json").write_text(json.dumps(description))
        command = [python, "-s", "-P", FOREIGN / "child.py", "job.json"]
        environment = conversion._environment(work)
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            command, cwd=work, env=environment, stdin=pipe, stdout=pipe, start_new_session=True
        )
        return child, work

    return start


@pytest.mark.skipif(not confinement.landlock_version(), reason="the kernel has no Landlock")
@pytest.mark.parametrize("confined", [True, False])
def test_a_converter_that_was_taken_over_reaches_its_own_files_alone(scene, confined, tmp_path):
    """Without the confinement, the same attempts succeed."""
    text = ATTACK
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child, work = scene(text, port=listener.getsockname()[1])
        if not confined:
            child.kill()
            child.communicate()
            job = json.loads((work / "job.json").read_text())
            loose = tmp_path / "loose.py"
            loose.write_text(
                "def confine(*_): ...\ndef drop_capabilities(): ...\ndef refuse_system_calls(): ..."
            )
            job["confinement"] = job["system_calls"] = str(loose)
            (work / "job.json").write_text(json.dumps(job))
            child = subprocess.Popen(
                child.args, cwd=work, stdin=subprocess.PIPE, start_new_session=True
            )
        child.wait(60)
        child.communicate()
    done = json.loads((work / "result.json").read_text())["done"]
    fine = ["read the input", "write its own", "import its libraries"]
    if confined:
        if confinement.landlock_version() < 4 and not system_calls.has_seccomp():
            fine.insert(0, "connect")  # the network namespace is what forbids it there
        assert done == fine
    else:
        Path("/tmp", f"edgectl-{os.getpid()}").unlink()
        assert {"read a key", "write elsewhere", "run a program", "connect"} <= set(done)
        assert ("give a file away" in done) == (os.geteuid() == 0)
        assert "import the server" not in done, "the environment has no edgectl"


def test_it_ends_when_the_server_dies(scene):
    child, _ = scene(
        "import time\ndef convert(job, tell):\n    tell('started')\n    time.sleep(600)"
    )
    assert b"started" in child.stdout.readline()
    workers = psutil.Process(child.pid).children()
    assert len(workers) == 1
    child.stdin.close()  # as the kernel does for a process that has died
    assert child.wait(30) == -signal.SIGKILL, "its whole group is killed"
    psutil.wait_procs(workers, timeout=30)
    assert not any(one.is_running() for one in workers)
    child.stdout.close()


def test_cancelled_at_work(sklearn_models, environments, tmp_path):
    told = []
    with pytest.raises(PipelineCancelled):
        convert(
            sklearn_models / "mlp.skops",
            "sklearn",
            tmp_path,
            data=None,
            environments=environments,
            limits=ConverterLimits(),
            on_progress=told.append,
            cancelled=lambda: bool(told),
        )
    assert psutil.Process().children(recursive=True) == [] or told


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"memory_bytes": 300 * 2**20}, "pipeline.memory"),
        ({"wall_s": 0.05}, "pipeline.time"),
    ],
)
def test_limits(sklearn_models, converted, limits, code):
    with pytest.raises((PipelineFailed, PipelineRefused)) as caught:
        converted(sklearn_models / "mlp.skops", **limits)
    assert caught.value.code == code, caught.value
    assert caught.value.hint


def test_what_the_child_leaves_is_not_believed(tmp_path):
    """Other types, other files, too much: a failure of ours, never a result."""
    path = tmp_path / "result.json"
    for content in (
        b"",
        b"[]",
        b'{"checks": []}',
        b'{"checks": [{"output": 1}]}',
        b"{" * 5_000_000,
    ):
        path.write_bytes(content)
        with pytest.raises(PipelineFailed) as caught:
            read_outcome(path, conversion._Done, "converter")
        assert caught.value.code == "pipeline.crashed"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PipelineFailed):
        read_outcome(path, conversion._Done, "converter")
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(PipelineFailed):
        read_outcome(path, conversion._Done, "converter")
