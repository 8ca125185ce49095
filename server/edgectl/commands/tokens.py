"""``edgectl tokens``: API tokens, for programs and for other machines."""

from __future__ import annotations

import click

from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json
from edgectl.session import Session, examples, json_option, limit_option, pass_session
from edgectl.tables import tokens_table

__all__ = ["tokens"]

_ROLES = ("viewer", "operator", "admin")


@click.group(
    epilog=examples(
        "edgectl tokens create ci --role operator --days 90",
        "edgectl tokens list",
        "edgectl tokens revoke 0123456789abcdef",
    )
)
def tokens() -> None:
    """Show and make API tokens, and make them worthless."""


@tokens.command(
    "create",
    epilog=examples(
        "edgectl tokens create dashboard",
        "edgectl tokens create ci --role operator --days 90",
    ),
)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    default="viewer",
    show_default=True,
    help="What it may do; at most what you may.",
)
@click.option("--days", type=click.IntRange(1, 3650), help="How long it is valid; ever by default.")
@json_option
@pass_session
def create_token(
    session: Session, name: str, role: str, days: int | None, *, as_json: bool
) -> None:
    """Create a token and show it, this once.

    Programs give it in EDGECTL_TOKEN, or as `Authorization: Bearer …` to the REST API.
    """
    name = name.strip()
    if not 0 < len(name) <= 128:  # noqa: PLR2004 - as in the API
        raise click.BadParameter("a name has 1 to 128 characters", param_hint="NAME")
    with session.connect() as client, doing(f"creating the token {name}"):
        created = client.create_token(name, role, None if days is None else days * 86400)
    if as_json:
        print_json(created)
        return
    output, errors = consoles()
    output.print(plain(created.token), soft_wrap=True)
    expires = f"expires {age(created.info.expires_at)}" if created.info.expires_at else "no expiry"
    errors.print(
        f"{plain(created.info.name)}: {plain(created.info.role)}, {expires}; shown this once\n"
        f"revoke it with `edgectl tokens revoke {plain(created.info.id)}`"
    )


@tokens.command("list", epilog=examples("edgectl tokens list", "edgectl tokens list --search ci"))
@click.option("--search", default="", help="Part of the name or of the user's.")
@limit_option
@json_option
@pass_session
def list_tokens(session: Session, search: str, limit: int, *, as_json: bool) -> None:
    """List your tokens without their secrets; an admin sees everybody's."""
    with session.connect() as client:
        page = client.tokens([("q", search)] if search else [], limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    output.print(tokens_table(page.items))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@tokens.command("revoke", epilog=examples("edgectl tokens revoke 0123456789abcdef"))
@click.argument("token_id", metavar="ID")
@json_option
@pass_session
def revoke_token(session: Session, token_id: str, *, as_json: bool) -> None:
    """Make a token worthless, by its id; who uses it is refused from now on."""
    if token_id.startswith("edgectl_"):
        raise click.UsageError("that is a token, not its id: `edgectl tokens list` shows the ids")
    with session.connect() as client, doing(f"revoking token {token_id}"):
        client.delete_token(token_id)
    if as_json:
        print_json({"id": token_id, "revoked": True})
    else:
        click.echo(f"{plain(token_id)} is revoked")
