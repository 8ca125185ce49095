"""``edgectl webhooks``: who outside is told of what happens."""

from __future__ import annotations

import click

from edgectl.client import Client
from edgectl.errors import EdgectlError, doing
from edgectl.output import age, consoles, plain, print_json, state_text, table
from edgectl.session import Session, examples, json_option, limit_option, pass_session
from edgectl.types import WebhookChange, WebhookDeliveryInfo, WebhookInfo, WebhookRequest

__all__ = ["WEBHOOK_EVENTS", "WEBHOOK_FORMATS", "webhooks"]

WEBHOOK_EVENTS = (
    "rollout.started",
    "rollout.phase",
    "rollout.paused",
    "rollout.resumed",
    "rollout.approved",
    "rollout.aborted",
    "rollout.finished",
    "gate.failed",
    "device.failed",
    "device.rejected",
    "device.rolled_back",
    "enrolment.pending",
)
WEBHOOK_FORMATS = ("edgectl", "slack", "teams")
_HOOK = click.argument("webhook", metavar="NAME|ID")


@click.group(
    epilog=examples(
        "edgectl webhooks add ops https://hooks.example/edgectl --event rollout.paused",
        "edgectl webhooks test ops",
        "edgectl webhooks deliveries ops",
    )
)
def webhooks() -> None:
    """Tell other systems and chat rooms of rollouts, gates and devices (admin)."""


@webhooks.command(
    epilog=examples(
        "edgectl webhooks add ops https://hooks.example/edgectl --event all",
        "edgectl webhooks add room https://hooks.slack.com/services/… --format slack"
        " --event rollout.paused --event gate.failed",
    )
)
@click.argument("name")
@click.argument("url")
@click.option(
    "--event",
    "events",
    type=click.Choice((*WEBHOOK_EVENTS, "all")),
    multiple=True,
    required=True,
    help="What it is told of; repeatable.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(WEBHOOK_FORMATS),
    default="edgectl",
    show_default=True,
    help="What is sent: JSON of ours, or a message for a chat room.",
)
@json_option
@pass_session
def add(
    session: Session, name: str, url: str, events: tuple[str, ...], form: str, *, as_json: bool
) -> None:
    """Add a webhook and show the secret that signs what it is sent, this once.

    Receivers check it as standardwebhooks.com says; chat rooms need no secret.
    """
    chosen = list(WEBHOOK_EVENTS if "all" in events else events)
    with session.connect() as client, doing(f"adding the webhook {name}"):
        created = client.create_webhook(WebhookRequest(name, url, chosen, form))
    if as_json:
        print_json(created)
        return
    output, errors = consoles()
    output.print(plain(created.secret), soft_wrap=True)
    errors.print(
        f"{plain(created.webhook.name)}: told of {len(chosen)} kinds of events;"
        " its secret is shown this once\n"
        f"try it with `edgectl webhooks test {created.webhook.id}`"
    )


