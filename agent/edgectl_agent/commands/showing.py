"""``edgectl-agent status`` and ``models``: from the agent where it runs, else from the disk."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from edgectl_agent.commands.common import (
    Commands,
    add_command,
    bytes_text,
    print_json,
    print_table,
    seconds_text,
)
from edgectl_agent.errors import Unreachable
from edgectl_agent.local_client import ask
from edgectl_agent.local_messages import Status
from edgectl_agent.settings import Settings

__all__ = ["add"]

_SHORT_DIGEST = len("sha256:") + 12
_ENDED_WELL = "committed"


def add(commands: Commands) -> None:
    """Add the commands."""
    add_command(
        commands,
        "status",
        _status,
        doing="reading the state directory",
        summary="show what this device runs, what waits, and why",
        examples=("edgectl-agent status", "edgectl-agent status --state ./state --json"),
    )
    add_command(
        commands,
        "models",
        _models,
        doing="reading the state directory",
        summary="show the models of each slot: running, previous and candidate, with trial figures",
        examples=("edgectl-agent models", "edgectl-agent models --json"),
    )


def _seen(settings: Settings) -> dict[str, Any]:
    """Return what is on the disk, with what the agent says where it runs."""
    from edgectl_agent.status import read_status

    status = read_status(settings.state_directory)
    try:
        live = ask(settings.control_path, Status())
    except Unreachable:
        return {**status, "running": False}
    return {**status, **live, "running": True}


def _status(settings: Settings, options: argparse.Namespace) -> int:
    status = _seen(settings)
    if options.json:
        print_json(status)
        return 0
    print(f"device       {status['device'] or 'not enrolled'}")
    if status["server"]:
        print(f"server       {status['server']}")
    _print_agent(status)
    print(f"order        {status['order_counter']}")
    if status.get("refusal"):
        print(f"refused      [{status['refusal']['code']}] {status['refusal']['detail']}")
    for name, held in status["holds"].items():
        left = "without end" if held["left_s"] is None else f"{seconds_text(held['left_s'])} left"
        print(f"hold         {name}: {left}" + (f", {held['reason']}" if held["reason"] else ""))
    for slot, one in status["slots"].items():
        _print_slot(slot, one)
    if status.get("next_s") is not None:
        print(f"next         looks again within {seconds_text(status['next_s'])}")
    for digest in status["rejected"]:
        print(f"rejected     {digest}")
    return 0


def _print_agent(status: dict[str, Any]) -> None:
    if not status["running"]:
        print("agent        does not run (or this user may not ask it)")
        return
    print(
        f"agent        runs for {seconds_text(status['up_s'])}, version {status['agent_version']}"
    )
    why = f": {status['connection_error']}" if status["connection_error"] else ""
    print(f"connection   {'connected' if status['connected'] else 'none' + why}")
    certificate = status["certificate"]
    if certificate:
        left = certificate["left_s"]
        ends = f"{seconds_text(left)} left" if left > 0 else "EXPIRED"
        print(f"certificate  until {certificate['until']}, {ends}")
    print(f"endpoint     {status['endpoint']}")
    for problem in status["endpoint_problems"]:
        print(f"             {problem}")
    free, kept = status["disk_free_bytes"], status["disk_reserve_bytes"]
    print(f"disk         {bytes_text(free)} free, {bytes_text(kept)} of them kept in reserve")
    print(f"samples      {_samples_text(status['samples'])}")
    for code, count in sorted(status["samples"]["counts"].items()):
        if code != "redaction.done":
            print(f"             [{code}] {count} dropped")


def _samples_text(samples: dict[str, Any]) -> str:
    """Return what is done with samples, and how many wait."""
    if not samples["allowed"]:
        return "forbidden by the setting"
    told = [f"{samples['waiting']} wait"]
    if samples["redaction_steps"] or samples["redaction_command"]:
        steps = samples["redaction_steps"]
        by = [f"{steps} step" + ("s" if steps != 1 else "")] if steps else []
        by += [samples["redaction_command"]] if samples["redaction_command"] else []
        told.append(f"redacted by {' and '.join(by)}")
        told.append(f"{samples['counts'].get('redaction.done', 0)} so far")
    if samples["redaction_without"]:
        told.append(f"without {' and '.join(samples['redaction_without'])}")
    return ", ".join(told)


def _print_slot(slot: str, one: dict[str, Any]) -> None:
    running = one.get("running")
    shown = f"{running['version']} ({running['variant']})" if running else "nothing"
    print(f"slot         {slot}: runs {shown}")
    if one.get("fault"):
        print(f"             fault [{one['fault']['code']}] {one['fault']['detail']}")
    update = one.get("update")
    if not update or update["state"] == _ENDED_WELL:
        return
    line = f"             update to {update['version']} ({update['variant']}): {update['state']}"
    if update.get("bytes_total") and update["state"] == "downloading":
        done, total = update.get("bytes_done", 0), update["bytes_total"]
        line += f", {bytes_text(done)} of {bytes_text(total)}"
    if update.get("attempt", 1) > 1:
        line += f", attempt {update['attempt']}"
    print(line)
    for name in ("transfer", "shadow", "swap", "observation"):
        if update.get(name):
            print(f"             {name}: {_MEASURED[name](update[name])}")
    if update.get("reason"):
        print(f"             [{update['reason']['code']}] {update['reason']['detail']}")


def _shadow_text(seen: dict[str, Any]) -> str:
    """Return what a shadow did; what is 0 is not in a report."""
    copies = f"{seen.get('agreed', 0)} of {seen.get('mirrored', 0)} copies agree"
    return ", ".join([copies, *_behaviour(seen)])


def _observed_text(seen: dict[str, Any]) -> str:
    """Return what an observed model did."""
    told = [f"{seen.get('requests', 0)} requests", *_behaviour(seen)]
    if seen.get("mirrored"):
        told.append(f"{seen.get('agreed', 0)} of {seen['mirrored']} copies agree")
    return ", ".join(told)


def _behaviour(seen: dict[str, Any]) -> list[str]:
    told = [f"{seen.get('errors', 0)} errors"]
    if seen.get("non_finite"):
        told.append(f"{seen['non_finite']} with NaN or infinity")
    if seen.get("latency_p95_us"):
        told.append(f"p95 {seen['latency_p95_us']:.0f} µs")
    return told


def _swap_text(swap: dict[str, Any]) -> str:
    gap = f"requests waited {swap['gap_ms']:.0f} ms" if swap.get("gap_ms") else "no gap"
    kept = ", the model before is kept in memory" if swap.get("resident") else ""
    load_ms = swap.get("load_ms")
    loading = f"loaded in {load_ms:.0f} ms" if load_ms else "was in memory already"
    return f"{loading}, {gap}{kept}"


def _transfer_text(transfer: dict[str, Any]) -> str:
    fetched, whole = transfer["fetched_bytes"], transfer["whole_bytes"]
    by = " by a delta" if transfer.get("delta") else ""
    told = f"{bytes_text(fetched)} of {bytes_text(whole)}{by}"
    refusal = transfer.get("refusal")
    return f"{told}, without the delta: {refusal['code']}" if refusal else told


_MEASURED: dict[str, Callable[[dict[str, Any]], str]] = {
    "transfer": _transfer_text,
    "shadow": _shadow_text,
    "swap": _swap_text,
    "observation": _observed_text,
}


def _models(settings: Settings, options: argparse.Namespace) -> int:
    from edgectl_agent.status import read_models

    models = read_models(settings.state_directory)
    if options.json:
        print_json(models)
        return 0
    if not models:
        print("no models yet")
        return 0
    print_table(
        ("SLOT", "ROLE", "VERSION", "VARIANT", "SIZE", "DIGEST", "P50", "P95", "RSS", "SINCE"),
        (
            (
                one["slot"],
                one["role"],
                one["version"],
                one["variant"],
                "-" if one["bytes"] is None else bytes_text(one["bytes"]),
                one["manifest"][:_SHORT_DIGEST],
                *_figures(one["trial"]),
                one["since"] or "-",
            )
            for one in models
        ),
    )
    return 0


def _figures(trial: dict[str, Any] | None) -> tuple[str, str, str]:
    if trial is None:
        return "-", "-", "-"
    return (
        f"{trial['latency_p50_us']:.0f} µs",
        f"{trial['latency_p95_us']:.0f} µs",
        bytes_text(trial["rss_bytes"]),
    )
