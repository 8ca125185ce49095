"""What a hostile provider, page or network tries: nobody is logged in, and the reason is named."""

import hmac
import json
import logging
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import OctKey, RSAKey

from server.openid.conftest import CALLBACK, OURS
from server.openid.openid_providers import CLIENT, SECRET, by_hand, elliptic_key

TOKEN = "/?login=openid.token"
STATE = "/?login=openid.state"
PROVIDER = "/?login=openid.provider"


def test_without_an_attack_it_works(application, liar):
    """Else the rest of this file would prove nothing."""
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"
    assert application.me()["role"] == "operator"
    (exchange,) = [form for path, _, form in liar.asked if path == "/token"]
    assert exchange["redirect_uri"] == CALLBACK
    assert len(exchange["code_verifier"]) >= 43


HOUR = 3600
FALSE_CLAIMS = {
    "another issuer": {"iss": "https://evil.example.org"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "another-program"},
    "another audience in a list": {"aud": ["another-program"]},
    "us and another audience": {"aud": [CLIENT, "another-program"]},
    "no audience": {"aud": None},
    "audience of a wrong type": {"aud": {CLIENT: 1}},
    "another authorised party": {"azp": "another-program"},
    "another nonce": {"nonce": "n" * 43},
    "no nonce": {"nonce": None},
    "nonce in a list": {"nonce": ["x"]},
    "half a character as nonce": {"nonce": "\ud800"},
    "no subject": {"sub": None},
    "empty subject": {"sub": ""},
    "subject of a wrong type": {"sub": 7},
    "subject too long": {"sub": "x" * 256},
    "no expiry": {"exp": None},
    "expiry of a wrong type": {"exp": "tomorrow"},
    "expiry that never comes": {"exp": float("nan")},
    "no time": {"iat": None},
}


@pytest.mark.parametrize("claims", FALSE_CLAIMS.values(), ids=FALSE_CLAIMS)
def test_false_claims(application, liar, claims):
    liar.claims = claims
    assert application.come_back(liar.answer_to(application.begin())) == TOKEN
    assert application.me() is None


@pytest.mark.parametrize(
    ("claims", "where"),
    [
        ({"exp": -61}, TOKEN),
        ({"exp": -59}, "/fleet"),
        ({"iat": 62}, TOKEN),
        ({"iat": 58}, "/fleet"),
        ({"iat": -662, "exp": HOUR}, TOKEN),
        ({"iat": -658, "exp": HOUR}, "/fleet"),
        ({"nbf": 62}, TOKEN),
    ],
)
def test_times_and_how_far_clocks_may_differ(application, liar, clock, claims, where):
    at = int(clock().timestamp())
    liar.claims = {name: at + offset for name, offset in claims.items()}
    assert application.come_back(liar.answer_to(application.begin())) == where


def unsigned(_header, claims):
    """``alg: none``."""
    return by_hand({"alg": "none", "kid": "one"}, json.dumps(claims), lambda _text: b"")


def of_the_public_key(liar):
    def sign(_header, claims):
        secret = liar.key.as_pem(private=False)
        header = {"alg": "HS256", "kid": "one"}
        return by_hand(header, json.dumps(claims), lambda text: hmac.digest(secret, text, "sha256"))

    return sign


def of_the_client_secret(_header, claims):
    key = OctKey.import_key(SECRET)
    return jwt.encode({"alg": "HS256", "kid": "one"}, claims, key, algorithms=["HS256"])


def of_another_key(header, claims):
    key = RSAKey.generate_key(2048, {"kid": "one"})
    return jwt.encode({"alg": "RS256", "kid": "one", **header}, claims, key, algorithms=["RS256"])


def changed_after(liar):
    def sign(header, claims):
        head, _, signature = liar.honestly(header, claims).split(".")
        other = liar.honestly(header, {**claims, "groups": ["chiefs"]}).split(".")[1]
        return f"{head}.{other}.{signature}"

    return sign


def with_own_key(_header, claims):
    """The key that the token brings along, and an address where to look."""
    key = RSAKey.generate_key(2048, {"kid": "one"})
    header = {
        "alg": "RS256",
        "kid": "one",
        "jwk": key.as_dict(private=False),
        "jku": "http://127.0.0.1:1/keys",
    }
    return jwt.encode(header, claims, key, algorithms=["RS256"])


