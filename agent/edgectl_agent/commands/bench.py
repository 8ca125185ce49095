"""``edgectl-agent bench``: how fast a model is on this very device, beside what serves."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from edgectl_agent.commands.common import (
    Commands,
    add_command,
    bytes_text,
    print_json,
    print_table,
)
from edgectl_agent.errors import UsageError
from edgectl_agent.settings import Settings

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
    from edgectl_agent.local_bench import bench_file, bench_slot

    os.nice(_NICE)  # the child inherits it: what serves goes first
    if options.model.endswith(".onnx") or "/" in options.model:
        rows = [bench_file(settings, Path(options.model), options.runs)]
    else:
        rows = bench_slot(settings, options.model, options.runs)
    if options.json:
        print_json(rows)
    else:
        print_table(
            ("MODEL", "SIZE", "LOAD", "P50", "P95", "RSS", "THREADS", "RUNS", "VERDICT"),
            (_cells(row) for row in rows),
        )
    return 0 if all(row["verdict"] == "ok" for row in rows) else 1


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
