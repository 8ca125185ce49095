"""The demo's processes and folder: nothing is left behind, nothing of others is touched."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from edgectl.demo.folder import MARK, open_folder
from edgectl.demo.processes import Processes
from edgectl.errors import DemoFailed
from waiting import alive, wait_for

ENVIRONMENT = dict(os.environ)

READY = "import time; print('{\"ready\": true}', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY
PARENT = (
    "import subprocess, sys; "
    f"subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); "
    "import time; time.sleep(600)"
)
DEMO = """
import os, sys
from pathlib import Path
from edgectl.demo.processes import Processes
with Processes(Path(sys.argv[1])) as processes:
    for number, code in enumerate(sys.argv[2:]):
        one = processes.start(f"p{number}", [sys.executable, "-c", code], dict(os.environ))
        one.wait_line(lambda line: line.get("ready") is True, 20, "ready")
    print("up", flush=True)
    sys.stdin.read()
"""


def python(code):
    return [sys.executable, "-c", code]


def is_ready(line):
    return line.get("ready") is True


@pytest.fixture
def short_grace(monkeypatch):
    """Stubborn processes are killed after half a second, in this process and its keepers."""
    monkeypatch.setattr("edgectl.demo.processes._STOP_S", 0.5)


def test_processes_end_with_the_context_children_too(tmp_path, short_grace):
    with Processes(tmp_path / "logs") as processes:
        one = processes.start("one", python(PARENT), ENVIRONMENT)
        one.wait_line(is_ready, 20, "ready")
        family = [psutil.Process(one.pid), *psutil.Process(one.pid).children(recursive=True)]
        assert len(family) == 3
    wait_for(lambda: alive(family) == [])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_do_not_outlive_a_killed_demo(tmp_path, number):
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path / "logs"), READY, READY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with demo:
        assert demo.stdout.readline() == b"up\n"
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) == 4, "two keepers with a child each"
        demo.send_signal(number)
        demo.wait(20)
        wait_for(lambda: alive(family) == [])


def test_stubborn_process_does_not_outlive_a_killed_demo(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path / "logs"), STUBBORN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with demo:
        assert demo.stdout.readline() == b"up\n"
        family = psutil.Process(demo.pid).children(recursive=True)
        demo.kill()
        demo.wait(20)
        wait_for(lambda: alive(family) == [])


def test_interrupt_of_the_terminal_ends_the_demo_in_order(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path / "logs"), READY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with demo:
        assert demo.stdout.readline() == b"up\n"
        family = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        demo.wait(20)
        wait_for(lambda: alive(family) == [])


def test_process_that_ends_is_reported_with_its_log(tmp_path):
    code = "import sys; print('no such key', file=sys.stderr); sys.exit(7)"
    with Processes(tmp_path / "logs") as processes:
        one = processes.start("server", python(code), ENVIRONMENT)
        with pytest.raises(DemoFailed) as caught:
            one.wait_line(is_ready, 20, "ready")
    assert caught.value.code == "demo.process"
    assert "server has ended with exit code 7:\nno such key" in caught.value.detail
    assert str(tmp_path / "logs" / "server.log") in caught.value.hint


def test_process_that_is_never_ready_is_reported(tmp_path, short_grace):
    with Processes(tmp_path / "logs") as processes:
        one = processes.start("server", python("import time; time.sleep(600)"), ENVIRONMENT)
        with pytest.raises(DemoFailed) as caught:
            one.wait_line(is_ready, 0.2, "ready")
    assert caught.value.code == "demo.timeout"


def test_logs_are_for_the_owner_only(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        one = processes.start("one", python(READY), ENVIRONMENT)
        assert {path.stat().st_mode & 0o777 for path in (one.log, one.output)} == {0o600}
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------- folder


def test_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoFailed) as caught, open_folder(tmp_path, keep=False):
        pass
    assert caught.value.code == "demo.data"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_is_fresh_unless_kept(tmp_path):
    folder = tmp_path / "demo"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    with open_folder(folder, keep=False):
        (folder / "server").mkdir()
        (folder / "server" / "db").touch()
        (folder / "link").symlink_to(outside)
    with open_folder(folder, keep=True):
        assert (folder / "server" / "db").exists()
    with open_folder(folder, keep=False):
        assert [path.name for path in folder.iterdir()] == [MARK]
    assert (outside / "file").exists()


def test_two_demos_never_share_a_folder(tmp_path):
    with open_folder(tmp_path / "demo", keep=False):
        (tmp_path / "demo" / "file").touch()
        again = open_folder(tmp_path / "demo", keep=False)
        with pytest.raises(DemoFailed, match="a demo is running"):
            again.__enter__()
        assert (tmp_path / "demo" / "file").exists()
