"""``edgectl models``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from edgectl.client import Client
from edgectl.comparison_tables import comparison_tables, running_table
from edgectl.errors import LocalError
from edgectl.gate_options import check_require
from edgectl.gate_tables import policy_table
from edgectl.lineage_tables import lineage_tables
from edgectl.output import consoles, plain, print_json
from edgectl.output_files import say_written, write_output
from edgectl.session import (
    MODEL,
    MODEL_VERSION,
    NAME,
    Session,
    examples,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.tables import (
    models_table,
    report_table,
    version_table,
    versions_table,
)
from edgectl.trust_tables import wait_text
from edgectl.types import ModelPolicy, PolicyInfo, VersionDetail, VersionSummary
from edgectl_protocol.requirements import METRIC_NAMES

__all__ = ["models"]

_DOCUMENTS = {"card": "model-card.md", "sbom": "sbom.cdx.json"}
_UNDER_WAY = frozenset({"processing", "unsigned"})


@click.group(
    epilog=examples(
        "edgectl models list",
        "edgectl models show har@1",
        "edgectl models report har@1 --output report.html",
    )
)
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


@models.command(
    "policy",
    epilog=examples(
        "edgectl models policy har",
        "edgectl models policy har --max-drop 0.5 --require 'accuracy>=0.9'",
        "edgectl models policy har --metric f1",
        "edgectl models policy har --clear",
    ),
)
@click.argument("model", type=NAME)
@click.option("--max-drop", type=click.FloatRange(0, 100), help="Largest loss, in points.")
@click.option("--require", multiple=True, metavar="GATE", help="What every variant must reach.")
@click.option("--metric", type=click.Choice(METRIC_NAMES), help="By which pushes are measured.")
@click.option("--clear", is_flag=True, help="Take away what is not given here.")
@json_option
@pass_session
def model_policy(
    session: Session,
    model: str,
    *,
    max_drop: float | None,
    require: tuple[str, ...],
    metric: str | None,
    clear: bool,
    as_json: bool,
) -> None:
    """Show what every push of MODEL must keep, or change it (admin).

    What is given replaces the same of the policy, all --require together; the rest stays as it is,
    or goes with --clear. It holds from the next push on, and only an admin overrides its gates.
    """
    wanted = check_require(require)
    with session.connect() as client:
        policy = client.policy(model)
        if max_drop is not None or wanted or metric is not None or clear:
            kept = ModelPolicy() if clear else _as_it_is(policy)
            changed = ModelPolicy(
                max_drop_points=kept.max_drop_points if max_drop is None else max_drop,
                require=wanted or kept.require,
                metric=metric or kept.metric,
                revision=policy.revision,
            )
            policy = client.put_policy(model, changed)
    if as_json:
        print_json(policy)
        return
    output, _ = consoles()
    output.print(policy_table(policy))


def _as_it_is(policy: PolicyInfo) -> ModelPolicy:
    return ModelPolicy(
        max_drop_points=policy.max_drop_points, metric=policy.metric, require=policy.require
    )


@models.command(
    "report",
    epilog=examples(
        "edgectl models report har@1 --output report.html",
        "edgectl models report har@1 --format card",
        "edgectl models report har@1 --format sbom --variant int8 --output har.cdx.json",
    ),
)
@click.argument("model", type=MODEL_VERSION)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file to write; by default it is named after the version, and - is stdout.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "card", "sbom"]),
    default="html",
    show_default=True,
    help="The report as a page, the model card, or the bill of materials (CycloneDX).",
)
@click.option("--variant", help="Of the card and the bill of materials; what devices try first.")
@json_option
@pass_session
def report(
    session: Session,
    model: str,
    *,
    output: Path | None,
    kind: str,
    variant: str | None,
    as_json: bool,
) -> None:
    """Write what is known of a MODEL@VERSION into a file that can be kept and sent.

    The page shows what was tried, with pictures, and needs no network and no server. Model card and
    bill of materials are those that are signed with the bundle.
    """
    if kind == "html" and variant is not None:
        raise click.UsageError("the page is of all variants: --variant goes with card and sbom")
    if as_json and output is not None and str(output) == "-":
        raise click.UsageError("--json needs a file: stdout holds the report otherwise")
    name, _, version = model.partition("@")
    with session.connect() as client:
        if kind == "html":
            content = client.report_page(name, version)
        else:
            variant = variant or _first_variant(client, name, version)
            content = client.document(name, version, variant, _DOCUMENTS[kind])
    if output is not None and str(output) == "-":
        click.echo(content.decode(), nl=False)
        return
    suffix = "report.html" if kind == "html" else f"{variant}-{_DOCUMENTS[kind]}"
    output = output or Path(f"{name}-{version}-{suffix}")
    say_written(output, write_output(output, [content]), as_json=as_json)


@models.command(
    "lineage",
    epilog=examples("edgectl models lineage har@2", "edgectl models lineage har@2 --json"),
)
@click.argument("model", type=MODEL_VERSION)
@json_option
@pass_session
def show_lineage(session: Session, model: str, *, as_json: bool) -> None:
    """Say where a MODEL@VERSION comes from: files, recipes, tools, ancestors."""
    name, _, version = model.partition("@")
    with session.connect() as client:
        lineage = client.lineage(name, version)
    if as_json:
        print_json(lineage)
        return
    output, _ = consoles()
    output.print(lineage_tables(lineage))


@models.command("running", epilog=examples("edgectl models running har"))
@click.argument("model", type=NAME)
@json_option
@pass_session
def show_running(session: Session, model: str, *, as_json: bool) -> None:
    """Count the devices that run a MODEL, by version and digest.

    Which they are: edgectl devices list --where 'runs=MODEL@VERSION', or runs=MODEL@sha256:...
    """
    with session.connect() as client:
        found = client.running(model)
    if as_json:
        print_json(found)
        return
    output, errors = consoles()
    if not found:
        errors.print(f"no device runs {plain(model)}")
        return
    output.print(running_table(found))


@models.command("compare", epilog=examples("edgectl models compare har@1 har@2"))
@click.argument("left", type=MODEL_VERSION)
@click.argument("right", type=MODEL_VERSION)
@json_option
@pass_session
def compare(session: Session, left: str, right: str, *, as_json: bool) -> None:
    """Show two versions of a model side by side: contract, sizes, accuracy, latency, gates."""
    name, _, before = left.partition("@")
    other, _, after = right.partition("@")
    if name != other:
        raise click.UsageError(f"both are of one model: {name}@{before} and {name}@OTHER")
    with session.connect() as client:
        found = client.compare(name, before, after)
    if as_json:
        print_json(found)
    else:
        consoles()[0].print(comparison_tables(found))


def _first_variant(client: Client, name: str, version: str) -> str:
    variants = client.get_version(name, version).variants
    if not variants:
        raise LocalError(
            "document.no_bundle",
            f"{name}@{version} has no bundle, and so neither card nor bill of materials",
            f"edgectl models show {name}@{version}",
        )
    return min(variants, key=lambda one: one.rank).variant


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
