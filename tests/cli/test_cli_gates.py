"""Gates on the command line: what is asked for, what is shown, and the policy of a model."""

from datetime import timedelta

import pytest

from cli.answers import comparison, page, summary, version
from edgectl.clock import now
from edgectl_server import schemas

POLICY = schemas.PolicyInfo(
    model="har",
    max_drop_points=0.5,
    metric=None,
    require=["accuracy>=0.9"],
    revision=3,
    changed_at=now() - timedelta(minutes=5),
    changed_by="ann",
)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "har.onnx").write_bytes(b"a model")
    return "har.onnx"


@pytest.fixture
def policy_server(fleet_server):
    fleet_server.routes["GET", "/models/har/policy"] = (200, POLICY)
    fleet_server.routes["PUT", "/models/har/policy"] = lambda request: (
        200,
        POLICY.model_copy(update={"require": request.json().get("require", []), "revision": 4}),
    )
    return fleet_server


def asked(server):
    (request,) = server.requests("PUT", "/models/har/policy")
    return schemas.ModelPolicy.model_validate(request.json())


def test_a_policy_is_shown(logged_in, policy_server):
    got = logged_in("models", "policy", "har")
    assert got.code == 0, got.err
    for part in ("0.5 points", "accuracy>=0.9", "by ann", "revision 3"):
        assert part in got.out
    assert policy_server.requests("PUT") == []


def test_what_is_given_replaces_the_same_and_the_rest_stays(logged_in, policy_server):
    got = logged_in("models", "policy", "har", "--require", "size <= 200 kB", "--metric", "f1")
    assert got.code == 0, got.err
    assert asked(policy_server) == schemas.ModelPolicy(
        max_drop_points=0.5, metric="f1", require=["size<=200000B"], revision=3
    )
    assert "size<=200000B" in got.out


def test_clear_takes_away_what_is_not_given(logged_in, policy_server):
    assert logged_in("models", "policy", "har", "--clear", "--max-drop", "2").code == 0
    assert asked(policy_server) == schemas.ModelPolicy(max_drop_points=2, revision=3)


def test_a_push_brings_its_metric_and_its_requirements(logged_in, fleet_server, model, tmp_path):
    (tmp_path / "metric.py").write_text("def metric(*_): return 1")
    got = logged_in(
        *("push", model, "--metric", "metric.py", "--require", "size<=200kB"),
        *("--require", "accuracy >= 90%", "--allow", "data", "--allow", "contract"),
    )
    assert got.code == 0, got.err
    assert b"def metric(*_): return 1" in map(bytes, fleet_server.uploads.values())
    body = fleet_server.requests("POST", "/models/har/versions")[0].json()
    request = schemas.PushRequest.model_validate(body)
    assert request.own_metric is not None
    assert request.options == schemas.PushOptions(
        require=["accuracy>=0.9", "size<=200000B"], allow=["contract", "data"]
    )


def test_gates_and_data_checks_are_in_the_report(logged_in, fleet_server):
    shown = version()
    gates = [
        schemas.GateInfo(variant="", name="contract", status="passed"),
        schemas.GateInfo(
            variant="int8", name="size", status="overridden", measured=250_000, bound=200_000,
            direction="<=", unit="bytes", overridden_by="ann",
        ),
        schemas.GateInfo(
            variant="fp32", name="size", status="overridden", measured=450_000, bound=200_000,
            direction="<=", unit="bytes", overridden_by="ann",
        ),
        schemas.GateInfo(
            variant="int8", name="latency_p95", status="passed", measured=96.0, bound=5000.0,
            direction="<=", unit="time",
        ),
    ]  # fmt: skip
    checks = [
        schemas.DataCheckInfo(name="range", severity="warning", detail="3 % are\x1b[31m outside")
    ]
    report = shown.report.model_copy(update={"gates": gates, "data_checks": checks})
    fleet_server.routes["GET", "/models/har/versions/1"] = (
        200,
        shown.model_copy(update={"report": report}),
    )
    got = logged_in("models", "show", "har@1")
    assert got.code == 0, got.err
    lines = [" ".join(line.split()) for line in got.out.splitlines()]
    assert "size int8 overridden 250.0 kB <= 200.0 kB" in lines
    assert "latency_p95 int8 passed 96 µs <= 5.0 ms" in lines
    assert lines.count("size: overridden by ann") == 1
    assert not any(line.startswith("contract") for line in lines), "it has passed, and is no news"
    assert any(line.startswith("range warning 3 % are") for line in lines)
    assert "\x1b[31m" not in got.out


def test_values_of_several_metrics_say_what_they_are_of(logged_in, fleet_server):
    """An agreement of 0.999 beside an accuracy of 0.958 is no better model."""
    agreement = version("2", metric="agreement")
    one, other = summary(version()), summary(agreement)
    path = "/models/har/versions"
    fleet_server.routes["GET", path] = (200, page(one))
    alone = logged_in("models", "show", "har").out
    assert "ACCURACY" in alone
    assert "VALUE" not in alone
    fleet_server.routes["GET", path] = (200, page(other, one))
    both = logged_in("models", "show", "har").out
    assert "VALUE" in both
    assert both.count(" agreement ") == both.count(" accuracy ") == 1

    compared = logged_in("models", "compare", "har@1", "har@2").out
    assert "\naccuracy" in compared
    found = comparison().model_copy(update={"right": other})
    found.variants[0].right = agreement.best
    fleet_server.routes["GET", "/models/har/compare"] = (200, found)
    mixed = logged_in("models", "compare", "har@1", "har@2").out
    assert "\nvalue" in mixed
    assert mixed.count(" agreement") == mixed.count(" accuracy") == 2
