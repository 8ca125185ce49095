"""What a newcomer meets: tokens, events, the next step after a refusal, tables at 80 columns."""

import io
import json

import msgspec
import pytest
from rich.console import Console

from cli.answers import HOSTILE, job, page, rollout_device, telemetry, trial, version
from cli.fake_server import TOKEN, problem
from edgectl import tables
from edgectl.target_tables import targets_table
from edgectl_server import schemas


def shown(renderable, width=80):
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=False, markup=False).print(renderable)
    return file.getvalue().splitlines()


def decoded(kind, model):
    return msgspec.json.decode(model.model_dump_json(), type=kind)


# ---------------------------------------------------------------- tokens


def test_a_token_is_shown_once_and_alone_on_stdout(logged_in, fleet_server):
    got = logged_in("tokens", "create", " ci ", "--scope", "models:write", "--expires", "90d")
    assert (got.code, got.out) == (0, TOKEN + "\n")
    assert "edgectl tokens revoke 0123456789abcdef" in got.err
    assert TOKEN not in got.err
    (request,) = fleet_server.requests("POST", "/tokens")
    asked = schemas.TokenRequest.model_validate(request.json())
    assert (asked.name, asked.role, asked.expires_in_s) == ("ci", None, 90 * 86400)
    assert asked.scopes == ["models:write"]
    assert json.loads(logged_in("tokens", "create", "ci", "--json").out)["token"] == TOKEN
    assert fleet_server.requests("POST", "/tokens")[1].json()["expires_in_s"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", " "),
        ("create", "x" * 129),
        ("create", "ci", "--role", "root"),
        ("create", "ci", "--expires", "0"),
        ("create", "ci", "--scope", "everything"),
        ("revoke", TOKEN),
    ],
)
def test_tokens_that_cannot_be_meant_are_usage_errors(logged_in, fleet_server, arguments):
    got = logged_in("tokens", *arguments)
    assert (got.code, got.out) == (2, "")
    assert fleet_server.seen == []
    assert TOKEN not in got.err


# ---------------------------------------------------------------- next steps


def test_a_token_that_is_no_longer_taken_says_which_login_to_renew(edgectl, fleet_server):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    fleet_server.routes["GET", "/models"] = problem(401, "auth.required", hint="on the page")
    got = edgectl("models", "list")
    assert got.err.splitlines()[-1] == f"try: edgectl login {fleet_server.url}"


def test_an_id_that_is_none_is_not_answered_with_a_pattern(logged_in, fleet_server):
    fleet_server.routes["POST", "/rollouts/XX/actions/pause"] = problem(
        422, "request.invalid", "path.rollout: String should match pattern '^[0-9a-f]{16}$'"
    )
    got = logged_in("rollout", "pause", "XX")
    assert got.code == 1
    assert "pattern" not in got.err
    assert "id of a rollout" in got.err
    assert "`rollout list`" in got.err


def test_telemetry_of_an_unknown_model_is_no_silence(logged_in, fleet_server):
    fleet_server.routes["GET", "/telemetry"] = (200, [])
    assert logged_in("telemetry", "har").err.startswith("no telemetry of har")
    fleet_server.routes["GET", "/models/nope"] = problem(404, "model.unknown", "no model nope")
    got = logged_in("telemetry", "nope")
    assert (got.code, got.err.splitlines()[0]) == (1, "error[model.unknown]: no model nope")


def test_why_a_version_was_refused_is_shown_later_too(logged_in, fleet_server):
    error = schemas.Problem(
        title="Refused", status=422, code="model.damaged", detail="cut off", hint="push it again"
    )
    refused = version(state="refused", error=error, variants=[], best=None, report=None)
    fleet_server.routes["GET", "/models/har/versions/1"] = (200, refused)
    out = logged_in("models", "show", "har@1").out
    assert "model.damaged: cut off" in out
    assert "push it again" in out


def test_doctor_puts_the_next_step_beneath_what_it_found(logged_in, fleet_server):
    fleet_server.routes["GET", "/me"] = problem(401, "auth.required", "not any more")
    lines = logged_in("doctor").out.splitlines()
    at = next(index for index, line in enumerate(lines) if "auth.required: not any more" in line)
    assert lines[at + 1].strip().startswith("try: EDGECTL_TOKEN")


# ---------------------------------------------------------------- 80 columns


def test_the_report_fits_into_80_columns():
    recipe = "int8-static-minmax-per-channel-reduced"
    trials = [
        trial(recipe="fp32", variant="fp32", latency_p50_us=12_345.0),
        trial(recipe=recipe, status="rejected", drop_points=12.34, reason="loses " * 30),
    ]
    found = version()
    found.report.trials = trials
    detail = decoded(tables.types.VersionDetail, found)
    lines = shown(tables.report_table(detail, detail.report))
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"{recipe} rejected") and "+12.34" in line for line in lines)
    assert any(line.startswith(f"{recipe}: loses") for line in lines)


