"""What a worker that a hostile model has taken over can still reach."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgectl_server.pipeline import confinement, runner
from edgectl_server.pipeline.spec import PipelineSpec, encode
from edgectl_server.pipeline.system_calls import has_seccomp

# The real worker with the real confinement; only the work itself is the attacker's.
TAKEN_OVER = """
import ctypes, json, os, socket, subprocess, sys
from pathlib import Path
from edgectl_server.pipeline import worker as child
from edgectl_server.pipeline.spec import decode_spec

def attack(limits, task, channel):
    from edgectl_server.pipeline import search  # what the work imports can be imported

    library = ctypes.CDLL(None, use_errno=True)

    def call(name, *arguments):
        ctypes.set_errno(0)
        if getattr(library, name)(*arguments) < 0 and ctypes.get_errno() in (1, 13):
            raise PermissionError(name)  # anything else: the kernel has looked at it

    data, parent, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    attempts = {
        "read a key": lambda: (data / "keys" / "root.pem").read_bytes(),
        "read a key by link": lambda: Path(f"/proc/self/root{data}/keys/root.pem").read_bytes(),
        "list the data": lambda: list(data.iterdir()),
        "read the database": lambda: (data / "edgectl.sqlite").read_bytes(),
        "change the database": lambda: (data / "edgectl.sqlite").write_bytes(b"mine"),
        "read another job": lambda: (data / "jobs" / "2" / "source.onnx").read_bytes(),
        "change the input": lambda: spec.source.write_bytes(b"mine"),
        "write elsewhere": lambda: Path("/tmp", "edgectl-" + parent).write_bytes(b"mine"),
        "make a link": lambda: Path("link").symlink_to(data / "keys"),
        "run a program": lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True),
        "read the parent's environment": lambda: Path("/proc", parent, "environ").read_bytes(),
        "read the passwords of the system": lambda: Path("/etc/passwd").read_bytes(),
        "open a socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "make a namespace": lambda: call("unshare", 0x10000000),
        "trace": lambda: call("ptrace", 0, 0, 0, 0),
        "use io_uring": lambda: call("syscall", 425, 1, 0),
        "connect": lambda: socket.create_connection(("127.0.0.1", port), 1).close(),
        "read the input": spec.source.read_bytes,
        "write its own": lambda: Path("own").write_bytes(b"fine"),
    }
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        done.append(name)
    channel.write(json.dumps(done).encode())
    channel.flush()

child._run = attack
spec = decode_spec(Path("spec.json").read_bytes())
sys.exit(child.do_confined(spec.limits, spec.files, lambda tell: spec))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("keys", "jobs/1/work", "jobs/2"):
        (folder / name).mkdir(parents=True)
    for name in ("keys/root.pem", "edgectl.sqlite", "jobs/1/source.onnx", "jobs/2/source.onnx"):
        (folder / name).write_bytes(b"secret")
    return folder


def reached(data: Path, program: str = TAKEN_OVER) -> list[str]:
    """Return what a worker that was taken over could do."""
    work = data / "jobs/1/work"
    spec = PipelineSpec(model="m", version="1", source=data / "jobs/1/source.onnx")
    (work / "spec.json").write_bytes(encode(spec))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-s", "-P", "-c", program, data, str(os.getpid()), str(port)],
            cwd=work,
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        )
    return list(json.loads(done.stdout))


CONFINED = pytest.mark.skipif(
    not confinement.landlock_version() or not has_seccomp(),
    reason="the kernel has no Landlock, or libseccomp is not installed",
)


@CONFINED
def test_a_worker_that_was_taken_over_reaches_its_own_files_alone(data):
    assert reached(data) == ["read the input", "write its own"]


def test_a_worker_of_root_has_nothing_that_only_root_may_do(data):
    program = TAKEN_OVER.replace(
        "def attack(limits, task, channel):",
        """def attack(limits, task, channel):
    rows = Path("/proc/self/status").read_text().splitlines()
    sets = dict(row.split(":\\t") for row in rows if row.startswith("Cap"))
    found = sorted(name for name, value in sets.items() if int(value, 16))
    channel.write(json.dumps(found).encode())
    channel.flush()
    return

    """,
    )
    # The inheritable and ambient sets are those of whoever runs the tests, and worth nothing alone.
    assert set(reached(data, program)) <= {"CapInh", "CapAmb"}


@CONFINED
def test_without_the_filter_the_kernel_is_open_to_it(data):
    loose = TAKEN_OVER.replace("child._run =", "child.refuse_system_calls = bool; child._run =")
    more = set(reached(data, loose)) - {"read the input", "write its own"}
    assert {"open a socket", "use io_uring"} <= more, more


@CONFINED
def test_without_the_confinement_the_same_worker_reaches_all(data):
    """The attempts above would succeed: it is the confinement that stops them."""
    loose = TAKEN_OVER.replace(
        "child._run =",
        "child.confine = lambda *_: False; child.refuse_system_calls = bool; child._run =",
    )
    found = reached(data, loose)
    Path("/tmp", f"edgectl-{os.getpid()}").unlink()
    assert len(found) >= 18, found


def test_a_library_folder_that_holds_the_data_is_not_granted_whole(tmp_path, monkeypatch):
    for name in ("lib/python", "data/keys", "data/jobs/1/work"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    granted = set(confinement._readable(tmp_path / "data/jobs/1/work"))
    assert tmp_path / "lib" in granted
    assert not granted & {tmp_path, tmp_path / "data", tmp_path / "data/keys"}


def test_a_kernel_without_it_is_reported(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(confinement, "landlock_version", lambda: 0)
    monkeypatch.setattr(runner, "landlock_version", lambda: 0)
    assert confinement.confine(tmp_path, []) is False
    runner._isolation.cache_clear()
    runner._isolation()
    runner._isolation.cache_clear()
    assert "no Landlock" in caplog.text
