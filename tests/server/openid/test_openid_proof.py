"""An admin of the provider changes users with a command line, by a code of a browser."""

import pytest

from edgectl_server.auth import Principal
from edgectl_server.openid.sign_on import s256
from edgectl_server.proofs import HEADER, PROOF_S
from server.openid.conftest import CALLBACK, PASSWORD
from server.openid.test_openid_again import CHIEF, begin_again
from server.openid.test_openid_audit import rows

VERIFIER = "v" * 64
LOGIN, PROOF = "login", "proof"


def token_of(application, user):
    """What `edgectl login` has left on a machine."""
    issued = application.auth.create_token(Principal(user, "admin"), "cli", "admin", None)
    return {"Authorization": f"Bearer {issued.text}"}


def offer(application, purpose=PROOF, browser=None):
    browser = browser or application.browser
    csrf = browser.get("/api/v1/me").json()["csrf"]
    body = {"challenge": s256(VERIFIER), "purpose": purpose}
    return browser.post("/api/v1/handover", json=body, headers={"X-CSRF-Token": csrf})


def prove(application, token, code, verifier=VERIFIER):
    body = {"handover": {"code": code, "verifier": verifier}}
    return application.another_browser().post("/api/v1/session/proof", json=body, headers=token)


def create(application, token, proof, name="ben"):
    headers = {**token, HEADER: proof}
    body = {"name": name, "role": "admin"}
    return application.another_browser().post("/api/v1/users", json=body, headers=headers)


def refused(answer, code="auth.code"):
    assert answer.status_code == 403, answer.text
    assert answer.json()["code"] == code
    return True


@pytest.fixture
def chief(application, liar, clock):
    """Ana of the provider, who was just asked, in a browser; the token of her command line."""
    liar.claims = {**CHIEF, "auth_time": int(clock().timestamp())}
    assert application.come_back(liar.answer_to(begin_again(application))) == "/settings"
    return token_of(application, application.me()["user"])


def test_a_command_line_of_a_real_provider_s_admin(make_application, real_provider):
    application = make_application(real_provider.issuer)
    real_provider.account("31", **CHIEF)
    there = real_provider.log_in(application.begin(), "31", CALLBACK)
    assert application.come_back(there) == "/fleet"
    token = token_of(application, application.me()["user"])
    assert refused(offer(application), "auth.again"), "the provider has not been made to ask"
    there = real_provider.log_in(begin_again(application), "31", CALLBACK)
    assert application.come_back(there) == "/settings"
    code = offer(application).json()["code"]
    proof = prove(application, token, code)
    assert proof.status_code == 200, proof.text
    assert create(application, token, proof.json()["proof"]).status_code == 201


def test_each_half_alone_is_worth_nothing(application, chief):
    code = offer(application).json()["code"]
    assert refused(prove(application, chief, code, verifier="w" * 64))
    assert refused(prove(application, chief, code)), "it was used up"
    assert refused(prove(application, chief, "x" * 32))
    code = offer(application).json()["code"]
    proof = prove(application, chief, code).json()["proof"]
    assert refused(prove(application, chief, code)), "it is used once"
    another = token_of(application, application.me()["user"])
    assert refused(create(application, another, proof), "auth.proof"), "it is of one token"
    assert create(application, chief, proof).status_code == 201


def test_a_code_for_a_login_proves_nothing_and_one_for_a_proof_logs_nobody_in(application, chief):
    assert refused(prove(application, chief, offer(application, LOGIN).json()["code"]))
    body = {"code": offer(application).json()["code"], "verifier": VERIFIER, "name": "laptop"}
    answer = application.another_browser().post("/api/v1/tokens:handover", json=body)
    assert (answer.status_code, answer.json()["code"]) == (401, "auth.code")


def test_it_is_of_the_token_s_user(application, chief):
    """Two admins: the code of one is no proof that the other is there."""
    application.auth.set_user("root", PASSWORD, "admin")
    assert refused(
        prove(application, token_of(application, "root"), offer(application).json()["code"])
    )


def test_nobody_is_proved_by_a_token_or_a_password_s_session(application, chief):
    """A stolen token makes no code for itself; who has a password gives that."""
    body = {"challenge": s256(VERIFIER), "purpose": PROOF}
    answer = application.another_browser().post("/api/v1/handover", json=body, headers=chief)
    assert refused(answer, "auth.again")
    application.auth.set_user("root", PASSWORD, "admin")
    browser = application.another_browser()
    browser.post("/api/v1/session", json={"username": "root", "password": PASSWORD})
    assert refused(offer(application, browser=browser), "auth.again")


@pytest.mark.parametrize("end", ["minutes", "log out", "disabled"])
def test_a_code_ends_with_what_it_stands_for(application, chief, clock, end):
    clock.pass_s(PROOF_S - 1)
    code = offer(application).json()["code"]
    if end == "minutes":
        clock.pass_s(2)
    elif end == "log out":
        csrf = {"X-CSRF-Token": application.me()["csrf"]}
        application.browser.delete("/api/v1/session", headers=csrf)
    else:
        name = application.me()["user"]
        application.auth.set_user("root", PASSWORD, "admin")
        root = application.auth.check_password("root", PASSWORD, "t")
        application.users.change(root, name, role=None, disabled=True, myself=False)
        application.users.change(root, name, role=None, disabled=False, myself=False)
    assert refused(prove(application, chief, code))


@pytest.mark.parametrize(
    "handover",
    [
        {},
        {"code": "x"},
        {"code": "", "verifier": VERIFIER},
        {"code": "x", "verifier": "short"},
        "x",
    ],
)
def test_what_is_no_code(application, chief, handover):
    answer = application.another_browser().post(
        "/api/v1/session/proof", json={"handover": handover}, headers=chief
    )
    assert answer.status_code == 422


def test_it_is_in_the_audit_log(application, chief):
    prove(application, chief, offer(application).json()["code"])
    act = next(row for row in rows(application) if row[0] == "prove")
    assert act[1:4] == ("ana@sso", "ana@sso", "done")
    assert act[4]["by"] == "browser"
