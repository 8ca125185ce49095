"""Commands that write to the last, and leave others behind."""

import os
import sys

import psutil

from edgectl_server import confined
from waiting import wait_for

SECOND_WHEN_TOLD = """
import os, time
print("first", flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)
print("second")
"""


def run(command, tmp_path, on_line):
    return confined.run(
        command,
        tmp_path,
        environment={"PATH": os.defpath},
        wall_s=60.0,
        stdout_bytes_max=2**40,
        on_line=on_line,
        cancelled=lambda: False,
    )


def test_no_line_is_lost_at_the_end(tmp_path):
    """The command has ended before its last line is read."""
    lines = []
    others = set(psutil.Process().children())  # such as a database for the whole session

    def on_line(line):
        lines.append(line)
        if line == b"first":
            (child,) = set(psutil.Process().children()) - others
            (tmp_path / "go").touch()
            wait_for(lambda: child.status() == psutil.STATUS_ZOMBIE)

    assert run([sys.executable, "-c", SECOND_WHEN_TOLD], tmp_path, on_line).code == 0
    assert lines == [b"first", b"second"]


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    ended = run(["sh", "-c", "yes & echo $! > left; exit 7"], tmp_path, lambda line: None)
    assert ended.code == 7
    left = int((tmp_path / "left").read_text())
    wait_for(
        lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    )
