"""Logins with a real provider, driven by HTTP; and what follows from them."""

import re
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from server.openid.conftest import CALLBACK, OURS, PASSWORD


@pytest.fixture
def application(make_application, real_provider):
    return make_application(real_provider.issuer)


@pytest.fixture
def log_in(application, real_provider):
    """``log_in(login, browser=None)``: the whole way; returns where our server sends us."""

    def do(login, browser=None, account=None):
        if account is not None:
            real_provider.account(login, **account)
        address = application.begin(browser=browser)
        return application.come_back(real_provider.log_in(address, login, CALLBACK), browser)

    return do


def test_a_person_logs_in_and_the_session_is_an_ordinary_one(application, real_provider, log_in):
    real_provider.account("17", preferred_username="Ana", groups=["staff", "ops"])
    assert log_in("17") == "/fleet"
    me = application.me()
    assert (me["user"], me["role"]) == ("ana@sso", "operator")
    assert application.browser.delete("/api/v1/session").status_code == 403  # without CSRF token
    csrf = {"X-CSRF-Token": me["csrf"]}
    assert application.browser.delete("/api/v1/session", headers=csrf).status_code == 204
    assert application.me() is None


def test_what_is_asked_of_the_provider(application):
    asked = {k: v[0] for k, v in parse_qs(urlsplit(application.begin()).query).items()}
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert re.fullmatch(r"[\w-]{43}", asked["code_challenge"])
    assert asked["redirect_uri"] == CALLBACK
    again = {k: v[0] for k, v in parse_qs(urlsplit(application.begin()).query).items()}
    for secret in ("state", "nonce", "code_challenge"):
        assert len(asked[secret]) >= 43
        assert asked[secret] != again[secret]


def test_a_local_user_of_the_same_name_is_another_person(application, real_provider, log_in):
    application.auth.set_user("admin", PASSWORD, "admin")
    real_provider.account("evil", preferred_username="admin", groups=["ops"])
    real_provider.account("evil2", preferred_username="admin@sso", groups=["ops"])
    real_provider.account("evil3", preferred_username="../\u202eadmin\0", groups=["ops"])
    names = []
    for login in ("evil", "evil2", "evil3", "evil"):
        browser = application.another_browser()
        assert log_in(login, browser) == "/fleet"
        names.append(application.me(browser)["user"])
        assert application.me(browser)["role"] == "operator"
    assert names == ["admin@sso", "admin~2@sso", "admin~3@sso", "admin@sso"]
    assert application.auth.check_password("admin", PASSWORD, "t").role == "admin"
    for name in names:  # and none of them has a password
        for password in ("", "any", PASSWORD):
            answer = application.browser.post(
                "/api/v1/session", json={"username": name, "password": password}
            )
            assert answer.status_code == 401


def test_the_role_is_what_the_provider_says_at_each_login(application, real_provider, log_in):
    for groups, role in (
        (["chiefs", "ops"], "admin"),
        (["cn=watch,ou=groups"], "viewer"),
        (["ops"], "operator"),
    ):
        real_provider.account("18", preferred_username="ben", groups=groups)
        assert log_in("18") == "/fleet"
        assert application.me()["role"] == role


def test_who_has_no_role_any_more_loses_what_they_had(application, real_provider, log_in):
    real_provider.account("19", preferred_username="cleo", groups=["chiefs"])
    log_in("19")
    csrf = {"X-CSRF-Token": application.me()["csrf"]}
    made = application.browser.post(
        "/api/v1/tokens", json={"name": "t", "role": "admin"}, headers=csrf
    )
    token = {"Authorization": f"Bearer {made.json()['token']}"}
    elsewhere = application.another_browser()
    assert elsewhere.get("/api/v1/me", headers=token).status_code == 200

    real_provider.account("19", preferred_username="cleo", groups=["staff"])
    assert log_in("19", elsewhere) == "/?login=openid.role"
    assert application.me(elsewhere) is None
    assert application.me() is None
    assert elsewhere.get("/api/v1/me", headers=token).status_code == 401


