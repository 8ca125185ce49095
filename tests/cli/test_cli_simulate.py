"""``edgectl simulate``: what it hands over, and what it refuses before anything is begun."""

import json
import os
import signal
import subprocess
import sys

import pytest

from edgectl.commands import simulate as command


@pytest.fixture
def handed(monkeypatch):
    """What would have been handed over."""
    plans = []
    monkeypatch.setattr(command, "_become", lambda plan: plans.append(json.loads(plan)))
    return plans


def test_a_token_is_made_for_those_that_are_new(logged_in, fleet_server, handed, tmp_path):
    (tmp_path / "fleet/devices").mkdir(parents=True)
    for name in ("sim-00001", "sim-00003", "sim-00099", "other-00002"):
        (tmp_path / f"fleet/devices/{name}.pem").touch()
    got = logged_in(
        "simulate", "--devices", 10, "--folder", tmp_path / "fleet", "--profile", "flaky"
    )
    assert got.code == 0, got.err
    asked = fleet_server.requests("POST", "/enrolment/tokens")[0].json()
    assert (asked["uses"], asked["group"]) == (8, "simulated")
    (plan,) = handed
    assert plan["token"].startswith("ee_")
    assert (plan["devices"], plan["profile"], plan["duration_s"]) == (10, "flaky", 0.0)


def test_no_token_is_made_for_a_fleet_that_is_there(logged_in, fleet_server, handed, tmp_path):
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices/sim-00001.pem").touch()
    assert logged_in("simulate", "--devices", 1, "--folder", tmp_path, "--duration", "2m").code == 0
    assert fleet_server.requests("POST", "/enrolment/tokens") == []
    assert (handed[0]["token"], handed[0]["duration_s"]) == ("", 120.0)


def test_with_a_token_nobody_has_to_be_logged_in(edgectl, handed, tmp_path):
    (tmp_path / "token").write_text("ee_0123456789abcdef_x\n")
    got = edgectl(
        "--url", "http://127.0.0.1:9", "simulate", "--token-file", tmp_path / "token",
        "--folder", tmp_path / "fleet",
    )  # fmt: skip
    assert got.code == 0, got.err
    assert handed[0]["token"] == "ee_0123456789abcdef_x"


@pytest.mark.parametrize(
    "words",
    [
        ("--devices", "0"),
        ("--devices", "10001"),
        ("--devices", "many"),
        ("--connect-rate", "0"),
        ("--download", "2"),
        ("--duration", "soon"),
        ("--seed", "-1"),
        ("--group", "No Such"),
        ("left", "over"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(logged_in, handed, words):
    assert logged_in("simulate", *words).code == 2
    assert handed == []


def test_without_a_login_it_says_how_to_log_in(edgectl, handed, tmp_path):
    got = edgectl("simulate", "--folder", tmp_path)
    assert got.code == 1
    assert "auth.missing" in got.err


def test_a_token_that_cannot_be_read_is_said(logged_in, handed, tmp_path):
    got = logged_in("simulate", "--token-file", tmp_path / "nothing", "--folder", tmp_path)
    assert (got.code, handed) == (1, [])
    assert "simulate.token" in got.err


# ---------------------------------------------------------------- the program behind it


def simulate(tmp_path, **plan):
    given = {"server": "http://127.0.0.1:9", "folder": str(tmp_path / "fleet"), "devices": 2}
    return subprocess.run(
        [sys.executable, "-P", "-m", "edgectl_simulator"],
        input=json.dumps(given | plan).encode(),
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("plan", "code", "says"),
    [
        ({"devices": -1}, 2, "error[simulate.plan]"),
        ({"profile": "none"}, 2, "error[simulate.profile]"),
        ({"profiles_file": "/nowhere.toml"}, 2, "error[simulate.profile]"),
        ({"folder": "/dev/null/x", "token": "x"}, 1, "error[simulate.folder]"),
        ({"token": ""}, 2, "error[simulate.token]"),
        ({"token": "ee_no_token"}, 2, "error[simulate.token]"),
        ({"prefix": "-"}, 2, "error[simulate.plan]"),
        ({"token": "ee_0123456789abcdef_" + "x" * 43}, 3, "error[simulate.unreachable]"),
    ],
)
def test_what_it_refuses_has_a_code_and_a_next_step(tmp_path, plan, code, says):
    done = simulate(tmp_path, **plan)
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    assert says in done.stderr.decode()
    assert "try: " in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_more_devices_than_open_files_are_refused(tmp_path):
    code = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200));"
        "runpy.run_module('edgectl_simulator', run_name='__main__')"
    )
    plan = {"server": "http://127.0.0.1:9", "folder": str(tmp_path / "fleet"), "devices": 5000}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=json.dumps(plan).encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert b"error[simulate.files]" in done.stderr


def test_it_ends_at_once_when_it_is_stopped_before_it_has_begun(tmp_path, unanswering):
    token = "ee_0123456789abcdef_" + "x" * 43
    plan = {"server": unanswering, "folder": str(tmp_path / "fleet"), "devices": 2, "token": token}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "edgectl_simulator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdin.write(json.dumps(plan).encode())
        process.stdin.close()
        assert process.stderr.readline() == b"2 devices enrol\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
        assert b"devices" in process.stdout.read()


@pytest.fixture
def unanswering():
    """A server that takes connections and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
