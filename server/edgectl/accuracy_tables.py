"""Estimated accuracy in a terminal: where it stands, from what, and how it has gone."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from edgectl import types
from edgectl.output import age, plain, table

__all__ = ["accuracy_detail", "accuracy_table", "accuracy_text"]

_STYLES = {"low": "red", "recovering": "yellow", "suspected": "yellow", "good": "green"}
_UNKNOWN = {
    "labels": "no labels at push",
    "rows": "too few answers",
    "unseen": "too many answers of a confidence that the reference has never seen",
}
_SHOWN = 12
_POINTS_SHOWN = 24


def accuracy_table(groups: Sequence[types.AccuracyGroup]) -> Group:
    """Return one row a fleet, site or device."""
    columns = [
        "MODEL",
        "WHERE",
        "STATE",
        "SINCE",
        ">ANSWERS",
        ">AT PUSH",
        ">BY CONFIDENCE",
        ">BY CLASSES",
        "WHY",
    ]
    rows = [
        (
            plain(f"{one.model}@{one.version}"),
            plain(_where(one)),
            Text(plain(one.state), style=_STYLES.get(one.state, "")),
            age(one.since),
            str(one.rows),
            _share(one.found.reference),
            _interval(one.found),
            _share(one.found.by_classes),
            plain(_why(one.found)),
        )
        for one in groups
    ]
    return Group(table(columns, rows))


def accuracy_text(found: types.AccuracyFound) -> str:
    """Return an estimate in a few words, for a list of events."""
    if found.accuracy is None:
        return _why(found)
    return (
        f"{_interval(found)} by confidence, {_share(found.by_classes)} by classes, "
        f"{_share(found.reference)} at push"
    )


def accuracy_detail(found: types.AccuracyDetail) -> Group:
    """Return a group's state, the bins it was estimated from, how it has gone, and where else."""
    one = found.group
    state = Text.assemble(
        plain(f"{one.model}@{one.version}"),
        f", {plain(_where(one))}: ",
        (plain(one.state), _STYLES.get(one.state, "")),
        f" since {age(one.since)}; {one.rows} answers until {one.until:%Y-%m-%d %H:%M} UTC",
    )
    told = [Text(plain(accuracy_text(one.found)))]
    if one.found.unseen:
        told.append(Text(f"{one.found.unseen:.1%} of a confidence that was never seen at push"))
    told.append(Text(plain(f"by labels: {_true_text(found.true)}")))
    columns = [">CONFIDENCE", ">AT PUSH", ">RIGHT", ">TAKEN AS", ">NOW"]
    rows = [
        (
            f"{each.low:.2f}-{each.high:.2f}",
            str(each.reference_rows),
            str(each.right),
            _share(each.share),
            str(each.rows),
        )
        for each in found.bins
    ]
    lines: list[Text | Group] = [state, *told]
    if rows:
        lines.append(Group(table(columns, rows)))
    if len(found.points) > 1:
        gone = [
            (
                f"{point.until:%Y-%m-%d %H:%M}",
                str(point.rows),
                _interval(point.found),
                _share(point.found.by_classes),
                _true(point.true),
            )
            for point in found.points[-_POINTS_SHOWN:]
        ]
        lines.append(
            Group(table(["UNTIL", ">ANSWERS", ">BY CONFIDENCE", ">BY CLASSES", ">BY LABELS"], gone))
        )
    if found.low:
        names = ", ".join(_where(each) for each in found.low[:_SHOWN])
        more = len(found.low) - _SHOWN
        lines.append(Text(plain(f"low: {names}" + (f", {more} more" if more > 0 else ""))))
    return Group(*lines)


def _interval(found: types.AccuracyFound) -> str:
    if found.accuracy is None or found.low is None or found.high is None:
        return "-"
    return f"{found.accuracy:.3f} ({found.low:.3f} to {found.high:.3f})"


def _true(found: types.TrueAccuracyInfo) -> str:
    if found.accuracy is None:
        return "-"
    return f"{found.accuracy:.3f} ({found.low:.3f} to {found.high:.3f})"


def _true_text(found: types.TrueAccuracyInfo) -> str:
    if not found.rows and not found.chosen:
        return "none have come"
    rest = f"; of {found.chosen} chosen for another reason {found.chosen_right} are right"
    known = f"{_true(found)} of {found.rows} samples taken at random"
    return known + (rest if found.chosen else "")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _why(found: types.AccuracyFound) -> str:
    if found.unknown:
        return _UNKNOWN.get(found.unknown, found.unknown)
    return f"by {found.cause}" if found.cause else ""


def _where(group: types.AccuracyGroup) -> str:
    return f"{group.level} {group.group}".strip()
