"""At a real terminal: bars, colours, prompts that do not echo; none of it in a pipe."""

import os
import pty
import select
import subprocess
import sys
import time

import pytest

from cli.answers import page, rollout, rollout_device
from cli.fake_server import PASSWORD, TOKEN


class Terminal:
    """A command whose stdin, stdout and stderr are one terminal."""

    def __init__(self, *arguments, **environment):
        self.master, slave = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgectl", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", **environment},
            start_new_session=True,
        )
        os.close(slave)

    def read_until(self, wanted, bound_s=20.0):
        """Read until `wanted` is there, or, for None, to the end."""
        deadline = time.monotonic() + bound_s
        while wanted is None or wanted not in self.text:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"{wanted!r} did not come: {self.text!r}"
            try:
                piece = os.read(self.master, 4096)
            except OSError:  # Linux says so when the last writer has gone
                assert wanted is None, f"{wanted!r} did not come: {self.text!r}"
                break
            self.text += piece.decode(errors="replace")
        return self.text

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        self.read_until(None)
        code = self.process.wait(20)
        os.close(self.master)
        return code


@pytest.fixture
def environment(fleet_server, home):
    return {"EDGECTL_URL": fleet_server.url, "EDGECTL_TOKEN": TOKEN}


def test_push_shows_bars_and_colours(environment, tmp_path):
    (tmp_path / "har.onnx").write_bytes(b"a model")
    terminal = Terminal("push", str(tmp_path / "har.onnx"), **environment)
    assert terminal.end() == 0, terminal.text
    assert "uploading har.onnx" in terminal.text
    assert "━" in terminal.text
    assert "\x1b[32mpublished" in terminal.text
    assert "\x1b[31mrejected" in terminal.text
    assert "\x1b[31mred\x1b[0m [bold]" not in terminal.text, "text of a server is only text"


def test_no_color_is_respected(environment):
    terminal = Terminal("models", "list", NO_COLOR="1", **environment)
    assert terminal.end() == 0
    assert "\x1b[32m" not in terminal.text


def test_colours_stay_out_of_pipes_even_when_forced(environment):
    done = subprocess.run(
        [sys.executable, "-m", "edgectl", "models", "list"],
        env={**os.environ, **environment, "FORCE_COLOR": "1"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"\x1b" not in done.stdout
    assert b"ready" in done.stdout


def test_rollout_is_shown_live_and_once_in_the_end(environment, fleet_server):
    states = iter([rollout("running", pending=1)] * 2 + [rollout("running", in_progress=1)])
    fleet_server.routes["GET", "/rollouts/R1"] = lambda _r: (200, next(states, rollout()))
    fleet_server.routes["GET", "/rollouts/R1/devices"] = (200, page(rollout_device()))
    terminal = Terminal("rollout", "start", "har@1", "--all", **environment)
    assert terminal.end() == 0, terminal.text
    assert "1 pending" in terminal.text
    assert "1 in progress" in terminal.text
    assert "\x1b[2K" in terminal.text, "the live table is taken back"


def test_login_asks_and_does_not_echo_the_password(fleet_server, home):
    terminal = Terminal("login", fleet_server.url)
    terminal.read_until("user [admin]: ")
    terminal.type("ana\n")
    terminal.read_until("password: ")
    terminal.type(PASSWORD + "\n")
    assert terminal.end() == 0, terminal.text
    assert PASSWORD not in terminal.text
    assert "logged in to" in terminal.text


def test_decommission_asks_first(environment, fleet_server):
    terminal = Terminal("devices", "decommission", "pi-1", **environment)
    terminal.read_until("[y/N]: ")
    terminal.type("\n")
    assert terminal.end() == 1
    assert "error[interrupted]" in terminal.text
    assert not fleet_server.requests("POST", "/devices")


def test_interrupt_at_the_terminal_stops_watching_only(environment, fleet_server):
    fleet_server.routes["GET", "/rollouts/R1"] = (200, rollout("running", in_progress=1))
    terminal = Terminal("rollout", "status", "R1", "--watch", **environment)
    terminal.read_until("1 in progress")
    terminal.process.send_signal(2)
    assert terminal.end() == 1
    assert "error[rollout.interrupted]: no longer watching" in terminal.text
    assert "edgectl rollout abort R1" in terminal.text
    assert "Traceback" not in terminal.text
    assert not fleet_server.requests("POST", "/rollouts")
