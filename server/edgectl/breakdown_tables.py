"""What a rollout has come to, as tables: its phases, its reasons, its version in service."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgectl import types
from edgectl.output import age, latency_text, plain, state_text, table

__all__ = ["phases_table", "reasons_table", "service_tables"]


def phases_table(phases: Sequence[types.PhaseInfo]) -> Table:
    """Return one row a phase."""
    columns = ["PHASE", "", ">DEVICES", "STATES", "BEGAN", "ENDED"]
    return table(
        columns,
        [
            (
                plain(one.name),
                plain(one.standing),
                str(one.counts.total),
                _states(one.counts),
                age(one.began_at) if one.began_at else "-",
                age(one.ended_at) if one.ended_at else "-",
            )
            for one in phases
        ],
    )


def _states(counts: types.RolloutCounts) -> str:
    found = {
        name.replace("_", " "): count
        for name, count in msgspec.structs.asdict(counts).items()
        if name != "total" and count
    }
    return ", ".join(f"{count} {name}" for name, count in found.items()) or "-"


def reasons_table(groups: Sequence[types.ReasonGroup]) -> Table:
    """Return one row a state and reason."""
    columns = ["STATE", "REASON", ">DEVICES", "NEWEST", "SUCH AS"]
    return table(
        columns,
        [
            (
                state_text(one.state),
                plain(one.code),
                str(one.devices),
                age(one.newest_at),
                plain(one.example),
            )
            for one in groups
        ],
    )


def service_tables(found: types.ServiceComparison) -> Group:
    """Return the new version beside the others, and how their p95 went."""
    sides = (found.new, found.others)
    rows = [
        ("devices", *(str(one.devices) for one in sides)),
        ("requests", *(str(one.requests) for one in sides)),
        ("errors", *(str(one.errors) for one in sides)),
        ("p50", *(latency_text(one.latency_p50_us) for one in sides)),
        ("p95", *(latency_text(one.latency_p95_us) for one in sides)),
        ("p99", *(latency_text(one.latency_p99_us) for one in sides)),
    ]
    course = table(
        ["SINCE", ">REQUESTS", ">P95", ">OF OTHERS", ">P95"],
        [
            (
                f"{one.at:%Y-%m-%d %H:%M}",
                str(one.new_requests),
                latency_text(one.new_p95_us),
                str(one.other_requests),
                latency_text(one.other_p95_us),
            )
            for one in found.points
        ],
    )
    note = [] if found.complete else [Text("only the newest telemetry is counted", style="dim")]
    return Group(table(["", ">NEW", ">OTHERS"], rows), "", course, *note)
