"""Metrics, gates, data checks and policies as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.output import (
    age,
    bytes_text,
    latency_text,
    pairs,
    plain,
    share_text,
    state_text,
    table,
)

__all__ = ["common_metric", "figure_text", "findings_table", "policy_table", "value_text"]

_ALWAYS = frozenset({"drop", "finite", "contract", "data"})


def findings_table(report: types.Report) -> Group:
    """Return the gates and what the data checks found; empty if there is nothing to see."""
    parts: list[Table | Text] = []
    gates = [gate for gate in report.gates if _worth_a_row(gate)]
    if gates:
        columns = ["GATE", "VARIANT", "STATUS", ">MEASURED", ">BOUND"]
        parts += [Text(""), table(columns, [_gate_row(gate) for gate in gates], gap=1)]
        notes = [f"{plain(gate.name)}: {_note(gate)}" for gate in gates
                 if gate.status != "passed" and _note(gate)]  # fmt: skip
        parts += [Text(note, style="dim italic") for note in dict.fromkeys(notes)]
    if report.data_checks:
        columns = ["DATA", "SEVERITY", "FOUND"]
        rows = [
            (plain(row.name), state_text(row.severity), plain(row.detail))
            for row in report.data_checks
        ]
        parts += [Text(""), table(columns, rows, gap=1)]
    return Group(*parts)


def policy_table(policy: types.PolicyInfo) -> Table:
    """Return what every push of a model must keep."""
    drop = "-" if policy.max_drop_points is None else f"{policy.max_drop_points:g} points"
    rows: list[tuple[str, Text | str]] = [
        ("largest loss", drop),
        ("metric", plain(policy.metric)),
        ("required", plain(", ".join(policy.require) or None)),
    ]
    if policy.changed_at is not None:
        changed = f"{age(policy.changed_at)} by {plain(policy.changed_by)}"
        rows.append(("changed", f"{changed}, revision {policy.revision}"))
    return pairs(rows, f"policy of {plain(policy.model)}")


def _worth_a_row(gate: types.GateInfo) -> bool:
    """Say whether a gate tells more than the table of recipes does."""
    return gate.name not in _ALWAYS or gate.status in {"failed", "overridden"}


def _gate_row(gate: types.GateInfo) -> Sequence[Text | str]:
    return (
        plain(gate.name),
        plain(gate.variant or "all"),
        state_text(gate.status),
        figure_text(gate.measured, gate.unit),
        f"{gate.direction} {figure_text(gate.bound, gate.unit)}" if gate.bound is not None else "-",
    )


def _note(gate: types.GateInfo) -> str:
    by = f"overridden by {plain(gate.overridden_by)}" if gate.overridden_by else ""
    return "; ".join(part for part in (plain(gate.detail) if gate.detail else "", by) if part)


def figure_text(value: float | None, unit: str) -> str:
    """Return a figure of a gate in its unit."""
    if value is None:
        return "-"
    if unit == "bytes":
        return bytes_text(int(value))
    if unit == "time":
        return latency_text(value)
    return f"{value:.4g}"


def common_metric(versions: Sequence[types.VersionSummary]) -> str | None:
    """Return the metric by which all of them were measured, as far as they were; None: several."""
    found = {version.metric for version in versions if version.best is not None}
    return found.pop() if len(found) == 1 else None


def value_text(
    version: types.VersionSummary, variant: types.VariantInfo | None, metric: str | None
) -> str:
    """Return a variant's value, with what it is of where no `metric` stands above it."""
    value = None if variant is None else variant.trial.value
    if value is None or metric is not None:
        return share_text(value)
    return f"{share_text(value)} {plain(version.metric)}"
