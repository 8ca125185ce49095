"""Command lines as a person or a script runs them: exit codes, stdout, stderr, secrets."""

import json
import os
import stat
import subprocess
import sys

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
from cli.fake_server import PASSWORD, TOKEN, problem
from edgectl_server import schemas

SHOWING = [
    ("models", "list"),
    ("models", "show", "har"),
    ("models", "show", "har@1"),
    ("devices", "list"),
    ("devices", "show", "pi-1"),
    ("devices", "events", "pi-1"),
    ("devices", "security"),
    ("devices", "security", "pi-1"),
    ("devices", "token", "create"),
    ("devices", "decommission", "pi-1", "--yes"),
    ("rollout", "start", "har@1", "--all"),
    ("rollout", "start", "har", "--device", "pi-1", "--no-watch"),
    ("rollout", "list"),
    ("rollout", "status"),
    ("rollout", "status", "R1", "--watch"),
    ("rollout", "events"),
    ("rollout", "events", "R1"),
    ("rollout", "pause", "R1"),
    ("rollout", "resume", "R1"),
    ("rollout", "abort", "R1", "--reason", "wrong"),
    ("jobs", "list"),
    ("jobs", "show", "J1"),
    ("jobs", "show", "J1", "--watch"),
    ("jobs", "cancel", "J1"),
    ("targets", "list"),
    ("targets", "show", "rpi4-arm64"),
    ("bench", "har:1", "--device", "pi-1"),
    ("bench", "har@1", "--device", "pi-1", "--variant", "int8", "--detach"),
    ("telemetry", "har"),
    ("tokens", "list"),
    ("tokens", "revoke", "fedcba9876543210"),
    ("doctor",),
    ("logout",),
]


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "har.onnx").write_bytes(b"a model")
    return "har.onnx"


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


# ---------------------------------------------------------------- login


def config_of(home):
    return home / "edgectl" / "config.json"


def test_login_keeps_the_token_for_the_owner_only(edgectl, fleet_server, home):
    old = os.umask(0)
    try:
        got = edgectl(
            *("login", fleet_server.url + "/", "--username", "ana", "--password-stdin"),
            stdin=PASSWORD + "\n",
        )
    finally:
        os.umask(old)
    assert got.code == 0, got.err
    assert got.out == f"logged in to {fleet_server.url} as ana (operator)\n"
    assert stat.S_IMODE(config_of(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(config_of(home).parent.stat().st_mode) == 0o700
    assert list(config_of(home).parent.iterdir()) == [config_of(home)]
    assert TOKEN in config_of(home).read_text()
    assert PASSWORD not in config_of(home).read_text() + got.out + got.err
    assert TOKEN not in got.out + got.err
    assert edgectl("models", "list").code == 0


def test_login_by_token(edgectl, fleet_server):
    got = edgectl("login", fleet_server.url, "--token-stdin", "--json", stdin=TOKEN + "\n")
    assert json.loads(got.out) == {"url": fleet_server.url, "user": "ana", "role": "operator"}
    assert edgectl("devices", "list").code == 0


@pytest.mark.parametrize("flag", ["--password-stdin", "--token-stdin"])
@pytest.mark.parametrize("secret", ["a secret of mine", "unguessed", ""])
def test_login_with_a_wrong_secret_stores_and_shows_nothing(
    edgectl, fleet_server, home, flag, secret
):
    user = ["--username", "ana"] if flag == "--password-stdin" else []
    got = edgectl("login", fleet_server.url, *user, flag, stdin=secret + "\n")
    assert (got.code, got.out) == (1, "")
    assert got.err.startswith("error[auth.")
    assert not secret or secret not in got.err
    assert not config_of(home).exists()


def test_token_goes_only_to_the_server_that_gave_it(edgectl, fleet_server, monkeypatch):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    fleet_server.seen.clear()
    other = f"http://localhost:{fleet_server.port}"
    got = edgectl("--url", other, "models", "list")
    assert got.code == 1
    assert "error[auth.missing]" in got.err
    assert fleet_server.seen == []


def test_redirects_are_not_followed_with_a_token(logged_in, fleet_server):
    fleet_server.routes["GET", "/models"] = (302, b"")
    got = logged_in("models", "list")
    assert got.code == 1
    assert "error[http.302]: the server redirects to http://127.0.0.1:1/elsewhere" in got.err


def test_logout_revokes_and_forgets(edgectl, fleet_server, home):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    got = edgectl("logout", "--json")
    assert json.loads(got.out) == {"url": fleet_server.url, "logged_out": True, "revoked": True}
    assert len(fleet_server.requests("DELETE", "/tokens/0123456789abcdef")) == 1
    assert TOKEN not in config_of(home).read_text()
    assert edgectl("models", "list").code == 1


def test_logout_forgets_even_without_the_server(edgectl, fleet_server, home):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    fleet_server.kill()
    got = edgectl("logout")
    assert got.code == 0
    assert got.err.startswith("warning: the server still knows the token")
    assert TOKEN not in config_of(home).read_text()


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b'{"current": 1}', b'{"unknown": 1}', b" " * 2_000_000]
)
def test_damaged_configuration_is_named(edgectl, home, content):
    config_of(home).parent.mkdir(parents=True)
    config_of(home).write_bytes(content)
    got = edgectl("models", "list")
    assert got.code == 1
    assert got.err.startswith(f"error[config.file]: {config_of(home)}")
    assert "\ntry: " in got.err


