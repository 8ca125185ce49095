"""What a rollout has come to: ``edgectl rollout devices``, ``phases``, ``reasons``, ``service``."""

from __future__ import annotations

import click

from edgectl.breakdown_tables import phases_table, reasons_table, service_tables
from edgectl.output import consoles, print_json
from edgectl.session import Session, examples, json_option, limit_option, pass_session
from edgectl.tables import rollout_devices_table

__all__ = ["COMMANDS"]

_STATES = (
    "pending", "in_progress", "committed", "failed", "rejected", "rolled_back", "overdue",
    "reverted", "cancelled",
)  # fmt: skip


@click.command(
    "devices",
    epilog=examples(
        "edgectl rollout devices ROLLOUT --state rolled_back",
        "edgectl rollout devices ROLLOUT --reason trial.golden --phase 2",
    ),
)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--reason", default="", help="Only those whose reason has this code.")
@click.option("--phase", type=click.IntRange(1), help="Only those of this phase, by its number.")
@click.option("--search", default="", help="Part of the name.")
@limit_option
@json_option
@pass_session
def rollout_devices(
    session: Session,
    rollout_id: str,
    *,
    state: str | None,
    reason: str,
    phase: int | None,
    search: str,
    limit: int,
    as_json: bool,
) -> None:
    """List the devices of a rollout that match everything that is given."""
    asked = (("state", state), ("reason", reason), ("phase", phase), ("q", search))
    query = [(name, str(value)) for name, value in asked if value]
    with session.connect() as client:
        page = client.rollout_devices(rollout_id, query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    output.print(rollout_devices_table(page.items))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@click.command("phases", epilog=examples("edgectl rollout phases ROLLOUT"))
@click.argument("rollout_id", metavar="ROLLOUT")
@json_option
@pass_session
def rollout_phases(session: Session, rollout_id: str, *, as_json: bool) -> None:
    """Show the phases of a rollout, with what has become of their devices."""
    with session.connect() as client:
        found = client.rollout_phases(rollout_id)
    if as_json:
        print_json(found)
    else:
        consoles()[0].print(phases_table(found))


@click.command("reasons", epilog=examples("edgectl rollout reasons ROLLOUT"))
@click.argument("rollout_id", metavar="ROLLOUT")
@json_option
@pass_session
def rollout_reasons(session: Session, rollout_id: str, *, as_json: bool) -> None:
    """Count the devices of a rollout by why they have ended as they have."""
    with session.connect() as client:
        found = client.rollout_reasons(rollout_id)
    if as_json:
        print_json(found)
        return
    output, errors = consoles()
    if not found:
        errors.print("no device has given a reason")
        return
    output.print(reasons_table(found))


@click.command("service", epilog=examples("edgectl rollout service ROLLOUT"))
@click.argument("rollout_id", metavar="ROLLOUT")
@json_option
@pass_session
def rollout_service(session: Session, rollout_id: str, *, as_json: bool) -> None:
    """Compare the new version in service with the others of its model, since the rollout began."""
    with session.connect() as client:
        found = client.rollout_service(rollout_id)
    if as_json:
        print_json(found)
    else:
        consoles()[0].print(service_tables(found))


COMMANDS = (rollout_devices, rollout_phases, rollout_reasons, rollout_service)
