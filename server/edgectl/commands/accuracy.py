"""``edgectl accuracy``."""

from __future__ import annotations

import click

from edgectl.accuracy_tables import accuracy_detail, accuracy_table
from edgectl.commands.group_options import group_options, group_query
from edgectl.errors import doing
from edgectl.output import consoles, print_json, print_list
from edgectl.session import (
    NAME,
    Session,
    examples,
    given,
    json_option,
    limit_option,
    pass_session,
)

__all__ = ["accuracy"]


@click.group(
    short_help="Show how often models are right, as far as counts tell.",
    epilog=examples("edgectl accuracy status", "edgectl accuracy show har --site porto"),
)
def accuracy() -> None:
    """Show how often models are right where nobody says what is true.

    Estimated from how sure devices' answers are, by what that sureness was worth on the labelled
    data at push; and from how their mix has changed. Neither sees everything: docs/accuracy.md.
    """


@accuracy.command(
    epilog=examples(
        "edgectl accuracy status",
        "edgectl accuracy status har --level site",
        "edgectl accuracy status --state low --json",
    )
)
@click.argument("model", type=NAME, required=False)
@click.option("--level", type=click.Choice(["fleet", "site", "device"]), help="Of this level only.")
@click.option(
    "--state",
    type=click.Choice(["unknown", "good", "suspected", "low", "recovering"]),
    help="In this state only.",
)
@limit_option
@json_option
@pass_session
def status(
    session: Session,
    model: str | None,
    level: str | None,
    state: str | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """List fleets, sites and devices with their estimated accuracy."""
    asked = {"model": model, "level": level, "state": state}
    query = given(asked)
    with session.connect() as client:
        page = client.accuracy(query, limit)
    nothing = (
        "nothing was estimated: it takes a model that was pushed with labelled data, and a "
        "period of it"
    )
    print_list(page.items, accuracy_table, nothing, as_json=as_json)


@accuracy.command(
    epilog=examples(
        "edgectl accuracy show har",
        "edgectl accuracy show har --site porto",
        "edgectl accuracy show har --device pi-1 --json",
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
    """Say from what it was estimated, how it has gone, and where it is low."""
    query = group_query(site, device, manifest)
    with session.connect() as client, doing(f"looking at the accuracy of {model}"):
        found = client.accuracy_detail(model, query)
    if as_json:
        print_json(found)
        return
    consoles()[0].print(accuracy_detail(found))
