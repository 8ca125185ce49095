"""``edgectl loop``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from edgectl.errors import LocalError, doing
from edgectl.loop_tables import figures, steps_table, took
from edgectl.output import age, consoles, pairs, plain, print_json, table
from edgectl.session import NAME, Session, examples, json_option, limit_option, pass_session
from edgectl.types import LoopInfo, LoopPolicySpec

__all__ = ["loop"]

_FILE_BYTES_MAX = 256 * 1024
_reason = click.option("--reason", default="", metavar="TEXT", help="Why; for the record.")


@click.group(
    short_help="Have a model learn anew by itself, from drift to a rollout.",
    epilog=examples(
        "edgectl loop set har --file loop.yaml",
        "edgectl loop status har",
        "edgectl loop run har --reason 'new sensors in Porto'",
    ),
)
def loop() -> None:
    """Have a model learn anew by itself, from drift to a rollout.

    docs/loop.md shows the states of a run and what its policy says.
    """


@loop.command(
    "set",
    epilog=examples(
        "edgectl loop set har --file loop.yaml",
        "edgectl loop set har --labels-min 300 --approve rollout",
    ),
)
@click.argument("model", type=NAME)
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The whole policy, YAML or JSON; what it leaves out is as by default.",
)
@click.option("--labels-min", type=click.IntRange(20, 20_000), help="Labels before it trains.")
@click.option("--trainer", metavar="NAME", help="Which one.")
@click.option("--cool-down-s", type=click.FloatRange(min=0), help="Between two runs.")
@click.option("--gain-min", type=click.FloatRange(0, 100), help="Points to gain on new data.")
@click.option(
    "--old-drop-max", type=click.FloatRange(0, 100), help="Points to lose at most on old data."
)
@click.option(
    "--drift",
    multiple=True,
    type=click.Choice(["fleet", "site", "device"]),
    help="Begin by itself when one of these drifts.",
)
@click.option("--no-drift", is_flag=True, help="Do not begin because of drift.")
@click.option(
    "--approve",
    "approvals",
    multiple=True,
    type=click.Choice(["training", "rollout"]),
    help="Wait for a person before this.",
)
@click.option("--automatic", is_flag=True, help="Wait for nobody.")
@json_option
@pass_session
def set_policy(
    session: Session,
    model: str,
    *,
    path: Path | None,
    labels_min: int | None,
    trainer: str | None,
    cool_down_s: float | None,
    gain_min: float | None,
    old_drop_max: float | None,
    drift: tuple[str, ...],
    no_drift: bool,
    approvals: tuple[str, ...],
    automatic: bool,
    as_json: bool,
) -> None:
    """Give MODEL's loop a policy, or change it (admin); what is not given stays as it is."""
    if automatic and approvals:
        raise click.UsageError("--automatic and --approve contradict each other")
    if no_drift and drift:
        raise click.UsageError("--no-drift and --drift contradict each other")
    with session.connect() as client, doing(f"changing the loop of {model}"):
        found = client.loop(model)
        policy = found.policy or LoopPolicySpec()
        if path is not None:
            policy = _read(path)
        given = {
            "labels_min": labels_min,
            "trainer": trainer,
            "cool_down_s": cool_down_s,
            "gain_points_min": gain_min,
            "old_drop_points_max": old_drop_max,
        }
        changes: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        if approvals or automatic:
            changes["approvals"] = list(approvals)
        if drift or no_drift:
            triggers = msgspec.structs.replace(policy.triggers, drift=list(drift))
            changes["triggers"] = triggers
        changed = msgspec.structs.replace(policy, **changes, revision=found.revision)
        found = client.put_loop(model, changed)
    _show(found, as_json=as_json)


@loop.command("status", epilog=examples("edgectl loop status", "edgectl loop status har --json"))
@click.argument("model", type=NAME, required=False)
@json_option
@pass_session
def status(session: Session, model: str | None, *, as_json: bool) -> None:
    """Show the loop of MODEL, or all of them."""
    with session.connect() as client:
        if model is not None:
            _show(client.loop(model), as_json=as_json)
            return
        page = client.loops()
    if as_json:
        print_json(page.items)
        return
    if not page.items:
        consoles()[1].print("no loops: `edgectl loop set MODEL` lets one learn by itself")
        return
    rows = [
        (plain(one.model), _state(one), plain((one.trouble or one.why)[:80]), age(one.changed_at))
        for one in page.items
    ]
    consoles()[0].print(table(["MODEL", "STATE", "WHY", "POLICY OF"], rows))


@loop.command("runs", epilog=examples("edgectl loop runs har", "edgectl loop runs har --json"))
@click.argument("model", type=NAME)
@limit_option
@json_option
@pass_session
def runs(session: Session, model: str, *, limit: int, as_json: bool) -> None:
    """List the runs of MODEL's loop, the newest first."""
    with session.connect() as client:
        page = client.loop_runs(model, limit)
    if as_json:
        print_json(page.items)
        return
    rows = [
        (one.id, one.state, age(one.began_at), took(one.began_at, one.ended_at),
         plain(one.version or "-"), plain((one.note or one.trigger.get("detail", ""))[:60]))
        for one in page.items
    ]  # fmt: skip
    consoles()[0].print(table(["RUN", "STATE", "BEGUN", ">TOOK", "VERSION", "WHY"], rows))


