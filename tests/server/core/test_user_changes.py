"""Admins change who may log in; and every way round the password that it takes."""

import json
import threading
import time

import pytest

from edgectl_server.auth import Auth, Principal
from edgectl_server.errors import Conflict
from edgectl_server.proofs import HEADER, PROOF_S, WRONG_MAX, WRONG_S
from edgectl_server.storage.tables import LoginProof, User
from edgectl_server.user_changes import Users
from server.core.api_routes import PASSWORD, login
from server.core.conftest import QUICK

USERS = "/api/v1/users"
PROOF = "/api/v1/session/proof"


class Browser:
    """Somebody's session: a cookie and the token against cross-site requests."""

    def __init__(self, client, services, user):
        self._client = client
        started = services.auth.start_session(user)
        self.headers = {
            "Cookie": f"edgectl_session={started.cookie}",
            "X-CSRF-Token": started.principal.csrf,
        }

    def call(self, method, path, body=None, **headers):
        return self._client.request(method, path, json=body, headers=self.headers | headers)

    def prove(self, password=PASSWORD):
        return self.call("POST", PROOF, {"password": password})

    def change(self, method, path, body=None):
        """Give the password, then change something."""
        proof = self.prove()
        assert proof.status_code == 200, proof.text
        return self.call(method, path, body, **{HEADER: proof.json()["proof"]})


@pytest.fixture
def open_browser(client, services, people):
    return lambda user="admin": Browser(client, services, user)


@pytest.fixture
def admin(open_browser):
    return open_browser()


def code(answer):
    return answer.status_code, answer.json()["code"]


def names(client, people):
    return {one["name"] for one in client.get(USERS, headers=people.admin).json()["items"]}


CHANGES = [
    ("POST", USERS, {"name": "eve", "role": "admin"}),
    ("PATCH", f"{USERS}/viewer", {"role": "admin"}),
    ("PATCH", f"{USERS}/operator", {"disabled": True}),
    ("POST", f"{USERS}/operator/password", None),
    ("POST", f"{USERS}/operator/logout?tokens=true", None),
    ("DELETE", f"{USERS}/operator", None),
    ("PUT", "/api/v1/me/password", {"password": "an attacker's own"}),
]


def test_a_user_is_made_changed_and_removed(client, services, people, admin):
    made = admin.change("POST", USERS, {"name": "ana", "role": "operator"})
    assert made.status_code == 201, made.text
    first = made.json()["password"]
    assert login(client, "ana", first).json()["role"] == "operator"
    client.cookies.clear()
    assert admin.change("PATCH", f"{USERS}/ana", {"role": "viewer"}).json()["role"] == "viewer"
    second = admin.change("POST", f"{USERS}/ana/password").json()
    assert second["user"]["sessions"] == 0
    assert login(client, "ana", first).status_code == 401
    assert login(client, "ana", second["password"]).status_code == 200
    client.cookies.clear()
    assert code(admin.change("POST", USERS, {"name": "ana"})) == (409, "auth.exists")
    assert code(admin.change("POST", USERS, {"name": "Ana@sso"})) == (422, "auth.user")
    assert admin.change("DELETE", f"{USERS}/ana").status_code == 204
    assert login(client, "ana", second["password"]).status_code == 401
    assert code(admin.change("DELETE", f"{USERS}/ana")) == (404, "auth.user")


def test_who_is_disabled_opens_nothing_until_enabled_again(client, services, people, open_browser):
    admin, theirs = open_browser(), open_browser("operator")
    row = admin.change("PATCH", f"{USERS}/operator", {"disabled": True}).json()
    assert row["disabled_at"] is not None
    assert row["sessions"] == 0
    assert theirs.call("GET", "/api/v1/me").status_code == 401
    assert client.get("/api/v1/me", headers=people.operator).status_code == 401
    refused = login(client, "operator")
    assert refused.json()["detail"] == login(client, "nobody").json()["detail"]
    assert admin.change("PATCH", f"{USERS}/operator", {"disabled": False}).status_code == 200
    assert client.get("/api/v1/me", headers=people.operator).status_code == 200
    assert theirs.call("GET", "/api/v1/me").status_code == 401, "sessions have ended"
    assert login(client, "operator").status_code == 200


def test_sessions_end_and_tokens_are_revoked(client, services, people, open_browser):
    admin, theirs = open_browser(), open_browser("operator")
    assert admin.change("POST", f"{USERS}/operator/logout").json()["tokens"] == 1
    assert theirs.call("GET", "/api/v1/me").status_code == 401
    assert client.get("/api/v1/me", headers=people.operator).status_code == 200
    row = admin.change("POST", f"{USERS}/operator/logout?tokens=true").json()
    assert (row["sessions"], row["tokens"]) == (0, 0)
    assert client.get("/api/v1/me", headers=people.operator).status_code == 401


