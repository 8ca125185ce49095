"""``edgectl data``: rules of data, as for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgectl.dataset_folders import open_dataset
from edgectl.errors import LocalError, doing
from edgectl.output import consoles, plain, print_json, table
from edgectl.session import Session, examples, json_option, pass_session
from edgectl.types import DataCheckFinding, DataCheckReport

if TYPE_CHECKING:
    from edgectl_protocol.watching import Reference

__all__ = ["data"]


@click.group(
    short_help="Check data by rules, as for CI.",
    epilog=examples(
        "edgectl data check har-november",
        "edgectl data check ./har-november --min-rows 50 --json",
    ),
)
def data() -> None:
    """Check data by rules, as for CI."""


@data.command(
    epilog=examples(
        "edgectl data check har-november",
        "edgectl data check ./har-november --reference reference.json",
        "edgectl data check har-november --min-rows 50 --json",
    )
)
@click.argument("name", metavar="NAME|ID|FOLDER")
@click.option(
    "--min-rows",
    type=click.IntRange(0, 20_000),
    default=10,
    show_default=True,
    help="Of each class in train.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of a folder: reference.json of the model's bundle, to compare ranges with.",
)
@click.option("--warnings", is_flag=True, help="Fail on warnings too.")
@json_option
@pass_session
def check(
    session: Session,
    name: str,
    *,
    min_rows: int,
    reference: Path | None,
    warnings: bool,
    as_json: bool,
) -> None:
    """Check a dataset: of the server by its name or id, or a folder here (with a / in it).

    Schema, NaN, ranges against the model's signed reference, classes, rows of each, duplicates and
    devices across splits, labels that contradict. The exit code is 1 when something has failed.
    """
    if "/" in name or Path(name, "dataset.json").is_file():
        report = _of_folder(Path(name), min_rows, reference)
    elif reference is not None:
        raise click.UsageError("the server has the reference: --reference is for folders")
    else:
        with session.connect() as client, doing(f"checking the dataset {plain(name)}"):
            report = client.dataset_checks(name, [("min_rows", str(min_rows))])
    bad = {"failed", "warning"} if warnings else {"failed"}
    if as_json:
        print_json(report)
    else:
        rows = [_line(one) for one in report.findings]
        consoles()[0].print(table(["CHECK", "STATUS", "FOUND", "SAMPLES"], rows))
    if any(one.status in bad for one in report.findings):
        click.get_current_context().exit(1)


def _line(one: DataCheckFinding) -> list[str]:
    samples = ", ".join(one.samples[:3]) + (", …" if len(one.samples) > 3 else "")  # noqa: PLR2004
    status = one.status.replace("_", " ")
    return [plain(one.check), plain(status), plain(one.detail), plain(samples)]


def _of_folder(path: Path, min_rows: int, reference: Path | None) -> DataCheckReport:
    folder = open_dataset(path)
    from edgectl_datasets.checks import Bounds, check
    from edgectl_datasets.errors import BadDataset
    from edgectl_datasets.facts import gather

    known = None if reference is None else _reference(reference)
    samples = ((row, arrays) for row, _, arrays in folder.samples())
    try:
        facts = gather(folder.dataset, folder.rows, samples, reference=known)
    except BadDataset as error:
        raise LocalError(
            "dataset.folder",
            f"{path} is damaged ({error.code}): {error}",
            "export it again: `edgectl dataset export NAME`",
        ) from error
    found = check(facts, Bounds(class_rows_min=min_rows))
    return DataCheckReport(
        id=folder.dataset.id,
        failed=sum(one.status == "failed" for one in found),
        findings=[
            DataCheckFinding(
                check=one.check, status=one.status, detail=one.detail, samples=list(one.samples)
            )
            for one in found
        ],
    )


def _reference(path: Path) -> Reference:
    from edgectl_protocol.errors import ProtocolError
    from edgectl_protocol.watching import REFERENCE_BYTES_MAX, decode_reference

    try:
        with path.open("rb") as file:
            return decode_reference(file.read(REFERENCE_BYTES_MAX + 1))
    except (OSError, ProtocolError) as error:
        raise LocalError(
            "data.reference",
            f"{path} is no reference.json: {error}",
            "take it out of the model's bundle: `edgectl export MODEL@VERSION`",
        ) from error