@pytest.mark.parametrize("token", ["with space", "nicht-ä", "new\nline"])
def test_token_that_cannot_be_a_header_is_refused(logged_in, monkeypatch, token):
    monkeypatch.setenv("EDGECTL_TOKEN", token)
    got = logged_in("models", "list")
    assert got.code == 1
    assert got.err.startswith("error[auth.token]")
    assert token not in got.err


# ---------------------------------------------------------------- push


def test_push_uploads_waits_and_reports(logged_in, fleet_server, model, tmp_path):
    (tmp_path / "cal.npz").write_bytes(b"calibration")
    (tmp_path / "labels.txt").write_text("walking\n\nsitting\n")
    got = logged_in(
        *("push", model, "--calibration", "cal.npz", "--labels", "labels.txt"),
        *("--max-drop", "0.5", "--precision", "int8", "--parent", "0"),
    )
    assert got.code == 0, got.err
    assert sorted(map(bytes, fleet_server.uploads.values())) == [b"a model", b"calibration"]
    body = fleet_server.requests("POST", "/models/har/versions")[0].json()
    asked = schemas.PushRequest.model_validate(body)
    assert asked.filename == "har.onnx"
    assert asked.parent == "0"
    assert asked.options == schemas.PushOptions(
        max_drop_points=0.5, precisions=["int8"], labels=["walking", "sitting"]
    )
    assert "accuracy of fp32 0.954 on 1500 samples" in got.out
    rows = [line.split() for line in got.out.splitlines()]
    assert any(row[0] == "dynamic" and "rejected" in row for row in rows if row)
    assert "dynamic: loses 3 points" in got.out.splitlines()
    assert "Next: edgectl rollout start har@1 --all" in got.out


def test_push_with_steps_and_input_shapes(logged_in, fleet_server, model, tmp_path):
    steps = '[[output]]\nname = "p"\nsteps = [{do = "softmax"}]\n'
    (tmp_path / "steps.toml").write_text(steps)
    got = logged_in(
        *("push", model, "--processing", "steps.toml"),
        *("--input-shape", "x=Nx3x224x224", "--input-shape", "a=b=1,7"),
    )
    assert got.code == 0, got.err
    body = fleet_server.requests("POST", "/models/har/versions")[0].json()
    asked = schemas.PushRequest.model_validate(body)
    assert asked.options.processing == steps
    assert asked.options.input_shapes == {"x": [-1, 3, 224, 224], "a=b": [1, 7]}
    assert "output logits: FP32 [N, 7] → softmax → p: FP32 [N, 7]" in got.out.splitlines()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x", "x=Nx3x224x224"),
        ("x=", "x=Nx3x224x224"),
        ("=1x2", "x=Nx3x224x224"),
        ("x=2x3", "N or 1"),
        ("x=Nx-1", "N or 1"),
        ("x=Nx3,4", "N or 1"),
        ("x=Nx99999999999", "N or 1"),
        ("x=NxH", "N or 1"),
    ],
)
def test_an_input_shape_that_is_none(logged_in, model, text, says):
    got = logged_in("push", model, "--input-shape", text)
    assert got.code == 2
    assert says in " ".join(got.err.split())


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff", b"#" * 40_000])
def test_a_file_of_steps_that_is_none(logged_in, model, tmp_path, content):
    (tmp_path / "steps.toml").write_bytes(content)
    got = logged_in("push", model, "--processing", "steps.toml")
    assert got.code == 2
    assert "steps.toml" in got.err


def test_refused_push_shows_the_table_and_fails(logged_in, fleet_server, model):
    error = schemas.Problem(
        title="Refused", status=422, code="quantize.drop", detail="loses 3", hint="more data"
    )
    refused = version(state="refused", error=error, variants=[], best=None)
    fleet_server.routes["GET", "/models/har/versions/1"] = (200, refused)
    fleet_server.routes["GET", "/jobs/J1"] = (200, job("failed", error=error))
    got = logged_in("push", model)
    assert got.code == 1
    assert "loses 3 points" in got.out
    assert "Next:" not in got.out
    assert got.err.splitlines()[-3:] == [
        "error[quantize.drop]: loses 3",
        "while: making har@1 of har.onnx",
        "try: more data",
    ]
    as_json = logged_in("push", model, "--json")
    assert as_json.code == 1
    assert json.loads(as_json.out)["state"] == "refused"


def test_push_of_the_same_content_says_so(logged_in, fleet_server, model):
    accepted = schemas.PushAccepted(model="har", version="1", job=None, created=False)
    fleet_server.routes["POST", "/models/har/versions"] = (200, accepted)
    got = logged_in("push", model)
    assert got.code == 0
    assert got.out.startswith("har@1 has this very content already\n")
    assert not fleet_server.requests("GET", "/jobs")


def test_detached_push_does_not_wait(logged_in, fleet_server, model):
    got = logged_in("push", model, "--detach", "--json")
    assert json.loads(got.out)["job"] == "J1"
    assert not fleet_server.requests("GET", "/jobs")


def test_interrupted_push_goes_on_and_says_how_to_follow(
    logged_in, fleet_server, model, monkeypatch
):
    def interrupt(self, job_id, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgectl.client.Client.wait_job", interrupt)
    got = logged_in("push", model)
    assert got.code == 1
    assert "error[push.interrupted]" in got.err
    assert "edgectl jobs show J1 --watch" in got.err
    assert not fleet_server.requests("POST", "/jobs")


def test_name_that_no_model_can_have_is_proposed_better(logged_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My Model v1.onnx").write_bytes(b"x")
    got = logged_in("push", "My Model v1.onnx")
    assert got.code == 2
    assert "--name my-model-v1" in got.err


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
    config_of(home).chmod(0o644)
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