@pytest.mark.parametrize(
    "sign",
    [
        lambda _liar: unsigned,
        of_the_public_key,
        lambda _liar: of_the_client_secret,
        lambda _liar: of_another_key,
        changed_after,
        lambda _liar: with_own_key,
        lambda liar: lambda header, claims: liar.honestly({"crit": ["x"], "x": 1}, claims),
        lambda liar: lambda header, claims: liar.honestly({"kid": "unknown"}, claims),
        lambda _liar: lambda header, claims: "a.b.c",
        lambda _liar: lambda header, claims: "",
        lambda _liar: lambda header, claims: "é.é.é",
        lambda _liar: lambda header, claims: "x" * 200_000,
    ],
    ids=[
        "none",
        "HS256 with the public key",
        "HS256 with the client secret",
        "a key that is not published",
        "changed after signing",
        "a key in the header",
        "a critical header that nobody knows",
        "an unknown key id",
        "no token",
        "empty",
        "no ASCII",
        "too long",
    ],
)
def test_false_signatures(application, liar, sign):
    liar.sign = sign(liar)
    assert application.come_back(liar.answer_to(application.begin())) == TOKEN
    assert application.me() is None


def test_keys_of_no_use_are_left_out_and_new_ones_found(application, liar):
    with pytest.warns(SecurityWarning):
        weak = RSAKey.generate_key(1024, {"kid": "weak"})
    secret = OctKey.import_key("x" * 32, {"kid": "secret"})
    liar.published = [weak, secret, liar.key]
    liar.sign = lambda header, claims: jwt.encode(
        {"alg": "RS256", "kid": "weak"}, claims, weak, algorithms=["RS256"]
    )
    assert application.come_back(liar.answer_to(application.begin())) == TOKEN
    liar.sign = lambda header, claims: jwt.encode(
        {"alg": "HS256", "kid": "secret"}, claims, secret, algorithms=["HS256"]
    )
    assert application.come_back(liar.answer_to(application.begin())) == TOKEN
    liar.sign = liar.honestly
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"


def test_a_rotation_to_another_kind_of_key(application, liar):
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"
    fresh = elliptic_key("two")
    liar.published = [fresh]
    liar.sign = lambda header, claims: jwt.encode(
        {"alg": "ES256", "kid": "two"}, claims, fresh, algorithms=["ES256"]
    )
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"
    looked = [path for path, *_ in liar.asked].count("/jwks")
    assert looked == 2
    liar.sign = lambda header, claims: liar.honestly({"kid": "three"}, claims)
    for _ in range(3):  # unknown keys do not make us ask again and again
        assert application.come_back(liar.answer_to(application.begin())) == TOKEN
    assert [path for path, *_ in liar.asked].count("/jwks") == looked


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"iss": "https://evil.example.org"}, "/?login=openid.issuer"),
        ({"iss": ""}, "/?login=openid.issuer"),
        ({"iss": None}, "/?login=openid.issuer"),
        ({"state": "s" * 43}, STATE),
        ({"state": ""}, STATE),
        ({"state": None}, STATE),
        ({"code": None}, "/?login=openid.code"),
        ({"code": ""}, "/?login=openid.code"),
        ({"code": "x" * 5000}, "/?login=openid.code"),
        ({"error": "access_denied"}, "/?login=openid.denied"),
        ({"error": "<script>", "error_description": "x"}, "/?login=openid.denied"),
        ({"session_state": "of Keycloak", "scope": "openid"}, "/fleet"),
    ],
)
def test_answers_by_the_browser(application, liar, more, where):
    liar.metadata = {"authorization_response_iss_parameter_supported": True}
    assert application.come_back(liar.answer_to(application.begin(), **more)) == where
    assert (application.me() is None) == (where != "/fleet")


@pytest.mark.parametrize("doubled", ["code=other", "state=other", "iss=https://evil.example.org"])
def test_a_parameter_that_comes_twice(application, liar, doubled):
    liar.metadata = {"authorization_response_iss_parameter_supported": True}
    back = liar.answer_to(application.begin())
    assert application.come_back(f"{back}&{doubled}") != "/fleet"
    assert application.me() is None


def test_an_answer_in_another_browser_logs_nobody_in(application, liar):
    """Login CSRF: the attacker's own answer, brought to the victim's browser, and a stolen one."""
    attackers = liar.answer_to(application.begin())
    victim = application.another_browser()
    assert application.come_back(attackers, victim) == STATE
    assert application.me(victim) is None
    assert application.come_back(attackers) == STATE  # and it is used up

    mine = liar.answer_to(application.begin())
    application.begin(browser=victim)  # the victim has begun a login too
    assert application.come_back(mine, victim) == STATE
    assert application.me(victim) is None


def test_a_login_that_takes_too_long(application, liar, clock):
    back = liar.answer_to(application.begin())
    clock.pass_s(601)
    assert application.come_back(back) == STATE