def test_a_recipe_that_is_too_long_goes_on_behind_a_dash():
    recipe = "int8-static-percentile-per-channel-reduced-parent"
    found = version()
    found.report.trials = [trial(recipe=recipe, status="rejected", size_bytes=123_456)]
    detail = decoded(tables.types.VersionDetail, found)
    lines = shown(tables.report_table(detail, detail.report))
    assert max(map(len, lines)) <= 80
    first = next(number for number, line in enumerate(lines) if line.startswith("int8-static"))
    assert lines[first].split()[:3] == [recipe.removesuffix("reduced-parent"), "rejected", "123.5"]
    assert lines[first + 1].strip() == "reduced-parent"


def test_reasons_that_differ_in_numbers_alone_are_one_line():
    found = version()
    found.report.trials = [
        trial(recipe="a", status="rejected", reason="loses 5.40 points of auc, allowed are 0.5"),
        trial(recipe="b", status="rejected", reason="loses 12 points of auc, allowed are 0.5"),
        trial(recipe="c", status="skipped", reason="needs calibration data"),
    ]
    detail = decoded(tables.types.VersionDetail, found)
    lines = shown(tables.report_table(detail, detail.report))
    assert "a: loses 5.40 points of auc, allowed are 0.5; 1 more alike" in lines
    assert "c: needs calibration data" in lines
    assert not any(line.startswith("b:") for line in lines)


def test_device_classes_fit_into_80_columns():
    classes = [
        schemas.TargetInfo(
            name="arm64-dotprod",
            description="64-bit ARM boards with the int8 dot product (Cortex-A55, A76 and newer)",
            machine=["armv7e-m", "armv8-m.main", "armv8.1-m.main"],
            cpu_model=[],
            cpu_features=["avx512_vnni|avx_vnni"],
            runtimes=["onnxruntime", "litert"],
            execution_providers=[],
            memory_bytes=1,
            opset=21,
            objective="latency",
            watts_per_core=1.0,
            limits=schemas.TargetLimits(latency_p95_us=None, rss_bytes=None),
            saturates=False,
            devices=2,
        )
    ]
    lines = shown(targets_table([decoded(tables.types.TargetInfo, one) for one in classes]))
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 3


def test_classes_of_the_fleet_are_added_up_in_a_line_of_their_own():
    first = decoded(tables.types.TelemetrySummary, telemetry())
    lines = shown(tables.telemetry_table([first, first], ["walking", HOSTILE]))
    assert len(lines[1].split()) == len(lines[2].split())
    assert lines[3].startswith("classes: walking 76, ")
    assert "\x1b" not in lines[3]


def test_ids_are_not_folded_and_errors_of_jobs_have_room():
    error = schemas.Problem(
        title="Refused", status=422, code="data.shape", detail="expected " * 30, hint="reshape"
    )
    failed = job("failed", error=error)
    failed.id = "0123456789abcdef"
    lines = shown(tables.jobs_table([decoded(tables.types.JobInfo, failed)]))
    assert lines[1].split()[0] == failed.id
    assert lines[1].split()[-1] == "data.shape"
    assert len(lines) == 2


def test_why_a_job_failed_is_shown_whole(logged_in, fleet_server):
    error = schemas.Problem(
        title="Refused", status=422, code="data.shape", detail="expected [N, 6]", hint="reshape"
    )
    fleet_server.routes["GET", "/jobs/J1"] = (200, job("failed", error=error))
    out = logged_in("jobs", "show", "J1").out
    assert "data.shape: expected [N, 6]\ntry: reshape\n" in out


def test_rollout_events_name_device_event_and_reason(logged_in):
    row = logged_in("rollout", "events", "R1").out.splitlines()[1]
    assert row.split()[:5] == ["3", *row.split()[1:3], "rolled_back", "pi-1"]
    assert "trial.latency: " in row


def test_what_deltas_save_has_columns_where_they_save_something(logged_in, fleet_server):
    device = rollout_device()
    device.bytes = schemas.RolloutBytes(
        whole=2_000_000, predicted=300_000, fetched=310_000, saved=1_690_000
    )
    fleet_server.routes["GET", "/rollouts/R1/devices"] = (200, page(device))
    out = logged_in("rollout", "status", "R1", "--json").out
    assert '"saved": 1690000' in out
    header = logged_in("rollout", "status", "R1").out.splitlines()
    assert any("EXPECTED" in line and "SAVED" in line for line in header)
    assert any("300.0 kB" in line and "1.7 MB" in line for line in header)


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(0, 0, "-"), (100, 2000, "100 B of 2.0 kB"), (2000, 2000, "2.0 kB")],
)
def test_bytes_are_said_once_when_all_are_there(logged_in, fleet_server, done, total, text):
    device = rollout_device()
    device.bytes_done, device.bytes_total = done, total
    fleet_server.routes["GET", "/rollouts/R1/devices"] = (200, page(device))
    out = logged_in("rollout", "status", "R1").out
    assert f"  {text}  onnx-int8" in out
