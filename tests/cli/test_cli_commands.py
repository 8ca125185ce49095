"""Command lines as a person or a script runs them: exit codes, stdout, stderr, secrets."""

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import msgspec
import pytest

from cli.answers import (
    DIGEST,
    HOSTILE,
    benchmark,
    job,
    measurement,
    page,
    rollout,
    rollout_device,
    summary,
    version,
)
from cli.fake_server import TOKEN, problem
from edgectl import types
from edgectl_server import schemas

SHOWING = [
    ("models", "list"),
    ("models", "show", "har"),
    ("models", "show", "har@1"),
    ("devices", "list"),
    ("devices", "show", "pi-1"),
    ("devices", "events", "pi-1"),
    ("devices", "summary"),
    ("devices", "telemetry", "pi-1"),
    ("devices", "security"),
    ("devices", "security", "pi-1"),
    ("devices", "token", "create"),
    ("devices", "decommission", "pi-1", "--yes"),
    ("rollout", "start", "har@1", "--all"),
    ("rollout", "start", "har", "--device", "pi-1", "--no-watch"),
    ("devices", "list", "--where", "site=porto"),
    ("devices", "label", "site=porto", "tag-", "--device", "pi-1"),
    ("selectors", "list"),
    ("selectors", "overlaps", "pis"),
    ("selectors", "set", "pis", "hw=rpi4"),
    ("selectors", "delete", "pis"),
    ("rollout", "plan", "har@1", "--all"),
    ("rollout", "list"),
    ("rollout", "status"),
    ("rollout", "status", "R1", "--watch"),
    ("rollout", "watch"),
    ("rollout", "watch", "R1"),
    ("rollout", "events"),
    ("rollout", "events", "R1"),
    ("rollout", "devices", "R1"),
    ("rollout", "devices", "R1", "--state", "failed", "--reason", "none", "--phase", "2"),
    ("rollout", "phases", "R1"),
    ("rollout", "reasons", "R1"),
    ("rollout", "service", "R1"),
    ("models", "running", "har"),
    ("models", "compare", "har@1", "har@2"),
    ("rollout", "pause", "R1"),
    ("rollout", "resume", "R1"),
    ("rollout", "abort", "R1", "--reason", "wrong"),
    ("rollout", "abort", "R1", "--revert"),
    ("rollout", "approve", "R1"),
    ("jobs", "list"),
    ("jobs", "show", "J1"),
    ("jobs", "show", "J1", "--watch"),
    ("jobs", "cancel", "J1"),
    ("targets", "list"),
    ("targets", "show", "rpi4-arm64"),
    ("bench", "har:1", "--device", "pi-1"),
    ("bench", "har@1", "--device", "pi-1", "--variant", "int8", "--detach"),
    ("telemetry", "har"),
    ("telemetry", "--device", "pi-1"),
    ("accuracy", "status"),
    ("accuracy", "show", "har", "--site", "porto"),
    ("drift", "events"),
    ("tokens", "list"),
    ("tokens", "list", "--user", "ana", "--valid"),
    ("tokens", "revoke", "fedcba9876543210"),
    ("doctor",),
    ("logout",),
]


# ---------------------------------------------------------------- what every command does


@pytest.mark.parametrize("command", SHOWING, ids=" ".join)
def test_json_is_one_value_and_nothing_else(logged_in, command):
    got = logged_in(*command, "--json")
    assert got.code == 0, got.err
    json.loads(got.out)
    assert TOKEN not in got.out + got.err


@pytest.mark.parametrize("command", SHOWING, ids=" ".join)
def test_hostile_text_does_nothing_to_a_terminal(logged_in, command):
    got = logged_in(*command)
    assert got.code == 0, got.err
    assert "\x1b" not in got.out + got.err
    assert TOKEN not in got.out + got.err


def test_hostile_text_is_shown_not_interpreted(logged_in):
    assert "\\x1b[31mred\\x1b[0m [bold]x[/bold]" in logged_in("devices", "show", "pi-1").out


