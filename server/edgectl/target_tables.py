"""Device classes and measurements as tables for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.output import bytes_text, latency_text, pairs, plain, state_text, table

__all__ = ["measurements_table", "target_table", "targets_table"]


def targets_table(targets: Sequence[types.TargetInfo]) -> Table:
    """Return one row a class; what it asks for is in `target_table`, a terminal is too narrow."""
    columns = ["CLASS", ">DEVICES", "OBJECTIVE", "DESCRIPTION"]
    rows = [
        (
            plain(target.name),
            str(target.devices),
            plain(target.objective),
            plain(target.description),
        )
        for target in targets
    ]
    return table(columns, rows)


def target_table(target: types.TargetInfo) -> Table:
    """Return everything of a class."""
    limits = target.limits
    rows: list[tuple[str, Text | str]] = [
        ("description", plain(target.description)),
        ("devices", str(target.devices)),
        ("machine", plain(" or ".join(target.machine))),
        ("board", plain(" or ".join(target.cpu_model))),
        ("features", plain(", ".join(one.replace("|", " or ") for one in target.cpu_features))),
        ("memory", f"{bytes_text(target.memory_bytes)} or more"),
        ("runtimes", plain(", ".join(target.runtimes))),
        ("providers", plain(", ".join(target.execution_providers))),
        ("opset", f"at most {target.opset}"),
        ("objective", plain(target.objective)),
        ("latency limit", _limit(latency_text(limits.latency_p95_us), "p95")),
        ("memory limit", _limit(bytes_text(limits.rss_bytes), "resident")),
        ("energy proxy", f"{target.watts_per_core:g} W a core"),
        ("u8s8", "saturates: reduce_range is needed" if target.saturates else "exact"),
    ]
    return pairs(rows, plain(target.name))


def _limit(text: str, of: str) -> str:
    return text if text == "-" else f"{text} {of}"


def measurements_table(measurements: Sequence[types.MeasurementInfo]) -> Table:
    """Return one row a measurement."""
    columns = ["VARIANT", "VERDICT", ">P50", ">P95", ">LOAD", ">MEMORY", ">ENERGY", ">GOLDEN",
               ">RUNS", "REASON"]  # fmt: skip
    rows = [
        (
            plain(one.variant),
            state_text(one.verdict),
            latency_text(one.latency_p50_us),
            latency_text(one.latency_p95_us),
            "-" if one.load_ms is None else f"{one.load_ms:.1f} ms",
            bytes_text(one.rss_bytes),
            "-" if one.energy_uj is None else f"{one.energy_uj:.0f} µJ",
            "-" if one.golden_total is None else f"{one.golden_passed}/{one.golden_total}",
            "-" if one.runs is None else str(one.runs),
            plain(one.reason),
        )
        for one in measurements
    ]
    return table(columns, rows)