@loop.command(
    "explain",
    epilog=examples(
        "edgectl loop explain har",
        "edgectl loop explain har --limit 50",
        "edgectl loop explain har --run 3f9c0d5e8a7b6c1d",
    ),
)
@click.argument("model", type=NAME)
@click.option("--run", "run_id", metavar="RUN", help="An earlier one, of `edgectl loop runs`.")
@limit_option
@json_option
@pass_session
def explain(session: Session, model: str, *, run_id: str | None, limit: int, as_json: bool) -> None:
    """Say why the loop of MODEL is where it is: every step with its time, and what came of it."""
    with session.connect() as client:
        found, events = client.loop(model), client.loop_events(model, limit).items
        wanted = run_id or (None if found.run is None else found.run.id)
        told = None if wanted is None else client.loop_run(model, wanted)
    if as_json:
        print_json({"loop": found, "run": told, "events": events})
        return
    output, _ = consoles()
    if run_id is None:
        _print(output, found)
    if told is not None:
        output.print(steps_table(told))
        output.print(pairs(figures(told)))
    if run_id is not None:
        return
    rows = [
        (one.at.strftime("%Y-%m-%d %H:%M:%S"), plain(one.kind), plain(one.actor),
         plain(str(one.data.get("why") or one.data.get("reason") or "")))
        for one in reversed(events)
    ]  # fmt: skip
    output.print(table(["AT", "STEP", "BY", "WHY"], rows))


@loop.command("run", epilog=examples("edgectl loop run har --reason 'new sensors in Porto'"))
@click.argument("model", type=NAME)
@_reason
@json_option
@pass_session
def run(session: Session, model: str, *, reason: str, as_json: bool) -> None:
    """Begin a run of MODEL's loop now, whatever its cool-down says (operator)."""
    _act(session, model, "run", reason, as_json=as_json)


@loop.command("pause", epilog=examples("edgectl loop pause har --reason 'holidays'"))
@click.argument("model", type=NAME)
@_reason
@json_option
@pass_session
def pause(session: Session, model: str, *, reason: str, as_json: bool) -> None:
    """Stop MODEL's loop where it is; a rollout that it has started goes on (operator)."""
    _act(session, model, "pause", reason, as_json=as_json)


@loop.command("resume", epilog=examples("edgectl loop resume har"))
@click.argument("model", type=NAME)
@_reason
@json_option
@pass_session
def resume(session: Session, model: str, *, reason: str, as_json: bool) -> None:
    """Have MODEL's loop go on (operator)."""
    _act(session, model, "resume", reason, as_json=as_json)


@loop.command(
    "approve",
    epilog=examples(
        "edgectl loop approve har training",
        "edgectl loop approve har rollout --run 3f9c0d5e8a7b6c1d",
    ),
)
@click.argument("model", type=NAME)
@click.argument("stage", type=click.Choice(["training", "rollout"]))
@click.option(
    "--run", "run_id", metavar="RUN", help="That is meant; the one under way if not said."
)
@_reason
@json_option
@pass_session
def approve(
    session: Session, model: str, stage: str, *, run_id: str | None, reason: str, as_json: bool
) -> None:
    """Let MODEL's run go on to its training or to its rollout, as STAGE says (operator).

    Said twice, the second time is refused: it never approves what comes after.
    """
    with session.connect() as client, doing(f"approve of the loop of {model}"):
        if run_id is None:
            under_way = client.loop(model).run
            run_id = "" if under_way is None else under_way.id
        found = client.approve_loop(model, run_id, stage, reason)
    _show(found, as_json=as_json)


@loop.command("stop", epilog=examples("edgectl loop stop har --reason 'wrong labels'"))
@click.argument("model", type=NAME)
@_reason
@json_option
@pass_session
def stop(session: Session, model: str, *, reason: str, as_json: bool) -> None:
    """End MODEL's run; a job or a rollout that it has begun goes on by itself (operator)."""
    _act(session, model, "stop", reason, as_json=as_json)


def _act(session: Session, model: str, action: str, reason: str, *, as_json: bool) -> None:
    with session.connect() as client, doing(f"{action} of the loop of {model}"):
        found = client.act_on_loop(model, action, reason)
    _show(found, as_json=as_json)


def _read(path: Path) -> LoopPolicySpec:
    try:
        content = path.read_bytes()[: _FILE_BYTES_MAX + 1]
    except OSError as error:
        raise LocalError("loop.file", f"cannot read {path}: {error.strerror}") from error
    try:
        if len(content) > _FILE_BYTES_MAX:
            raise msgspec.ValidationError(f"longer than {_FILE_BYTES_MAX} bytes")
        found: LoopPolicySpec = msgspec.yaml.decode(content, type=LoopPolicySpec)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LocalError(
            "loop.file", f"{path}: {error}", "docs/loop.md shows a policy with all that it can say"
        ) from error
    return found


def _show(found: LoopInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        _print(consoles()[0], found)


def _print(output: Console, found: LoopInfo) -> None:
    facts = [("loop of", plain(found.model)), ("state", _state(found)), ("why", plain(found.why))]
    if found.trouble:
        facts.append(("trouble", plain(found.trouble)))
    run = found.run
    if run is not None:
        facts.append(("run", plain(f"{run.id}, {run.state}, begun {age(run.began_at)}")))
        facts.append(("set off by", plain(": ".join(run.trigger.values()))))
        for name in ("dataset", "retraining", "version", "rollout"):
            value = getattr(run, name)
            if value is not None:
                facts.append((name, plain(str(value))))
        if run.ended_at is not None:
            facts.append(("ended", plain(f"{age(run.ended_at)}: {run.note}")))
    output.print(pairs(facts))


def _state(found: LoopInfo) -> str:
    if found.policy is None:
        return "none"
    return f"{found.state}, paused" if found.paused else found.state
