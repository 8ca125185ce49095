"""``edgectl telemetry``."""

from __future__ import annotations

import click

from edgectl.device_tables import receipts_table
from edgectl.errors import doing
from edgectl.output import consoles, duration_text, print_json
from edgectl.session import DEVICE, NAME, Session, examples, json_option, pass_session
from edgectl.tables import telemetry_table

__all__ = ["telemetry"]


@click.command(
    short_help="Show what a model did on the devices, or what has come of a device.",
    epilog=examples(
        "edgectl telemetry har",
        "edgectl telemetry har --since 86400",
        "edgectl telemetry --device pi-1",
    ),
)
@click.argument("model", type=NAME, required=False)
@click.option(
    "--device",
    type=DEVICE,
    help="What of this device has come, twice or not at all, and where its clock jumped.",
)
@click.option(
    "--since",
    type=click.IntRange(1, 400 * 86400),
    default=3600,
    show_default=True,
    help="Over the last so many seconds.",
)
@json_option
@pass_session
def telemetry(
    session: Session, model: str | None, device: str | None, since: int, *, as_json: bool
) -> None:
    """Show what a model did on the devices: requests, errors, latency, classes.

    With --device instead: messages that were received, repeated, are awaited or lost.
    """
    if (model is None) == (device is None):
        raise click.UsageError("say which model, or --device NAME; not both")
    if model is not None:
        _show_model(session, model, since, as_json=as_json)
    elif device is not None:
        _show_device(session, device, as_json=as_json)


def _show_model(session: Session, model: str, since: int, *, as_json: bool) -> None:
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


def _show_device(session: Session, device: str, *, as_json: bool) -> None:
    with session.connect() as client, doing(f"looking at what came of {device}"):
        found = client.device_receipts(device)
    if as_json:
        print_json(found)
        return
    output, errors = consoles()
    if not found.boots:
        errors.print(f"nothing has come of {device}")
        return
    output.print(receipts_table(found))
