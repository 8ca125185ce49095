"""Who logs in by single sign-on changes users with a code of a browser in place of a password."""

import re

import pytest

from cli.answers import AT
from edgectl_server import schemas as s
from edgectl_server.openid.sign_on import s256

CODE = "c" * 32


@pytest.fixture
def by_sign_on(fleet_server):
    """The token's user is of the provider; the server gives a proof."""
    info = s.UserInfo(
        name="ben", role="viewer", by="password", created_at=AT, last_login_at=None, sessions=0,
        tokens=0, disabled_at=None,
    )  # fmt: skip
    me = s.Me(user="ana@sso", role="admin", scopes=["read", "tokens", "admin"])
    fleet_server.routes |= {
        ("GET", "/me"): (200, me),
        ("POST", "/session/proof"): (200, s.ProofGiven(proof="p" * 43, expires_at=AT)),
        ("POST", "/users"): (201, s.UserCreated(user=info, password="made here")),
        ("PATCH", "/users/ben"): (200, info),
        ("DELETE", "/users/ben"): (204, b""),
    }
    return fleet_server


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (("create", "ben"), ("POST", "/users")),
        (("disable", "ben"), ("PATCH", "/users/ben")),
        (("delete", "ben"), ("DELETE", "/users/ben")),
    ],
)
def test_a_code_is_asked_for_and_sent_with_what_only_this_command_knows(
    logged_in, by_sign_on, arguments, change
):
    got = logged_in("users", *arguments, stdin=f" {CODE}\n")
    assert got.code == 0, got.err
    page = re.search(r"http://\S+/handover\?challenge=([\w-]{43})&for=proof\n", got.err)
    assert page, got.err
    assert "log in again there as ana@sso" in got.err
    (asked,) = by_sign_on.requests("POST", "/session/proof")
    handover = asked.json()["handover"]
    assert handover["code"] == CODE
    assert s256(handover["verifier"]) == page[1]
    assert handover["verifier"] not in got.out + got.err
    (changed,) = by_sign_on.requests(*change)
    assert changed.headers["X-Edgectl-Proof"] == "p" * 43


@pytest.mark.parametrize("arguments", [("create", "ben"), ("password",)])
def test_there_is_no_password_to_read(logged_in, by_sign_on, arguments):
    got = logged_in("users", *arguments, "--password-stdin", stdin="a password\n")
    assert (got.code, got.out) == (1, "")
    assert "error[auth.sign_on]: ana@sso logs in by single sign-on" in got.err
    assert not by_sign_on.requests("POST")


def test_who_brings_no_code_changes_nothing(logged_in, by_sign_on):
    got = logged_in("users", "create", "ben", stdin="")
    assert got.code == 1
    assert not by_sign_on.requests("POST")
