"""Logging in and out: where the token is kept, and to whom it goes."""

import json
import os
import stat

import pytest

from cli.fake_server import PASSWORD, TOKEN


def config_of(home):
    return home / "edgectl" / "config.json"


def test_login_keeps_the_token_for_the_owner_only(edgectl, fleet_server, home):
    old = os.umask(0)
    try:
        got = edgectl(
            *("login", fleet_server.url + "/", "--username", "ana", "--password-stdin"),
            stdin=PASSWORD + "\n",
        )
    finally:
        os.umask(old)
    assert got.code == 0, got.err
    assert got.out == f"logged in to {fleet_server.url} as ana (operator)\n"
    assert stat.S_IMODE(config_of(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(config_of(home).parent.stat().st_mode) == 0o700
    assert list(config_of(home).parent.iterdir()) == [config_of(home)]
    assert TOKEN in config_of(home).read_text()
    assert PASSWORD not in config_of(home).read_text() + got.out + got.err
    assert TOKEN not in got.out + got.err
    assert edgectl("models", "list").code == 0


def test_login_by_token(edgectl, fleet_server):
    got = edgectl("login", fleet_server.url, "--token-stdin", "--json", stdin=TOKEN + "\n")
    assert json.loads(got.out) == {"url": fleet_server.url, "user": "ana", "role": "operator"}
    assert edgectl("devices", "list").code == 0


@pytest.mark.parametrize("flag", ["--password-stdin", "--token-stdin"])
@pytest.mark.parametrize("secret", ["a secret of mine", "unguessed", ""])
def test_login_with_a_wrong_secret_stores_and_shows_nothing(
    edgectl, fleet_server, home, flag, secret
):
    user = ["--username", "ana"] if flag == "--password-stdin" else []
    got = edgectl("login", fleet_server.url, *user, flag, stdin=secret + "\n")
    assert (got.code, got.out) == (1, "")
    assert got.err.startswith("error[auth.")
    assert not secret or secret not in got.err
    assert not config_of(home).exists()


def test_token_goes_only_to_the_server_that_gave_it(edgectl, fleet_server, monkeypatch):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    fleet_server.seen.clear()
    other = f"http://localhost:{fleet_server.port}"
    got = edgectl("--url", other, "models", "list")
    assert got.code == 1
    assert "error[auth.missing]" in got.err
    assert fleet_server.seen == []


def test_redirects_are_not_followed_with_a_token(logged_in, fleet_server):
    fleet_server.routes["GET", "/models"] = (302, b"")
    got = logged_in("models", "list")
    assert got.code == 1
    assert "error[http.302]: the server redirects to http://127.0.0.1:1/elsewhere" in got.err


def test_logout_revokes_and_forgets(edgectl, fleet_server, home):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    got = edgectl("logout", "--json")
    assert json.loads(got.out) == {"url": fleet_server.url, "logged_out": True, "revoked": True}
    assert len(fleet_server.requests("DELETE", "/tokens/0123456789abcdef")) == 1
    assert TOKEN not in config_of(home).read_text()
    assert edgectl("models", "list").code == 1


def test_logout_forgets_even_without_the_server(edgectl, fleet_server, home):
    edgectl("login", fleet_server.url, "--token-stdin", stdin=TOKEN + "\n")
    fleet_server.kill()
    got = edgectl("logout")
    assert got.code == 0
    assert got.err.startswith("warning: the server still knows the token")
    assert TOKEN not in config_of(home).read_text()


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b'{"current": 1}', b'{"unknown": 1}', b" " * 2_000_000]
)
def test_damaged_configuration_is_named(edgectl, home, content):
    config_of(home).parent.mkdir(parents=True)
    config_of(home).write_bytes(content)
    got = edgectl("models", "list")
    assert got.code == 1
    assert got.err.startswith(f"error[config.file]: {config_of(home)}")
    assert "\ntry: " in got.err


@pytest.mark.parametrize("token", ["with space", "nicht-ä", "new\nline"])
def test_token_that_cannot_be_a_header_is_refused(logged_in, monkeypatch, token):
    monkeypatch.setenv("EDGECTL_TOKEN", token)
    got = logged_in("models", "list")
    assert got.code == 1
    assert got.err.startswith("error[auth.token]")
    assert token not in got.err
