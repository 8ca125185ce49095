"""Policies of models: who changes them, how they bind a push, and ways round that do not work."""

import hashlib

import pytest

from edgectl_server.storage.tables import BundleVariant, Job, ModelVersion

A, B = (hashlib.sha256(one).hexdigest() for one in (b"a", b"b"))
PATH = "/api/v1/models/har/policy"


@pytest.fixture
def put(client, people):
    def put(headers=None, **policy):
        return client.put(PATH, json=policy, headers=headers or people.admin)

    return put


@pytest.fixture
def push(client, people, services):
    for content in (b"a", b"b"):
        services.blobs.add_bytes(content)

    def push(headers=None, source=A, own_metric=None, **options):
        body = {"model": source, "filename": "har.onnx", "options": options}
        if own_metric is not None:
            body["own_metric"] = own_metric
        path = "/api/v1/models/har/versions"
        return client.post(path, json=body, headers=headers or people.operator)

    return push


@pytest.fixture
def terms(services):
    def terms(answer):
        assert answer.status_code == 202, answer.text
        return services.jobs.get(answer.json()["job"]).payload["terms"]

    return terms


def code(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.json()["hint"]
    return answer.json()["code"]


def end(services, state):
    with services.database.write() as session:
        for row in session.query(ModelVersion):
            row.state = state
            session.get(Job, row.job).state = "failed"


def test_a_policy_is_replaced_whole_and_shown(client, people, put):
    empty = client.get(PATH, headers=people.viewer).json()
    assert (empty["revision"], empty["require"], empty["changed_at"]) == (0, [], None)
    first = put(max_drop_points=0.5, require=["size <= 200 kB", "accuracy>=90%"]).json()
    assert first["require"] == ["accuracy>=0.9", "size<=200000B"], "in its one spelling"
    assert (first["revision"], first["changed_by"]) == (1, "admin")
    assert client.get(PATH, headers=people.viewer).json() == first
    second = put(metric="f1").json()
    assert (second["revision"], second["require"], second["max_drop_points"]) == (2, [], None)


def test_only_an_admin_changes_it(client, people, put):
    for headers in (people.viewer, people.operator):
        assert code(put(headers, max_drop_points=100), 403) == "auth.role"
    assert client.get(PATH, headers=people.viewer).json()["revision"] == 0


def test_two_who_change_it_at_once(put):
    assert put(revision=0, max_drop_points=1).status_code == 200
    assert code(put(revision=0, max_drop_points=2), 409) == "policy.changed"
    assert put(revision=1, max_drop_points=2).json()["revision"] == 2


@pytest.mark.parametrize(
    "policy",
    [
        {"require": ["accuracy<=0.9"]},
        {"require": ["__import__('os')>=1"]},
        {"require": ["size<=1kB"] * 17},
        {"require": ["size<=" + "1" * 100]},
        {"max_drop_points": -1},
        {"max_drop_points": 101},
        {"metric": "own"},
        {"metric": "accuracy; drop table"},
        {"allow": ["size"]},
        {"revision": -1},
    ],
)
def test_what_is_no_policy(put, policy):
    assert code_of(put(**policy)) in {"version.require", "request.invalid"}


def code_of(answer):
    assert answer.status_code == 422, answer.text
    return answer.json()["code"]


def test_a_change_is_in_the_audit_log(client, people, put):
    put(max_drop_points=2)
    put(require=["size<=1kB"])
    rows = client.get("/api/v1/audit", headers=people.admin).json()["items"]
    row = next(row for row in rows if row["action"] == "put_policy")
    assert (row["actor"], row["object"], row["outcome"]) == ("admin", "har", "done")
    assert row["details"]["before"] == {"max_drop_points": "2.0"}
    assert row["details"]["after"] == {"require": ["size<=1000B"]}


# ---------------------------------------------------------------- what binds a push


def test_without_a_policy_the_push_says_it_all(push, terms):
    found = terms(push(max_drop_points=3, require=["size<=1kB"], metric="f1", allow=["contract"]))
    assert found == {
        "max_drop_points": 3.0,
        "metric": "f1",
        "require": ["size<=1000B"],
        "allow": ["contract"],
        "allowed_by": "operator",
        "policy_revision": 0,
    }
    assert terms(push(source=B))["max_drop_points"] == 1.0


def test_the_stricter_wins(put, push, terms):
    put(max_drop_points=2, require=["accuracy>=0.9", "size<=100kB"], metric="accuracy")
    found = terms(push(max_drop_points=100, require=["accuracy>=0.5", "size<=50kB", "auc>=0.7"]))
    assert found["max_drop_points"] == 2.0
    assert found["require"] == ["accuracy>=0.9", "auc>=0.7", "size<=50000B"]
    assert (found["metric"], found["policy_revision"]) == ("accuracy", 1)
    assert terms(push(source=B))["max_drop_points"] == 2.0, "and where the push says nothing"


def test_a_push_that_asks_for_less_loss_gets_it(put, push, terms):
    put(max_drop_points=2)
    assert terms(push(max_drop_points=0))["max_drop_points"] == 0.0


def test_another_metric_than_the_policy(put, push, services):
    put(metric="f1")
    assert code(push(metric="accuracy"), 422) == "policy.metric"
    own = services.blobs.add_bytes(b"def metric(*_): return 1").removeprefix("sha256:")
    assert code(push(own_metric=own), 422) == "policy.metric"
    assert push(metric="f1").status_code == 202


@pytest.mark.parametrize("gate", ["size", "drop"])
def test_a_gate_of_the_policy_is_overridden_by_an_admin_alone(put, push, people, terms, gate):
    put(max_drop_points=1, require=["size<=100kB"])
    answer = push(allow=[gate, "contract"])
    assert code(answer, 403) == "policy.override"
    assert answer.json()["data"] == {"gates": [gate]}
    found = terms(push(people.admin, allow=[gate]))
    assert (found["allow"], found["allowed_by"]) == ([gate], "admin")


def test_a_gate_of_ones_own_is_overridden_by_oneself(put, push, terms):
    put(require=["size<=100kB"])
    assert terms(push(require=["ram<=1B"], allow=["ram"]))["allow"] == ["ram"]


def test_pushing_what_an_admin_has_pushed_is_no_way_round(put, push, people, services):
    """The same content is the same version: who asks for it again is looked at again."""
    put(require=["size<=100kB"])
    assert push(people.admin, allow=["size"]).status_code == 202
    assert code(push(allow=["size"]), 403) == "policy.override"
    end(services, "refused")
    assert code(push(allow=["size"]), 403) == "policy.override"
    assert push(people.admin, allow=["size"]).status_code == 202


def test_pushing_again_is_judged_by_the_policy_of_then(put, push, services, terms):
    first = push()
    assert terms(first)["require"] == []
    end(services, "failed")
    put(require=["size<=1kB"])
    again = push()
    assert again.json()["version"] == first.json()["version"]
    assert terms(again)["require"] == ["size<=1000B"]


def test_bundles_that_are_made_are_not_signed_under_stricter_terms(put, push, services, terms):
    """They were fixed before the push failed, such as for want of a key, and stay as they are."""
    put(max_drop_points=1, require=["accuracy>=0.8"])
    first = push()
    with services.database.write() as session:
        (row,) = session.query(ModelVersion)
        made = {"precision": "int8", "target": "t", "manifest": "m", "trial": {}, "rank": 0}
        sizes = dict.fromkeys(("manifest_size", "bundle_bytes", "model_bytes"), 1)
        session.add(BundleVariant(version_id=row.id, variant="int8", **made, **sizes))
    for stricter in (
        {"max_drop_points": 0.5, "require": ["accuracy>=0.8"]},
        {"max_drop_points": 1, "require": ["accuracy>=0.9"]},
        {"max_drop_points": 1, "require": ["accuracy>=0.8", "size<=1kB"]},
        {"max_drop_points": 1, "require": ["accuracy>=0.8"], "metric": "f1"},
    ):
        end(services, "failed")
        put(**stricter)
        assert code(push(), 409) == "version.terms"
    put(max_drop_points=2, require=["accuracy>=0.7"])
    again = push()
    assert again.json()["version"] == first.json()["version"]
    assert terms(again)["require"] == ["accuracy>=0.7"]
    end(services, "failed")
    with services.database.write() as session:
        session.query(ModelVersion).one().job = None  # of an older release
    assert code(push(), 409) == "version.terms"


def test_a_push_under_way_keeps_its_terms(put, push, terms, services):
    answer = push()
    put(require=["size<=1kB"])
    assert services.jobs.get(answer.json()["job"]).payload["terms"]["require"] == []


def test_another_model_has_no_part_in_it(client, people, put, push, services):
    put(require=["size<=1kB"])
    body = {"model": A, "filename": "har.onnx"}
    answer = client.post("/api/v1/models/other/versions", json=body, headers=people.operator)
    payload = services.jobs.get(answer.json()["job"]).payload
    assert payload["terms"]["require"] == []


# ---------------------------------------------------------------- options of a push


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"require": ["accuracy>0.9"]}, "version.require"),
        ({"require": ["size<=1kB\nallow"]}, "version.require"),
        ({"require": ["x" * 65]}, "request.invalid"),
        ({"require": ["size<=1kB"] * 17}, "request.invalid"),
        ({"allow": ["everything"]}, "version.allow"),
        ({"allow": ["finite"]}, "version.allow"),
        ({"allow": ["*"]}, "request.invalid"),
        ({"metric": "own"}, "request.invalid"),
    ],
)
def test_options_that_are_refused(push, options, wanted):
    assert code_of(push(**options)) == wanted


def test_two_metrics(push):
    assert code_of(push(own_metric=B, metric="f1")) == "version.options"


def test_the_same_requirements_are_the_same_push(push):
    first = push(require=["size<=1kB", "accuracy>=90%"], allow=["size", "data"])
    again = push(require=["accuracy>=0.9", "size<=1000"], allow=["data", "size"])
    assert again.json() == {**first.json(), "created": False}
    other = push(require=["accuracy>=0.9"])
    assert other.json()["version"] != first.json()["version"]


def test_the_metric_is_part_of_the_content(client, people, push, services):
    own = services.blobs.add_bytes(b"def metric(*_): return 1").removeprefix("sha256:")
    first, second = push(), push(own_metric=own)
    assert first.json()["version"] != second.json()["version"]
    detail = client.get("/api/v1/models/har/versions/2", headers=people.viewer).json()
    assert detail["own_metric"] == f"sha256:{own}"


def test_a_metric_that_was_not_uploaded(push):
    answer = push(own_metric="f" * 64)
    assert code(answer, 409) == "upload.missing"