def test_the_session_is_a_new_one_and_the_former_ends(application, liar):
    """Session fixation: what the browser brought along is not used, and not left behind."""
    application.browser.cookies.set("edgectl_session", "f" * 43)
    application.come_back(liar.answer_to(application.begin()))
    first = application.browser.cookies.get("edgectl_session", domain="127.0.0.1")
    assert application.auth.principal_of_session("f" * 43, csrf=None) is None
    application.browser.cookies.clear()
    application.browser.cookies.set("edgectl_session", first)
    application.come_back(liar.answer_to(application.begin()))
    assert application.auth.principal_of_session(first, csrf=None) is None


def test_cookies_cannot_be_read_by_scripts_or_sent_in_the_open(application, liar):
    begun = application.browser.get("/api/v1/openid/login")
    done = application.browser.get(liar.answer_to(begun.headers["location"]))
    cookies = [*begun.headers.get_list("set-cookie"), *done.headers.get_list("set-cookie")]
    assert {one.split("=")[0] for one in cookies} == {"edgectl_openid", "edgectl_session"}
    for cookie in cookies:
        assert "samesite=" in cookie.lower()
    for cookie in (cookies[0], next(one for one in cookies if "edgectl_session" in one)):
        assert "httponly" in cookie.lower()


def test_over_https_the_cookies_are_bound_to_this_host(make_application, liar):
    application = make_application(liar.issuer, public_url="https://edge.example.org")
    application.browser.base_url = "https://edge.example.org"
    begun = application.browser.get("/api/v1/openid/login")
    (cookie,) = begun.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-edgectl_openid=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie
    asked = parse_qs(urlsplit(begun.headers["location"]).query)
    assert asked["redirect_uri"] == ["https://edge.example.org/api/v1/openid/callback"]


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.example.org", "192.0.2.1"])
def test_the_host_header_does_not_say_where_the_provider_sends_people(application, host):
    answer = application.browser.get("/api/v1/openid/login", headers={"Host": host})
    assert answer.headers["location"] == "/?login=openid.address"


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example.org",
        "//evil.example.org",
        "/\\evil.example.org",
        "\\\\evil.example.org",
        "/\t/evil.example.org",
        "/%0d%0aLocation: https://evil.example.org",
        "\u2028/x",
        "/\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "fleet",
        "",
        "/" + "x" * 600,
        "/fleet#<script>",
    ],
)
def test_nobody_is_sent_elsewhere_afterwards(application, liar, elsewhere):
    answer = application.browser.get("/api/v1/openid/login", params={"return_to": elsewhere})
    assert answer.status_code == 422
    assert "location" not in answer.headers


@pytest.mark.parametrize("place", ["/", "/fleet/cam-1", "/handover?challenge=a-b_c", "/models/a@1"])
def test_places_of_ours_to_come_back_to(application, liar, place):
    assert application.come_back(liar.answer_to(application.begin(place))) == place


def test_user_info_of_somebody_else_gives_no_role(application, liar):
    liar.claims = {"groups": None}
    liar.user_info = {"sub": "person-2", "groups": ["chiefs"]}
    assert application.come_back(liar.answer_to(application.begin())) == TOKEN
    liar.user_info = {"groups": ["chiefs"]}
    assert application.come_back(liar.answer_to(application.begin())) == TOKEN
    liar.user_info = {"sub": "person-1", "groups": ["chiefs"], "iss": "x"}
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"
    assert application.me()["role"] == "admin"


@pytest.mark.parametrize(
    "groups",
    [None, [], "", "op", ["OPS"], [["ops"]], {"ops": "ops"}, 7, [None], ["ops "], ["ops;chiefs"]],
)
def test_claims_that_give_no_role(application, liar, groups):
    liar.claims = {"groups": groups}
    liar.user_info = {"sub": "person-1"}
    assert application.come_back(liar.answer_to(application.begin())) == "/?login=openid.role"
    assert application.me() is None


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example.org"},
        {"issuer": None},
        {"token_endpoint": "http://evil.example.org/token"},
        {"token_endpoint": "file:///etc/passwd"},
        {"jwks_uri": "http://user:password@127.0.0.1/"},
        {"userinfo_endpoint": "ftp://127.0.0.1/"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"end_session_endpoint": "//evil.example.org"},
        {"id_token_signing_alg_values_supported": ["none", "HS256"]},
        {"token_endpoint": 7},
    ],
)
def test_a_discovery_that_is_not_believed(application, liar, metadata):
    liar.metadata = metadata
    answer = application.browser.get("/api/v1/openid/login")
    assert answer.headers["location"] == PROVIDER
    assert application.browser.get("/api/v1/openid").json()["available"] is False


