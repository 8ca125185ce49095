"""Commands that write to the last, and leave others behind."""

import os
import sys

import psutil
import pytest

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


AS_ANOTHER = """
import os
def attempt(name, call):
    try:
        call()
    except OSError:
        return
    print(name)
attempt("signal the server", lambda: os.kill(int(os.environ["SERVER"]), 0))
attempt("write elsewhere", lambda: open(os.environ["ELSEWHERE"], "w"))
attempt("be root", lambda: os.setuid(0))
attempt("give away", lambda: os.chown("mine", 0, 0))
attempt("write its own", lambda: open("mine", "w"))
print(os.getuid())
"""


@pytest.mark.parametrize("separate", [True, False])
def test_hostile_files_are_handled_by_another_user_where_the_server_is_root(tmp_path, separate):
    """Without the isolation, and where the server is no root, the command is who we are."""
    isolation = confined.isolation() if separate else confined.Isolation()
    closed, work, lines = tmp_path / "data", tmp_path / "data" / "work", []
    work.mkdir(parents=True)
    closed.chmod(0o700)  # as the server's data folder, which its own is in
    if isolation.user is not None:
        confined.hand_over(work, isolation.user)
    ended = confined.run(
        [*isolation.command, sys.executable, "-S", "-c", AS_ANOTHER],
        work,
        environment={
            "PATH": os.defpath,
            "SERVER": str(os.getpid()),
            "ELSEWHERE": str(closed / "keys"),
        },
        wall_s=60.0,
        stdout_bytes_max=4096,
        on_line=lines.append,
        cancelled=lambda: False,
    )
    assert ended.code == 0, ended.stderr
    *done, user = [line.decode() for line in lines]
    if separate and os.geteuid() == 0:
        assert isolation.user not in {0, None}
        assert (done, int(user)) == (["write its own"], isolation.user)
    else:
        assert int(user) == os.getuid()
        assert {"write elsewhere", "write its own"} <= set(done)