def test_what_a_device_refuses_and_what_fails_on_it_is_shown(logged_in):
    shown = logged_in("devices", "show", "pi-1").out
    assert "order 4: order.expired" in shown
    assert "inference.hung" in shown
    telemetry = logged_in("telemetry", "har").out
    assert "REFUSED" in telemetry
    assert "77" in telemetry


def test_a_device_over_time_and_the_fleet_in_numbers_are_shown(logged_in):
    rows = logged_in("devices", "telemetry", "pi-1", "--since", "2h").out.splitlines()
    assert rows[-1].split()[2:] == ["40", "1", "180", "µs", "1.8", "ms", "52", "°C"]
    assert rows[-2].split()[2:] == ["0", "0", "-", "-", "-"]
    shown = logged_in("devices", "summary").out
    assert "online" in shown
    assert shown.splitlines()[-1].split() == ["har@1", "1"]
    shared = logged_in("selectors", "overlaps", "pis").out
    assert shared.splitlines()[-1].split() == ["group", "porto", "2", "of", "3"]


def test_what_has_not_come_of_a_device_is_shown(logged_in):
    shown = logged_in("telemetry", "--device", "pi-1").out
    assert "partly lost" in shown
    assert "-3600 s" in shown
    assert logged_in("telemetry").code == logged_in("telemetry", "har", "--device", "x").code == 2


def test_an_accuracy_is_shown_with_its_interval_and_why_there_is_none(logged_in):
    shown = logged_in("accuracy", "status").out
    assert "0.700 (0.650 to 0.750)" in " ".join(shown.split())
    assert "by classes" in logged_in("drift", "events").out
    shown = logged_in("accuracy", "show", "har").out
    assert "0.800 (0.670 to 0.890) of 50 samples taken at random" in " ".join(shown.split())


@pytest.mark.parametrize("command", SHOWING, ids=" ".join)
def test_server_that_is_not_there_is_exit_code_3(logged_in, fleet_server, command):
    fleet_server.kill()
    got = logged_in(*command, "--json")
    if command == ("logout",):  # nothing is stored, so that nobody is asked
        assert got.code == 0
    elif command == ("doctor",):
        assert got.code == 3
        assert json.loads(got.out)[-1]["status"] == "fail"
    else:
        assert got.code == 3
        assert got.out == ""
        assert got.err.splitlines()[-1].startswith("try: ")
        assert "error[server.unreachable]: no answer from http://127.0.0.1:" in got.err


