"""``edgectl rollout``: start, follow, pause, resume, approve and abort."""

from __future__ import annotations

import click
from rich.console import Group

from edgectl.client import Client
from edgectl.commands.rollout_breakdown import COMMANDS
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.forecast_tables import forecast_tables
from edgectl.output import consoles, plain, print_json
from edgectl.rollout_options import rollout_options
from edgectl.session import (
    MODEL,
    Session,
    examples,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.spec_files import rollout_yaml
from edgectl.tables import (
    rollout_devices_table,
    rollout_events_table,
    rollout_table,
    rollouts_table,
)
from edgectl.types import RolloutInfo, RolloutPolicy, RolloutRequest, Selector
from edgectl.watching import RolloutView, Watched, watch_rollout

__all__ = ["ready_version", "rollout"]


@click.group(
    epilog=examples(
        "edgectl rollout plan har@1 --all --phases canary:5,10%",
        "edgectl rollout start har@1 --all",
        "edgectl rollout watch",
        "edgectl rollout abort ROLLOUT --reason 'wrong labels'",
    )
)
def rollout() -> None:
    """Bring a model to devices, and watch it arrive."""


for command in COMMANDS:
    rollout.add_command(command)


@rollout.command(
    epilog=examples(
        "edgectl rollout start har@1 --all",
        "edgectl rollout start har --group site-a",
        "edgectl rollout start har --where 'site=porto and hw=rpi4 and not tag=demo'",
        "edgectl rollout start har --device pi-1 --device pi-2 --observe 60",
        "edgectl rollout start har@2 --all --max-in-progress 10 --failures-max 3 --no-watch",
        "edgectl rollout start har@2 --all --phases canary:5,10%,50% --soak 1h --deadline 2h",
        "edgectl rollout start har@2 --all --phases canary:5 --approve-after canary"
        " --gate 'error_rate<=0.01'",
        "edgectl rollout start har@2 --all --phases 'canary:where=tag=canary,10%'"
        " --gate 'class_mix<=0.1' --gate 'confidence<=0.1'",
        "edgectl rollout start har@2 --all --phases canary:20,50%"
        " --experiment 'canary:error_rate margin=0.01 limit=2d'",
        "edgectl rollout start har@2 --all --shadow 10m --window 'mon-fri 02:00-04:00'",
        "edgectl rollout start detector@2 --all --with classifier@5 --no-watch",
        "edgectl rollout start classifier@5 --all --with detector@2",
    )
)
@click.argument("model", type=MODEL)
@rollout_options
@click.option("--watch/--no-watch", default=True, show_default=True, help="Follow it to its end.")
@json_option
@pass_session
def start(
    session: Session,
    model: str,
    selector: Selector,
    policy: RolloutPolicy,
    *,
    watch: bool,
    as_json: bool,
) -> None:
    """Roll out MODEL[@VERSION]: the newest ready version when none is named.

    With --watch the exit code is 1 when the rollout does not complete on every device. Ctrl-C stops
    watching only.
    """
    name, _, version = model.partition("@")
    with session.connect() as client:
        with doing(f"starting the rollout of {model}"):
            version = version or ready_version(client, name)
            started = client.start_rollout(RolloutRequest(name, version, selector, policy))
        seen = _follow(client, started.id) if watch else _look(client, started.id)
    _print_watched(seen, as_json=as_json)
    if watch:
        _check_outcome(seen.rollout)


@rollout.command(
    epilog=examples(
        "edgectl rollout plan har@2 --all --phases canary:5,10%,50% --soak 1h",
        "edgectl rollout plan har@2 --group site-a --min-available 50% --json",
    )
)
@click.argument("model", type=MODEL)
@rollout_options
@json_option
@pass_session
def plan(
    session: Session, model: str, selector: Selector, policy: RolloutPolicy, *, as_json: bool
) -> None:
    """Say what `rollout start` with these options would do; nothing is started.

    Phases, devices and variants, bytes, time, and for how long a site would have no device that
    serves, at worst. Times come from rollouts of the model that have ended.
    """
    name, _, version = model.partition("@")
    with session.connect() as client, doing(f"planning the rollout of {model}"):
        version = version or ready_version(client, name)
        found = client.plan_rollout(RolloutRequest(name, version, selector, policy))
    if as_json:
        print_json(found)
    else:
        consoles()[0].print(forecast_tables(found))


@rollout.command(
    "list", epilog=examples("edgectl rollout list", "edgectl rollout list --state running")
)
@click.option("--state", type=click.Choice(["running", "paused", "completed", "aborted"]))
@click.option("--model", default="", help="Only of this model.")
@limit_option
@json_option
@pass_session
def list_rollouts(
    session: Session, state: str | None, model: str, limit: int, *, as_json: bool
) -> None:
    """List rollouts, newest first."""
    query = [(key, value) for key, value in (("state", state), ("model", model)) if value]
    with session.connect() as client:
        page = client.rollouts(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items and not query:
        errors.print("no rollouts yet: start one with `edgectl rollout start MODEL --all`")
        return
    output.print(rollouts_table(page.items))


@rollout.command(
    epilog=examples("edgectl rollout status", "edgectl rollout status ROLLOUT --watch")
)
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@click.option("--watch", is_flag=True, help="Follow it to its end; exit code 1 if it goes wrong.")
@json_option
@pass_session
def status(session: Session, rollout_id: str | None, *, watch: bool, as_json: bool) -> None:
    """Show a rollout and its devices; the newest one when none is named."""
    with session.connect() as client:
        found = rollout_id or _newest(client)
        seen = _follow(client, found) if watch else _look(client, found)
    _print_watched(seen, as_json=as_json)
    if watch:
        _check_outcome(seen.rollout)


@rollout.command(
    "watch", epilog=examples("edgectl rollout watch", "edgectl rollout watch ROLLOUT --json")
)
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@json_option
@pass_session
def watch(session: Session, rollout_id: str | None, *, as_json: bool) -> None:
    """Follow a rollout to its end; the newest one when none is named.

    The exit code is 1 when it does not complete on every device. Ctrl-C stops watching only.
    """
    with session.connect() as client:
        seen = _follow(client, rollout_id or _newest(client))
    _print_watched(seen, as_json=as_json)
    _check_outcome(seen.rollout)


@rollout.command(
    "events",
    epilog=examples("edgectl rollout events", "edgectl rollout events ROLLOUT --limit 10"),
)
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@limit_option
@json_option
@pass_session
def rollout_events(session: Session, rollout_id: str | None, limit: int, *, as_json: bool) -> None:
    """List what has happened to a rollout, newest first; to the newest one when none is named."""
    with session.connect() as client:
        page = client.rollout_events(rollout_id or _newest(client), limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    output.print(rollout_events_table(page.items))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@rollout.command(epilog=examples("edgectl rollout export ROLLOUT", "edgectl rollout export"))
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@json_option
@pass_session
def export(session: Session, rollout_id: str | None, *, as_json: bool) -> None:
    """Print a rollout as a file for `edgectl apply`; the newest one when none is named."""
    with session.connect() as client:
        found = client.rollout(rollout_id or _newest(client))
    request = RolloutRequest(found.model, found.version, found.selector, found.policy)
    if as_json:
        print_json(request)
    else:
        click.echo(rollout_yaml(request), nl=False)


_REASON = click.option("--reason", default="", help="Kept with the rollout, for others to read.")


@rollout.command(epilog=examples("edgectl rollout pause ROLLOUT --reason 'wait for Monday'"))
@click.argument("rollout_id", metavar="ROLLOUT")
@_REASON
@json_option
@pass_session
def pause(session: Session, rollout_id: str, reason: str, *, as_json: bool) -> None:
    """Start no further device; those in progress finish."""
    _act(session, rollout_id, "pause", reason, as_json=as_json)


@rollout.command(epilog=examples("edgectl rollout resume ROLLOUT"))
@click.argument("rollout_id", metavar="ROLLOUT")
@_REASON
@json_option
@pass_session
def resume(session: Session, rollout_id: str, reason: str, *, as_json: bool) -> None:
    """Go on; the failures so far are taken as known."""
    _act(session, rollout_id, "resume", reason, as_json=as_json)


@rollout.command(epilog=examples("edgectl rollout approve ROLLOUT --reason 'looked at pi-1'"))
@click.argument("rollout_id", metavar="ROLLOUT")
@_REASON
@json_option
@pass_session
def approve(session: Session, rollout_id: str, reason: str, *, as_json: bool) -> None:
    """Let its phase pass, whose devices have all ended, though data is missing."""
    _act(session, rollout_id, "approve", reason, as_json=as_json)


@rollout.command(
    epilog=examples(
        "edgectl rollout abort ROLLOUT --reason 'wrong labels'",
        "edgectl rollout abort ROLLOUT --revert",
    )
)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option(
    "--keep/--revert",
    default=True,
    show_default=True,
    help="Devices that have committed keep the new version, or go back too.",
)
@_REASON
@json_option
@pass_session
def abort(session: Session, rollout_id: str, reason: str, *, keep: bool, as_json: bool) -> None:
    """End it; devices in progress go back to what they were to run before."""
    _act(session, rollout_id, "abort", reason, revert=not keep, as_json=as_json)


def ready_version(client: Client, name: str) -> str:
    """Return the newest version of a model that is ready.

    Raises:
        EdgectlError: ``rollout.not_ready``: it has none.
    """
    for version in client.versions(name).items:
        if version.state == "ready":
            return version.version
    raise EdgectlError(
        "rollout.not_ready", f"{name} has no version that is ready", f"edgectl models show {name}"
    )


def _newest(client: Client) -> str:
    items = client.rollouts(limit=1).items
    if not items:
        raise EdgectlError(
            "rollout.none", "there is no rollout yet", "edgectl rollout start MODEL --all"
        )
    return items[0].id


def _look(client: Client, rollout_id: str) -> Watched:
    return Watched(client.rollout(rollout_id), client.rollout_devices(rollout_id).items)


def _follow(client: Client, rollout_id: str) -> Watched:
    _, errors = consoles()
    client.rollout(rollout_id)  # a server that is not there is said at once, not waited for
    try:
        with RolloutView(errors) as view, doing(f"watching rollout {rollout_id}"):
            watch_rollout(client, rollout_id, view.show)
            return client.patiently(lambda: _look(client, rollout_id))
    except KeyboardInterrupt:
        raise LocalError(
            "rollout.interrupted",
            "no longer watching; the rollout goes on",
            f"follow it with `edgectl rollout watch {rollout_id}`,"
            f" stop it with `edgectl rollout abort {rollout_id}`",
        ) from None


def _print_watched(seen: Watched, *, as_json: bool) -> None:
    if as_json:
        print_json({"rollout": seen.rollout, "devices": seen.devices})
        return
    output, _ = consoles()
    output.print(Group(rollout_table(seen.rollout), rollout_devices_table(seen.devices)))


def _check_outcome(found: RolloutInfo) -> None:
    counts = found.counts
    name = f"{found.model}@{found.version}"
    if found.state == "paused":
        note = found.note or "paused by hand"
        raise EdgectlError(
            "rollout.paused",
            f"the rollout of {name} is {'' if note.startswith('paused') else 'paused: '}{note}",
            f"`edgectl rollout resume {found.id}`, or `edgectl rollout abort {found.id}`",
        )
    if found.state != "completed" or counts.unsuccessful:
        raise EdgectlError(
            f"rollout.{found.state}",
            f"the rollout of {name} is {found.state}: {counts.committed} of {counts.total} devices"
            f" have committed, {counts.unsuccessful} went wrong",
            f"edgectl rollout status {found.id}",
        )


def _act(
    session: Session,
    rollout_id: str,
    action: str,
    reason: str,
    *,
    revert: bool = False,
    as_json: bool,
) -> None:
    with session.connect() as client, doing(f"{action} of rollout {rollout_id}"):
        found = client.rollout_action(rollout_id, action, reason, revert=revert)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{plain(found.model)}@{plain(found.version)} is {plain(found.state)}")