@pytest.mark.parametrize("change", CHANGES)
def test_a_session_without_the_password_changes_nobody(  # noqa: PLR0917 - fixtures
    client, services, people, open_browser, clock, change
):
    """What a script in the page, or a thief of the cookie and its CSRF token, has in hand."""
    method, path, body = change
    admin, other, viewer = open_browser(), open_browser(), open_browser("viewer")
    before = client.get(USERS, headers=people.admin).json()
    of_other, of_viewer = (one.prove().json()["proof"] for one in (other, viewer))
    late = admin.prove().json()["proof"]
    clock.pass_s(PROOF_S)
    fresh = other.prove().json()["proof"]
    for proof in ("", "x", "x" * 5000, PASSWORD, late, of_other, of_viewer, fresh, fresh[:-1]):
        answer = admin.call(method, path, body, **{HEADER: proof})
        assert code(answer) == (403, "auth.proof"), proof
    assert code(admin.call(method, path, body)) == (403, "auth.proof")
    in_the_body = {**(body or {}), "proof": fresh, "password": PASSWORD}
    assert code(admin.call(method, path, in_the_body)) == (403, "auth.proof")
    assert client.get(USERS, headers=people.admin).json() == before
    assert login(client, "operator").status_code == 200


@pytest.mark.parametrize("change", CHANGES[:-1])
def test_a_proof_is_no_role(client, people, open_browser, change):
    for lower in ("viewer", "operator"):
        answer = open_browser(lower).change(*change)
        assert code(answer) == (403, "auth.role"), answer.text


@pytest.mark.parametrize("change", CHANGES)
def test_another_site_s_page_changes_nobody(admin, change):
    method, path, body = change
    proof = admin.prove().json()["proof"]
    answer = admin.call(method, path, body, **{HEADER: proof, "X-CSRF-Token": ""})
    assert code(answer) == (403, "auth.csrf")
    answer = admin.call("POST", PROOF, {"password": PASSWORD}, **{"X-CSRF-Token": ""})
    assert code(answer) == (403, "auth.csrf")


def test_a_token_needs_a_proof_of_its_own(client, services, people, admin):
    body = {"name": "ana", "role": "admin"}
    of_session = admin.prove().json()["proof"]
    for proof in ("", of_session):
        headers = {**people.admin, HEADER: proof}
        answer = client.post(USERS, headers=headers, json=body)
        assert code(answer) == (403, "auth.proof")
    given = client.post(PROOF, headers=people.admin, json={"password": PASSWORD}).json()["proof"]
    owner = services.auth.check_password("admin", PASSWORD, "t")
    sibling = services.auth.create_token(owner, "sibling", "admin", None).text
    headers = {"Authorization": f"Bearer {sibling}", HEADER: given}
    assert code(client.post(USERS, headers=headers, json=body)) == (403, "auth.proof")
    assert client.post(USERS, headers={**people.admin, HEADER: given}, json=body).status_code == 201


def test_a_proof_ends_with_its_login_and_its_password(admin, open_browser, services):
    proof = {HEADER: admin.prove().json()["proof"]}
    services.auth.end_session(admin.headers["Cookie"].removeprefix("edgectl_session="))
    assert admin.call("POST", USERS, {"name": "ana"}, **proof).status_code == 401
    other = open_browser()
    assert code(other.call("POST", USERS, {"name": "ana"}, **proof)) == (403, "auth.proof")
    proof = {HEADER: other.prove().json()["proof"]}
    assert other.call("PUT", "/api/v1/me/password", {"password": "quite another one"}, **proof)
    assert code(other.call("POST", USERS, {"name": "ana"}, **proof)) == (403, "auth.proof")


def test_guesses_are_counted_for_the_login_wherever_they_come_from(
    client, services, people, open_browser, monkeypatch
):
    admin = open_browser()
    codes = [code(admin.prove(f"wrong password {number}")) for number in range(WRONG_MAX + 2)]
    assert codes == [(403, "auth.own_password")] * WRONG_MAX + [(429, "auth.attempts")] * 2
    assert code(admin.prove()) == (429, "auth.attempts"), "nor is the right one told apart"
    principal = services.auth.principal_of_session(
        admin.headers["Cookie"].removeprefix("edgectl_session="), csrf=None
    )
    with pytest.raises(Exception, match="too many"):
        services.proofs.by_password(principal, PASSWORD, "192.0.2.77")
    owner = open_browser()
    assert owner.prove().status_code == 200, "whoever logs in anew is not shut out"
    moved = time.monotonic() + WRONG_S
    monkeypatch.setattr("edgectl_server.attempts.time.monotonic", lambda: moved)
    assert admin.prove().status_code == 200