@pytest.mark.parametrize(
    "command", [one for one in SHOWING if one not in {("doctor",), ("logout",)}]
)
def test_nobody_logged_in_is_said_with_the_next_step(edgectl, fleet_server, command):
    got = edgectl("--url", fleet_server.url, *command)
    assert (got.code, got.out) == (1, "")
    assert got.err == (
        f"error[auth.missing]: not logged in to {fleet_server.url}\n"
        f"try: edgectl login {fleet_server.url}\n"
    )
    assert fleet_server.seen == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("models", "show"),
        ("models", "show", "Har!"),
        ("models", "show", "har@"),
        ("devices", "show", "server"),
        ("devices", "list", "--version", "1"),
        ("rollout", "start", "har@1"),
        ("rollout", "start", "har@1", "--all", "--device", "pi-1"),
        ("rollout", "start", "har@1", "--all", "--max-in-progress", "0"),
        ("rollout", "start", "har@1", "--all", "--phases", "5%%"),
        ("rollout", "start", "har@1", "--all", "--phases", "canary:1.5"),
        ("rollout", "start", "har@1", "--all", "--soak", "1h"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--soak", "soon"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--soak", "2=1h"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--soak", "=1h"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--approve-after", "canary"),
        ("rollout", "start", "har@1", "--all", "--phases", "canary:where="),
        ("rollout", "start", "har@1", "--all", "--experiment", "1:error_rate"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--experiment", "2:error_rate"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--experiment", "1:speed"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--experiment", "1:error_rate x=1"),
        ("rollout", "start", "har@1", "--all", "--gate", "error_rate>=0.1"),
        ("rollout", "start", "har@1", "--all", "--gate", "committed>=1.5"),
        ("rollout", "start", "har@1", "--all", "--gate", "canary:success>=0.9"),
        ("rollout", "start", "har@1", "--all", "--phases", "5", "--gate", "x:success>=0.9"),
        ("rollout", "start", "har@1", "--all", "--gate", "success>=9ms"),
        ("rollout", "start", "har@1", "--all", "--deadline", "0"),
        ("rollout", "start", "har@1", "--all", "--min-available", "0%"),
        ("rollout", "plan", "har@1"),
        ("rollout", "plan", "har@1", "--all", "--where", "site=porto"),
        ("devices", "label", "site=porto"),
        ("devices", "label", "site", "--device", "pi-1"),
        ("devices", "label", "site=", "--device", "pi-1"),
        ("push", "missing.onnx"),
        ("push", "har.onnx", "--precision", "int4"),
        ("push", "har.onnx", "--max-drop", "101"),
        ("push", "har.onnx", "--require", "accuracy<=0.9"),
        ("push", "har.onnx", "--require", "size<=2KB"),
        ("push", "har.onnx", "--allow", "everything"),
        ("push", "har.onnx", "--metric", "precision"),
        ("push", "har.onnx", "--metric", "missing.py"),
        ("models", "policy", "har", "--require", "size>=1kB"),
        ("models", "policy", "har", "--metric", "own"),
        ("push", "har.onnx", "--name", "Har Model"),
        ("login", "--password-stdin"),
        ("login", "--password-stdin", "--token-stdin", "--username", "ana"),
        ("login",),
        ("jobs", "list", "--state", "odd"),
    ],
    ids=" ".join,
)
def test_usage_errors_are_exit_code_2(logged_in, model, fleet_server, arguments):
    got = logged_in(*arguments)
    assert (got.code, got.out) == (2, "")
    assert got.err.startswith("error[usage]: ") or "Usage: edgectl" in got.err
    assert fleet_server.seen == []


def test_error_says_what_while_and_try(logged_in, fleet_server):
    fleet_server.routes["POST", "/rollouts"] = problem(
        409, "rollout.conflict", "another runs", hint="edgectl rollout status R2"
    )
    got = logged_in("rollout", "start", "har@1", "--all", "--json")
    assert (got.code, got.out) == (1, "")
    assert got.err.splitlines() == [
        "error[rollout.conflict]: another runs",
        "while: starting the rollout of har@1",
        "try: edgectl rollout status R2",
    ]


def test_a_real_process_has_the_same_exit_codes(home, server):
    environment = {**os.environ, "EDGECTL_URL": server.url, "EDGECTL_TOKEN": TOKEN}
    server.routes["GET", "/models"] = (200, {"items": [], "total": 0})

    def run(*arguments):
        command = [sys.executable, "-m", "edgectl", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, timeout=60, check=False
        )

    assert run("models", "list", "--json").stdout == b"[]\n"
    assert run("models", "show", "har").returncode == 1
    assert run("models", "nonsense").returncode == 2
    server.kill()
    unreachable = run("models", "list")
    assert unreachable.returncode == 3
    assert b"Traceback" not in unreachable.stderr


# ---------------------------------------------------------------- rollouts, jobs, doctor


def test_rollout_without_a_version_takes_the_newest_ready_one(logged_in, fleet_server):
    versions = page(*(summary(version(n, s)) for n, s in (("3", "refused"), ("2", "ready"))))
    fleet_server.routes["GET", "/models/har/versions"] = (200, versions)
    assert logged_in("rollout", "start", "har", "--all").code == 0
    asked = fleet_server.requests("POST", "/rollouts")[0].json()
    assert schemas.RolloutRequest.model_validate(asked).version == "2"


