"""``edgectl answers``: which devices have answered with what, and when."""

from __future__ import annotations

import click

from edgectl.durations import Moment
from edgectl.errors import doing
from edgectl.output import age, consoles, plain, print_json, table
from edgectl.session import (
    DEVICE,
    MODEL,
    Session,
    examples,
    json_option,
    limit_option,
    pass_session,
)

__all__ = ["answers"]


@click.command(
    short_help="Show which devices have answered with a model or digest, and when.",
    epilog=examples(
        "edgectl answers har@2 --from 2026-11-01 --to 2026-11-02T14:30",
        "edgectl answers --digest sha256:… --json",
        "edgectl answers --device pi-1",
    ),
)
@click.argument("model", type=MODEL, required=False, metavar="[MODEL[@VERSION]]")
@click.option("--digest", metavar="SHA256", help="Of a bundle's manifest.")
@click.option("--device", type=DEVICE, help="Only this one; alone: with what it has answered.")
@click.option("--from", "since", type=Moment(), help="Not before this time.")
@click.option("--to", "until", type=Moment(), help="Not after it; now by default.")
@limit_option
@json_option
@pass_session
def answers(
    session: Session,
    *,
    model: str | None,
    digest: str | None,
    device: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show which devices have answered requests with a model, a version or a digest, and when.

    First and last are by the devices' clocks; requests and errors are those of the hours that the
    time touches. It is kept as long as telemetry is.
    """
    if not (model or digest or device):
        raise click.UsageError("say what is asked for: MODEL[@VERSION], --digest or --device")
    name, _, version = (model or "").partition("@")
    given = {
        "model": name,
        "version": version,
        "digest": digest,
        "device": device,
        "from": since,
        "to": until,
    }
    query = [(key, value) for key, value in given.items() if value]
    with session.connect() as client, doing("asking which devices have answered"):
        page = client.answers(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    columns = ["DEVICE", "MODEL", "DIGEST", "FIRST", "LAST", ">REQUESTS", ">ERRORS"]
    rows = [
        (
            plain(one.device),
            plain(f"{one.model}@{one.version}"),
            plain(one.digest),
            f"{one.first:%Y-%m-%d %H:%M} UTC",
            f"{one.last:%Y-%m-%d %H:%M} UTC, {age(one.last)}",
            str(one.requests),
            str(one.errors),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")
