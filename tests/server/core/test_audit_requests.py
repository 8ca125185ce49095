"""What requests leave in the audit log: every change, every refusal, and no secret."""

import pytest

from edgectl_protocol.audit import AuditEntry, AuditHead, AuditHeader, ChainCheck, decode_line
from edgectl_server.api import auditing
from edgectl_server.api.access import READING
from edgectl_server.audit import REFUSALS_BURST, entry_of
from server.core.api_routes import DOCUMENT, OPEN, PASSWORD, ROUTES, fill, login

READS = {"GET", "HEAD"}
CHANGES = [
    route
    for route in ROUTES
    if route.role != OPEN and route.method not in READS and route.operation not in READING
]


def rows(services, after: int = 0) -> list[AuditEntry]:
    return [entry_of(row) for row in services.audit.rows(after, 10_000)]


def newest(services) -> int:
    return services.audit.head()[0]


@pytest.mark.parametrize("route", CHANGES, ids=lambda route: route.operation)
def test_every_change_that_somebody_asks_for_leaves_a_row(client, services, people, route):
    before = newest(services)
    answer = client.request(route.method, fill(route.path), headers=people.admin, json={})
    written = rows(services, before)
    assert written, route.operation
    assert {entry.action for entry in written} == {route.operation}
    assert {entry.actor for entry in written} == {"admin"}
    assert written[-1].via.startswith("token/")
    expected = "done"
    if answer.status_code >= 400:
        expected = "refused" if answer.status_code < 500 else "failed"
        assert written[-1].details["status"] == answer.status_code
    assert written[-1].outcome == expected


@pytest.mark.parametrize(
    "route", [one for one in ROUTES if one.role == "admin"], ids=lambda route: route.operation
)
def test_every_request_beyond_ones_right_leaves_a_row(client, services, people, route):
    before = newest(services)
    client.request(route.method, fill(route.path), headers=people.viewer)
    (entry,) = rows(services, before)
    assert (entry.actor, entry.action, entry.outcome) == ("viewer", route.operation, "refused")
    assert entry.details["code"] == "auth.role"


def test_reading_and_strangers_without_a_login_leave_none(client, services, people):
    before = newest(services)
    for headers in (people.viewer, {}):
        client.get("/api/v1/me", headers=headers)
        client.get("/api/v1/jobs/none", headers=headers)
    for route in CHANGES:
        client.request(route.method, fill(route.path), json={})
    client.post("/api/v1/no/such/route", headers=people.admin)
    assert rows(services, before) == []


def test_logins_and_failures(client, services, people):
    before = newest(services)
    assert login(client, password="wrong password").status_code == 401
    assert login(client, name="hunter2-typed-into-the-wrong-field").status_code == 401
    assert login(client).status_code == 200
    body = {"username": "admin", "password": PASSWORD}
    token = client.post("/api/v1/tokens:login?name=laptop", json=body).json()["info"]["id"]
    csrf = {"X-CSRF-Token": client.get("/api/v1/me").json()["csrf"]}
    assert client.delete("/api/v1/session").status_code == 403
    assert client.delete("/api/v1/session", headers=csrf).status_code == 204
    written = rows(services, before)
    seen = [(entry.action, entry.actor, entry.object, entry.outcome) for entry in written]
    assert seen == [
        ("login", "", "admin", "refused"),
        ("login", "", "", "refused"),  # it may be a password
        ("login", "admin", "", "done"),
        ("login_token", "admin", token, "done"),
        ("logout", "admin", "", "refused"),
        ("logout", "admin", "", "done"),
    ]
    assert {entry.address for entry in written} == {"testclient"}
    vias = [entry.via for entry in written]
    assert vias[2] == vias[4] == vias[5]
    assert vias[2].startswith("session/")
    assert written[4].details["code"] == "auth.csrf"


def test_no_secret_is_ever_in_it(client, services, people, tmp_path):
    login(client, password="secret-of-a-wrong-login")
    login(client)
    cookie = client.cookies["edgectl_session"]
    csrf = client.get("/api/v1/me").json()["csrf"]
    headers = {"X-CSRF-Token": csrf}
    created = client.post("/api/v1/tokens", json={"name": "x"}, headers=headers).json()["token"]
    client.post("/api/v1/tokens", json={"name": "x", "secret": "not-a-field"}, headers=headers)
    client.post("/api/v1/enrolment/tokens", json={"secret": "not-a-field"}, headers=headers)
    text = " ".join(f"{entry}" for entry in rows(services))
    secret = created.split("_", 2)[2]
    secrets = [PASSWORD, "secret-of-a-wrong-login", cookie, csrf, secret, "not-a-field"]
    assert [one for one in secrets if one in text] == []


def test_only_fields_that_exist_and_hold_no_secret_are_kept():
    schemas = DOCUMENT["components"]["schemas"]
    bodies = {}
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content and "$ref" in content["schema"]:
                name = content["schema"]["$ref"].rpartition("/")[2]
                bodies[operation["operationId"]] = set(schemas[name].get("properties", {}))
    for operation, fields in auditing.KEPT.items():
        assert set(fields) <= bodies[operation], operation
        forbidden = {"password", "token", "secret", "proof", "csr_pem", "code", "verifier", "nonce"}
        assert not forbidden & set(fields)


def test_what_strangers_can_have_written_is_bounded(client, services, people):
    before = newest(services)
    for number in range(REFUSALS_BURST + 30):
        body = {"device": f"d{number}", "nonce": "x"}
        client.post("/api/v1/enrol", json=body)
    assert len(rows(services, before)) <= REFUSALS_BURST + 5


def test_bodies_that_are_no_json_or_too_long_are_not_kept(client, services, people):
    path = "/api/v1/models/har/versions"
    headers = {**people.admin, "Content-Type": "application/json"}
    before = newest(services)
    for body in (b"{", b"[" * 100_000):  # refused before anybody asks who sends it
        assert client.post(path, content=body, headers=headers).status_code in {400, 422}
    assert rows(services, before) == []
    for body in (b"[1]", b'{"filename": "' + b"x" * 70_000 + b'"}'):
        client.post(path, content=body, headers=headers)
    written = rows(services, before)
    assert [entry.object for entry in written] == ["har"] * 2
    assert all(set(entry.details) == {"status", "code"} for entry in written)


def test_an_admin_reads_it(client, services, people):
    login(client, password="wrong password")
    login(client)
    page = client.get("/api/v1/audit?limit=2", headers=people.admin).json()
    assert page["total"] == newest(services)
    assert [one["number"] for one in page["items"]] == [page["total"], page["total"] - 1]
    assert [one["outcome"] for one in page["items"]] == ["done", "refused"]
    found = client.get("/api/v1/audit?q=REFUSED&sort=number", headers=people.admin).json()
    assert {one["outcome"] for one in found["items"]} == {"refused"}
    services.audit_heads.anchor()
    state = client.get("/api/v1/audit/state", headers=people.admin).json()
    assert (state["number"], state["anchored"]) == (page["total"], page["total"])
    assert (state["key"], state["alarm"]) == (services.audit_heads.public_key, "")


def test_the_export_is_whole_and_checks(client, services, people):
    for _ in range(3):
        login(client)
        services.audit_heads.anchor()
    answer = client.get("/api/v1/audit/export", headers=people.admin)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [decode_line(line) for line in answer.content.splitlines()]
    assert isinstance(lines[0], AuditHeader)
    checked = ChainCheck(line for line in lines if isinstance(line, AuditHead))
    for line in lines:
        if isinstance(line, AuditEntry):
            checked.add(line)
    assert checked.finish() is None
    assert checked.number == checked.anchored == newest(services)
