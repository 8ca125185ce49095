"""``edgectl alerts routes``: whom alerts are told."""

from __future__ import annotations

import click
from msgspec import UNSET

from edgectl.client import Client
from edgectl.durations import Duration
from edgectl.errors import EdgectlError, doing
from edgectl.output import age, consoles, duration_text, plain, print_json, state_text, table
from edgectl.session import NAME, Session, examples, json_option, limit_option, pass_session
from edgectl.types import AlertRouteChange, AlertRouteInfo, AlertRouteRequest

__all__ = ["routes"]

_ROUTE = click.argument("route", metavar="NAME|ID")
_KIND = click.option("--kind", "kinds", multiple=True, help="Or its beginning; repeatable.")
_SEVERITY = click.option(
    "--severity", type=click.Choice(["info", "warning", "critical"]), help="At least this."
)
_REPEAT = click.option(
    "--repeat",
    type=Duration(0, 30 * 86400),
    help="Remind so often while nobody has acknowledged it; 0: never.",
)


@click.group(
    epilog=examples(
        "edgectl alerts routes add ops --email ops@example.org",
        "edgectl alerts routes add room --webhook room --severity critical",
        "edgectl alerts routes add lamp --mqtt --device lamp-1 --kind rollout",
    )
)
def routes() -> None:
    """Have alerts told by e-mail, webhook or MQTT (admin)."""


@routes.command(
    epilog=examples(
        "edgectl alerts routes add ops --email ops@example.org --repeat 2h",
        "edgectl alerts routes add room --webhook room --kind drift --model har",
        "edgectl alerts routes add lamp --mqtt --device lamp-1 --severity critical",
    )
)
@click.argument("name")
@click.option("--email", "addresses", multiple=True, help="Send it to this address; repeatable.")
@click.option("--webhook", help="Send it to this webhook, by its name or id.")
@click.option("--mqtt", is_flag=True, help="Publish it.")
@click.option("--device", "devices", multiple=True, help="With --mqtt, to this device alone.")
@_KIND
@_SEVERITY
@click.option("--model", type=NAME, help="About this model only.")
@click.option("--site", default="", help="At this site only.")
@_REPEAT
@json_option
@pass_session
def add(
    session: Session,
    name: str,
    *,
    addresses: tuple[str, ...],
    webhook: str | None,
    mqtt: bool,
    devices: tuple[str, ...],
    kinds: tuple[str, ...],
    severity: str | None,
    model: str | None,
    site: str,
    repeat: int | None,
    as_json: bool,
) -> None:
    """Add a route: by one of --email, --webhook and --mqtt."""
    ways = {"email": list(addresses), "webhook": [webhook] if webhook else []}
    chosen = [way for way, target in ways.items() if target] + (["mqtt"] if mqtt else [])
    if len(chosen) != 1 or (devices and not mqtt):
        raise click.UsageError(
            "give one of --email, --webhook and --mqtt (with or without devices)"
        )
    asked = AlertRouteRequest(
        name=name,
        channel=chosen[0],
        target=ways.get(chosen[0], list(devices)),
        kinds=list(kinds),
        severity=severity or "warning",
        model=model or "",
        site=site,
        repeat_s=4 * 3600 if repeat is None else repeat,
    )
    with session.connect() as client, doing(f"adding the route {name}"):
        made = client.create_alert_route(asked)
    if as_json:
        print_json(made)
        return
    click.echo(f"{plain(made.name)} tells of alerts by {made.channel}")
    if made.channel != "webhook":
        click.echo(f"try it with `edgectl alerts routes test {made.id}`", err=True)