@pytest.mark.parametrize(
    ("state", "counts", "code"),
    [
        ("paused", {"failed": 1}, "rollout.paused"),
        ("aborted", {"cancelled": 1}, "rollout.aborted"),
        ("completed", {"rolled_back": 1}, "rollout.completed"),
    ],
)
def test_rollout_that_goes_wrong_fails(logged_in, fleet_server, state, counts, code):
    fleet_server.routes["GET", "/rollouts/R1"] = (200, rollout(state, "why", **counts))
    got = logged_in("rollout", "start", "har@1", "--all", "--json")
    assert got.code == 1
    assert json.loads(got.out)["rollout"]["state"] == state
    assert f"error[{code}]" in got.err


def asked_policy(server):
    """What was asked for, with all that was left to the server."""
    asked = server.requests("POST", "/rollouts")[0].json()["policy"]
    return msgspec.to_builtins(msgspec.convert(asked, types.RolloutPolicy))


def test_phases_gates_and_deadlines_are_sent_as_they_were_meant(logged_in, fleet_server):
    got = logged_in(
        *("rollout", "start", "har@1", "--all", "--no-watch", "--phases", "canary:5, 12.5%"),
        *("--soak", "1h", "--soak", "2=90s", "--approve-after", "canary", "--deadline", "2h"),
        *("--gate", "latency_p95<=20ms", "--gate", "committed >= 3"),
    )
    assert got.code == 0
    policy = asked_policy(fleet_server)
    canary, share = policy["phases"]
    assert canary | {} == {
        "name": "canary", "devices": 5, "percent": None, "where": "", "soak_s": 3600,
        "approval": True, "experiment": None, "gates": None,
    }  # fmt: skip
    assert (share["name"], share["percent"], share["approval"]) == ("", 12.5, False)
    assert share["soak_s"] == 90, "its own"
    assert (policy["gates"]["latency_p95_us_max"], policy["gates"]["committed_min"]) == (20e3, 3)
    assert (policy["deadline_s"], policy["on_deadline"]) == (7200, "leave")


def test_a_gate_for_one_phase_comes_with_those_for_all(logged_in, fleet_server):
    got = logged_in(
        *("rollout", "start", "har@1", "--all", "--no-watch", "--phases", "canary:5,10%"),
        *("--gate", "success>=0.95", "--gate", "error_rate<=0.01"),
        *("--gate", "canary:success>=0.8", "--gate", "canary:committed>=3"),
    )
    assert got.code == 0, got.err
    policy = asked_policy(fleet_server)
    canary, share = policy["phases"]
    own = canary["gates"]
    assert (own["success_min"], own["committed_min"], own["error_rate_max"]) == (0.8, 3, 0.01)
    assert share["gates"] is None
    assert (policy["gates"]["success_min"], policy["gates"]["committed_min"]) == (0.95, 1)


def test_selected_phases_and_experiments_are_sent_as_they_were_meant(logged_in, fleet_server):
    where = 'canary:where=site in (porto, "a,b") and tag=canary,half:50%'
    got = logged_in(
        *("rollout", "start", "har@1", "--all", "--no-watch", "--phases", where),
        *("--gate", "class_mix<=0.1", "--gate", "confidence<=0.2", "--gate", "disagreement<=0.02"),
        *("--experiment", "canary:error_rate"),
        "--experiment",
        "half:low_confidence margin=0.02 alpha=0.01 below=0.6 unit=site limit=2d requests=90000",
    )
    assert got.code == 0
    policy = asked_policy(fleet_server)
    canary, half = policy["phases"]
    assert canary["where"] == 'site in (porto, "a,b") and tag=canary'
    assert canary["experiment"]["rate"] == "error_rate"
    assert (half["where"], half["percent"]) == ("", 50)
    assert half["experiment"] == {
        "rate": "low_confidence", "margin": 0.02, "alpha": 0.01, "confidence_below": 0.6,
        "unit": "site", "limit_s": 172800, "requests_max": 90000,
    }  # fmt: skip
    gates = policy["gates"]
    assert (gates["class_mix_max"], gates["confidence_max"], gates["disagreement_max"]) == (
        0.1, 0.2, 0.02,
    )  # fmt: skip


