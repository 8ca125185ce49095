"""``edgectl models``."""

from __future__ import annotations

from contextlib import closing

import click

from edgectl.client import Client
from edgectl.output import consoles, plain, print_json
from edgectl.session import MODEL, Session, examples, json_option, limit_option, pass_session
from edgectl.tables import (
    models_table,
    report_table,
    version_table,
    versions_table,
)
from edgectl.trust_tables import wait_text
from edgectl.types import VersionDetail, VersionSummary

__all__ = ["models"]

_UNDER_WAY = frozenset({"processing", "unsigned"})


@click.group(epilog=examples("edgectl models list", "edgectl models show har@1"))
def models() -> None:
    """Show models, their versions and what quantization did to them."""


@models.command("list", epilog=examples("edgectl models list", "edgectl models list --search har"))
@click.option("--search", default="", help="Part of the name.")
@limit_option
@json_option
@pass_session
def list_models(session: Session, search: str, limit: int, *, as_json: bool) -> None:
    """List models with their newest version."""
    query = [("q", search)] if search else []
    with session.connect() as client:
        page = client.models(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no models yet: push one with `edgectl push MODEL.onnx`")
        return
    output.print(models_table(page.items))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@models.command(
    "show",
    epilog=examples(
        "edgectl models show har",
        "edgectl models show har@1",
        "edgectl models show vision-door@1 --watch",
    ),
)
@click.argument("model", type=MODEL)
@click.option("--watch", is_flag=True, help="Wait until MODEL@VERSION is ready, or never will be.")
@json_option
@pass_session
def show_model(session: Session, model: str, *, watch: bool, as_json: bool) -> None:
    """Show the versions of a MODEL, or the report of one MODEL@VERSION."""
    name, _, version = model.partition("@")
    if watch and not version:
        raise click.UsageError(f"what is watched is a version: {name}@1 --watch")
    output, _ = consoles()
    with session.connect() as client:
        if version:
            detail = client.get_version(name, version)
            if watch:
                _wait(client, detail)
                detail = client.get_version(name, version)
            if as_json:
                print_json(detail)
                return
            output.print(version_table(detail))
            if detail.report is not None:
                output.print()
                output.print(report_table(detail, detail.report))
            return
        summary = client.model(name)
        versions = client.versions(name).items
    if as_json:
        print_json({"model": summary, "versions": versions})
    else:
        output.print(versions_table(versions))


def _wait(client: Client, version: VersionDetail) -> None:
    """Return when the version is ready, or has failed; say on stderr what it waits for."""
    _, errors = consoles()
    said = ""
    with closing(client.events([f"version:{version.model}@{version.version}"])) as stream:
        for event in stream:
            seen = event.read(VersionSummary)
            if seen.state not in _UNDER_WAY:
                return
            line = seen.state if seen.waits_for is None else wait_text(seen.waits_for)
            if line != said:
                errors.print(f"{plain(seen.model)}@{plain(seen.version)} {plain(line)}")
            said = line
