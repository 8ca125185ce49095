"""A browser's login for a command line: what each half is worth alone, and what ends it."""

import json

import pytest

from edgectl_server.openid.sign_on import s256
from edgectl_server.storage.tables import User
from server.openid.conftest import PASSWORD

VERIFIER = "v" * 64
CHALLENGE = s256(VERIFIER)


@pytest.fixture
def application(make_application):
    """Without a provider: it works with any way of logging in."""
    made = make_application("")
    made.auth.set_user("ana", PASSWORD, "operator")
    return made


@pytest.fixture
def csrf(application):
    answer = application.browser.post(
        "/api/v1/session", json={"username": "ana", "password": PASSWORD}
    )
    return {"X-CSRF-Token": answer.json()["csrf"]}


def offer(application, csrf, challenge=CHALLENGE, **headers):
    return application.browser.post(
        "/api/v1/handover", json={"challenge": challenge}, headers={**csrf, **headers}
    )


def take(application, code, verifier=VERIFIER, **more):
    body = {"code": code, "verifier": verifier, "name": "laptop", **more}
    return application.another_browser().post("/api/v1/tokens:handover", json=body)


def test_a_command_line_gets_a_token_of_the_user(application, csrf):
    given = offer(application, csrf).json()
    assert given["expires_in_s"] == 300
    made = take(application, given["code"], expires_in_s=3600)
    assert made.status_code == 200
    assert made.json()["info"]["user"] == "ana"
    assert made.json()["info"]["role"] == "operator"
    assert made.json()["info"]["expires_at"] is not None
    token = {"Authorization": f"Bearer {made.json()['token']}"}
    assert application.another_browser().get("/api/v1/me", headers=token).status_code == 200


def refused(answer):
    assert answer.status_code == 401
    assert answer.json()["code"] == "auth.code"
    return True


def test_a_code_is_used_once(application, csrf):
    code = offer(application, csrf).json()["code"]
    assert take(application, code).status_code == 200
    assert refused(take(application, code))


def test_a_code_without_the_verifier_is_worth_nothing_and_is_used_up(application, csrf):
    code = offer(application, csrf).json()["code"]
    assert refused(take(application, code, verifier="w" * 64))
    assert refused(take(application, code))
    assert refused(take(application, "x" * 32))


def test_a_code_gets_old(application, csrf, clock):
    code = offer(application, csrf).json()["code"]
    clock.pass_s(301)
    assert refused(take(application, code))


@pytest.mark.parametrize("end", ["log out", "delete", "new password", "session over"])
def test_a_code_ends_with_the_session_that_gave_it(application, csrf, clock, end):
    clock.pass_s(12 * 3600 - 60)
    code = offer(application, csrf).json()["code"]
    if end == "log out":
        application.auth.start_session("ana")  # another browser's stays open
        application.browser.delete("/api/v1/session", headers=csrf)
    elif end == "delete":
        application.auth.delete_user("ana")
    elif end == "new password":
        application.auth.set_user("ana", "another password", "operator")
    else:
        clock.pass_s(61)
    assert refused(take(application, code))


def test_a_role_that_was_lowered_meanwhile_is_the_lower_one(application, csrf):
    code = offer(application, csrf).json()["code"]
    with application.database.write() as session:
        session.get_one(User, "ana").role = "viewer"
    assert take(application, code).json()["info"]["role"] == "viewer"


def test_a_foreign_page_cannot_have_a_code_made(application, csrf):
    assert offer(application, {}).status_code == 403
    assert offer(application, {"X-CSRF-Token": "x"}).status_code == 403


def test_a_token_cannot_make_another_one_by_this_way(application, csrf):
    """Else a token with an end would make one without."""
    code = offer(application, csrf).json()["code"]
    token = take(application, code, expires_in_s=60).json()["token"]
    stranger = application.another_browser()
    answer = stranger.post(
        "/api/v1/handover",
        json={"challenge": CHALLENGE},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 403
    assert answer.json()["code"] == "auth.session"


@pytest.mark.parametrize("challenge", ["", "x", CHALLENGE + "=", "é" * 43, CHALLENGE[:-1] + "\n"])
def test_a_challenge_that_is_none(application, csrf, challenge):
    assert offer(application, csrf, challenge).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"code": "", "verifier": VERIFIER},
        {"code": "x" * 129, "verifier": VERIFIER},
        {"code": "x", "verifier": "short"},
        {"code": "x", "verifier": "\udfff" * 43},
        {"code": "x", "verifier": VERIFIER, "role": "admin"},
    ],
)
def test_requests_for_a_token_that_are_none(application, body):
    answer = application.browser.post(
        "/api/v1/tokens:handover",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
