"""``edgectl telemetry``."""

from __future__ import annotations

import click

from edgectl.output import consoles, duration_text, print_json
from edgectl.session import NAME, Session, examples, json_option, pass_session
from edgectl.tables import telemetry_table

__all__ = ["telemetry"]


@click.command(
    short_help="Show what a model did on the devices.",
    epilog=examples("edgectl telemetry har", "edgectl telemetry har --since 86400"),
)
@click.argument("model", type=NAME)
@click.option(
    "--since",
    type=click.IntRange(1, 400 * 86400),
    default=3600,
    show_default=True,
    help="Over the last so many seconds.",
)
@json_option
@pass_session
def telemetry(session: Session, model: str, since: int, *, as_json: bool) -> None:
    """Show what a model did on the devices: requests, errors, latency, classes."""
    with session.connect() as client:
        summaries = client.telemetry(model, since)
        if not summaries:
            client.model(model)  # a name that nobody knows is said, not passed off as silence
        labels: list[str] = []
        if summaries and not as_json:
            labels = client.get_version(model, summaries[0].version).labels
    if as_json:
        print_json(summaries)
        return
    output, errors = consoles()
    if not summaries:
        errors.print(f"no telemetry of {model} in the last {duration_text(since)}")
        return
    output.print(telemetry_table(summaries, labels))
