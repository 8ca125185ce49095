"""Pushing: what is the same, what is another version, what may be tried again."""

import hashlib

import pytest

from edgectl_server.registry import content_of
from edgectl_server.schemas import PushRequest, VersionShare
from edgectl_server.storage.tables import Job, ModelVersion

A, B, C = (hashlib.sha256(one).hexdigest() for one in (b"a", b"b", b"c"))


STEPS = '[[output]]\nsteps = [{do = "softmax"}, {do = "labels", names = ["a", "b"]}]\n'


@pytest.fixture
def push(client, people, services):
    for content in (b"a", b"b"):
        services.blobs.add_bytes(content)

    def push(source=A, name="har", headers=None, **more):
        body = {"model": source, "filename": "har.onnx", **more}
        return client.post(
            f"/api/v1/models/{name}/versions", json=body, headers=headers or people.operator
        )

    return push


@pytest.fixture
def get(client, people):
    def get(path):
        answer = client.get(f"/api/v1{path}", headers=people.viewer)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return get


@pytest.mark.parametrize(
    ("more", "says"),
    [({}, "needs the version that devices have"), ({"parent": "1"}, "without data")],
)
def test_a_budget_for_updates_needs_a_parent_and_data(push, more, says):
    answer = push(options={"update_budget_points": 0.5}, **more)
    assert answer.status_code == 422
    assert answer.json()["code"] == "version.update_budget"
    assert says in answer.json()["detail"]
    assert answer.json()["hint"]
    assert push(options={"update_budget_points": -1}, parent="1").status_code == 422


def end(services, state, job_state="failed", error=None):
    with services.database.write() as session:
        for row in session.query(ModelVersion):
            row.state = state
            job = session.get(Job, row.job)
            job.state, job.error = job_state, error


def test_a_push_begins_a_job(push, get, services):
    answer = push(options={"labels": ["walk", "run"], "max_drop_points": 2}, code_revision="abc")
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted == {"model": "har", "version": "1", "job": accepted["job"], "created": True}
    job = get(f"/jobs/{accepted['job']}")
    assert (job["kind"], job["state"]) == ("push", "queued")
    assert job["subject"] == {"model": "har", "version": "1"}
    detail = get("/models/har/versions/1")
    assert detail["state"] == "processing"
    assert detail["source_bytes"] == 1
    assert detail["labels"] == ["walk", "run"]
    assert detail["created_by"] == "operator"
    row = services.jobs.get(accepted["job"])
    assert row.payload["lineage"]["code_revision"] == "abc"


def test_the_same_again_is_answered_with_what_is_there(push, get):
    first = push().json()
    for more in ({}, {"version": "1"}, {"filename": "other.onnx"}, {"code_revision": "x"}):
        again = push(**more)
        assert again.status_code == 200
        assert again.json() == {**first, "created": False}
    assert get("/jobs")["total"] == 1


def test_other_content_is_another_version(push):
    push()
    for source, more, version in (
        (B, {}, "2"),
        (A, {"options": {"max_drop_points": 3}}, "3"),
        (A, {"calibration": B}, "4"),
        (A, {"evaluation": B}, "5"),
        (A, {"options": {"precisions": ["fp32"]}}, "6"),
    ):
        assert push(source, **more).json()["version"] == version
    assert push(A, options={"precisions": ["int8", "fp32"]}).json()["version"] == "1"


def test_a_version_never_changes(push):
    push(version="2026.11")
    answer = push(B, version="2026.11")
    assert (answer.status_code, answer.json()["code"]) == (409, "version.exists")
    assert answer.json()["data"]["version"] == "2026.11"
    assert push(A, version="second-name").status_code == 202  # the same content, named anew
    assert push(B).json()["version"] == "1"  # names that are no numbers do not count


@pytest.mark.parametrize("state", ["refused", "failed"])
def test_what_did_not_work_may_be_tried_again(push, get, services, state):
    first = push().json()
    error = {
        "title": "The push was refused",
        "status": 422,
        "code": "pipeline.accuracy",
        "detail": "-",
    }
    end(services, state, error=error)
    detail = get("/models/har/versions/1")
    assert (detail["state"], detail["error"]["code"]) == (state, "pipeline.accuracy")
    answer = push(B, version="1")
    assert (answer.status_code, answer.json()["code"]) == (409, "version.exists")
    again = push()
    assert again.status_code == 202
    assert again.json()["version"] == "1"
    assert again.json()["job"] != first["job"]
    detail = get("/models/har/versions/1")
    assert (detail["state"], detail["error"]) == ("processing", None)


def test_files_must_have_been_uploaded(push):
    answer = push(C, calibration=B, evaluation=C)
    assert (answer.status_code, answer.json()["code"]) == (409, "upload.missing")
    assert answer.json()["data"] == {"missing": [C]}


