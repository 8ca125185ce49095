"""The client against a real HTTP server: errors, limits, uploads, events."""

import threading
import tracemalloc

import msgspec
import pytest

from cli.answers import job, version
from cli.fake_server import TOKEN, problem
from edgectl import types
from edgectl.client import Client
from edgectl.errors import ApiError, LocalError, ServerUnreachable
from edgectl.transport import RetryPolicy, _default, server_url
from edgectl.uploads import PIECE_BYTES
from edgectl_server import schemas

SOON = RetryPolicy(delay_s=0.01, delay_s_max=0.05, give_up_s=20)


@pytest.fixture
def client(server):
    with Client(server.url, TOKEN, retry=SOON) as one:
        yield one


# ---------------------------------------------------------------- contract


@pytest.mark.parametrize(
    "name", [name for name in types.__all__ if name not in {"Page", "Problem"}]
)
def test_types_are_those_of_the_server(name):
    ours = {field.name: field for field in msgspec.structs.fields(getattr(types, name))}
    theirs = getattr(schemas, name).model_fields
    assert set(ours) == set(theirs)
    for field in ours.values():
        # What the server always sends may be required here; what it may leave out may not.
        if field.required:
            assert theirs[field.name].is_required(), field.name


@pytest.mark.parametrize(
    ("kind", "example"), [(types.VersionDetail, version()), (types.JobInfo, job())]
)
def test_answers_of_a_newer_server_are_understood(server, client, kind, example):
    fields = example.model_dump(mode="json") | {"later": {"unknown": [1]}}
    server.routes["GET", "/x"] = (200, fields)
    got = client._connection.request("GET", "/x", kind)
    assert msgspec.to_builtins(got)["state"] == fields["state"]


REQUESTS = sorted(
    name
    for name in types.__all__
    if name.endswith(("Request", "Change", "Options", "Policy", "Spec", "Start"))
    or name in {"Selector", "PreauthorisedEntry", "AnnotationItem"}
)


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_not_said_is_for_the_server_what_it_is_here(name):
    theirs = getattr(schemas, name).model_fields
    for field in msgspec.structs.fields(getattr(types, name)):
        if field.required:
            continue
        assert not theirs[field.name].is_required(), field.name
        ours = _default(field)
        if ours is msgspec.UNSET or isinstance(ours, msgspec.Struct):
            continue  # never said; of the same kind, and compared by itself
        assert theirs[field.name].get_default(call_default_factory=True) == ours, field.name


def test_an_older_server_is_not_told_of_what_nobody_asks_for(server, client):
    server.routes["POST", "/rollouts"] = (200, {})
    policy = types.RolloutPolicy(
        observe_s=2.0,
        latency_ratio_max=None,
        phases=[types.PhaseSpec(devices=1, gates=types.GatePolicy(success_min=0.5))],
    )
    request = types.RolloutRequest("har", "2", types.Selector(all=True), policy)
    client._connection.request("POST", "/rollouts", dict, body=request)
    assert server.requests("POST", "/rollouts")[-1].json() == {
        "model": "har",
        "version": "2",
        "selector": {"all": True},
        "policy": {
            "observe_s": 2.0,
            "latency_ratio_max": None,
            "phases": [{"devices": 1, "gates": {"success_min": 0.5}}],
        },
    }


# ---------------------------------------------------------------- errors


def test_problem_becomes_an_error_with_the_servers_code(server, client):
    server.routes["GET", "/me"] = problem(409, "x.y", "no", hint="wait", data={"a": 1})
    with pytest.raises(ApiError) as caught:
        client.me()
    error = caught.value
    assert (error.code, error.detail, error.hint) == ("x.y", "no", "wait")
    assert (error.status, error.data) == (409, {"a": 1})


def test_what_an_older_server_does_not_have_is_told_apart(server, client):
    server.routes["GET", "/me"] = problem(404, "route.unknown", "there is no GET /api/v1/me")
    with pytest.raises(ApiError) as caught:
        client.me()
    assert "older" in caught.value.hint