@routes.command("list", epilog=examples("edgectl alerts routes list"))
@limit_option
@json_option
@pass_session
def list_routes(session: Session, limit: int, *, as_json: bool) -> None:
    """List the routes."""
    with session.connect() as client:
        page = client.alert_routes((), limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("nobody is told of alerts: edgectl alerts routes add NAME --email ADDRESS")
        return
    columns = ["NAME", "ID", "BY", "TO", "OF", "REPEAT", "NEWEST", ">WAITING", "PROBLEM"]
    rows = [
        (
            plain(one.name),
            plain(one.id),
            one.channel if one.enabled else f"{one.channel}, off",
            plain(" ".join(one.target) or "all clients"),
            plain(_meant(one)),
            duration_text(one.repeat_s) if one.repeat_s else "never",
            age(one.last_at),
            str(one.pending),
            plain(one.problem or "-"),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))


@routes.command(
    "set",
    epilog=examples(
        "edgectl alerts routes set ops --severity critical",
        "edgectl alerts routes set ops --off",
    ),
)
@_ROUTE
@_KIND
@_SEVERITY
@_REPEAT
@click.option("--to", "target", multiple=True, help="Other addresses, webhook or devices.")
@click.option("--on/--off", "enabled", default=None, help="Tell by it, or keep silent.")
@json_option
@pass_session
def set_route(
    session: Session,
    route: str,
    *,
    kinds: tuple[str, ...],
    severity: str | None,
    repeat: int | None,
    target: tuple[str, ...],
    enabled: bool | None,
    as_json: bool,
) -> None:
    """Change what is given."""
    change = AlertRouteChange(
        kinds=list(kinds) or UNSET,
        severity=severity or UNSET,
        repeat_s=UNSET if repeat is None else repeat,
        target=list(target) or UNSET,
        enabled=UNSET if enabled is None else enabled,
    )
    if change == AlertRouteChange():
        raise click.UsageError(
            "say what to change: --kind, --severity, --repeat, --to, --on, --off"
        )
    with session.connect() as client, doing(f"changing the route {route}"):
        found = client.change_alert_route(_find(client, route).id, change)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{plain(found.name)} is changed")


@routes.command(epilog=examples("edgectl alerts routes remove ops"))
@_ROUTE
@json_option
@pass_session
def remove(session: Session, route: str, *, as_json: bool) -> None:
    """Delete a route, and what was on its way by it."""
    with session.connect() as client, doing(f"removing the route {route}"):
        found = _find(client, route)
        client.delete_alert_route(found.id)
    if as_json:
        print_json({"deleted": found.id})
    else:
        click.echo(f"{plain(found.name)} is removed")


@routes.command(epilog=examples("edgectl alerts routes test ops"))
@_ROUTE
@json_option
@pass_session
def test(session: Session, route: str, *, as_json: bool) -> None:
    """Send a test by e-mail or MQTT now, once; exit code 1 if it does not arrive."""
    with session.connect() as client, doing(f"testing the route {route}"):
        found = _find(client, route)
        sent = client.test_alert_route(found.id)
    if as_json:
        print_json(sent)
    elif sent.state == "delivered":
        click.echo(f"{plain(found.name)}: it has arrived")
    if sent.state != "delivered":
        raise EdgectlError(
            "alert.failed",
            f"the test did not arrive: {sent.error}",
            "docs/alerts.md says what the server needs for it",
        )


@routes.command(epilog=examples("edgectl alerts routes messages ops --state failed"))
@_ROUTE
@click.option("--state", type=click.Choice(["pending", "delivered", "failed"]))
@limit_option
@json_option
@pass_session
def messages(session: Session, route: str, state: str | None, limit: int, *, as_json: bool) -> None:
    """List what was sent by e-mail or MQTT or is on its way, newest first."""
    query = [("state", state)] if state else []
    with session.connect() as client:
        page = client.alert_notices(_find(client, route).id, query, limit)
    if as_json:
        print_json(page.items)
        return
    columns = ["STATE", ">BEGAN", ">AGAIN", ">ENDED", ">ATTEMPTS", "MADE", "NEXT", "ERROR"]
    rows = [
        (
            state_text(one.state),
            str(one.began),
            str(one.again),
            str(one.ended),
            str(one.attempts),
            age(one.created_at),
            "-" if one.next_at is None else age(one.next_at),
            plain(one.error),
        )
        for one in page.items
    ]
    consoles()[0].print(table(columns, rows))


def _find(client: Client, route: str) -> AlertRouteInfo:
    """Return a route by its name or id; there are few."""
    for one in client.alert_routes().items:
        if route in {one.id, one.name}:
            return one
    raise EdgectlError(
        "alert.no_route", f"there is no route {route[:64]}", "edgectl alerts routes list"
    )


def _meant(one: AlertRouteInfo) -> str:
    parts = [f"{one.severity} and above" if one.severity != "critical" else "critical"]
    parts += [" ".join(one.kinds)] if one.kinds else []
    parts += [
        f"{name} {value}" for name, value in (("model", one.model), ("site", one.site)) if value
    ]
    return ", ".join(parts)
