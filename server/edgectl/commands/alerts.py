"""``edgectl alerts``: what is wrong now, and who sees to it."""

from __future__ import annotations

import click
from rich.text import Text

from edgectl.commands.alert_routes import routes
from edgectl.commands.alert_silences import silence
from edgectl.errors import doing
from edgectl.output import age, consoles, pairs, plain, print_json, state_text, table
from edgectl.session import NAME, Session, examples, given, json_option, limit_option, pass_session
from edgectl.types import AlertEvent, RaisedAlert

__all__ = ["alerts"]

_ALERT = click.argument("alert", metavar="ID")
_REASON = click.option("--reason", default="", help="Kept with it.")


@click.group(
    short_help="See to what is wrong: list, acknowledge, assign, silence, route.",
    epilog=examples(
        "edgectl alerts list",
        "edgectl alerts show 0123456789abcdef",
        "edgectl alerts ack 0123456789abcdef",
    ),
)
def alerts() -> None:
    """See to what is wrong.

    An alert lasts as long as its condition: drift, faulty data, silent devices, stopped rollouts,
    keys and certificates that end.
    """


alerts.add_command(silence)
alerts.add_command(routes)


@alerts.command(
    "list",
    epilog=examples(
        "edgectl alerts list",
        "edgectl alerts list --kind drift --model har",
        "edgectl alerts list --ended --json",
    ),
)
@click.option("--kind", help="Of this kind, or of all that begin with it.")
@click.option("--severity", type=click.Choice(["info", "warning", "critical"]))
@click.option("--model", type=NAME, help="About this model only.")
@click.option("--site", help="At this site only.")
@click.option("--owner", help="Of this owner only.")
@click.option("--ended", is_flag=True, help="Those that have ended.")
@limit_option
@json_option
@pass_session
def list_alerts(
    session: Session,
    *,
    kind: str | None,
    severity: str | None,
    model: str | None,
    site: str | None,
    owner: str | None,
    ended: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List alerts, the most severe first."""
    asked = {"kind": kind, "severity": severity, "model": model, "site": site, "owner": owner}
    query = given(asked)
    query += [("ended", "yes")] if ended else []
    with session.connect() as client:
        page = client.alerts(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no alerts")
        return
    rows = [
        (
            state_text(one.severity),
            plain(one.summary),
            plain(_state(one)),
            plain(one.owner or "-"),
            age(one.opened_at),
            plain(one.kind),
            plain(one.id),
        )
        for one in page.items
    ]
    output.print(table(["SEVERITY", "WHAT", "STATE", "OWNER", "SINCE", "KIND", "ID"], rows))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@alerts.command(epilog=examples("edgectl alerts show 0123456789abcdef"))
@_ALERT
@json_option
@pass_session
def show(session: Session, alert: str, *, as_json: bool) -> None:
    """Show an alert, and what has happened to it."""
    with session.connect() as client, doing(f"reading the alert {alert}"):
        found = client.alert(alert)
    if as_json:
        print_json(found)
        return
    one = found.alert
    about: dict[str, Text | str] = {
        "severity": state_text(one.severity),
        "state": plain(_state(one)),
        "owner": plain(one.owner or "-"),
        "kind": plain(one.kind),
        "about": plain(" ".join(part for part in (one.model, one.site, one.device) if part) or "-"),
        "since": age(one.opened_at),
        "try": plain(one.hint or "-"),
    }
    output, _ = consoles()
    output.print(pairs(about.items(), plain(one.summary)))
    rows = [
        (age(event.at), plain(event.kind), plain(event.actor), plain(_said(event)))
        for event in found.events
    ]
    output.print(table(["WHEN", "WHAT", "BY", ""], rows))


@alerts.command(epilog=examples('edgectl alerts ack 0123456789abcdef --reason "on my way"'))
@_ALERT
@_REASON
@json_option
@pass_session
def ack(session: Session, alert: str, reason: str, *, as_json: bool) -> None:
    """Say that you know of it: nobody is reminded of it any more."""
    with session.connect() as client, doing(f"acknowledging the alert {alert}"):
        _tell(client.alert_action(alert, "acknowledge", reason=reason), as_json=as_json)


@alerts.command(
    epilog=examples(
        "edgectl alerts assign 0123456789abcdef anna", "edgectl alerts assign 0123456789abcdef -"
    )
)
@_ALERT
@click.argument("owner", metavar="USER|-")
@json_option
@pass_session
def assign(session: Session, alert: str, owner: str, *, as_json: bool) -> None:
    """Say who sees to it; ``-``: nobody."""
    with session.connect() as client, doing(f"assigning the alert {alert}"):
        given = "" if owner == "-" else owner
        _tell(client.alert_action(alert, "assign", owner=given), as_json=as_json)


@alerts.command(epilog=examples('edgectl alerts resolve 0123456789abcdef --reason "planned"'))
@_ALERT
@_REASON
@json_option
@pass_session
def resolve(session: Session, alert: str, reason: str, *, as_json: bool) -> None:
    """End it; while its condition lasts, it comes back only if it grows more severe."""
    with session.connect() as client, doing(f"ending the alert {alert}"):
        _tell(client.alert_action(alert, "resolve", reason=reason), as_json=as_json)


def _tell(one: RaisedAlert, *, as_json: bool) -> None:
    if as_json:
        print_json(one)
    else:
        owner = f", seen to by {plain(one.owner)}" if one.owner else ""
        click.echo(f"{plain(one.summary)}: {one.state}{owner}")


def _state(one: RaisedAlert) -> str:
    silenced = ", silenced" if one.silenced_until is not None else ""
    return f"{one.state}{silenced}"


def _said(event: AlertEvent) -> str:
    return ", ".join(f"{name}: {value}" for name, value in event.data.items() if value)
