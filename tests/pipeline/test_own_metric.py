"""The pusher's metric.py: what it may compute, and what becomes of everything else that it tries.

Each runs in the process that the pipeline forks for it; the harness around it is a process of its
own, as the worker is, so that nothing of pytest is forked.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgectl_server.pipeline.confinement import landlock_version
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.own_metric import SOURCE_BYTES_MAX, read_source
from edgectl_server.pipeline.system_calls import has_seccomp

HARNESS = """
import json, os, sys
import numpy as np
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.metrics import Answers
from edgectl_server.pipeline import own_metric
from edgectl_server.pipeline.own_metric import OwnMetric

if sys.argv[3] == "loose":
    own_metric.confine = own_metric.refuse_all_but_computing = lambda *_: False
secret = os.open(sys.argv[1], os.O_RDWR)
os.set_inheritable(secret, True)
answers = Answers(
    outputs={"y": np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], np.float32)},
    labels=np.array([1, 0, 1, 1]),
    inputs={"x": np.zeros((4, 3), np.float32)},
)
found = []
for source in json.load(sys.stdin):
    try:
        found.append(OwnMetric(source, seconds_max=float(sys.argv[2])).measure(answers))
    except PipelineRefused as error:
        found.append([error.code, error.detail])
try:
    os.waitpid(-1, os.WNOHANG)
    found.append("a child is left")
except ChildProcessError:
    pass
