"""``edgectl retrain`` and ``edgectl retrainings``."""

from __future__ import annotations

import click
from rich.console import Console

from edgectl.errors import doing
from edgectl.job_end import check_succeeded, follow_job
from edgectl.output import age, consoles, pairs, plain, print_json, table
from edgectl.session import NAME, Session, examples, json_option, limit_option, pass_session
from edgectl.types import AccuracyPair, RetrainingDetail, RetrainRequest

__all__ = ["retrain", "retrainings"]


@click.command(
    short_help="Train a candidate from a dataset, and push it if it is better.",
    epilog=examples(
        "edgectl retrain har --dataset har-november",
        "edgectl retrain har --dataset har-november --trainer finetune --old-drop-max 1",
        "edgectl retrain har --dataset har-november --update-budget 0.5 --json",
    ),
)
@click.argument("model", type=NAME)
@click.option("--dataset", required=True, metavar="NAME", help="To learn from: a name or an id.")
@click.option("--trainer", default="head", show_default=True, metavar="NAME", help="Which one.")
@click.option("--parent", metavar="VERSION", help="To begin from; the one in service.")
@click.option(
    "--gain-min",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    help="Points that it must gain on the dataset's test split.",
)
@click.option(
    "--old-drop-max",
    type=click.FloatRange(0, 100),
    default=3.0,
    show_default=True,
    help="Points that it may lose on the data that the parent was pushed with.",
)
@click.option(
    "--rows-min",
    type=click.IntRange(1, 20_000),
    default=20,
    show_default=True,
    help="Rows of the test split without which nothing is pushed.",
)
@click.option(
    "--update-budget",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="Release it in small steps from the parent, for at most so many points.",
)
@click.option("--no-wait", is_flag=True, help="Return when the job is made.")
@json_option
@pass_session
def retrain(
    session: Session,
    model: str,
    *,
    dataset: str,
    trainer: str,
    parent: str | None,
    gain_min: float,
    old_drop_max: float,
    rows_min: int,
    update_budget: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Train a candidate for MODEL from a dataset, and push it if it is better (operator).

    It must gain on the dataset's test split and keep what the parent could on its own evaluation
    data; what does not is refused with its figures, and never pushed. `head` is built in: the last
    layer of a classifier is fitted anew. Other trainers are named in the server's settings.
    """
    asked = RetrainRequest(
        dataset=dataset,
        trainer=trainer,
        parent=parent,
        gain_points_min=gain_min,
        old_drop_points_max=old_drop_max,
        rows_min=rows_min,
        update_budget_points=update_budget,
    )
    with session.connect() as client, doing(f"retraining {model}"):
        begun = client.retrain(model, asked)
        jobs = []
        if not no_wait:
            jobs.append(follow_job(client, begun.id))
            push = client.retraining(begun.id).push_job
            if push is not None:
                jobs.append(follow_job(client, push))
        found = client.retraining(begun.id)
    if as_json:
        print_json(found)
    else:
        _print(consoles()[0], found)
    for job in jobs:
        check_succeeded(job)


@click.group(
    short_help="Show what retrainings have led to.",
    epilog=examples("edgectl retrainings list --model har", "edgectl retrainings show ID"),
)
def retrainings() -> None:
    """Show what retrainings have led to."""


@retrainings.command(
    "list", epilog=examples("edgectl retrainings list", "edgectl retrainings list --model har")
)
@click.option("--model", type=NAME, help="Of this model only.")
@limit_option
@json_option
@pass_session
def list_retrainings(session: Session, *, model: str | None, limit: int, as_json: bool) -> None:
    """List retrainings, the newest first."""
    with session.connect() as client:
        page = client.retrainings([("model", model)] if model else [], limit)
    if as_json:
        print_json(page.items)
        return
    rows = [
        (one.id, plain(one.model), plain(one.parent), plain(one.trainer), one.state,
         plain(one.version or ""), age(one.created_at))
        for one in page.items
    ]  # fmt: skip
    columns = ["ID", "MODEL", "PARENT", "TRAINER", "STATE", "VERSION", "BEGUN"]
    consoles()[0].print(table(columns, rows))


@retrainings.command("show", epilog=examples("edgectl retrainings show 3f9c0d5e8a7b6c1d"))
@click.argument("retraining", metavar="ID")
@click.option("--log", is_flag=True, help="Also what the trainer has written.")
@json_option
@pass_session
def show_retraining(session: Session, retraining: str, *, log: bool, as_json: bool) -> None:
    """Show a retraining: its figures, and what each gate has said."""
    with session.connect() as client:
        found = client.retraining(retraining)
    if as_json:
        print_json(found)
        return
    output, _ = consoles()
    _print(output, found)
    if log:
        output.print(plain(found.log))


@retrainings.command("trainers", epilog=examples("edgectl retrainings trainers"))
@json_option
@pass_session
def list_trainers(session: Session, *, as_json: bool) -> None:
    """List the trainers that can be named."""
    with session.connect() as client:
        found = client.trainers()
    if as_json:
        print_json(found)
        return
    rows = [
        (one.name, "built in" if one.built_in else "own", plain(one.description)) for one in found
    ]
    consoles()[0].print(table(["NAME", "KIND", "WHAT IT DOES"], rows))


def _print(output: Console, found: RetrainingDetail) -> None:
    facts = [
        ("retraining", found.id),
        ("from", plain(f"{found.model}@{found.parent}, dataset {found.dataset[:19]}…")),
        ("trainer", plain(found.trainer)),
        ("state", _state(found)),
    ]
    if found.new is not None:
        facts.append(("new rows", _shares(found.new)))
    if found.old is not None:
        facts.append(("old rows", _shares(found.old)))
    if found.version is not None:
        facts.append(("version", plain(f"{found.model}@{found.version}")))
    if found.error is not None:
        facts.append(("refused", plain(f"{found.error.code}: {found.error.detail}")))
    if found.tracking is not None:
        told = found.tracking
        facts.append(("MLflow", plain(told.address or f"{told.state} {told.error}".strip())))
    output.print(pairs(facts))
    if found.verdicts:
        rows = [(one.gate, one.verdict, plain(one.detail)) for one in found.verdicts]
        output.print(table(["GATE", "VERDICT", "WHY"], rows))


def _state(found: RetrainingDetail) -> str:
    """Return how far a retraining is, with what it does or waits for while it has not ended."""
    message = "" if found.finished_at is not None else found.progress.message
    return f"{found.state}: {plain(message)}" if message else found.state


def _shares(pair: AccuracyPair) -> str:
    before, after = pair.champion / pair.rows, pair.challenger / pair.rows
    return f"{before:.3f} → {after:.3f} of {pair.rows}"
