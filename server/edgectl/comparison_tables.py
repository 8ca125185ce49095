"""Two versions of a model side by side for a person, and who runs what."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.gate_tables import common_metric, figure_text, value_text
from edgectl.output import bytes_text, latency_text, plain, table

__all__ = ["comparison_tables", "running_table"]


def running_table(rows: Sequence[types.RunningInfo]) -> Table:
    """Return one row a bundle that devices run."""
    columns = ["VERSION", "VARIANT", ">DEVICES", ">ONLINE", "MANIFEST"]
    return table(
        columns,
        [
            (
                plain(row.version),
                plain(row.variant or "not made here"),
                str(row.devices),
                str(row.online),
                plain(row.manifest),
            )
            for row in rows
        ],
    )


def comparison_tables(found: types.VersionComparison) -> Group:
    """Return what differs between two versions, and what each variant costs in both."""
    left, right = plain(found.left.version), plain(found.right.version)
    metric = common_metric((found.left, found.right))
    parts: list[Table | Text] = [_summary(found, left, right, metric)]
    if found.contract:
        parts.append(
            table(
                ["CONTRACT", "NAME", left, right],
                [
                    (one.part, plain(one.name), plain(one.left), plain(one.right))
                    for one in found.contract
                ],
            )
        )
    else:
        parts.append(Text("inputs, outputs, labels and steps are the same", style="dim"))
    if found.variants:
        parts.append(
            table(
                ["VARIANT", left, right],
                [
                    (
                        plain(one.variant),
                        _variant(found.left, one.left, metric),
                        _variant(found.right, one.right, metric),
                    )
                    for one in found.variants
                ],
            )
        )
    if found.gates:
        parts.append(
            table(
                ["GATE", "VARIANT", left, right],
                [
                    (
                        plain(one.name),
                        plain(one.variant or "all"),
                        _gate(one.left),
                        _gate(one.right),
                    )
                    for one in found.gates
                ],
            )
        )
    return Group(*parts)


def _summary(found: types.VersionComparison, left: str, right: str, metric: str | None) -> Table:
    names = (
        "state",
        "parent",
        "running on",
        "model file",
        "first choice",
        "size",
        plain(metric or "value"),
        "p50",
    )
    rows = zip(names, _figures(found.left, metric), _figures(found.right, metric), strict=True)
    title = f"both from {plain(found.ancestor)}" if found.ancestor else "no common ancestor"
    return table([title.upper(), left, right], rows)


def _figures(version: types.VersionSummary, metric: str | None) -> tuple[str, ...]:
    best = version.best
    return (
        plain(version.state),
        plain(version.parent),
        f"{version.devices_running} devices",
        bytes_text(version.source_bytes),
        *(
            ("-", "-", "-", "-")
            if best is None
            else (
                plain(best.variant),
                bytes_text(best.model_bytes),
                value_text(version, best, metric),
                latency_text(best.trial.latency_p50_us),
            )
        ),
    )


def _variant(
    version: types.VersionSummary, variant: types.VariantInfo | None, metric: str | None
) -> str:
    if variant is None:
        return "-"
    trial = variant.trial
    words = (
        bytes_text(variant.model_bytes),
        value_text(version, variant, metric),
        latency_text(trial.latency_p50_us),
    )
    return ", ".join(words)


def _gate(gate: types.GateInfo | None) -> str:
    if gate is None:
        return "-"
    return f"{plain(gate.status.replace('_', ' '))} {figure_text(gate.measured, gate.unit)}".strip()
