"""The settings of single sign-on, and the mapping of claims to roles."""

import pytest

from edgectl_server.errors import ServerError
from edgectl_server.openid.roles import claim_values, parse_roles, role_of


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("", {}),
        ("a=admin", {"a": "admin"}),
        (" a b = viewer ;; c=operator; ", {"a b": "viewer", "c": "operator"}),
        ("cn=ops,ou=x=operator", {"cn=ops,ou=x": "operator"}),
    ],
)
def test_mappings(text, mapping):
    assert parse_roles(text) == mapping


@pytest.mark.parametrize(
    "text", ["a", "a=", "=admin", "a=root", "a=admin, b=viewer", "a=admin;a=viewer"]
)
def test_mappings_that_are_none(text):
    with pytest.raises(ServerError) as caught:
        parse_roles(text)
    assert caught.value.code == "settings.invalid"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("claims", "name", "values"),
    [
        ({"groups": ["a", "b"]}, "groups", ["a", "b"]),
        ({"groups": "a"}, "groups", ["a"]),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ["a"]),
        ({"https://example.org/roles": ["a"]}, "https://example.org/roles", ["a"]),
        ({"realm_access": "a"}, "realm_access.roles", []),
        ({"groups": ["a", 1, None, ["b"]]}, "groups", ["a"]),
        ({"groups": {"a": 1}}, "groups", []),
        ({}, "groups", []),
    ],
)
def test_values_of_claims(claims, name, values):
    assert claim_values(claims, name) == values


def test_the_highest_role_counts_and_the_default_only_without_one():
    mapping = parse_roles("a=viewer; b=admin; c=operator")
    assert role_of(["a", "b", "c"], mapping, "operator") == "admin"
    assert role_of(["a"], mapping, "operator") == "viewer"
    assert role_of(["x"], mapping, "operator") == "operator"
    assert role_of(["x"], mapping, "") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_issuer": "http://login.example.org"},
        {"oidc_issuer": "https://user@login.example.org"},
        {"oidc_issuer": "https://login.example.org/?x=1"},
        {"oidc_issuer": "login.example.org"},
        {"oidc_client_id": ""},
        {"oidc_scopes": "profile"},
        {"oidc_roles": "", "oidc_default_role": ""},
        {"oidc_roles": "a=root"},
        {"public_url": "http://edge.example.org"},
        {"listen_host": "0.0.0.0"},
        {"oidc_client_secret_file": "/nowhere/secret"},
    ],
)
def test_settings_that_cannot_work_stop_the_start(make_application, wrong):
    issuer = wrong.pop("oidc_issuer", "https://login.example.org")
    with pytest.raises(ServerError) as caught:
        make_application(issuer, **wrong)
    assert caught.value.code in {"settings.invalid", "openid.secret"}
    assert caught.value.hint


def test_without_single_sign_on_there_is_none(make_application):
    application = make_application("")
    assert application.browser.get("/api/v1/openid").json() == {
        "enabled": False,
        "name": "",
        "available": False,
        "logout_url": "",
    }
    for path in ("login", "callback?code=x&state=y"):
        answer = application.browser.get(f"/api/v1/openid/{path}")
        assert answer.status_code == 404
        assert answer.json()["code"] == "openid.off"