@pytest.mark.parametrize(
    ("changed", "role"),
    [
        ({"oidc_roles": "ops=viewer"}, "viewer"),
        ({"oidc_roles": "others=admin", "oidc_default_role": "viewer"}, "viewer"),
        ({"oidc_roles": "others=admin"}, None),
        ({"issuer": "https://other.example.org"}, None),
        ({"issuer": ""}, None),
    ],
)
def test_a_mapping_that_is_changed_counts_from_the_next_start(
    application, make_application, log_in, changed, role
):
    log_in("20", account={"preferred_username": "dan", "groups": ["ops"]})
    assert application.me()["role"] == "operator"
    after = make_application(**{"issuer": application.settings.oidc_issuer, **changed})
    after.browser.cookies = application.browser.cookies
    me = after.me()
    assert (me and me["role"]) == role


def test_a_code_is_not_taken_twice(application, real_provider, log_in):
    real_provider.account("21", preferred_username="eva", groups=["ops"])
    back = real_provider.log_in(application.begin(), "21", CALLBACK)
    assert application.come_back(back) == "/fleet"
    kept = dict(application.browser.cookies)
    assert application.come_back(back) == "/?login=openid.state"
    assert application.browser.cookies["edgectl_session"] == kept["edgectl_session"]

    # The same code with a login that was begun: the provider, too, takes it once.
    elsewhere = application.another_browser()
    state = parse_qs(urlsplit(application.begin(browser=elsewhere)).query)["state"][0]
    old = parse_qs(urlsplit(back).query)["state"][0]
    assert application.come_back(back.replace(old, state), elsewhere) == "/?login=openid.code"
    assert application.me(elsewhere) is None


def test_a_code_of_another_login_does_not_fit(application, real_provider):
    """Injection of a stolen code: the verifier is the attacker's own, the code the victim's."""
    real_provider.account("22", preferred_username="fay", groups=["chiefs"])
    stolen = real_provider.log_in(application.begin(), "22", CALLBACK)
    attacker = application.another_browser()
    state = parse_qs(urlsplit(application.begin(browser=attacker)).query)["state"][0]
    old = parse_qs(urlsplit(stolen).query)["state"][0]
    assert application.come_back(stolen.replace(old, state), attacker) == "/?login=openid.code"
    assert application.me(attacker) is None


def test_keys_that_are_rotated_are_found(application, real_provider, log_in):
    real_provider.account("23", preferred_username="gil", groups=["ops"])
    assert log_in("23") == "/fleet"
    first = {key.kid for key in application.sign_on._provider.keys(fresh=False)}
    real_provider.stop()
    real_provider.start()  # with new keys, on the same port
    assert log_in("23") == "/fleet"
    assert first.isdisjoint(key.kid for key in application.sign_on._provider.keys(fresh=False))


def test_without_the_provider_the_button_says_so_and_passwords_work(
    application, make_application, real_provider
):
    info = application.browser.get("/api/v1/openid").json()
    assert info["enabled"]
    assert info["available"]
    real_provider.stop()
    try:
        down = make_application(real_provider.issuer)  # the server starts
        info = down.browser.get("/api/v1/openid").json()
        assert (info["enabled"], info["available"]) == (True, False)
        answer = down.browser.get("/api/v1/openid/login")
        assert answer.headers["location"] == "/?login=openid.provider"
        down.auth.set_user("ana", PASSWORD, "viewer")
        login = {"username": "ana", "password": PASSWORD}
        assert down.browser.post("/api/v1/session", json=login).status_code == 200
    finally:
        real_provider.start()


def test_logging_out_at_the_provider_is_offered(application, real_provider):
    address = application.browser.get("/api/v1/openid").json()["logout_url"]
    assert address.startswith(f"{real_provider.issuer}/session/end?")
    assert parse_qs(urlsplit(address).query)["post_logout_redirect_uri"] == [f"{OURS}/"]
    page = httpx2.get(address, trust_env=False)
    assert page.status_code == 200  # it knows the client and the way back
    assert f"{real_provider.issuer}/session/end/confirm" in page.text
