"""Who has no password logs in again at the provider, which must really have asked."""

import pytest

from edgectl_server.proofs import HEADER, PROOF_S
from server.openid.conftest import CALLBACK, PASSWORD

CHIEF = {"preferred_username": "Ana", "groups": ["chiefs"]}


def prove(application, **body):
    csrf = {"X-CSRF-Token": application.me()["csrf"]}
    return application.browser.post("/api/v1/session/proof", json=body, headers=csrf)


def begin_again(application):
    asked = {"return_to": "/settings", "again": "true"}
    answer = application.browser.get("/api/v1/openid/login", params=asked)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def create(application, proof):
    headers = {"X-CSRF-Token": application.me()["csrf"], HEADER: proof}
    return application.browser.post("/api/v1/users", json={"name": "ben"}, headers=headers)


def test_a_login_again_at_a_real_provider_is_a_proof(make_application, real_provider):
    application = make_application(real_provider.issuer)
    real_provider.account("21", **CHIEF)
    there = real_provider.log_in(application.begin(), "21", CALLBACK)
    assert application.come_back(there) == "/fleet"
    assert prove(application).json()["code"] == "auth.again"
    for password in ("", "any", PASSWORD):
        assert prove(application, password=password).json()["code"] == "auth.sign_on"
    there = real_provider.log_in(begin_again(application), "21", CALLBACK)
    assert application.come_back(there) == "/settings"
    proof = prove(application)
    assert proof.status_code == 200, proof.text
    assert create(application, proof.json()["proof"]).status_code == 201


def test_it_counts_for_minutes_and_for_its_session(application, liar, clock):
    liar.claims = {"groups": ["chiefs"], "auth_time": int(clock().timestamp())}
    assert application.come_back(liar.answer_to(begin_again(application))) == "/settings"
    assert prove(application).status_code == 200
    clock.pass_s(PROOF_S + 1)
    assert prove(application).json()["code"] == "auth.again"
    liar.claims["auth_time"] = int(clock().timestamp())
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"
    assert prove(application).json()["code"] == "auth.again", "it was not made to ask"


@pytest.mark.parametrize("when", [None, "now", True, -90, 3600, 0.5, -(10**30)])
def test_a_provider_that_did_not_ask_proves_nothing(application, liar, clock, when):
    at = int(clock().timestamp())
    liar.claims = {
        "groups": ["chiefs"],
        "auth_time": at + when if type(when) in (int, float) else when,
    }
    liar.user_info = {"sub": "person-1", "auth_time": at}
    assert application.come_back(liar.answer_to(begin_again(application))) == "/?login=openid.again"
    assert application.me() is None


def test_user_info_does_not_say_when_it_asked(application, liar, clock):
    """It is not signed, and counts only where the ID token names no groups."""
    liar.claims = {"groups": None}
    liar.user_info = {
        "sub": "person-1",
        "groups": ["chiefs"],
        "auth_time": int(clock().timestamp()),
    }
    assert application.come_back(liar.answer_to(begin_again(application))) == "/?login=openid.again"


def test_who_is_disabled_does_not_come_back_by_the_provider(application, liar):
    application.auth.set_user("root", PASSWORD, "admin")
    root = application.auth.check_password("root", PASSWORD, "t")
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"
    name = application.me()["user"]
    application.users.change(root, name, role=None, disabled=True, myself=False)
    assert application.me() is None
    assert application.come_back(liar.answer_to(application.begin())) == "/?login=auth.disabled"
    assert application.me() is None


def test_roles_and_passwords_of_the_provider_s_people_are_not_ours(application, liar):
    application.auth.set_user("root", PASSWORD, "admin")
    root = application.auth.check_password("root", PASSWORD, "t")
    application.come_back(liar.answer_to(application.begin()))
    name = application.me()["user"]
    for change in (
        lambda: application.users.change(root, name, role="admin", disabled=None, myself=False),
        lambda: application.users.reset_password(root, name, myself=False),
    ):
        with pytest.raises(Exception, match="single sign-on") as caught:
            change()
        assert caught.value.code == "auth.sign_on"
