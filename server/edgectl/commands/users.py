"""``edgectl users``: who may log in.

Whatever changes it asks for the own password again: at the terminal, or in the first line of stdin
with ``--password-stdin``. It is never an argument, which every process of the machine can read. Who
logs in by single sign-on has none: they log in again in a browser, and bring a code back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgectl import types
from edgectl.browser_codes import ask_browser_code
from edgectl.client import Client
from edgectl.errors import LocalError, doing
from edgectl.output import age, consoles, plain, print_json, table
from edgectl.session import Session, examples, json_option, limit_option, pass_session
from edgectl.user_changes import UserChanges

__all__ = ["users"]

Command = TypeVar("Command", bound=Callable[..., Any])

_ROLE = click.Choice(["viewer", "operator", "admin"])
_SECRET_CHARACTERS_MAX = 1024
_BY_SIGN_ON = "@sso"
"""Names of people who came by single sign-on end with this, and no others do."""

own_password_option = click.option(
    "--password-stdin",
    is_flag=True,
    help="Read your own password from the first line of stdin, instead of asking for it.",
)
myself_option = click.option(
    "--myself", is_flag=True, help="Mean it also where NAME is your own user."
)


def _prove(client: Client, *, from_stdin: bool) -> UserChanges:
    """Show that the owner of the token is there; return what that allows."""
    user = client.me().user
    if user.endswith(_BY_SIGN_ON):
        if from_stdin:
            raise LocalError(
                "auth.sign_on",
                f"{user} logs in by single sign-on and has no password here",
                "leave out --password-stdin: a browser asks in its place",
            )
        words = f"open this page, and log in again there as {user}"
        return client.proved_by_browser(*ask_browser_code(client.url, words, "&for=proof"))
    if from_stdin:
        return client.proved(_line("your own password"))
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for your own password at: use --password-stdin")
    asked: str = click.prompt("your own password", hide_input=True, err=True)
    return client.proved(asked)


def _line(what: str) -> str:
    line = sys.stdin.readline(_SECRET_CHARACTERS_MAX + 1).rstrip("\r\n")
    if not line:
        raise LocalError("auth.stdin", f"stdin does not hold {what}", "give it in a line")
    return line


@click.group(
    epilog=examples(
        "edgectl users list",
        "edgectl users create ana --role operator",
        "edgectl users disable ana",
    )
)
def users() -> None:
    """Show and change who may log in (admins), and your own password.

    Changes ask for your own password again. Who logs in by single sign-on has none: they are sent
    to a page of the server that has the provider ask, and bring back the code that it shows.
    """


@users.command("list", epilog=examples("edgectl users list", "edgectl users list --json"))
@click.option("--search", default="", help="Part of the name.")
@limit_option
@json_option
@pass_session
def list_users(session: Session, search: str, limit: int, *, as_json: bool) -> None:
    """List who may log in, with what role, and what of theirs is in use."""
    with session.connect() as client:
        page = client.users([("q", search)] if search else [], limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    columns = ["USER", "ROLE", "LOGS IN BY", ">SESSIONS", ">TOKENS", "LAST LOGIN", "SINCE"]
    rows = [
        (
            plain(one.name),
            plain(one.role),
            plain(one.by) if one.disabled_at is None else "disabled",
            str(one.sessions),
            str(one.tokens),
            age(one.last_login_at),
            age(one.created_at),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@users.command(
    "create",
    epilog=examples(
        "edgectl users create ana --role operator",
        "edgectl users create ana --password-stdin < my-password",
    ),
)
@click.argument("name")
@click.option("--role", type=_ROLE, default="viewer", show_default=True)
@own_password_option
@json_option
@pass_session
def create_user(
    session: Session, name: str, role: str, *, password_stdin: bool, as_json: bool
) -> None:
    """Make the user NAME and print the password, this once."""
    with session.connect() as client, doing(f"making the user {name}"):
        made = _prove(client, from_stdin=password_stdin).create(name, role)
    _print_made(made, as_json=as_json)


@users.command("role", epilog=examples("edgectl users role ana admin"))
@click.argument("name")
@click.argument("role", type=_ROLE)
@myself_option
@own_password_option
@json_option
@pass_session
def change_role(
    session: Session, name: str, role: str, *, myself: bool, password_stdin: bool, as_json: bool
) -> None:
    """Give NAME another role, at once; of single sign-on the provider decides."""
    with session.connect() as client, doing(f"changing the user {name}"):
        info = _prove(client, from_stdin=password_stdin).change(name, role=role, myself=myself)
    _print_info(info, f"is {info.role}", as_json=as_json)


@users.command("disable", epilog=examples("edgectl users disable ana"))
@click.argument("name")
@myself_option
@own_password_option
@json_option
@pass_session
def disable_user(
    session: Session, name: str, *, myself: bool, password_stdin: bool, as_json: bool
) -> None:
    """Let NAME in no more: sessions end, the password and tokens open nothing."""
    with session.connect() as client, doing(f"disabling the user {name}"):
        info = _prove(client, from_stdin=password_stdin).change(name, disabled=True, myself=myself)
    _print_info(info, "may not log in any more", as_json=as_json)


@users.command("enable", epilog=examples("edgectl users enable ana"))
@click.argument("name")
@own_password_option
@json_option
@pass_session
def enable_user(session: Session, name: str, *, password_stdin: bool, as_json: bool) -> None:
    """Let NAME in again, with the same password and tokens."""
    with session.connect() as client, doing(f"enabling the user {name}"):
        info = _prove(client, from_stdin=password_stdin).change(name, disabled=False, myself=False)
    _print_info(info, "may log in", as_json=as_json)


@users.command(
    "password",
    epilog=examples("edgectl users password ana", "edgectl users password"),
)
@click.argument("name", required=False)
@myself_option
@click.option(
    "--password-stdin",
    is_flag=True,
    help="Read your own password from the first line of stdin; your new one from the second.",
)
@json_option
@pass_session
def password(
    session: Session, name: str | None, *, myself: bool, password_stdin: bool, as_json: bool
) -> None:
    """Make a new password for NAME and print it, this once; without NAME, change your own.

    All sessions end, with your own password all but the one that asks. Tokens stay as they are:
    `edgectl users logout NAME --tokens` revokes them.
    """
    if name is None:
        with session.connect() as client, doing("changing your password"):
            user = client.me().user
            if user.endswith(_BY_SIGN_ON):
                raise LocalError(
                    "auth.sign_on",
                    f"{user} logs in by single sign-on and has no password here",
                    "passwords of single sign-on are changed at its provider",
                )
            proved = _prove(client, from_stdin=password_stdin)
            new = _line("your new password") if password_stdin else _new_password()
            proved.change_own_password(new)
        if as_json:
            print_json({"changed": True})
        else:
            click.echo("your password is changed")
        return
    with session.connect() as client, doing(f"making a new password for {name}"):
        made = _prove(client, from_stdin=password_stdin).reset_password(name, myself=myself)
    _print_made(made, as_json=as_json)


@users.command(
    "logout", epilog=examples("edgectl users logout ana", "edgectl users logout ana --tokens")
)
@click.argument("name")
@click.option("--tokens", is_flag=True, help="Revoke all tokens, too.")
@myself_option
@own_password_option
@json_option
@pass_session
def log_out(
    session: Session, name: str, *, tokens: bool, myself: bool, password_stdin: bool, as_json: bool
) -> None:
    """End all sessions of NAME in browsers, and with --tokens what programs log in with."""
    with session.connect() as client, doing(f"logging {name} out"):
        info = _prove(client, from_stdin=password_stdin).log_out(name, tokens=tokens, myself=myself)
    _print_info(info, f"is logged out; {info.tokens} tokens remain", as_json=as_json)


@users.command("delete", epilog=examples("edgectl users delete ana"))
@click.argument("name")
@myself_option
@own_password_option
@json_option
@pass_session
def delete_user(
    session: Session, name: str, *, myself: bool, password_stdin: bool, as_json: bool
) -> None:
    """Remove NAME with all sessions and tokens; what they did stays in the audit log.

    Who came by single sign-on comes back at the next login: disable them, or change the provider.
    """
    with session.connect() as client, doing(f"deleting the user {name}"):
        _prove(client, from_stdin=password_stdin).delete(name, myself=myself)
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        click.echo(f"{plain(name)} is deleted")


def _new_password() -> str:
    asked: str = click.prompt(
        "your new password", hide_input=True, confirmation_prompt=True, err=True
    )
    return asked


def _print_made(made: types.UserCreated, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    click.echo(plain(made.password))
    click.echo(
        f"{plain(made.user.name)}, {plain(made.user.role)}: the password is shown this once; "
        "they change it with `edgectl users password`",
        err=True,
    )


def _print_info(info: types.UserInfo, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(info)
    else:
        click.echo(f"{plain(info.name)} {plain(words)}")
