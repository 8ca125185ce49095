"""Whatever goes wrong is a problem with a code; limits hold; pages have their headers."""

import logging
import sqlite3

import pytest
from starlette.testclient import TestClient

from databases import open_migrated
from edgectl_server.api.app import create_app
from edgectl_server.api.limits import BODY_BYTES_MAX
from edgectl_server.auth import Auth, Principal


def check_problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def test_a_database_that_does_not_answer_is_no_bug(monkeypatch, request):
    monkeypatch.setattr("edgectl_server.storage.database._BUSY_MS", 100)
    services, client, people = map(request.getfixturevalue, ("services", "client", "people"))
    path = services.settings.database_address.removeprefix("sqlite:///")

    def ask():
        body = {"name": "ci", "role": "viewer"}
        return client.post("/api/v1/tokens", json=body, headers=people.admin)

    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = ask()
        other.rollback()
    check_problem(answer, 503, "database.unavailable")
    assert answer.headers["retry-after"] == "2"
    assert ask().status_code == 201
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("ALTER TABLE api_token RENAME TO away")
    check_problem(ask(), 500, "server.bug")


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/v1/", "/api/v2/me"])
def test_an_unknown_address(client, path):
    check_problem(client.get(path, headers={"Accept": "text/html"}), 404, "route.unknown")


def test_a_wrong_method_names_the_right_ones(client):
    answer = client.put("/api/v1/session")
    check_problem(answer, 405, "route.method")
    assert answer.headers["allow"] == "DELETE, POST"


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "offset=-1", "sort=%3B", "nothing=1", "limit=x", "q=" + "x" * 129],
)
def test_wrong_parameters_are_named(client, people, query):
    problem = check_problem(
        client.get(f"/api/v1/models?{query}", headers=people.viewer), 422, "request.invalid"
    )
    assert problem["errors"][0]["field"] == f"query.{query.split('=')[0]}"


def test_an_unknown_sort_key_is_named(client, people):
    answer = client.get("/api/v1/models?sort=-size", headers=people.viewer)
    assert "created_at" in check_problem(answer, 422, "request.sort")["hint"]


def test_an_unknown_address_is_told_with_whatever_parameters(client, people):
    answer = client.get("/api/v1/oracles?limit=100&offset=0", headers=people.viewer)
    check_problem(answer, 404, "route.unknown")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"username": "a"}',
        b'{"username": "a", "password": "b", "more": 1}',
        b'{"username": 1, "password": "b"}',
        b"[" * 100_000,
    ],
)
def test_wrong_bodies(client, body):
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/session", content=body, headers=headers)
    readable = body.isascii() and not body.startswith(b"[[")
    check_problem(answer, *((422, "request.invalid") if readable else (400, "request.malformed")))
    assert len(answer.content) < 4096


def test_a_large_body_is_refused_by_its_length(client):
    answer = client.post("/api/v1/session", content=b"x" * (BODY_BYTES_MAX + 1))
    check_problem(answer, 413, "request.too_large")


def test_a_large_body_is_refused_as_it_comes(client):
    sent = []

    def pieces():
        for _ in range(1024):
            sent.append(1)
            yield b"x" * 65536

    answer = client.post(
        "/api/v1/session", content=pieces(), headers={"Content-Type": "application/json"}
    )
    check_problem(answer, 413, "request.too_large")


def test_a_bug_shows_its_id_and_nothing_else(client, services, people, caplog, monkeypatch):
    def fail(*_args):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(services.registry, "models", fail)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/api/v1/models", headers=people.viewer)
    problem = check_problem(answer, 500, "server.bug")
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text
    assert problem["request_id"] in caplog.text


def test_version_and_health_are_open(client):
    assert client.get("/api/v1/version").json() == {"version": "0.1.0", "api": "v1", "ui": False}
    assert client.get("/api/v1/health/live").json() == {"live": True}
    answer = client.get("/api/v1/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "ok"
    assert answer.json()["checks"]["broker"] == "not connected"


def test_readiness_names_what_is_broken(client, services):
    services.blobs._directory.chmod(0)
    with services.database.write() as session:
        session.connection().exec_driver_sql("DROP TABLE telemetry_window")
    services.database.close()
    services.database._engine.connect = None  # the database has gone away
    services.database.read = None
    answer = client.get("/api/v1/health/ready")
    assert answer.json()["checks"]["database"] == "does not answer"
    services.blobs._directory.chmod(0o700)


@pytest.fixture
def pages(services, tmp_path):
    web = tmp_path / "web"
    (web / "assets").mkdir(parents=True)
    (web / "index.html").write_text("<p>page</p>")
    (web / "assets" / "app-1a2b.js").write_text("1")
    (web / "assets" / "long-1a2b.js").write_text("1;" * 4000)
    with TestClient(create_app(services, web=web)) as client:
        yield client


def test_the_web_ui_and_its_headers(pages):
    for path in ("/", "/rollouts/r1", "/index.html"):
        answer = pages.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 200, path
        assert "page" in answer.text
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "strict-transport-security" not in answer.headers  # it means nothing over plain HTTP
        policy = dict(
            one.strip().partition(" ")[::2]
            for one in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert not any("unsafe" in policy[name] for name in policy if name != "style-src")
    asset = pages.get("/assets/app-1a2b.js")
    assert "immutable" in asset.headers["cache-control"]
    assert pages.get("/assets/none.js").status_code == 404
    assert "immutable" not in pages.get("/assets/none.js").headers["cache-control"]
    assert pages.get("/api/v1/version").json()["ui"] is True
    assert pages.get("/api/v1/version").headers["cache-control"] == "no-store"


def test_scripts_are_compressed_and_answers_of_the_api_are_not(pages):
    packed = {"Accept-Encoding": "gzip"}
    script = pages.get("/assets/long-1a2b.js", headers=packed)
    assert script.headers["content-encoding"] == "gzip"
    assert script.text == "1;" * 4000
    assert "immutable" in script.headers["cache-control"]
    plain = pages.get("/assets/long-1a2b.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in pages.get("/api/v1/openapi.json", headers=packed).headers


@pytest.mark.parametrize("path", ["/api/nothing", "/api/v1/nothing", "/api"])
def test_the_web_ui_does_not_hide_unknown_addresses_of_the_api(pages, path):
    check_problem(pages.get(path, headers={"Accept": "text/html"}), 404, "route.unknown")


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/assets/..%2f..%2fsecret"])
def test_the_web_ui_shows_nothing_outside_its_folder(pages, tmp_path, path):
    (tmp_path / "secret").write_text("what nobody may read")
    assert "what nobody may read" not in pages.get(path, headers={"Accept": "text/html"}).text


@pytest.mark.postgresql
def test_what_postgresql_does_not_take_is_no_bug_and_shows_no_statement(
    client, services, postgresql_url
):
    database = open_migrated(postgresql_url)
    services.auth = Auth(database, services.auth._now, hasher=services.auth._hasher)
    services.auth.set_user("anna", "correct horse battery", "viewer")
    token = services.auth.create_token(Principal("anna", "viewer"), "t", "viewer", None).text
    headers = {"Authorization": f"Bearer {token}"}
    asked = (
        client.post("/api/v1/tokens", headers=headers, json={"name": "a\0b", "role": "viewer"}),
        client.get("/api/v1/tokens?q=%00", headers=headers),
    )
    database.close()
    for answer in asked:
        problem = check_problem(answer, 422, "request.invalid")
        assert "NUL" in problem["detail"]
        assert "INSERT" not in answer.text