def test_wrong_fields_are_named_once(server, client):
    errors = [
        {"field": "body.version", "message": "too long"},
        {"field": "body.parent", "message": "odd"},
    ]
    detail = "body.version: too long"
    server.routes["GET", "/me"] = problem(422, "request.invalid", detail, errors=errors)
    with pytest.raises(ApiError) as caught:
        client.me()
    assert caught.value.detail == "body.version: too long; body.parent: odd"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((502, b"<html>Bad gateway</html>"), "http.502"),
        ((404, b""), "http.404"),
        ((302, b""), "http.302"),
        ((200, b"<html>"), "client.answer"),
        ((200, b"\xff\xfe"), "client.answer"),
        ((200, {"user": 1}), "client.answer"),
        ((400, {"status": "x"}), "http.400"),
    ],
)
def test_what_is_no_answer_of_ours_is_said_so(server, client, answer, code):
    server.routes["GET", "/me"] = answer
    with pytest.raises(ApiError) as caught:
        client.me()
    assert caught.value.code == code
    assert caught.value.hint


def test_answer_beyond_the_limit_is_refused(server, client, monkeypatch):
    monkeypatch.setattr("edgectl.transport.ANSWER_BYTES_MAX", 100)
    server.routes["GET", "/me"] = (200, {"user": "a" * 100, "role": "viewer"})
    with pytest.raises(ApiError, match="larger than 100 bytes"):
        client.me()


def test_no_server_is_unreachable(server, client):
    server.kill()
    with pytest.raises(ServerUnreachable) as caught:
        client.me()
    assert caught.value.exit_code == 3


def test_not_ready_is_an_answer(server, client):
    server.routes["GET", "/health/ready"] = (503, {"ready": False, "checks": {"broker": "down"}})
    assert client.ready().checks == {"broker": "down"}


@pytest.mark.parametrize(
    "text",
    ["", "host:80", "ftp://x", "http://", "http://a:b@host", "http://h/?q=1", "http://h:99999"],
)
def test_addresses_that_are_none(text):
    with pytest.raises(LocalError) as caught:
        server_url(text)
    assert caught.value.code == "config.url"


def test_names_cannot_leave_their_place_in_the_path(server, client):
    server.routes["GET", "/models/..%2F..%2Fme"] = problem(404, "model.unknown")
    with pytest.raises(ApiError) as caught:
        client.model("../../me")
    assert caught.value.code == "model.unknown"


def test_lists_are_read_page_by_page(server, client):
    from cli.answers import rollout

    everything = [rollout().model_dump(mode="json") | {"id": f"R{n}"} for n in range(450)]

    def answer(request):
        query = dict(request.query)
        offset, limit = int(query["offset"]), int(query["limit"])
        assert limit <= 200
        return 200, {"items": everything[offset : offset + limit], "total": len(everything)}

    server.routes["GET", "/rollouts"] = answer
    assert [one.id for one in client.rollouts(limit=300).items] == [f"R{n}" for n in range(300)]
    assert len(client.rollouts(limit=1000).items) == 450


# ---------------------------------------------------------------- uploads


@pytest.fixture
def big_file(tmp_path):
    """Two pieces and a bit."""
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"the end")
    return path


def test_upload_arrives_whole_and_only_once(server, client, big_file):
    progress = []
    file = client.upload(big_file, lambda done, total: progress.append((done, total)))
    assert server.uploads[file.sha256] == big_file.read_bytes()
    assert progress[-1] == (file.size_bytes, file.size_bytes)
    sent = len(server.requests("PATCH"))
    client.upload(big_file)
    assert len(server.requests("PATCH")) == sent == 3


def test_upload_goes_on_where_the_server_is(server, client, big_file):
    content = big_file.read_bytes()
    from edgectl.uploads import hash_file

    file = hash_file(big_file)
    server.uploads[file.sha256] = bytearray(content[:5_000_000])
    client.upload(file)
    assert server.uploads[file.sha256] == content
    assert server.requests("PATCH")[0].headers["Upload-Offset"] == "5000000"


def test_upload_survives_dropped_connections(server, client, big_file):
    server.drop_upload_at = [100_000, 3_000_000, 8_000_000]
    file = client.upload(big_file)
    assert server.uploads[file.sha256] == big_file.read_bytes()
    assert server.drop_upload_at == []


def test_upload_survives_a_killed_server(server, client, big_file):
    server.drop_upload_at = [5_000_000]
    done = []
    thread = threading.Thread(target=lambda: done.append(client.upload(big_file)))
    thread.start()
    assert server.dropped.wait(20)
    server.kill()
    server.start()
    thread.join(20)
    assert server.uploads[done[0].sha256] == big_file.read_bytes()
    offsets = [int(one.headers["Upload-Offset"]) for one in server.requests("PATCH")]
    assert max(offsets) >= 5_000_000, "it began anew instead of going on"


