"""``edgectl dataset``: immutable snapshots of samples and their labels."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from edgectl.dataset_archives import unpack
from edgectl.dataset_folders import open_dataset, verify_blobs
from edgectl.durations import Moment
from edgectl.errors import doing
from edgectl.output import age, bytes_text, consoles, pairs, plain, print_json, table
from edgectl.session import NAME, Session, examples, json_option, limit_option, pass_session
from edgectl.types import DatasetDetail, DatasetInfo, DatasetRequest
from edgectl_protocol.samples import SAMPLE_REASONS

__all__ = ["dataset"]

_NAME = click.argument("name", metavar="NAME|ID")
_SPLITS = ("train", "validation", "test")


@click.group(
    short_help="Make snapshots of labelled samples, to train on and to measure with.",
    epilog=examples(
        "edgectl dataset create har-november --model har --from 2026-11-01",
        "edgectl dataset list --model har",
        "edgectl dataset export har-november --output har-november",
        "edgectl dataset verify har-november",
    ),
)
def dataset() -> None:
    """Make snapshots of labelled samples, to train on and to measure with.

    A dataset never changes; its id follows from its content.
    """


@dataset.command(
    epilog=examples(
        "edgectl dataset create har-november --model har --from 2026-11-01 --to 2026-12-01",
        "edgectl dataset create har-2 --model har --parent har-november --reason uncertain",
        "edgectl dataset create har-all --model har --with-unlabelled --ratios 0.8,0,0.2",
    ),
)
@click.argument("name", type=NAME)
@click.option("--model", type=NAME, required=True, help="Of which model's samples.")
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice(SAMPLE_REASONS),
    help="Taken for this reason; repeatable.",
)
@click.option("--site", help="From devices of this site only.")
@click.option("--from", "since", type=Moment(), help="Taken at this time or later.")
@click.option("--to", "until", type=Moment(), help="Taken before it.")
@click.option("--with-unlabelled", is_flag=True, help="Also samples without a label.")
@click.option(
    "--ratios",
    default="0.7,0.15,0.15",
    show_default=True,
    metavar="TRAIN,VALIDATION,TEST",
    help="Shares of the rows; no device is in two splits.",
)
@click.option("--seed", default="", help="Another one gives other splits.")
@click.option("--parent", metavar="NAME|ID", help="A dataset whose rows are taken over.")
@json_option
@pass_session
def create(
    session: Session,
    name: str,
    *,
    model: str,
    reasons: tuple[str, ...],
    site: str | None,
    since: str | None,
    until: str | None,
    with_unlabelled: bool,
    ratios: str,
    seed: str,
    parent: str | None,
    as_json: bool,
) -> None:
    """Make a dataset of samples (operator); the same once more is the same one."""
    asked = DatasetRequest(
        name=name,
        model=model,
        reasons=list(reasons),
        site=site,
        since=since,
        until=until,
        labelled=not with_unlabelled,
        ratios=_ratios(ratios),
        seed=seed,
        parent=parent,
    )
    with session.connect() as client, doing(f"making the dataset {name}"):
        found = client.create_dataset(asked)
    if as_json:
        print_json(found)
        return
    consoles()[0].print(pairs(_rows(found), f"dataset {plain(found.name)}"))
    if found.split_by == "time":
        click.echo("split by time: there are fewer devices than splits, so that devices leak")


@dataset.command(
    "list",
    epilog=examples("edgectl dataset list", "edgectl dataset list --model har --json"),
)
@click.option("--model", type=NAME, help="Of this model only.")
@limit_option
@json_option
@pass_session
def list_datasets(session: Session, *, model: str | None, limit: int, as_json: bool) -> None:
    """List datasets, the newest first."""
    query = [] if model is None else [("model", model)]
    with session.connect() as client:
        page = client.datasets(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no datasets: `edgectl dataset create NAME --model MODEL`")
        return
    columns = ["NAME", "MODEL", ">ROWS", ">LABELLED", "SPLITS", ">SIZE", "MADE", "BY"]
    output.print(table(columns, [_line(one) for one in page.items]))


@dataset.command(
    epilog=examples("edgectl dataset show har-november", "edgectl dataset show har-november --json")
)
@_NAME
@json_option
@pass_session
def show(session: Session, name: str, *, as_json: bool) -> None:
    """Show a dataset: where it comes from, its splits, its classes, its inputs."""
    with session.connect() as client:
        found = client.dataset(name)
    if as_json:
        print_json(found)
        return
    output, _ = consoles()
    output.print(pairs([*_rows(found.info), *_more_rows(found)], f"dataset {plain(name)}"))
    classes = _class_lines(found)
    if classes:
        output.print(table(["CLASS", *(f">{split.upper()}" for split in _SPLITS)], classes))
    columns = ["INPUT", "SPLIT", ">MEAN", ">STD", ">LEAST", ">LARGEST", ">MISSING"]
    output.print(table(columns, _input_lines(found)))


@dataset.command(
    epilog=examples(
        "edgectl dataset export har-november",
        "edgectl dataset export har-november --output /data/har-november",
    )
)
@_NAME
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="The folder to write; by default it is named after the dataset.",
)
@json_option
@pass_session
def export(session: Session, name: str, *, output: Path | None, as_json: bool) -> None:
    """Write a dataset as a folder (operator): dataset.json, rows.parquet, blobs.

    pandas, Polars and DuckDB read the rows, safetensors the blobs.
    """
    with session.connect() as client, doing(f"exporting the dataset {plain(name)}"):
        info = client.dataset(name).info
        target = output or Path(info.name)
        with closing(client.dataset_archive(info.id)) as pieces:
            length = unpack(pieces, target)
    if as_json:
        print_json({"folder": str(target), "bytes": length, "id": info.id})
    else:
        click.echo(f"wrote {plain(str(target))}, {bytes_text(length)}, {info.id}")


@dataset.command(
    epilog=examples(
        "edgectl dataset verify har-november",
        "edgectl dataset verify ./har-november --json",
    )
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
def verify(folder: Path, *, as_json: bool) -> None:
    """Prove that a folder is the dataset that it says it is; no server is asked."""
    found = open_dataset(folder)
    count = verify_blobs(found)
    if as_json:
        dataset_id = found.dataset.id
        print_json({"id": dataset_id, "rows": len(found.rows), "blobs": count})
    else:
        click.echo(f"{found.dataset.id}: {len(found.rows)} rows, {count} blobs, all as they were")


@dataset.command(
    epilog=examples("edgectl dataset delete har-november", "edgectl dataset delete har-2 --json")
)
@_NAME
@json_option
@pass_session
def delete(session: Session, name: str, *, as_json: bool) -> None:
    """Delete a dataset (operator); samples that nothing else holds go with it."""
    with session.connect() as client, doing(f"deleting the dataset {plain(name)}"):
        client.delete_dataset(name)
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"dataset {plain(name)} is deleted")


def _ratios(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"{text!r}: three shares, such as 0.7,0.15,0.15") from error
    return train, validation, test


def _line(one: DatasetInfo) -> list[str]:
    return [
        plain(one.name),
        plain(one.model),
        str(one.rows),
        str(one.labelled),
        _splits(one),
        bytes_text(one.bytes),
        age(one.created_at),
        plain(one.created_by),
    ]


def _splits(one: DatasetInfo) -> str:
    return " / ".join(str(one.splits.get(split, 0)) for split in _SPLITS)


def _rows(one: DatasetInfo) -> list[tuple[str, str]]:
    return [
        ("id", plain(one.id)),
        ("model", plain(one.model)),
        ("rows", f"{one.rows}, {one.labelled} with a label"),
        ("train / validation / test", f"{_splits(one)}, by {plain(one.split_by)}"),
        ("size", bytes_text(one.bytes)),
        ("made", f"{age(one.created_at)} by {plain(one.created_by)}"),
        ("continues", plain(one.parent or "nothing")),
    ]


def _more_rows(found: DatasetDetail) -> list[tuple[str, str]]:
    document = found.document
    models = [f"{one['version']} ({one['rows']})" for one in document["models"]]
    rows = [("answered by", plain(", ".join(models)))]
    for title, name in (("asked for", "filter"), ("left out", "left_out")):
        told = ", ".join(f"{key} {value}" for key, value in document[name].items())
        rows.append((title, plain(told) or "nothing"))
    if found.blobs_missing:
        rows.append(("damaged", f"{found.blobs_missing} blobs are missing"))
    return rows


def _class_lines(found: DatasetDetail) -> list[list[str]]:
    counted = found.document["statistics"]["classes"]
    return [
        [plain(name), *(str(counted[split][number]) for split in _SPLITS)]
        for number, name in enumerate(found.document["classes"])
    ]


def _input_lines(found: DatasetDetail) -> list[list[str]]:
    lines = []
    for one in found.document["statistics"]["inputs"]:
        numbers = [one[name] for name in ("mean", "std", "low", "high", "missing")]
        shown = ["-" if number is None else f"{number:.4g}" for number in numbers]
        lines.append([plain(one["input"]), plain(one["split"]), *shown])
    return lines
