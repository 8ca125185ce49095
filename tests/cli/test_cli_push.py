"""``edgectl push``: what it sends, what it shows, and how it ends."""

import json

import pytest

from cli.answers import job, version
from edgectl_protocol.requirements import update_budget_problem
from edgectl_server import schemas


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


@pytest.mark.parametrize("options", [[], ["--parent", "1"]], ids=["no parent", "no data"])
def test_a_budget_for_updates_needs_a_parent_and_data(logged_in, fleet_server, model, options):
    """It is the server's own error, told before anything is uploaded."""
    got = logged_in("push", model, "--update-budget", "0.5", *options)
    assert got.code == 1
    problem = update_budget_problem(parent=bool(options), data=False)
    assert problem is not None
    assert (
        got.err.splitlines()[-2:]
        == [
            f"error[version.update_budget]: {problem[0]}",
            f"try: {problem[1]}",
        ]
        or got.err.splitlines()[-3] == f"error[version.update_budget]: {problem[0]}"
    )
    assert not fleet_server.uploads


def test_small_steps_are_shown_as_trained_and_as_released(logged_in, fleet_server, model, tmp_path):
    (tmp_path / "eval.npz").write_bytes(b"evaluation")
    level = schemas.StepLevelInfo(name="uniform-3", estimated_bytes=9000, status="released")
    made = version()
    made.report.small_steps = [
        schemas.SmallStepsInfo(
            variant="fp32", trained="fp32", released="fp32-steps-uniform-3", size_bytes=444_000,
            trained_bytes=290_000, released_bytes=9100, parent_value=0.5, trained_value=0.95,
            released_value=0.948, allowed_points=0.5, levels=[level],
        ),
        schemas.SmallStepsInfo(variant="int8", trained="int8", reason="its scales are others"),
    ]  # fmt: skip
    fleet_server.routes["GET", "/models/har/versions/1"] = (200, made)
    got = logged_in(
        *("push", model, "--parent", "1", "--evaluation", "eval.npz", "--update-budget", "0.5")
    )
    assert got.code == 0, got.err
    body = fleet_server.requests("POST", "/models/har/versions")[0].json()
    assert schemas.PushRequest.model_validate(body).options.update_budget_points == 0.5
    for words in (
        "9.1 kB 2.0%",
        "290.0 kB 65.3%",
        "as trained",
        "0.948",
        "0.5 points",
    ):
        assert words in got.out, words
    assert "int8: as trained: its scales are others" in got.out


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
