"""``edgectl labels``: what samples are, as people and the field say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from edgectl.client import Client
from edgectl.errors import LocalError, doing
from edgectl.label_files import Placed, csv_text, read_labels, studio_config, studio_task
from edgectl.output import age, consoles, pairs, plain, print_json, share_text, table
from edgectl.session import (
    NAME,
    Session,
    examples,
    given,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.types import (
    AnnotationImport,
    AnnotationImportResult,
    AnnotationRefusal,
    AnnotationRequest,
    LabellingSummary,
)

__all__ = ["labels"]

_SENT_AT_ONCE = 500
_REFUSALS_SHOWN = 20
_STATES = ("unlabelled", "labelled", "conflict", "skipped")


@click.group(
    short_help="Say what samples are, and take in what others or the field have said.",
    epilog=examples(
        "edgectl labels set 3f9c0d5e8a7b6c1d walking",
        "edgectl labels status har",
        "edgectl labels import labels.csv --model har",
        "edgectl labels export har --format label-studio --output tasks.json",
    ),
)
def labels() -> None:
    """Say what samples are, and take in what others or the field have said.

    Devices have labels of their own: `edgectl devices label`.
    """


@labels.command(
    "set",
    epilog=examples(
        "edgectl labels set 3f9c0d5e8a7b6c1d walking",
        "edgectl labels set 3f9c0d5e8a7b6c1d --skip",
        "edgectl labels set 3f9c0d5e8a7b6c1d --remove",
    ),
)
@click.argument("sample", metavar="ID")
@click.argument("label", required=False)
@click.option("--skip", is_flag=True, help="You have looked, and cannot tell.")
@click.option("--remove", is_flag=True, help="Take back what you have said.")
@json_option
@pass_session
def set_label(
    session: Session, sample: str, label: str | None, *, skip: bool, remove: bool, as_json: bool
) -> None:
    """Say of which class a sample is (operator); it replaces what you have said before."""
    if [label is not None, skip, remove].count(True) != 1:
        raise click.UsageError("give a LABEL, or --skip, or --remove")
    with session.connect() as client, doing(f"labelling the sample {plain(sample)}"):
        if remove:
            found = client.delete_annotation(sample)
        else:
            found = client.put_annotation(sample, AnnotationRequest(label=label))
    if as_json:
        print_json(found)
        return
    now = found.sample
    is_now = plain(now.label or "") if now.label_state == "labelled" else now.label_state
    click.echo(f"sample {plain(sample)} is {is_now}, by {len(found.annotations)} labellers")


@labels.command(
    "list",
    epilog=examples(
        "edgectl labels list --model har",
        "edgectl labels list --sample 3f9c0d5e8a7b6c1d",
        "edgectl labels list --labeller anna --source person --json",
    ),
)
@click.option("--model", type=NAME, help="Of its samples only.")
@click.option("--sample", metavar="ID", help="Of this sample only.")
@click.option("--labeller", help="By this one only.")
@click.option("--source", type=click.Choice(("person", "import", "field")), help="From there only.")
@limit_option
@json_option
@pass_session
def list_labels(
    session: Session,
    *,
    model: str | None,
    sample: str | None,
    labeller: str | None,
    source: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List what is said of samples, the newest first."""
    asked = {"model": model, "sample": sample, "labeller": labeller, "source": source}
    query = given(asked)
    with session.connect() as client:
        page = client.annotations(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no labels: `edgectl labels set ID LABEL`, or `edgectl labels import FILE`")
        return
    rows = [
        [
            plain(one.sample),
            plain(one.model),
            "cannot tell" if one.label is None else plain(one.label),
            plain(one.labeller),
            plain(one.source),
            age(one.made_at),
        ]
        for one in page.items
    ]
    output.print(table(["SAMPLE", "MODEL", "LABEL", "LABELLER", "SOURCE", "MADE"], rows))


@labels.command(
    epilog=examples("edgectl labels status har", "edgectl labels status har --json"),
)
@click.argument("model", type=NAME)
@json_option
@pass_session
def status(session: Session, model: str, *, as_json: bool) -> None:
    """Show how far the labelling of MODEL's samples is, and how well labellers agree."""
    with session.connect() as client:
        found = client.labelling(model)
    if as_json:
        print_json(found)
        return
    output, _ = consoles()
    output.print(pairs(_status_rows(found), f"labels of {plain(model)}"))


@labels.command(
    "import",
    epilog=examples(
        "edgectl labels import labels.csv --model har",
        "edgectl labels import project-3.json --check",
        "edgectl labels import outcomes.csv --truth",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", type=NAME, help="Refuse samples of other models.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(("auto", "csv", "label-studio")),
    default="auto",
    show_default=True,
    help="What FILE is.",
)
@click.option("--truth", is_flag=True, help="It is what happened; it wins over what people say.")
@click.option("--check", is_flag=True, help="Only say what would be refused.")
@json_option
@pass_session
def import_labels(
    session: Session,
    file: Path,
    *,
    model: str | None,
    kind: str,
    truth: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Take in labels from a CSV file, or from Label Studio's JSON export (operator).

    CSV: columns sample (or request, and device), label, skipped, labeller. The same file once more
    changes nothing. Lines that are refused are told, the others are kept; the exit code is 1 then.
    """
    placed = read_labels(file, kind)
    total = AnnotationImportResult(changed=0, unchanged=0, refused=[])
    with session.connect() as client, doing(f"importing {file}"):
        for at in range(0, len(placed), _SENT_AT_ONCE):
            items = [one.item for one in placed[at : at + _SENT_AT_ONCE]]
            asked = AnnotationImport(items=items, truth=truth, model=model, check=check)
            total = _added(total, client.import_annotations(asked), at)
    if as_json:
        where = [{"where": placed[one.index].where, **_fields(one)} for one in total.refused]
        print_json({"changed": total.changed, "unchanged": total.unchanged, "refused": where})
    else:
        _print_result(total, placed, check=check)
    if total.refused:
        click.get_current_context().exit(1)


@labels.command(
    "export",
    epilog=examples(
        "edgectl labels export har --output labels.csv",
        "edgectl labels export har --format label-studio --output tasks.json",
        "edgectl labels export har --format label-studio --state conflict --output again.json",
    ),
)
@click.argument("model", type=NAME)
@click.option(
    "--format",
    "kind",
    type=click.Choice(("csv", "label-studio")),
    default="csv",
    show_default=True,
    help="csv: what is said of samples; label-studio: tasks, with what is to be seen.",
)
@click.option(
    "--state",
    type=click.Choice(_STATES),
    default="unlabelled",
    show_default=True,
    help="Of tasks: samples that are so.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write; of tasks also one beside it that ends in .xml, Label Studio's setup.",
)
@limit_option
@json_option
@pass_session
def export_labels(
    session: Session,
    model: str,
    *,
    kind: str,
    state: str,
    output: Path,
    limit: int,
    as_json: bool,
) -> None:
    """Write the labels of MODEL's samples, or its samples as tasks for Label Studio (operator)."""
    with session.connect() as client, doing(f"exporting labels of {model}"):
        if kind == "csv":
            items = client.annotations([("model", model)], limit).items
            written = {output: csv_text(items)}
            count = len(items)
        else:
            written, count = _tasks(client, model, state, limit, output)
    for path, text in written.items():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise LocalError(
                "labels.output",
                f"cannot write {path}: {error.strerror}",
                "choose another place with --output FILE",
            ) from error
    if as_json:
        print_json({"files": [str(path) for path in written], "items": count})
    else:
        names = " and ".join(plain(str(path)) for path in written)
        click.echo(f"wrote {count} {'labels' if kind == 'csv' else 'tasks'}: {names}")


def _tasks(
    client: Client, model: str, state: str, limit: int, output: Path
) -> tuple[dict[Path, str], int]:
    """Return the files, and how many tasks they hold; samples that stay sealed are left out."""
    found = client.samples([("model", model), ("label_state", state)], limit).items
    sealed = [one for one in found if one.sealed]
    if sealed:
        consoles()[1].print(
            f"{len(sealed)} of {len(found)} samples are sealed to a key that the server does not "
            "have, and left out: `edgectl samples get ID --key FILE` opens one"
        )
    found = [one for one in found if not one.sealed]
    tasks, config = [], studio_config((), None)
    for one in found:
        content = client.sample_content(one.id)
        said = client.annotations_of(one.id).annotations
        tasks.append(studio_task(one, said, content))
        config = studio_config(content.classes, content.inputs[0])
    text = msgspec.json.format(msgspec.json.encode(tasks), indent=1).decode()
    return {output: text + "\n", output.with_suffix(".xml"): config}, len(tasks)


def _added(
    total: AnnotationImportResult, more: AnnotationImportResult, at: int
) -> AnnotationImportResult:
    refused = [msgspec.structs.replace(one, index=one.index + at) for one in more.refused]
    return AnnotationImportResult(
        changed=total.changed + more.changed,
        unchanged=total.unchanged + more.unchanged,
        refused=[*total.refused, *refused],
    )


def _fields(one: AnnotationRefusal) -> dict[str, str]:
    return {"code": one.code, "detail": one.detail}


def _print_result(total: AnnotationImportResult, placed: Sequence[Placed], *, check: bool) -> None:
    _, errors = consoles()
    for one in total.refused[:_REFUSALS_SHOWN]:
        errors.print(plain(f"{placed[one.index].where}: {one.code}: {one.detail}"))
    if len(total.refused) > _REFUSALS_SHOWN:
        errors.print(f"… and {len(total.refused) - _REFUSALS_SHOWN} more (--json has all)")
    would = "would be " if check else ""
    click.echo(
        f"{total.changed} labels {would}changed, {total.unchanged} are so already, "
        f"{len(total.refused)} {would}refused"
    )


def _status_rows(found: LabellingSummary) -> list[tuple[str, str]]:
    rows = [(state, str(found.states.get(state, 0))) for state in _STATES]
    rows.append(("classes", plain(_counts(found.by_class)) or "none"))
    rows.append(("waiting, by reason", _counts(found.by_reason)))
    rows.append(("labellers", plain(_counts(found.labellers))))
    kappa = "no sample has two labels" if found.agreement is None else f"{found.agreement:.3f}"
    rows.append(("agreement (Fleiss)", kappa))
    for pair in found.pairs:
        cohen = "-" if pair.kappa is None else f"{pair.kappa:.3f}"
        agreed = f"{pair.agreed} of {pair.samples}, Cohen's kappa {cohen}"
        rows.append((plain(f"{pair.one}, {pair.other}"), agreed))
    for reason, (right, answered) in sorted(found.right.items()):
        share = share_text(right / answered) if answered else "-"
        rows.append((f"right, {reason}", f"{right} of {answered}, {share}"))
    return rows


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))