def test_where_a_rollout_stands_is_shown(logged_in, fleet_server):
    shown = rollout("running", "phase canary has not enough data", in_progress=1)
    shown.phase = schemas.PhaseProgress(
        number=1,
        phases=3,
        name="canary",
        target=5,
        admitted=5,
        step="gates",
        settled_at=datetime(2031, 1, 1, tzinfo=UTC),
        soaks_until=None,
        verdicts=[
            schemas.VerdictInfo(gate="error_rate", verdict="not_enough_data", detail="7 of 100")
        ],
    )
    fleet_server.routes["GET", "/rollouts/R1"] = (200, shown)
    out = logged_in("rollout", "status", "R1").out
    assert "canary, 1 of 3: 5 of 5 devices, gates" in out
    assert "not enough data: 7 of 100" in out

    shown.state, shown.finished_at = "aborted", datetime(2031, 1, 2, tzinfo=UTC)
    fleet_server.routes["GET", "/rollouts/R1"] = (200, shown)
    ended = logged_in("rollout", "status", "R1").out
    assert "canary, 1 of 3" not in ended, "its phase waits for nothing any more"


def test_rollout_is_followed_step_by_step(logged_in, fleet_server, monkeypatch):
    monkeypatch.setattr("edgectl.watching._INTERVAL_S", 0.01)
    states = iter([rollout("running", pending=1), rollout("running", in_progress=1), rollout()])
    devices = iter([rollout_device("in_progress"), rollout_device(), rollout_device()])
    last = [rollout()]

    def look(_request):
        last[0] = next(states, last[0])
        return 200, last[0]

    fleet_server.routes["GET", "/rollouts/R1"] = look
    fleet_server.routes["GET", "/rollouts/R1/devices"] = lambda _request: (200, page(next(devices)))
    got = logged_in("rollout", "status", "R1", "--watch", "--json")
    assert got.code == 0
    assert [line for line in got.err.splitlines() if line.startswith("rollout ")] == [
        "rollout running: 0 of 1 committed",
        "rollout completed: 1 of 1 committed",
    ]


def test_watched_job_that_fails_fails(logged_in, fleet_server):
    error = schemas.Problem(title="Failed", status=422, code="onnx.ops", detail="custom ops")
    fleet_server.routes["GET", "/jobs/J1"] = (200, job("failed", error=error))
    assert logged_in("jobs", "show", "J1").code == 0
    got = logged_in("jobs", "show", "J1", "--watch")
    assert got.code == 1
    assert "error[onnx.ops]: custom ops" in got.err


def test_a_benchmark_asks_for_what_was_named_and_shows_what_came(logged_in, fleet_server):
    got = logged_in("bench", "har:1", "--device", "pi-1", "--variant", "int8", "--runs", "17")
    assert got.code == 0, got.err
    (asked,) = fleet_server.requests("POST", "/models/har/versions/1/benchmarks")
    assert json.loads(asked.body) == {"device": "pi-1", "variants": ["int8"], "runs": 17}
    assert "420 µs" in got.out
    assert "16/16" in got.out
    assert "pi-1 is rpi4-arm64" in got.err


def test_a_benchmark_that_fails_shows_what_it_has_and_fails(logged_in, fleet_server):
    rows = [measurement().model_dump(mode="json")]
    error = schemas.Problem(
        title="x", status=422, code="benchmark.overtaken", detail="an update began",
        hint="try again", data={"measurements": rows},
    )  # fmt: skip
    fleet_server.routes["GET", "/jobs/J2"] = (200, benchmark("failed", error=error))
    got = logged_in("bench", "har:1", "--device", "pi-1")
    assert got.code == 1
    assert "420 µs" in got.out
    assert "error[benchmark.overtaken]: an update began" in got.err
    as_json = logged_in("bench", "har:1", "--device", "pi-1", "--json")
    assert (as_json.code, as_json.out) == (1, "")


def test_a_device_that_is_away_is_a_clear_answer(logged_in, fleet_server):
    fleet_server.routes["POST", "/models/har/versions/1/benchmarks"] = problem(
        409, "benchmark.offline", "pi-1 is not connected", hint="connect it"
    )
    got = logged_in("bench", "har:1", "--device", "pi-1")
    assert got.code == 1
    assert "error[benchmark.offline]: pi-1 is not connected" in got.err
    assert "try: connect it" in got.err


