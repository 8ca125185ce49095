"""``edgectl login`` and ``edgectl logout``."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import secrets
import sys
import webbrowser

import click

from edgectl.client import Client
from edgectl.config import Login
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.output import plain, print_json
from edgectl.session import Session, examples, json_option, pass_session
from edgectl.transport import is_loopback, server_url

__all__ = ["login", "logout"]

_SECRET_CHARACTERS_MAX = 4096


@click.command(
    epilog=examples(
        "edgectl login http://127.0.0.1:8080",
        "edgectl login https://edge.example.org --username ana",
        "edgectl login --username admin --password-stdin < edgectl-data/admin-password",
        "edgectl login https://edge.example.org --sso",
        "edgectl login https://edge.example.org --token-stdin < token.txt",
    )
)
@click.argument("url", required=False)
@click.option("--username", help="Asked for when not given.")
@click.option("--sso", is_flag=True, help="Log in with a browser, on this machine or another.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@click.option("--token-stdin", is_flag=True, help="Read an API token from stdin instead.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=30,
    show_default=True,
    help="How long the new token is valid.",
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
    days: int,
    as_json: bool,
) -> None:
    """Log in to a server and keep a token for it.

    The password is exchanged for a token, which is stored in
    $XDG_CONFIG_HOME/edgectl/config.json, readable by you only. EDGECTL_URL and EDGECTL_TOKEN take
    precedence over what is stored.

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
        if token_stdin:
            found = _login_by_token(address)
        elif sso:
            found = _login_by_browser(address, days)
        else:
            found = _login_by_password(address, username, days, from_stdin=password_stdin)
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
            with doing(f"logging out of {address}"), Client(address, stored.token) as client:
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


def _login_by_password(address: str, username: str | None, days: int, *, from_stdin: bool) -> Login:
    if from_stdin:
        if not username:
            raise click.UsageError("--password-stdin needs --username")
        password = _secret_from_stdin("password")
    elif not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask at: use --password-stdin or --token-stdin")
    else:
        username = username or click.prompt("user", default="admin", err=True)
        password = click.prompt("password", hide_input=True, err=True)
    with Client(address) as client:
        created = client.login(username, password, name=_token_name(), expires_in_s=days * 86400)
    return Login(created.token, created.info.user, created.info.role)


def _login_by_browser(address: str, days: int) -> Login:
    verifier = secrets.token_urlsafe(48)  # RFC 7636: without it, the code is worth nothing
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    page = f"{address}/handover?challenge={challenge}"
    with Client(address) as client:
        client.version()  # rather a word now than a page that does not open
        click.echo(f"open this page, and log in there:\n\n  {page}\n", err=True)
        if _has_browser():
            webbrowser.open(page)
        code = click.prompt("code", err=True).strip()[:_SECRET_CHARACTERS_MAX]
        created = client.take_login(code, verifier, name=_token_name(), expires_in_s=days * 86400)
    return Login(created.token, created.info.user, created.info.role)


def _has_browser() -> bool:
    """Say whether a browser would open beside this terminal, rather than in it or nowhere."""
    if not sys.stdin.isatty():
        return False
    if sys.platform in {"darwin", "win32"}:
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _token_name() -> str:
    return f"edgectl on {platform.node() or 'unknown'}"[:128]


def _login_by_token(address: str) -> Login:
    token = _secret_from_stdin("token")
    with Client(address, token) as client:
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
