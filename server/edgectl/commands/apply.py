"""``edgectl apply``: rollouts and selectors as files, such as a repository keeps them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import structs
from rich.console import Group
from rich.text import Text

from edgectl.client import Client
from edgectl.errors import LocalError, doing
from edgectl.forecast_tables import forecast_tables
from edgectl.output import consoles, plain, print_json
from edgectl.session import Session, examples, json_option, pass_session
from edgectl.spec_files import TEXT_CHARACTERS_MAX, RolloutSpec, SelectorSpec, read_specs

__all__ = ["apply"]

_SAVED = re.compile(
    r'"[^"]*"|(?<![A-Za-z0-9._:+/@-])@(?P<name>[a-z0-9][a-z0-9._-]{0,63})', re.ASCII
)
"""A saved selector in the text of one, or a value in quotes, in which there is none."""


@click.command(
    short_help="Make rollouts and selectors as YAML files say.",
    epilog=examples(
        "edgectl apply -f rollout.yaml --dry-run",
        "edgectl apply -f rollout.yaml -f selectors.yaml",
        "git show main:rollout.yaml | edgectl apply -f -",
    ),
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    help="YAML, one or more documents; - for standard input; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
@pass_session
def apply(session: Session, files: tuple[Path, ...], *, dry_run: bool, as_json: bool) -> None:
    """Make it so that rollouts and saved selectors are as files say.

    What is so already stays as it is: the same file may be applied again and again. Of a rollout
    that runs, what may change is changed (pace, gates, deadline, budgets, priority); what may not
    is refused. All files are read before anything is done; then documents go in their order, up to
    the first that is refused. docs/rollouts.md says what is in a file.
    """
    specs = [spec for file in files for spec in read_specs(_read(file), str(file))]
    done: list[dict[str, Any]] = []
    unsaved: dict[str, str] = {}
    with session.connect() as client:
        for spec in specs:
            if isinstance(spec, SelectorSpec):
                done.append(_apply_selector(client, spec, dry_run=dry_run))
                if dry_run:
                    unsaved[spec.name] = _written_out(spec.text, unsaved)
            else:
                done.append(_apply_rollout(client, spec, unsaved, dry_run=dry_run))
            if not as_json:
                _show(done[-1], dry_run=dry_run)
    if as_json:
        print_json(done)


def _read(file: Path) -> str:
    try:
        if str(file) == "-":
            return sys.stdin.read(TEXT_CHARACTERS_MAX + 1)
        with file.open(encoding="utf-8") as stream:
            return stream.read(TEXT_CHARACTERS_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError("apply.file", f"cannot read {file}: {error}") from error


def _apply_selector(client: Client, spec: SelectorSpec, *, dry_run: bool) -> dict[str, Any]:
    with doing(f"applying the selector {spec.name}"):
        known = {one.name: one.text for one in client.selectors(limit=1000).items}
        before = known.get(spec.name)
        action = "start" if before is None else "nothing" if before == spec.text else "change"
        if action != "nothing" and not dry_run:
            client.put_selector(spec.name, spec.text)
    changed = {"text": spec.text} if action == "change" else {}
    return {"kind": "Selector", "name": spec.name, "action": action, "changed": changed}


def _written_out(text: str, unsaved: Mapping[str, str]) -> str:
    """Return a selector in which those of the files stand for what they will mean."""
    return _SAVED.sub(
        lambda found: f"({unsaved[found['name']]})" if found["name"] in unsaved else found[0], text
    )


def _apply_rollout(
    client: Client, spec: RolloutSpec, unsaved: Mapping[str, str], *, dry_run: bool
) -> dict[str, Any]:
    name = f"{spec.model}@{spec.version}"
    phases = [
        structs.replace(one, where=_written_out(one.where, unsaved)) for one in spec.policy.phases
    ]
    where = _written_out(spec.selector.where, unsaved)
    request = structs.replace(
        spec.request(),
        selector=structs.replace(spec.selector, where=where),
        policy=structs.replace(spec.policy, phases=phases),
    )
    with doing(f"applying the rollout of {name}"):
        found = client.apply_rollout(request, dry_run=dry_run)
        plan = None
        if dry_run and found.action == "start":
            plan = client.plan_rollout(request)
    return {
        "kind": "Rollout",
        "name": name,
        "action": found.action,
        "changed": found.changed,
        "rollout": found.rollout,
        "plan": plan,
    }


def _show(done: dict[str, Any], *, dry_run: bool) -> None:
    output, _ = consoles()
    rollout, plan = done.get("rollout"), done.get("plan")
    would = {"start": "would be made", "change": "would be changed", "nothing": "stays as it is"}
    was = {"start": "made", "change": "changed", "nothing": "stays as it is"}
    words = (would if dry_run else was)[done["action"]]
    about = f", rollout {rollout.id}, {rollout.state}" if rollout is not None else ""
    lines: list[Any] = [Text(plain(f"{done['kind']} {done['name']}: {words}{about}"))]
    lines += [Text(plain(f"  {name}: {value}")) for name, value in done["changed"].items()]
    if plan is not None:
        lines.append(forecast_tables(plan))
    output.print(Group(*lines))