same = bool(answers.outputs["y"][0, 0] == np.float32(0.2))
json.dump({"found": found, "same": same}, sys.stdout)
"""


def measure(tmp_path, *sources, seconds_max=5.0, guard="strict"):
    secret = tmp_path / "secret"
    secret.write_text("of the server")
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, secret, str(seconds_max), guard],
        input=json.dumps(sources).encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    assert told["same"], "the arrays of the one who compares have been changed"
    assert secret.read_text() == "of the server"
    assert len(told["found"]) == len(sources), told["found"][-1]
    return told["found"]


def function(body):
    return f"import os\nimport numpy as np\n\ndef metric(outputs, labels, inputs):\n    {body}\n"


GOOD = {
    "return (outputs['y'].argmax(axis=1) == labels).mean()": 0.75,
    "return float(np.linalg.norm(outputs['y'] @ np.ones((2, 2))))": 2 * 2**0.5,
    "return 3": 3.0,
    "return np.array(2.5, np.float16)": 2.5,
    "outputs['y'][:] = 0; labels[:] = 0; return len(inputs['x'])": 4.0,
    "import threading; t = threading.Thread(target=int); t.start(); t.join(); return 1": 1.0,
    "import statistics; return statistics.mean([1, 2])": 1.5,
}


def test_what_it_may_compute(tmp_path):
    found = measure(tmp_path, *map(function, GOOD))
    assert [value for value, _ in found] == pytest.approx(list(GOOD.values()))
    assert all(higher is True for _, higher in found)


def test_it_says_its_direction(tmp_path):
    source = "HIGHER_IS_BETTER = False\n" + function("return 2")
    assert measure(tmp_path, source) == [[2.0, False]]


BAD = {
    "metric.source": {
        "def metric(outputs, labels, inputs:": "SyntaxError in line 1",
        "metric = 3": "no function metric",
        "": "no function metric",
        "\0": "null bytes",
        "HIGHER_IS_BETTER = 1\ndef metric(*_): return 1": "neither True nor False",
    },
    "metric.value": {
        function("return float('nan')"): "returned nan",
        function("return float('-inf')"): "returned -inf",
        function("return np.float32('nan')"): "returned nan",
        function("return None"): "a NoneType",
        function("return True"): "a bool",
        function("return '1'"): "a str",
        function("return np.zeros(2)"): "a ndarray",
        function("return 1j"): "a complex",
    },
    "metric.failed": {
        function("return 1 / 0"): "ZeroDivisionError in line 5",
        function("return outputs['z']"): "KeyError in line 5",
        function("raise SystemExit(0)"): "SystemExit",
        function("return 10 ** 400 + 0.5"): "OverflowError",
        "def metric(): return 1": "TypeError",
        "raise Exception('x' * 10_000)": "Exception in line 1",
        "import torch_or_what": "ModuleNotFoundError",
        function("return np.zeros(10**15).sum()"): "MemoryError",
        function("return metric(outputs, labels, inputs)"): "RecursionError",
    },
    "metric.crashed": {
        function("os._exit(0)"): "without an answer",
        function("os.write(3, b'1.0'); os._exit(0)"): "something else",
        function("os.write(3, b'{\"value\": 1.0}' * 2000); os._exit(0)"): "something else",
        function("os.close(3); return 1"): "without an answer",
        function("os.close(3); import time; time.sleep(60)"): "SIGKILL",
        function("import ctypes; ctypes.string_at(0); return 1"): "SIGSEGV",
    },
}


@pytest.mark.parametrize("code", BAD)
def test_what_is_no_measure(tmp_path, code):
    for source, found in zip(BAD[code], measure(tmp_path, *BAD[code]), strict=True):
        assert found[0] == code, (source, found)
        assert BAD[code][source] in found[1], (source, found)
        assert len(found[1]) < 400


FORBIDDEN = {
    "fork": "os.fork()",
    "fork by the C library": "import ctypes; return -ctypes.CDLL(None).fork()",
    "run a program": "import subprocess; subprocess.run(['/bin/true'])",
    "become a program": "os.execv('/bin/true', ['true'])",
    "open a socket": "import socket; socket.socket()",
    "open a Unix socket": "import socket; socket.socketpair()",
    "signal the one who compares": "os.kill(os.getppid(), 9)",
    "read its secret": "open(SECRET).read()",
    "read by what was open": "open([n for n in range(256) if n > 3 and not os.fstat(n)][0])",
    "look into its memory": "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "read its environment": "open(f'/proc/{os.getppid()}/environ', 'rb').read(1)",
    "write its file": "open(SECRET, 'w')",
    "write here": "open('here', 'w').write('mine')",
    "make a folder": "os.mkdir('/tmp/edgectl-mine')",
    "remove a file": "os.remove(SECRET)",
    "trace": "import ctypes; return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    "make a namespace": "import ctypes; return ctypes.CDLL(None).unshare(0x10000000)",
    "change its priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "change its limits": "import resource as r; r.prlimit(os.getppid(), r.RLIMIT_FSIZE, (0, 0))",
}


@pytest.mark.skipif(
    not (landlock_version() and has_seccomp()), reason="the kernel has no Landlock or no seccomp"
)
def test_what_it_cannot_reach(tmp_path):
    sources = [
        f"SECRET = {str(tmp_path / 'secret')!r}\n" + function(f"{body}; return 1")
        if "return" not in body
        else function(body)
        for body in FORBIDDEN.values()
    ]
    for name, found in zip(FORBIDDEN, measure(tmp_path, *sources), strict=True):
        if found[0] in {-1.0, 1.0} and "ctypes" in FORBIDDEN[name]:
            continue  # the C library's answer for: no
        assert found[0] == "metric.failed", (name, found)
        assert any(one in found[1] for one in ("PermissionError", "OSError")), (name, found)
    assert not Path("/tmp/edgectl-mine").exists()


def test_without_its_confinement_it_reaches_them(tmp_path):
    """The attempts would succeed: it is the confinement that stops them."""
    bodies = [
        "os.fork() or os._exit(0); return 1",
        "import subprocess; subprocess.run(['/bin/true'], check=True); return 1",
        "import socket; socket.socket().close(); return 1",
        f"return len(open({str(tmp_path / 'secret')!r}).read())",
        "return len(open(f'/proc/{os.getppid()}/environ', 'rb').read())",
    ]
    found = measure(tmp_path, *map(function, bodies), guard="loose")
    assert [value for value, _ in found[:4]] == [1, 1, 1, 13]
    assert found[4][0] > 0


def test_hanging_ends_at_the_wall_clock(tmp_path):
    hangs = [function("while True: pass"), function("import time; time.sleep(1e6); return 1")]
    ignores = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]\n    "
    found = measure(tmp_path, *hangs, function(ignores + "while True: pass"), seconds_max=0.3)
    assert [code for code, _ in found] == ["metric.time"] * 3


def test_the_source_is_bounded_text(tmp_path):
    path = tmp_path / "metric.py"
    for content in (b"#" * (SOURCE_BYTES_MAX + 1), b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(PipelineRefused) as caught:
            read_source(path)
        assert caught.value.code == "metric.source"
    path.write_text("metric = None")
    assert read_source(path) == "metric = None"
