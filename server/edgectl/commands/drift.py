"""``edgectl drift``."""

from __future__ import annotations

import click

from edgectl.commands.group_options import group_options, group_query
from edgectl.drift_tables import (
    drift_detail,
    drift_events_table,
    drift_history,
    drift_summary_table,
    drift_table,
)
from edgectl.durations import Duration, Moment
from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json, print_list
from edgectl.session import (
    DEVICE,
    NAME,
    Session,
    examples,
    given,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.types import UsualDaysChange

__all__ = ["drift"]


_SITE_AND_DEVICES = click.option("--site", help="Of this site and its devices only.")
_MANIFEST = click.option("--manifest", help="Of this bundle only.")


@click.group(
    short_help="Show where devices see other data than a model was made for.",
    epilog=examples("edgectl drift status", "edgectl drift show har", "edgectl drift events har"),
)
def drift() -> None:
    """Show where devices see other data than their model's reference.

    Devices count what their models are given and answer, and send counts alone; the server compares
    them with the reference that is signed in the bundle.
    """


@drift.command(
    epilog=examples(
        "edgectl drift status",
        "edgectl drift status har --level site",
        "edgectl drift status --state drifting --json",
    )
)
@click.argument("model", type=NAME, required=False)
@click.option("--level", type=click.Choice(["fleet", "site", "device"]), help="Of this level only.")
@click.option(
    "--state",
    type=click.Choice(["unknown", "quiet", "suspected", "drifting", "recovering"]),
    help="In this state only.",
)
@_SITE_AND_DEVICES
@_MANIFEST
@click.option("--faulty", is_flag=True, help="With faults of their data only.")
@limit_option
@json_option
@pass_session
def status(
    session: Session,
    *,
    model: str | None,
    level: str | None,
    state: str | None,
    site: str | None,
    manifest: str | None,
    faulty: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List fleets, sites and devices, and whether each has left its model's reference."""
    asked = {
        "model": model,
        "level": level,
        "state": state,
        "site": site,
        "manifest": manifest,
        "faulty": "true" if faulty else None,
    }
    query = given(asked)
    with session.connect() as client:
        page = client.drift(query, limit)
    nothing = "nothing was judged: it takes a model that was pushed with data, and a period of it"
    print_list(page.items, drift_table, nothing, as_json=as_json)


@drift.command(
    epilog=examples(
        "edgectl drift show har",
        "edgectl drift show har --site porto",
        "edgectl drift show har --device pi-1 --json",
    )
)
@click.argument("model", type=NAME)
@group_options
@json_option
@pass_session
def show(
    session: Session,
    model: str,
    site: str | None,
    device: str | None,
    manifest: str | None,
    *,
    as_json: bool,
) -> None:
    """Say why: the features that moved with both histograms, and where else they did."""
    query = group_query(site, device, manifest)
    with session.connect() as client, doing(f"looking at the drift of {model}"):
        found = client.drift_detail(model, query)
    if as_json:
        print_json(found)
        return
    consoles()[0].print(drift_detail(found))


@drift.command(
    epilog=examples(
        "edgectl drift history har",
        "edgectl drift history har --site porto --since 3d",
        "edgectl drift history har --device pi-1 --feature classes --json",
    )
)
@click.argument("model", type=NAME)
@group_options
@click.option(
    "--since",
    type=Duration(600, 90 * 86400),
    default="24h",
    show_default=True,
    help="How far back.",
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="This one; else those that were farthest. Repeat it.",
)
@json_option
@pass_session
def history(
    session: Session,
    *,
    model: str,
    site: str | None,
    device: str | None,
    manifest: str | None,
    since: int,
    features: tuple[str, ...],
    as_json: bool,
) -> None:
    """Tell how far a group was from its reference, step by step."""
    query = [*group_query(site, device, manifest), ("since_s", str(since))]
    query += [("feature", name) for name in features]
    with session.connect() as client, doing(f"looking at the history of {model}"):
        found = client.drift_history(model, query)
    if as_json:
        print_json(found)
        return
    consoles()[0].print(drift_history(found))


@drift.command(
    epilog=examples(
        "edgectl drift usual har --from 2026-11-01 --to 2026-11-08",
        "edgectl drift usual har",
        "edgectl drift usual har --off",
    )
)
@click.argument("model", type=NAME)
@click.option("--from", "since", type=Moment(), help="The first of the usual days.")
@click.option("--to", "until", type=Moment(), help="The day after the last; 3 to 62 days.")
@click.option("--off", is_flag=True, help="Compare with the reference alone again.")
@json_option
@pass_session
def usual(
    session: Session,
    model: str,
    since: str | None,
    until: str | None,
    *,
    off: bool,
    as_json: bool,
) -> None:
    """Say on which days nothing was wrong with what MODEL saw (operator), or show them.

    What the same hours of the day saw then is no drift, also where it differs from the reference:
    nights, shifts, a market on Saturdays within a stretch of a day.
    """
    if (since is None) != (until is None) or (off and since is not None):
        raise click.UsageError("give --from and --to, or --off, or none of them")
    with session.connect() as client, doing(f"looking at the usual days of {model}"):
        if off:
            client.delete_usual_days(model)
            if as_json:
                print_json({"model": model, "usual": None})
            else:
                click.echo(f"{plain(model)} is compared with its reference alone")
            return
        if since is not None and until is not None:
            found = client.set_usual_days(model, UsualDaysChange(since=since, until=until))
        else:
            found = client.usual_days(model)
    if as_json:
        print_json(found)
        return
    days = f"{found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} UTC"
    click.echo(f"{plain(model)}: {days}, said by {plain(found.set_by)} {age(found.set_at)}")


@drift.command(epilog=examples("edgectl drift summary", "edgectl drift summary har --json"))
@click.argument("model", type=NAME, required=False)
@limit_option
@json_option
@pass_session
def summary(session: Session, model: str | None, limit: int, *, as_json: bool) -> None:
    """List bundles with how many of their sites and devices drift."""
    with session.connect() as client:
        page = client.drift_summary([] if model is None else [("model", model)], limit)
    nothing = "nothing was judged yet"
    print_list(page.items, drift_summary_table, nothing, as_json=as_json)


@drift.command(epilog=examples("edgectl drift events", "edgectl drift events har --json"))
@click.argument("model", type=NAME, required=False)
@_SITE_AND_DEVICES
@click.option("--device", type=DEVICE, help="Of this device only.")
@_MANIFEST
@limit_option
@json_option
@pass_session
def events(
    session: Session,
    *,
    model: str | None,
    site: str | None,
    device: str | None,
    manifest: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List drift and faults of data that have begun and ended, newest first."""
    asked = {"model": model, "site": site, "device": device, "manifest": manifest}
    query = given(asked)
    with session.connect() as client:
        page = client.drift_events(query, limit)
    nothing = "no drift and no fault of data yet"
    print_list(page.items, drift_events_table, nothing, as_json=as_json)