def test_upload_gives_up_when_the_server_stays_away(server, big_file):
    server.drop_upload_at = [5_000_000]
    brief = RetryPolicy(delay_s=0.01, delay_s_max=0.02, give_up_s=0.2)
    caught = []

    def attempt():
        with Client(server.url, TOKEN, retry=brief) as client:
            try:
                client.upload(big_file)
            except ServerUnreachable as error:
                caught.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    assert server.dropped.wait(20)
    server.kill()
    thread.join(20)
    assert caught


def test_upload_to_no_server_fails_at_once(server, big_file):
    server.kill()
    patient = RetryPolicy(give_up_s=3600)
    with Client(server.url, TOKEN, retry=patient) as client, pytest.raises(ServerUnreachable):
        client.upload(big_file)


def test_upload_of_a_file_that_changes_is_refused(server, client, big_file):
    from edgectl.uploads import hash_file

    file = hash_file(big_file)
    big_file.write_bytes(b"another")
    with pytest.raises(LocalError) as caught:
        client.upload(file)
    assert caught.value.code == "file.changed"


def test_upload_holds_blocks_not_files(server, client, tmp_path):
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(48 * 1024 * 1024)
    from edgectl.uploads import hash_file, upload

    server.kill()  # its memory would be counted too
    tracemalloc.start()
    try:
        known = hash_file(path)
        _, peak = tracemalloc.get_traced_memory()
        with pytest.raises(ServerUnreachable):
            upload(client._connection, known)
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


def test_upload_request_bodies_are_streamed(server, client, tmp_path, monkeypatch):
    """The largest thing that is handed to the HTTP library is one block."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x" * (PIECE_BYTES + 1))
    largest = []
    original = client._connection.stream

    def watched(method, target, **options):
        content = options.get("content")
        if content is not None:
            assert not isinstance(content, bytes)

            def counted():
                for block in content:
                    largest.append(len(block))
                    yield block

            options["content"] = counted()
        return original(method, target, **options)

    monkeypatch.setattr(client._connection, "stream", watched)
    client.upload(path)
    assert max(largest) == 256 * 1024


def test_upload_that_the_server_finds_damaged_is_reported(server, client, big_file):
    from edgectl.uploads import LocalFile, hash_file

    known = hash_file(big_file)
    wrong = LocalFile(known.path, "0" * 64, known.size_bytes, known.modified_ns)
    with pytest.raises(ApiError) as caught:
        client.upload(wrong)
    assert caught.value.code == "upload.digest"


# ---------------------------------------------------------------- events


def job_event(state, stage="quantize"):
    snapshot = job(state, progress=schemas.JobProgress(stage=stage)).model_dump(mode="json")
    return {"topic": "job:J1", "snapshot": snapshot}


def test_wait_job_follows_the_events_through_broken_connections(server, client):
    server.routes["GET", "/jobs/J1"] = (200, job("queued"))
    server.streams = [
        [job_event("running", "check")],
        [],
        [job_event("running", "check"), job_event("running"), job_event("succeeded")],
    ]
    stages = []
    ended = client.wait_job("J1", lambda one: stages.append(one.progress.stage))
    assert ended.state == "succeeded"
    assert stages[1:] == ["check", "check", "quantize", "quantize"]


def test_wait_job_of_an_ended_job_needs_no_events(server, client):
    server.routes["GET", "/jobs/J1"] = (200, job("failed"))
    assert client.wait_job("J1").state == "failed"
    assert not server.requests("GET", "/events")


def test_wait_job_outlives_a_killed_server(server, client):
    server.routes["GET", "/jobs/J1"] = (200, job("running"))
    server.streams = [[job_event("running")]]
    seen, ended = threading.Event(), []
    thread = threading.Thread(
        target=lambda: ended.append(client.wait_job("J1", lambda _job: seen.set()))
    )
    thread.start()
    assert seen.wait(20)
    server.kill()
    server.streams = [[job_event("succeeded")]]
    server.start()
    thread.join(20)
    assert ended[0].state == "succeeded"


def test_events_that_are_none_are_an_error(server, client):
    server.streams = [[{"topic": "job:J1", "snapshot": {"no": "job"}}]]
    with pytest.raises(ApiError) as caught:
        next(client.events(["job:J1"])).read(types.JobInfo)
    assert caught.value.code == "client.answer"
