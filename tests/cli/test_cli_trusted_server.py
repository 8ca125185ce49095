"""Servers that this machine does not know: believed by a fingerprint or a file, and no others."""

import json
import ssl
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.test_cli_terminal import Terminal
from e2e.fleet import Server
from edgectl.authorities import fingerprint_of_authority
from edgectl.errors import LocalError
from edgectl_protocol.enrolment import format_fingerprint

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tls") / "server", settings={"tls": "own"})
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def other_server(tmp_path_factory):
    """One of somebody else, who says the same things."""
    server = Server(tmp_path_factory.mktemp("other") / "server", settings={"tls": "own"})
    server.start()
    yield server
    server.stop()


def authority_of(server):
    return server.data / "pki" / "authority.pem"


def password_of(server):
    return (server.data / "admin-password").read_text()


def fingerprint_of(server) -> str:
    command = [sys.executable, "-m", "edgectl", "server", "fingerprint", "--data", server.data]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return found.stdout.strip()


def login(edgectl, server, *more):
    arguments = ("login", server.url, "--username", "admin", "--password-stdin", *more)
    return edgectl(*arguments, stdin=password_of(server))


def test_an_unknown_server_gets_no_password(edgectl, tls_server, home):
    assert tls_server.url.startswith("https://")
    got = login(edgectl, tls_server)
    assert got.code == 3
    assert got.err.startswith("error[server.untrusted]")
    assert "--ca FILE" in got.err
    assert "--fingerprint" in got.err
    assert not (home / "edgectl").exists()


@pytest.mark.parametrize("way", ["file", "fingerprint", "both"])
def test_a_server_that_was_vouched_for_is_believed_from_then_on(edgectl, tls_server, way):
    options = []
    if way != "fingerprint":
        options += ["--ca", authority_of(tls_server)]
    if way != "file":
        options += ["--fingerprint", fingerprint_of(tls_server).upper()]
    got = login(edgectl, tls_server, *options)
    assert got.code == 0, got.err
    assert json.loads(edgectl("devices", "list", "--json").out) == []
    assert edgectl("doctor").code == 0
    again = login(edgectl, tls_server)  # what was believed is believed
    assert again.code == 0, again.err
    assert edgectl("logout").code == 0


def test_a_wrong_fingerprint_or_file_is_refused(edgectl, tls_server, other_server, tmp_path):
    other = fingerprint_of(other_server)
    got = login(edgectl, tls_server, "--fingerprint", other)
    assert got.code == 3
    assert got.err.startswith("error[server.untrusted]")
    assert fingerprint_of(tls_server) in got.err
    assert login(edgectl, tls_server, "--ca", authority_of(other_server)).code == 3
    both = ("--ca", authority_of(tls_server), "--fingerprint", other)
    assert login(edgectl, tls_server, *both).err.startswith("error[auth.fingerprint]")
    half = other[: len(other) // 2]
    assert login(edgectl, tls_server, "--fingerprint", half).err.startswith("error[auth.fing")
    (tmp_path / "none.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    for file in (tmp_path / "none.pem", tmp_path / "missing.pem"):
        assert login(edgectl, tls_server, "--ca", file).err.startswith("error[auth.authority]")


def test_another_server_at_the_same_address_is_noticed(edgectl, tls_server, other_server, home):
    """As when somebody gets in between after the first login: the token stays here."""
    assert login(edgectl, tls_server, "--ca", authority_of(tls_server)).code == 0
    file = home / "edgectl" / "config.json"
    file.write_text(file.read_text().replace(tls_server.url, other_server.url))
    got = edgectl("devices", "list")
    assert got.code == 3
    assert got.err.startswith("error[server.untrusted]")
    got = login(edgectl, other_server)
    assert got.code == 3
    assert "not the authority of the last login" in got.err


def test_at_a_terminal_the_fingerprint_is_asked_for(tls_server, home):
    shown = fingerprint_of(tls_server)
    refused = Terminal("login", tls_server.url)
    refused.read_until("Is it the same [y/N]: ")
    assert shown in refused.text
    refused.type("\n")
    assert refused.end() == 3
    assert "password" not in refused.text
    confirmed = Terminal("login", tls_server.url, "--username", "admin")
    confirmed.read_until("[y/N]: ")
    confirmed.type("y\n")
    confirmed.read_until("password: ")
    confirmed.type(password_of(tls_server))
    assert confirmed.end() == 0, confirmed.text


def test_programs_name_the_authority_in_the_environment(
    edgectl, tls_server, monkeypatch, other_server, home
):
    login(edgectl, tls_server, "--ca", authority_of(tls_server))
    made = edgectl("tokens", "create", "ci", "--scope", "read", "--json")
    token = json.loads(made.out)["token"]
    file = home / "edgectl" / "config.json"
    file.unlink()  # without a logout, with which the token would go
    monkeypatch.setenv("EDGECTL_URL", tls_server.url)
    monkeypatch.setenv("EDGECTL_TOKEN", token)
    assert edgectl("devices", "list").code == 3
    monkeypatch.setenv("EDGECTL_CA", str(authority_of(tls_server)))
    assert edgectl("devices", "list").code == 0
    monkeypatch.setenv("EDGECTL_CA", str(authority_of(other_server)))
    assert edgectl("devices", "list").code == 3


def test_the_fingerprint_is_that_of_the_key(tls_server):
    pem = authority_of(tls_server).read_text()
    assert format_fingerprint(fingerprint_of_authority(pem)) == fingerprint_of(tls_server)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_what_is_no_certificate_is_said_to_be_none(tls_server, junk, at, byte):
    whole = bytearray(ssl.PEM_cert_to_DER_cert(authority_of(tls_server).read_text()))
    whole[at % len(whole)] = byte
    for der in (junk, bytes(whole), bytes(whole[:at])):
        try:
            assert len(fingerprint_of_authority(ssl.DER_cert_to_PEM_cert(der))) == 64
        except LocalError as error:
            assert error.code == "auth.authority"  # noqa: PT017 - either will do