@webhooks.command("list", epilog=examples("edgectl webhooks list"))
@limit_option
@json_option
@pass_session
def list_webhooks(session: Session, limit: int, *, as_json: bool) -> None:
    """List webhooks, and how the newest delivery to each went."""
    with session.connect() as client:
        page = client.webhooks((), limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no webhooks yet: add one with `edgectl webhooks add NAME URL --event all`")
        return
    columns = ["NAME", "ID", "FORMAT", "EVENTS", ">WAITING", "NEWEST", "URL"]
    rows = [
        (
            plain(one.name),
            plain(one.id),
            plain(one.format) if one.enabled else f"{plain(one.format)}, off",
            plain(" ".join(one.events)),
            str(one.pending),
            "-" if one.newest is None else _outcome(one.newest),
            plain(one.url),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))


@webhooks.command(
    "set",
    epilog=examples(
        "edgectl webhooks set ops --url https://hooks.example/new",
        "edgectl webhooks set ops --event rollout.paused --event gate.failed",
        "edgectl webhooks set ops --off",
    ),
)
@_HOOK
@click.option("--name", help="A new name.")
@click.option("--url", help="Another address; what waits goes there.")
@click.option("--event", "events", type=click.Choice((*WEBHOOK_EVENTS, "all")), multiple=True)
@click.option("--format", "form", type=click.Choice(WEBHOOK_FORMATS))
@click.option("--on/--off", "enabled", default=None, help="Send to it, or keep what waits.")
@json_option
@pass_session
def set_webhook(
    session: Session,
    webhook: str,
    *,
    name: str | None,
    url: str | None,
    events: tuple[str, ...],
    form: str | None,
    enabled: bool | None,
    as_json: bool,
) -> None:
    """Change a webhook; its secret stays."""
    chosen = list(WEBHOOK_EVENTS if "all" in events else events) or None
    given = {"name": name, "url": url, "events": chosen, "format": form, "enabled": enabled}
    change = {key: value for key, value in given.items() if value is not None}
    if not change:
        raise click.UsageError("say what to change: --name, --url, --event, --format, --on, --off")
    with session.connect() as client, doing(f"changing the webhook {webhook}"):
        found = client.change_webhook(_find(client, webhook).id, WebhookChange(**change))  # type: ignore[arg-type]  # by name, above
    if as_json:
        print_json(found)
    else:
        click.echo(f"{plain(found.name)} is changed")


@webhooks.command(epilog=examples("edgectl webhooks remove ops"))
@_HOOK
@json_option
@pass_session
def remove(session: Session, webhook: str, *, as_json: bool) -> None:
    """Delete a webhook, and what was on its way to it."""
    with session.connect() as client, doing(f"removing the webhook {webhook}"):
        found = _find(client, webhook)
        client.delete_webhook(found.id)
    if as_json:
        print_json({"deleted": found.id})
    else:
        click.echo(f"{plain(found.name)} is removed")


@webhooks.command(epilog=examples("edgectl webhooks test ops"))
@_HOOK
@json_option
@pass_session
def test(session: Session, webhook: str, *, as_json: bool) -> None:
    """Send a webhook a test now, once; exit code 1 if it does not arrive."""
    with session.connect() as client, doing(f"testing the webhook {webhook}"):
        found = _find(client, webhook)
        sent = client.test_webhook(found.id)
    if as_json:
        print_json(sent)
    elif sent.state == "delivered":
        click.echo(f"{plain(found.name)} has answered {sent.status}")
    if sent.state != "delivered":
        raise EdgectlError(
            "webhook.failed",
            f"the test did not arrive: {sent.error}",
            f"edgectl webhooks set {found.id} --url …",
        )


@webhooks.command(
    epilog=examples(
        "edgectl webhooks deliveries ops", "edgectl webhooks deliveries ops --state failed --json"
    )
)
@_HOOK
@click.option("--state", type=click.Choice(["pending", "delivered", "failed"]))
@limit_option
@json_option
@pass_session
def deliveries(
    session: Session, webhook: str, state: str | None, limit: int, *, as_json: bool
) -> None:
    """List what a webhook was sent or is sent, newest first."""
    query = [("state", state)] if state else []
    with session.connect() as client:
        page = client.webhook_deliveries(_find(client, webhook).id, query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    columns = ["EVENT", "STATE", ">ATTEMPTS", ">STATUS", "HAPPENED", "NEXT", "ERROR"]
    rows = [
        (
            plain(one.event),
            state_text(one.state),
            str(one.attempts),
            plain(one.status),
            age(one.created_at),
            "-" if one.next_at is None else age(one.next_at),
            plain(one.error),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


def _find(client: Client, webhook: str) -> WebhookInfo:
    """Return a webhook by its name or id; there are few."""
    for one in client.webhooks().items:
        if webhook in {one.id, one.name}:
            return one
    raise EdgectlError(
        "webhook.unknown", f"there is no webhook {webhook[:64]}", "edgectl webhooks list"
    )


def _outcome(one: WebhookDeliveryInfo) -> str:
    why = f", {plain(one.error)}" if one.error else ""
    return f"{plain(one.state)} {age(one.tried_at)}{why}"
