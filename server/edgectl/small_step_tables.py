"""Small-step releases as a table for a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from edgectl import types
from edgectl.output import bytes_text, plain, share_text, table

__all__ = ["small_steps_table"]


def small_steps_table(report: types.Report) -> Group:
    """Return bytes and value as trained and as released; empty if no budget was given."""
    if not report.small_steps:
        return Group()
    columns = ["SMALL STEPS", ">UPDATE", ">AS TRAINED", ">VALUE", ">AS TRAINED", ">PARENT"]
    rows = [
        (
            plain(one.variant),
            _share(one.released_bytes, one.size_bytes),
            _share(one.trained_bytes, one.size_bytes),
            share_text(one.released_value),
            share_text(one.trained_value),
            share_text(one.parent_value),
        )
        for one in report.small_steps
    ]
    notes = [f"{plain(one.variant)}: {_note(one)}" for one in report.small_steps if _note(one)]
    return Group(
        Text(""),
        table(columns, rows, gap=1),
        *(Text(note, style="dim italic") for note in notes),
    )


def _note(one: types.SmallStepsInfo) -> str:
    if one.reason:
        return f"as trained: {plain(one.reason)}"
    tried = sum(level.status != "skipped" for level in one.levels)
    allowed = "-" if one.allowed_points is None else f"{one.allowed_points:g}"
    return f"{plain(one.released)}, of {tried} sizes tried; {allowed} points may be lost"


def _share(size: int | None, whole: int | None) -> str:
    if size is None or not whole:
        return bytes_text(size)
    return f"{bytes_text(size)} {100 * size / whole:.1f}%"
