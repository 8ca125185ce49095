"""``edgectl samples``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from edgectl.commands.sample_keys import key, passphrase_option
from edgectl.durations import Moment
from edgectl.errors import doing
from edgectl.output import age, bytes_text, consoles, pairs, plain, print_json, table
from edgectl.output_files import output_option, say_written, write_output
from edgectl.sample_key_files import open_with, read_passphrase, read_private, read_public
from edgectl.session import (
    DEVICE,
    NAME,
    Session,
    examples,
    given,
    json_option,
    limit_option,
    pass_session,
)
from edgectl.sizes import Size
from edgectl.types import SampleInfo, SamplePolicyChange, SamplePolicyInfo
from edgectl_protocol.samples import SAMPLE_REASONS
from edgectl_protocol.sealed_samples import is_sealed

__all__ = ["samples"]

_SAMPLE = click.argument("sample", metavar="ID")


@click.group(
    short_help="Have devices send single inputs and answers of a model, and read them.",
    epilog=examples(
        "edgectl samples policy har --bytes-per-day 5M --reason uncertain --reason random",
        "edgectl samples list --model har --reason uncertain",
        "edgectl samples get 3f9c0d5e8a7b6c1d --output one.safetensors",
    ),
)
def samples() -> None:
    """Have devices send single inputs and answers of a model, and read them.

    None leaves a device until its model has a policy, and none at all where the device's own
    setting forbids it (`samples = false` in agent.toml).
    """


samples.add_command(key)


@samples.command(
    "list",
    epilog=examples(
        "edgectl samples list",
        "edgectl samples list --model har --reason uncertain --from 2026-11-01",
        "edgectl samples list --device pi-1 --json",
    ),
)
@click.option("--model", type=NAME, help="Of this model only.")
@click.option("--device", type=DEVICE, help="From this device only.")
@click.option("--site", help="From devices of this site only.")
@click.option("--reason", type=click.Choice(SAMPLE_REASONS), help="Taken for this reason only.")
@click.option(
    "--label-state",
    type=click.Choice(["unlabelled", "labelled", "conflict", "skipped"]),
    help="What its labels amount to.",
)
@click.option("--from", "since", type=Moment(), help="Taken at this time or later.")
@click.option("--to", "until", type=Moment(), help="Taken before it.")
@limit_option
@json_option
@pass_session
def list_samples(
    session: Session,
    *,
    model: str | None,
    device: str | None,
    site: str | None,
    reason: str | None,
    label_state: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List samples, the newest first."""
    asked = {
        "model": model,
        "device": device,
        "site": site,
        "reason": reason,
        "label_state": label_state,
        "since": since,
        "until": until,
    }
    query = given(asked)
    with session.connect() as client:
        page = client.samples(query, limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    if not page.items:
        errors.print("no samples: `edgectl samples policy MODEL` says whether any are asked for")
        return
    columns = ["ID", "TAKEN", "DEVICE", "MODEL", "REASON", ">SIZE", "TENSORS"]
    output.print(table(columns, [_row(one) for one in page.items]))


@samples.command(
    epilog=examples(
        "edgectl samples get 3f9c0d5e8a7b6c1d",
        "edgectl samples get 3f9c0d5e8a7b6c1d --output one.safetensors",
        "edgectl samples get 3f9c0d5e8a7b6c1d --key team.pem",
    )
)
@_SAMPLE
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Your own key that it is sealed to; it stays on this machine.",
)
@passphrase_option
@output_option
@json_option
@pass_session
def get(
    session: Session,
    sample: str,
    *,
    key_file: Path | None,
    passphrase_file: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write the file of a sample, in the safetensors layout (operator).

    `safetensors.numpy.load_file` reads it: tensors input.NAME and output.NAME. The audit log tells
    who has read which. One that is sealed to a key which the server does not have is opened with
    --key; without it, it is written as it is.
    """
    with doing(f"reading the sample {plain(sample)}"):
        private = None
        if key_file is not None:
            private = read_private(key_file, read_passphrase(passphrase_file))
        with session.connect() as client:
            content = client.patiently(lambda: client.sample(sample))
        if private is not None and is_sealed(content):
            content = open_with(content, private)
    path = output or Path(f"sample-{sample}.{'sealed' if is_sealed(content) else 'safetensors'}")
    if is_sealed(content):
        consoles()[1].print("it is sealed: `--key FILE` opens it where the key is")
    say_written(path, write_output(path, [content]), as_json=as_json)


@samples.command(
    epilog=examples(
        "edgectl samples delete 3f9c0d5e8a7b6c1d", "edgectl samples delete 3f9c0d5e8a7b6c1d --json"
    )
)
@_SAMPLE
@json_option
@pass_session
def delete(session: Session, sample: str, *, as_json: bool) -> None:
    """Delete a sample and its content (operator)."""
    with session.connect() as client, doing(f"deleting the sample {plain(sample)}"):
        client.delete_sample(sample)
    if as_json:
        print_json({"deleted": sample})
    else:
        click.echo(f"sample {plain(sample)} is deleted")


@samples.command(
    epilog=examples(
        "edgectl samples policy har",
        "edgectl samples policy har --bytes-per-day 5M --reason uncertain --reason random",
        "edgectl samples policy har --reason random --reason diverse --reason out-of-reference",
        "edgectl samples policy har --random-share 0.5",
        "edgectl samples policy har --seal team.pem.pub",
        "edgectl samples policy har --off",
    )
)
@click.argument("model", type=NAME)
@click.option("--bytes-per-day", type=Size("0", "5M"), help="Most that one device sends in a day.")
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice(SAMPLE_REASONS),
    help="Why samples may be taken; all that are given replace those of before.",
)
@click.option(
    "--random-share", type=click.FloatRange(0, 1), help="Of all samples, taken whatever was said."
)
@click.option(
    "--seal",
    metavar="server|none|FILE",
    help="To which key devices seal samples: the server's, none, or that of a public key's file.",
)
@click.option("--off", is_flag=True, help="Nothing leaves devices any more.")
@json_option
@pass_session
def policy(
    session: Session,
    model: str,
    *,
    bytes_per_day: int | None,
    reasons: tuple[str, ...],
    random_share: float | None,
    seal: str | None,
    off: bool,
    as_json: bool,
) -> None:
    """Show what of MODEL's inputs and answers may leave devices, or change it (admin).

    What is not given stays as it is. Devices are told within a minute, by signed order; what they
    have kept of a policy that is taken away they delete. They seal samples before these are
    written, by default to the server's own key.

    Reasons: `uncertain`, the least confident answer; `out-of-reference`, the input or answer
    furthest outside of the signed reference; `diverse`, the one most unlike those taken lately;
    `disagreeing`, what a candidate in shadow answers otherwise; `asked`, the first that an
    application asks to keep; `random`, whatever was answered, for comparison. They take turns.
    """
    changes = (bytes_per_day, reasons or None, random_share, seal)
    given = any(one is not None for one in changes)
    if seal not in {None, "server", "none"}:
        with doing("reading the public key"):
            seal = read_public(seal).text
    if off and given:
        raise click.UsageError("--off takes everything away: give it alone")
    with session.connect() as client:
        found = client.sample_policy(model)
        if off or given:
            changed = SamplePolicyChange(revision=found.revision)
            if not off:
                changed = SamplePolicyChange(
                    bytes_per_day=found.bytes_per_day if bytes_per_day is None else bytes_per_day,
                    reasons=list(reasons) or found.reasons,
                    random_share=found.random_share if random_share is None else random_share,
                    seal=seal,
                    revision=found.revision,
                )
            found = client.put_sample_policy(model, changed)
    if as_json:
        print_json(found)
        return
    consoles()[0].print(_policy_table(found))


def _row(one: SampleInfo) -> list[str]:
    tensors = ", ".join(f"{each.name} {each.datatype} {each.shape}" for each in one.tensors)
    if one.sealed:
        tensors = f"sealed to {one.key}"
    return [
        plain(one.id),
        age(one.taken_at),
        plain(one.device),
        plain(f"{one.model}@{one.version}"),
        plain(one.reason),
        bytes_text(one.length),
        plain(tensors),
    ]


def _seal_text(found: SamplePolicyInfo) -> str:
    """Return to which key devices seal samples, and who has it."""
    if found.seal == "none":
        return "no key: they travel as they are"
    if found.seal == "server":
        return f"the server's key {plain(found.key or '')}".rstrip()
    return f"the key {plain(found.key or '')}, which the server does not have"


def _policy_table(found: SamplePolicyInfo) -> Table:
    on = found.bytes_per_day > 0 and bool(found.reasons)
    rows = [
        ("leaves devices", "samples" if on else "nothing"),
        ("a day and device", bytes_text(found.bytes_per_day)),
        ("reasons", plain(", ".join(found.reasons))),
        ("random share", f"{found.random_share:g}"),
        ("sealed to", _seal_text(found)),
    ]
    if found.changed_at is not None:
        changed = f"{age(found.changed_at)} by {plain(found.changed_by)}"
        rows.append(("changed", f"{changed}, revision {found.revision}"))
    return pairs(rows, f"samples of {plain(found.model)}")
