"""The section about small-step releases: what was trained, and what is released in its place."""

from __future__ import annotations

from edgectl_server.report_page.document import Document, SmallSteps
from edgectl_server.report_page.html import Html, join, tag
from edgectl_server.report_page.parts import column, panel, pill, table
from edgectl_server.report_page.wording import bytes_text, points_text, value_text

__all__ = ["small_steps"]


def small_steps(document: Document) -> Html:
    """Return bytes and accuracy as trained and as released, and below them the sizes tried."""
    if not document.small_steps:
        return Html("")
    columns = [
        column("Variant"),
        column("Released"),
        column("File", "right"),
        column("Update as trained", "right"),
        column("Update as released", "right"),
        column("Parent", "right"),
        column("As trained", "right"),
        column("As released", "right"),
    ]
    rows = [
        (
            one.variant,
            pill("published", "in small steps") if one.released else pill("warned", "as trained"),
            bytes_text(one.size_bytes),
            _share(one.trained_bytes, one.size_bytes),
            _share(one.released_bytes, one.size_bytes),
            value_text(one.parent_value),
            value_text(one.trained_value),
            value_text(one.released_value),
        )
        for one in document.small_steps
    ]
    parent = f"version {document.parent}" if document.parent else "the parent version"
    return panel(
        "Small steps",
        f"What is released may be reached in few bytes from {parent}: its weights, and whole steps "
        "towards those that were trained. Both are measured on the same data.",
        table(
            columns,
            rows,
            label="As trained and as released",
            below=[one.reason or _told(one) for one in document.small_steps],
        ),
        join(_levels(one) for one in document.small_steps if one.levels),
    )


def _told(one: SmallSteps) -> str:
    if one.allowed_points is None:
        return ""
    return f"{one.released} in place of {one.trained}; {one.allowed_points:.2f} points may be lost."


def _share(size: int | None, whole: int | None) -> str:
    if size is None or not whole:
        return bytes_text(size)
    return f"{bytes_text(size)}, {100 * size / whole:.1f} %"


def _levels(one: SmallSteps) -> Html:
    columns = [
        column("Steps"),
        column("Verdict"),
        column("About", "right"),
        column("Value", "right"),
        column("Points", "right"),
    ]
    rows = [
        (
            level.name,
            pill("published" if level.status == "released" else level.status, level.status),
            bytes_text(level.size_bytes),
            value_text(level.value),
            points_text(level.lost_points),
        )
        for level in one.levels
    ]
    inside = table(
        columns,
        rows,
        label=f"Sizes of steps that were tried, {one.variant}",
        below=[level.reason for level in one.levels],
    )
    return tag("details", tag("summary", f"Sizes of steps, {one.variant}"), inside)