def head(handler, status=200, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


MUCH = 32 * 1024**2


def endless(handler):
    head(handler)
    handler.close_connection = True
    sent = 0
    try:
        while sent < MUCH:
            sent += handler.wfile.write(b"[" * 65536)
    except OSError:
        return
    handler.server.taken = sent  # nobody has hung up


def a_redirect(handler):
    head(handler, 302, Location=f"http://{handler.headers['Host']}/elsewhere")


BAD_ANSWERS = {
    "endless": endless,
    "a redirect": a_redirect,
    "an error": lambda handler: head(handler, 500),
    "not found": lambda handler: head(handler, 404),
    "nothing": lambda handler: handler.connection.close(),
    "no JSON": lambda handler: (head(handler), handler.wfile.write(b"<html>")),
    "deep": lambda handler: (head(handler), handler.wfile.write(b"[" * 100_000)),
    "compressed": lambda handler: (
        head(handler, Content_Encoding="gzip"),
        handler.wfile.write(b"\x1f\x8b"),
    ),
    "another type": lambda handler: (head(handler), handler.wfile.write(b'"text"')),
}


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks", "/token", "/me"])
@pytest.mark.parametrize("bad", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answers_of_the_provider(application, liar, path, bad):
    liar.raw[path] = bad
    liar.claims = {"groups": None}  # or it is not asked for user info
    begun = application.browser.get("/api/v1/openid/login").headers["location"]
    if path.startswith("/.well-known"):
        assert begun == PROVIDER
    else:
        assert application.come_back(liar.answer_to(begun)) == PROVIDER
    assert application.me() is None
    assert "/elsewhere" not in [path for path, *_ in liar.asked]
    assert liar.taken == 0


def test_a_failure_is_remembered_for_a_moment(application, liar):
    liar.raw["/.well-known/openid-configuration"] = BAD_ANSWERS["an error"]
    for _ in range(5):
        assert application.browser.get("/api/v1/openid").json()["available"] is False
    assert len(liar.asked) == 1


def test_a_slow_provider_takes_neither_the_threads_nor_for_ever(application, liar, monkeypatch):
    monkeypatch.setattr("edgectl_server.openid.provider._ANSWER_S_MAX", 0.3)
    gone = threading.Event()

    def slow(handler):
        head(handler)
        try:
            while not gone.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            handler.close_connection = True

    liar.raw["/.well-known/openid-configuration"] = slow
    began = time.monotonic()
    answers = []

    def ask():
        answers.append(application.browser.get("/api/v1/openid").json()["available"])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gone.set()
    assert answers == [False] * 20
    assert len(liar.asked) <= 8
    assert time.monotonic() - began < 5


def test_the_client_is_known_by_its_secret_and_the_secret_is_in_no_log(application, liar, caplog):
    caplog.set_level(logging.DEBUG)
    liar.raw["/token"] = lambda handler: (
        head(handler, 401),
        handler.wfile.write(b'{"error": "invalid_client", "error_description": "x"}'),
    )
    back = liar.answer_to(application.begin())
    assert application.come_back(back) == "/?login=openid.code"
    (asked,) = [(headers, form) for path, headers, form in liar.asked if path == "/token"]
    assert asked[0]["Authorization"].startswith("Basic ")
    assert "client_secret" not in asked[1]
    said = [record.getMessage() for record in caplog.records]
    text = "\n".join(line for line in said if OURS not in line)  # not what the browser logs
    assert "invalid_client" in text
    state = parse_qs(urlsplit(back).query)["state"][0]
    for secret in (SECRET, "a-code", state, asked[1]["code_verifier"]):
        assert secret not in text


def test_a_client_secret_in_the_form_where_the_provider_wants_it(application, liar):
    liar.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert application.come_back(liar.answer_to(application.begin())) == "/fleet"
    (form,) = [form for path, _, form in liar.asked if path == "/token"]
    assert form["client_secret"] == SECRET


def test_many_logins_begun_from_one_address_push_out_its_own_alone(application, liar):
    victim = application.another_browser()
    kept = application.sign_on.begin(CALLBACK, "/fleet", "192.0.2.7")
    for _ in range(200):
        application.sign_on.begin(CALLBACK, "/", "192.0.2.66")
    assert len(application.sign_on._pending._entries) == 65
    victim.cookies.set("edgectl_openid", kept.cookie)
    assert application.come_back(liar.answer_to(kept.address), victim) == "/fleet"