def test_what_no_benchmark_can_be(logged_in):
    for wrong in (("har",), ("har:", "--device", "x"), ("har:1",), ("har:1", "--device", "a b")):
        assert logged_in("bench", *wrong).code == 2
    unknown = logged_in("targets", "show", "pdp11")
    assert unknown.code == 1
    assert "error[target.unknown]" in unknown.err
    assert "rpi4-arm64" in unknown.err


def test_doctor_names_what_fails_and_what_to_do(logged_in, fleet_server, monkeypatch):
    monkeypatch.setenv("EDGECTL_TOKEN", "edgectl_ffff_unknown")
    fleet_server.routes["GET", "/version"] = (200, {"version": "9.9", "api": "v1", "ui": True})
    checks = {"ready": False, "checks": {"broker": "not connected", "database": "ok"}}
    fleet_server.routes["GET", "/health/ready"] = (503, checks)
    got = logged_in("doctor", "--json")
    found = {one["name"]: one for one in json.loads(got.out)}
    assert got.code == 1
    assert found["server"]["status"] == "warn"
    assert found["server"]["next"] == "pip install 'edgectl==9.9'"
    assert found["broker"]["status"] == "fail"
    assert found["database"]["status"] == "ok"
    assert found["login"]["status"] == "fail"
    assert "edgectl login" in found["login"]["next"]


def test_doctor_sees_a_configuration_that_others_may_read(edgectl, fleet_server, home):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    (home / "edgectl" / "config.json").chmod(0o644)
    found = {one["name"]: one for one in json.loads(edgectl("doctor", "--json").out)}
    assert found["configuration"]["status"] == "warn"
    assert found["configuration"]["next"].startswith("chmod 600 ")


def test_filters_become_the_query(logged_in, fleet_server):
    logged_in("devices", "list", "--offline", "--model", "har", "--failing", "--limit", "5")
    query = dict(fleet_server.requests("GET", "/devices")[0].query)
    assert query == {
        "online": "false",
        "model": "har",
        "failing": "true",
        "offset": "0",
        "limit": "5",
    }
    logged_in("devices", "list", "--updating", "--decommissioned")
    query = dict(fleet_server.requests("GET", "/devices")[1].query)
    assert (query["updating"], query["state"]) == ("true", "decommissioned")


def test_digests_are_whole_in_the_output(logged_in):
    assert DIGEST in logged_in("models", "show", "har@1").out
    assert HOSTILE.encode() not in logged_in("models", "show", "har@1").out.encode()


# ---------------------------------------------------------------- server


def test_server_is_the_servers_own_command_line(home):
    done = subprocess.run(
        [sys.executable, "-m", "edgectl", "server", "--help"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"start" in done.stdout


def test_server_that_is_not_installed_is_said_with_the_next_step(edgectl, monkeypatch):
    monkeypatch.setattr("edgectl.commands.server._NEEDED", ("no_such_package",))
    got = edgectl("server", "start", "--listen-port", "1")
    assert got.code == 1
    assert got.err == (
        "error[server.not_installed]: the server is not installed here: no_such_package missing\n"
        "try: pip install 'edgectl[server]'\n"
    )


def test_a_plan_says_how_many_cannot_take_part_not_how_many_were_named(logged_in):
    got = logged_in("rollout", "plan", "har@1", "--all")
    said = " ".join(got.out.split())
    assert "have never reported what they are: pi-0, pi-1, pi-2, pi-3, pi-4 and 2995 more" in said


def test_a_question_that_nobody_can_answer_names_the_option(logged_in, fleet_server, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    got = logged_in("devices", "decommission", "pi-1")
    assert got.code == 1
    assert "stopped by you" not in got.err
    assert got.err.splitlines()[-1].startswith("try: ")
    assert "--yes" in got.err
    assert not fleet_server.requests("POST", "/devices")
