"""``edgectl alerts silence``: of what nobody wants to hear for a while."""

from __future__ import annotations

import click

from edgectl.durations import Duration
from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json, table
from edgectl.session import NAME, Session, examples, json_option, limit_option, pass_session
from edgectl.types import SilenceInfo, SilenceRequest

__all__ = ["silence"]


@click.group(
    epilog=examples(
        'edgectl alerts silence add --site porto --for 2h --reason "power works"',
        "edgectl alerts silence list",
    )
)
def silence() -> None:
    """Have nobody told of some alerts for a while; they are listed all the same."""


@silence.command(
    epilog=examples(
        'edgectl alerts silence add --kind devices.overdue --site porto --for 2h --reason "moving"',
        'edgectl alerts silence add --kind drift --model har --for 3d --reason "retraining"',
    )
)
@click.option("--kind", default="", help="Of this kind, or of all that begin with it.")
@click.option("--model", type=NAME, help="About this model.")
@click.option("--site", default="", help="At this site.")
@click.option("--subject", default="", help="About exactly this thing.")
@click.option(
    "--for", "for_s", type=Duration(60, 90 * 86400), required=True, help="Such as 30m, 2h or 3d."
)
@click.option("--reason", required=True, help="Why; for whoever wonders.")
@json_option
@pass_session
def add(
    session: Session,
    *,
    kind: str,
    model: str | None,
    site: str,
    subject: str,
    for_s: int,
    reason: str,
    as_json: bool,
) -> None:
    """Begin a silence; at least one of kind, model, site and subject is given."""
    asked = SilenceRequest(for_s, reason, kind, model or "", site, subject)
    with session.connect() as client, doing("adding a silence"):
        made = client.create_silence(asked)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{plain(made.id)}: silent until {made.until:%Y-%m-%d %H:%M} UTC")


@silence.command("list", epilog=examples("edgectl alerts silence list"))
@limit_option
@json_option
@pass_session
def list_silences(session: Session, limit: int, *, as_json: bool) -> None:
    """List the silences in force."""
    with session.connect() as client:
        page = client.silences((), limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no silence is in force")
        return
    columns = ["ID", "OF", "UNTIL", "BY", "SINCE", "REASON"]
    rows = [
        (
            plain(one.id),
            plain(_meant(one)),
            f"{one.until:%Y-%m-%d %H:%M} UTC",
            plain(one.created_by),
            age(one.created_at),
            plain(one.reason),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))


@silence.command(epilog=examples("edgectl alerts silence remove 0123456789abcdef"))
@click.argument("silence_id", metavar="ID")
@json_option
@pass_session
def remove(session: Session, silence_id: str, *, as_json: bool) -> None:
    """End a silence now."""
    with session.connect() as client, doing(f"ending the silence {silence_id}"):
        client.end_silence(silence_id)
    if as_json:
        print_json({"ended": silence_id})
    else:
        click.echo(f"{plain(silence_id)} has ended")


def _meant(one: SilenceInfo) -> str:
    parts = {"kind": one.kind, "model": one.model, "site": one.site, "subject": one.subject}
    return " ".join(f"{name}={value}" for name, value in parts.items() if value)
