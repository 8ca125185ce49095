"""``edgectl tokens``: API tokens, for programs and for other machines."""

from __future__ import annotations

import click

from edgectl.durations import Duration
from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json
from edgectl.session import Session, examples, json_option, limit_option, pass_session
from edgectl.tables import tokens_table

__all__ = ["tokens"]

_ROLES = ("viewer", "operator", "admin")
_SCOPES = (
    "read",
    "metrics",
    "tokens",
    "models:write",
    "rollouts:write",
    "devices:write",
    "trust:write",
    "admin",
)


@click.group(
    epilog=examples(
        "edgectl tokens create ci --scope models:write --expires 90d",
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
        "edgectl tokens create prometheus --scope metrics",
        "edgectl tokens create ci --scope models:write --expires 90d",
        "edgectl tokens create nightly --scope models:write --scope rollouts:write --expires 90d",
    ),
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    help="What it is for; may be repeated. Without one: all that its role may.",
)
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    help="At most yours. By default the least that the scopes need, viewer without any.",
)
@click.option(
    "--expires",
    type=Duration(60, 3650 * 86400),
    help="How long it is valid, like 12h or 90d; until you revoke it by default.",
)
@json_option
@pass_session
def create_token(
    session: Session,
    name: str,
    scopes: tuple[str, ...],
    role: str | None,
    expires: int | None,
    *,
    as_json: bool,
) -> None:
    """Create a token and show it, this once.

    A token that is stolen does what its scopes say and no more: give it only those that it needs.
    What writes reads, too. What was made with a token ends with it: with your login, at `edgectl
    logout` or when it expires. A token that shall outlive it is made on the settings page.

    Programs give it in EDGECTL_TOKEN, or as `Authorization: Bearer …` to the REST API.
    """
    name = name.strip()
    if not 0 < len(name) <= 128:  # noqa: PLR2004 - as in the API
        raise click.BadParameter("a name has 1 to 128 characters", param_hint="NAME")
    with session.connect() as client, doing(f"creating the token {name}"):
        created = client.create_token(name, role, expires, scopes or None)
    if as_json:
        print_json(created)
        return
    output, errors = consoles()
    output.print(plain(created.token), soft_wrap=True)
    expires_text = (
        f"expires {age(created.info.expires_at)}" if created.info.expires_at else "no expiry"
    )
    errors.print(
        f"{plain(created.info.name)}: {plain(created.info.role)}, {expires_text}; shown this once\n"
        f"scopes: {plain(' '.join(created.info.scopes))}\n"
        "it ends with the login that made it, if not before; the settings page makes others\n"
        f"revoke it with `edgectl tokens revoke {plain(created.info.id)}`"
    )


@tokens.command(
    "list",
    epilog=examples(
        "edgectl tokens list", "edgectl tokens list --search ci", "edgectl tokens list --user ana"
    ),
)
@click.option("--search", default="", help="Part of the name or of the user's.")
@click.option("--user", default="", help="Only of this user.")
@click.option("--valid/--expired", default=None, help="Only those that are.")
@limit_option
@json_option
@pass_session
def list_tokens(
    session: Session, search: str, user: str, limit: int, *, valid: bool | None, as_json: bool
) -> None:
    """List your tokens without their secrets; an admin sees everybody's."""
    asked = (
        ("q", search),
        ("user", user),
        ("valid", "" if valid is None else str(valid).lower()),
    )
    with session.connect() as client:
        page = client.tokens([(name, value) for name, value in asked if value], limit)
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
    """Make a token worthless, by its id, and with it what was made with it."""
    if token_id.startswith("edgectl_"):
        raise click.UsageError("that is a token, not its id: `edgectl tokens list` shows the ids")
    with session.connect() as client, doing(f"revoking token {token_id}"):
        client.delete_token(token_id)
    if as_json:
        print_json({"id": token_id, "revoked": True})
    else:
        click.echo(f"{plain(token_id)} is revoked")