@pytest.mark.parametrize(
    "more",
    [
        {"options": {"precisions": []}},
        {"options": {"precisions": ["int4"]}},
        {"options": {"max_drop_points": -1}},
        {"options": {"labels": ["x" * 257]}},
        {"options": {"labels": ["x"] * 1025}},
        {"options": {"nothing": 1}},
        {"options": {"processing": "[[output"}},
        {"options": {"processing": "#" * 40_000}},
        {"options": {"processing": STEPS, "labels": ["a", "c"]}},
        {"options": {"input_shapes": {"x": []}}},
        {"options": {"input_shapes": {"x": [-1] + [1] * 8}}},
        {"options": {"input_shapes": {"x": [-1, 2**31]}}},
        {"options": {"input_shapes": {"x": [-2]}}},
        {"options": {"input_shapes": {"x" * 257: [-1]}}},
        {"version": "../1"},
        {"version": "x" * 65},
        {"model": "zz"},
        {"filename": "x" * 257},
        {"parent": "9"},
        {"training_data": "md5:1"},
    ],
)
def test_what_cannot_be_is_refused(push, get, more):
    answer = push(**more)
    assert answer.status_code == 422
    assert get("/models")["items"] == []


@pytest.mark.parametrize("name", ["Har", "a.b", "-a", "a b", "a" * 65])
def test_a_models_name_is_a_topic_level(push, name):
    assert push(name=name).status_code == 422


def test_a_parent_must_be_a_version(push, get):
    push()
    assert push(B, parent="1").status_code == 202
    assert get("/models/har/versions/2")["parent"] == "1"


def test_lists(push, get, services):
    push()
    push(B)
    push(B, name="kws")
    services.registry._shares = lambda: [VersionShare(model="har", version="1", devices=3)]
    models = get("/models")
    assert models["total"] == 2
    assert [one["name"] for one in models["items"]] == ["har", "kws"]
    assert models["items"][0]["versions"] == 2
    assert models["items"][0]["latest"]["version"] == "2"
    assert models["items"][0]["devices_running"] == 3
    assert [one["name"] for one in get("/models?sort=-name&limit=1")["items"]] == ["kws"]
    assert get("/models?q=KW")["total"] == 1
    assert get("/models?q=%25")["total"] == 0  # a wildcard of SQL is an ordinary letter
    versions = get("/models/har/versions")
    assert [one["version"] for one in versions["items"]] == ["2", "1"]
    assert versions["items"][1]["devices_running"] == 3
    assert get("/models/har/versions?offset=1&limit=1")["items"] == versions["items"][1:]
    assert get("/jobs?state=queued&limit=1")["total"] == 3


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/models/none", "model.unknown"),
        ("/models/none/versions", "model.unknown"),
        ("/models/none/versions/1", "version.unknown"),
        ("/jobs/0000000000000000", "job.unknown"),
    ],
)
def test_what_is_not_there_is_named(client, people, path, code):
    answer = client.get(f"/api/v1{path}", headers=people.viewer)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_declared_steps_name_the_classes(push, get):
    answer = push(options={"processing": STEPS, "input_shapes": {"x": [-1, 3]}})
    assert answer.status_code == 202
    detail = get("/models/har/versions/1")
    assert detail["labels"] == ["a", "b"]
    assert detail["options"]["input_shapes"] == {"x": [-1, 3]}
    again = push(
        options={"processing": STEPS, "input_shapes": {"x": [-1, 3]}, "labels": ["a", "b"]}
    )
    assert again.json()["created"] is False
    other = push(options={"processing": STEPS, "input_shapes": {"x": [1, 3]}})
    assert other.json()["version"] == "2"


def test_steps_that_cannot_be_read_are_told_at_once(push):
    answer = push(options={"processing": STEPS.replace("labels", "lables")})
    assert answer.status_code == 422
    assert answer.json()["code"] == "processing.invalid"
    assert "output[0].steps[1].do" in answer.json()["detail"]
    assert "softmax" in answer.json()["hint"]


def test_a_push_with_another_parent_is_another_push(push):
    """The parent decides what is compared, and brings a recipe of its own."""
    first = push().json()
    assert push().json()["created"] is False
    child = push(parent=first["version"])
    assert (child.status_code, child.json()["version"]) == (202, "2")
    assert push(parent="9").json()["code"] == "version.parent"


def test_the_identity_of_a_push_is_stable():
    """Written down once: another value would make every known push a new version."""
    request = PushRequest(model="0" * 64, filename="x")
    assert content_of(request) == IDENTITY


IDENTITY = "sha256:572df098723bf35f52c615912d86b7ea308b9a73f0c2f3d3ac3d84252999f327"
