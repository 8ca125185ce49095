"""``edgectl login`` and ``edgectl logout``."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import click
import msgspec

from edgectl.authorities import find_authority, fingerprint_of_authority, read_authority
from edgectl.browser_codes import ask_browser_code
from edgectl.client import Client
from edgectl.config import Login
from edgectl.durations import Duration
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.output import plain, print_json
from edgectl.session import Session, examples, json_option, pass_session
from edgectl.transport import is_loopback, server_url
from edgectl_protocol.enrolment import parse_fingerprint

__all__ = ["login", "logout"]

_SECRET_CHARACTERS_MAX = 4096


@click.command(
    epilog=examples(
        "edgectl login http://127.0.0.1:8080",
        "edgectl login https://edge.example.org --username ana",
        "edgectl login --username admin --password-stdin < edgectl-data/admin-password",
        "edgectl login https://edge.example.org --sso",
        "edgectl login https://edge.example.org --token-stdin < token.txt",
        "edgectl login https://192.0.2.10:8080 --ca authority.pem",
    )
)
@click.argument("url", required=False)
@click.option("--username", help="Asked for when not given.")
@click.option("--sso", is_flag=True, help="Log in with a browser, on this machine or another.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@click.option("--token-stdin", is_flag=True, help="Read an API token from stdin instead.")
@click.option(
    "--ca",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PEM file of the authority to believe for this server, and nobody else.",
)
@click.option("--fingerprint", default="", help="Of that authority, as the server has printed it.")
@click.option(
    "--expires",
    type=Duration(60, 3650 * 86400),
    default="30d",
    show_default=True,
    help="How long the new token is valid, like 12h or 30d.",
)
@json_option
@pass_session
def login(
    session: Session,
    url: str | None,
    username: str | None,
    *,
    sso: bool,
    password_stdin: bool,
    token_stdin: bool,
    ca: Path | None,
    fingerprint: str,
    expires: int,
    as_json: bool,
) -> None:
    """Log in to a server and keep a token for it.

    The password is exchanged for a token, which is stored in
    $XDG_CONFIG_HOME/edgectl/config.json, readable by you only. EDGECTL_URL and EDGECTL_TOKEN take
    precedence over what is stored.

    A server with a certificate of its own authority is believed when you say so: with --ca, with
    --fingerprint, or when this asks you to compare the fingerprint with the one that the server
    prints. From then on, only that authority is believed for this server.

    With --sso you log in on the server's page, in whatever way it offers, and bring the code that
    it shows back here. The code is of use to this command alone.
    """
    if password_stdin and token_stdin:
        raise click.UsageError("--password-stdin and --token-stdin exclude one another")
    if sso and (password_stdin or token_stdin or username):
        raise click.UsageError("--sso asks for none of the other secrets, and for no name")
    if token_stdin and username:
        raise click.UsageError("a token has its user: leave out --username")
    address = server_url(url) if url else session.address()
    if address.startswith("http:") and not is_loopback(address):
        click.echo(f"warning: {address} is not encrypted: others may read along", err=True)
    with doing(f"logging in to {address}"):
        authority = _authority(session, address, ca, fingerprint)
        with Client(address, authority=authority) as client:
            if token_stdin:
                found = _login_by_token(address, authority)
            elif sso:
                found = _login_by_browser(client, expires)
            else:
                found = _login_by_password(client, username, expires, from_stdin=password_stdin)
    found = msgspec.structs.replace(found, authority=authority)
    session.store(session.config().logged_in(address, found))
    if as_json:
        print_json({"url": address, "user": found.user, "role": found.role})
    else:
        click.echo(f"logged in to {address} as {plain(found.user)} ({plain(found.role)})")


@click.command(epilog=examples("edgectl logout"))
@json_option
@pass_session
def logout(session: Session, *, as_json: bool) -> None:
    """Make the stored token worthless and forget it."""
    address = session.address()
    stored = session.config().servers.get(address)
    revoked = False
    if stored is not None:
        try:
            with (
                doing(f"logging out of {address}"),
                Client(address, stored.token, authority=session.authority()) as client,
            ):
                client.delete_token(_token_id(stored.token))
            revoked = True
        except EdgectlError as error:
            # The token must go from this machine even when the server cannot be told.
            click.echo(f"warning: the server still knows the token: {plain(error)}", err=True)
        session.store(session.config().logged_out(address))
    if as_json:
        print_json({"url": address, "logged_out": stored is not None, "revoked": revoked})
    elif stored is None:
        click.echo(f"not logged in to {address}")
    else:
        click.echo(f"logged out of {address}")


def _authority(session: Session, address: str, ca: Path | None, fingerprint: str) -> str:
    """Return the authority to believe, in PEM, asking for it where somebody is."""
    if ca is not None:
        authority = read_authority(ca)
        if fingerprint and fingerprint_of_authority(authority) != parse_fingerprint(fingerprint):
            raise LocalError("auth.fingerprint", f"{ca} has another fingerprint")
        return authority
    stored = session.config().servers.get(address)

    def ask(shown: str) -> bool:
        click.echo(
            f"{address} is vouched for by an authority that this machine does not know.\n"
            f"The fingerprint of its key is\n\n  {shown}\n\n"
            "The server prints the right one at its start, and with `edgectl server fingerprint`.",
            err=True,
        )
        return click.confirm("Is it the same", err=True)

    return find_authority(
        address,
        known=stored.authority if stored else "",
        fingerprint=fingerprint,
        ask=ask if sys.stdin.isatty() else None,
    )


def _login_by_password(
    client: Client, username: str | None, expires_in_s: int, *, from_stdin: bool
) -> Login:
    if from_stdin:
        if not username:
            raise click.UsageError("--password-stdin needs --username")
        password = _secret_from_stdin("password")
    elif not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask at: use --password-stdin or --token-stdin")
    else:
        username = username or click.prompt("user", default="admin", err=True)
        password = click.prompt("password", hide_input=True, err=True)
    created = client.login(username, password, name=_token_name(), expires_in_s=expires_in_s)
    return Login(created.token, created.info.user, created.info.role)


def _login_by_browser(client: Client, expires_in_s: int) -> Login:
    client.version()  # rather a word now than a page that does not open
    code, verifier = ask_browser_code(client.url, "open this page, and log in there")
    created = client.take_login(code, verifier, name=_token_name(), expires_in_s=expires_in_s)
    return Login(created.token, created.info.user, created.info.role)


def _token_name() -> str:
    return f"edgectl on {platform.node() or 'unknown'}"[:128]


def _login_by_token(address: str, authority: str) -> Login:
    token = _secret_from_stdin("token")
    with Client(address, token, authority=authority) as client:
        me = client.me()
    return Login(token, me.user, me.role)


def _secret_from_stdin(kind: str) -> str:
    line = sys.stdin.readline(_SECRET_CHARACTERS_MAX).rstrip("\r\n")
    if not line:
        raise LocalError("auth.stdin", f"stdin holds no {kind}", f"give the {kind} in one line")
    if kind == "token" and not (line.isascii() and line.isprintable() and " " not in line):
        raise LocalError("auth.token", "this is no token: it holds other than letters")
    return line


def _token_id(token: str) -> str:
    """Return the public part of ``edgectl_<id>_<secret>``."""
    parts = token.split("_", 2)
    if len(parts) != 3 or not parts[1]:  # noqa: PLR2004 - prefix, id, secret
        raise LocalError("auth.token", "the stored token has an unknown form")
    return parts[1]
