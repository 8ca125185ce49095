"""``edgectl models``."""

from __future__ import annotations

import click

from edgectl.output import consoles, print_json
from edgectl.session import MODEL, Session, examples, json_option, limit_option, pass_session
from edgectl.tables import models_table, report_table, version_table, versions_table

__all__ = ["models"]


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


@models.command("show", epilog=examples("edgectl models show har", "edgectl models show har@1"))
@click.argument("model", type=MODEL)
@json_option
@pass_session
def show_model(session: Session, model: str, *, as_json: bool) -> None:
    """Show the versions of a MODEL, or the report of one MODEL@VERSION."""
    name, _, version = model.partition("@")
    output, _ = consoles()
    with session.connect() as client:
        if version:
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
