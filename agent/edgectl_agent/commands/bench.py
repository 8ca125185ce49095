"""``edgectl-agent bench``: how fast a model is on this very device, beside what serves."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.bundle import Bundle
from edgectl_agent.commands.common import (
    Commands,
    add_command,
    bytes_text,
    print_json,
    print_table,
)
from edgectl_agent.enrol import load_identity
from edgectl_agent.errors import Refused, UsageError
from edgectl_agent.inference.process import child_environment
from edgectl_agent.keyring import Keyring
from edgectl_agent.settings import Settings
from edgectl_agent.status import open_state
from edgectl_agent.store import Store
from edgectl_agent.trial import run_trial

__all__ = ["add"]

_NICE = 10
_RUNS = 200
_RUNS_MAX = 100_000


def add(commands: Commands) -> None:
    """Add the command."""
    bench = add_command(
        commands,
        "bench",
        _bench,
        doing="measuring a model",
        summary="measure a model on this device, in a process of its own and with low priority",
        examples=(
            "edgectl-agent bench activity",
            "edgectl-agent bench activity --runs 1000 --json",
            "edgectl-agent bench candidate.onnx",
        ),
    )
    bench.add_argument(
        "model",
        metavar="SLOT|FILE",
        help="a slot (what it runs, and what ran before), or an .onnx file (with random inputs)",
    )
    bench.add_argument("--runs", type=int, default=_RUNS, help=f"timed runs (default: {_RUNS})")


def _bench(settings: Settings, options: argparse.Namespace) -> int:
    if not 1 <= options.runs <= _RUNS_MAX:
        raise UsageError("settings.value", f"--runs is 1 to {_RUNS_MAX}", hint="--runs 1000")
    os.nice(_NICE)  # the child inherits it: what serves goes first
    if options.model.endswith(".onnx") or "/" in options.model:
        rows = [_file(settings, Path(options.model), options.runs)]
    else:
        rows = [_slot(settings, one, options.runs) for one in _bundles(settings, options.model)]
    if options.json:
        print_json(rows)
    else:
        print_table(
            ("MODEL", "SIZE", "LOAD", "P50", "P95", "RSS", "THREADS", "RUNS", "VERDICT"),
            (_cells(row) for row in rows),
        )
    return 0 if all(row["verdict"] == "ok" for row in rows) else 1


def _bundles(settings: Settings, slot: str) -> list[Bundle]:
    """Return what a slot runs, and what ran before."""
    disk = open_state(settings.state_directory)
    identity = load_identity(disk)
    keyring = Keyring(settings.key_path, identity.device if identity else "")
    store = Store(disk, keyring=keyring)
    pointer = store.pointers().get(slot)
    if pointer is None or pointer.running is None:
        raise Refused(
            "bench.nothing",
            f"nothing runs in a slot {slot!r}",
            hint="edgectl-agent models shows the slots; a file is named with its ending, m.onnx",
        )
    return [
        store.bundle(slot, manifest=one.manifest, version=one.version, variant=one.variant)
        for one in (pointer.running, pointer.previous)
        if one is not None
    ]


def _slot(settings: Settings, bundle: Bundle, runs: int) -> dict[str, Any]:
    try:
        result = run_trial(
            bundle,
            timeout_s=settings.trial_timeout_s,
            memory_bytes_max=settings.trial_memory_bytes_max,
            runs=runs,
        )
    finally:
        bundle.forget_key()
    figures = {} if result.report is None else msgspec.to_builtins(result.report)
    reason = "" if result.reason is None else f"[{result.reason.code}] {result.reason.detail}"
    return {
        **figures,
        "model": f"{bundle.slot} {bundle.version} ({bundle.variant})",
        "bytes": Path(bundle.model).stat().st_size,
        "verdict": result.verdict.value,
        "reason": reason,
    }


def _file(settings: Settings, file: Path, runs: int) -> dict[str, Any]:
    if not file.is_file():
        raise Refused("bench.file", f"{file} is not there", hint="name an .onnx file, or a slot")
    seconds = settings.trial_timeout_s
    command = [sys.executable, "-P", "-m", "edgectl_agent.bench_child"]
    row: dict[str, Any] = {"model": file.name, "verdict": "rejected", "reason": ""}
    try:
        done = subprocess.run(
            [*command, str(file.absolute()), str(runs), str(seconds)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds + 10,
            check=False,
            env=child_environment(),
            start_new_session=True,
        )
        result = json.loads(done.stdout) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return {**row, "reason": f"not done after {seconds:g} s"}
    if done.returncode != 0:
        how = f"killed by signal {-done.returncode}" if done.returncode < 0 else "it failed"
        return {**row, "reason": f"{how}: {done.stderr.decode('utf-8', 'replace')[-200:]}"}
    if "error" in result:
        return {**row, "reason": result["error"]}
    return {**row, **result, "verdict": "ok"}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def figure(name: str, unit: str) -> str:
        return f"{row[name]:.0f} {unit}" if name in row else "-"

    return (
        row["model"],
        bytes_text(row["bytes"]) if "bytes" in row else "-",
        figure("load_ms", "ms"),
        figure("latency_p50_us", "µs"),
        figure("latency_p95_us", "µs"),
        bytes_text(row["rss_bytes"]) if "rss_bytes" in row else "-",
        str(row.get("threads", "-")),
        str(row.get("runs", "-")),
        row["verdict"] + (f"  {row['reason']}" if row["reason"] else ""),
    )