def test_an_admin_remains(client, services, people, admin):
    for answer in (
        admin.change("PATCH", f"{USERS}/admin?myself=true", {"role": "operator"}),
        admin.change("PATCH", f"{USERS}/admin?myself=true", {"disabled": True}),
        admin.change("DELETE", f"{USERS}/admin?myself=true"),
    ):
        assert code(answer) == (409, "auth.last_admin")
    services.auth.set_user("ana", PASSWORD, "admin")
    assert admin.change("PATCH", f"{USERS}/ana", {"disabled": True}).status_code == 200
    disabled_does_not_count = admin.change("DELETE", f"{USERS}/admin?myself=true")
    assert code(disabled_does_not_count) == (409, "auth.last_admin")
    assert admin.change("PATCH", f"{USERS}/ana", {"disabled": False}).status_code == 200
    assert admin.change("DELETE", f"{USERS}/admin?myself=true").status_code == 204


def test_what_befalls_oneself_has_to_be_meant(admin, services):
    services.auth.set_user("ana", PASSWORD, "admin")
    for method, path, body in (
        ("PATCH", f"{USERS}/admin", {"role": "viewer"}),
        ("PATCH", f"{USERS}/admin", {"disabled": True}),
        ("POST", f"{USERS}/admin/password", None),
        ("POST", f"{USERS}/admin/logout", None),
        ("DELETE", f"{USERS}/admin", None),
    ):
        assert code(admin.change(method, path, body)) == (403, "auth.myself")
    assert (
        admin.change("PATCH", f"{USERS}/admin?myself=true", {"role": "viewer"}).status_code == 200
    )
    assert admin.call("GET", USERS).status_code == 403


def test_everybody_changes_the_own_password(client, services, open_browser):
    viewer, elsewhere = open_browser("viewer"), open_browser("viewer")
    short = viewer.change("PUT", "/api/v1/me/password", {"password": "short"})
    assert code(short) == (422, "auth.password")
    new = {"password": "a new and long one"}
    assert viewer.change("PUT", "/api/v1/me/password", new).status_code == 204
    assert viewer.call("GET", "/api/v1/me").status_code == 200
    assert elsewhere.call("GET", "/api/v1/me").status_code == 401
    assert login(client, "viewer").status_code == 401
    assert login(client, "viewer", new["password"]).status_code == 200


def test_it_is_in_the_audit_log_without_a_secret(client, services, people, admin):
    proof = admin.prove().json()["proof"]
    made = admin.call("POST", USERS, {"name": "ana", "role": "operator"}, **{HEADER: proof}).json()
    admin.call("PATCH", f"{USERS}/ana", {"role": "admin"}, **{HEADER: proof})
    admin.prove("not the password")
    admin.call("DELETE", f"{USERS}/ana")
    rows = client.get("/api/v1/audit?limit=5", headers=people.admin).json()["items"]
    kept = [(one["action"], one["object"], one["outcome"]) for one in reversed(rows)]
    assert kept == [
        ("prove", "admin", "done"),
        ("create_user", "ana", "done"),
        ("change_user", "ana", "done"),
        ("prove", "admin", "refused"),
        ("delete_user", "ana", "refused"),
    ]
    assert rows[2]["details"] == {
        "role": "admin",
        "before": {"role": "operator", "disabled": False},
    }
    text = json.dumps(rows)
    for secret in (proof, made["password"], PASSWORD, "not the password"):
        assert secret not in text


def test_proofs_are_kept_as_hashes_and_not_for_ever(services, admin, clock):
    secret = admin.prove().json()["proof"]
    clock.pass_s(PROOF_S + 1)
    admin.prove()
    with services.database.read() as session:
        rows = session.query(LoginProof).all()
    assert len(rows) == 1
    assert secret not in repr(vars(rows[0]))


def test_admins_who_remove_one_another_at_once_leave_one(database, clock):
    auth = Auth(database, clock, hasher=QUICK)
    users = Users(database, auth, clock)
    pair = ("ana", "ben")
    for number in range(12):
        for name in pair:
            auth.set_user(name, PASSWORD, "admin")
        both, ends = threading.Barrier(2), []

        def remove(by, other, *, way=number % 3, both=both, ends=ends):
            both.wait(60)
            try:
                principal = Principal(by, "admin")
                if way == 0:
                    users.delete(principal, other, myself=False)
                else:
                    change = {"role": "viewer", "disabled": None} if way == 1 else {}
                    change = change or {"role": None, "disabled": True}
                    users.change(principal, other, **change, myself=False)
                ends.append("done")
            except Conflict as error:
                ends.append(error.code)

        threads = [threading.Thread(target=remove, args=one) for one in (pair, pair[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(ends) == ["auth.last_admin", "done"]
        with database.read() as session:
            left = session.query(User).filter(User.role == "admin", User.disabled_at.is_(None))
            assert left.count() == 1
