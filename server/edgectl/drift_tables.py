"""Drift in a terminal: where it stands, and both histograms of what moved."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from edgectl import types
from edgectl.accuracy_tables import accuracy_text
from edgectl.output import age, plain, table

__all__ = [
    "drift_detail",
    "drift_events_table",
    "drift_history",
    "drift_summary_table",
    "drift_table",
]

_STYLES = {"drifting": "red", "recovering": "yellow", "suspected": "yellow", "quiet": "green"}
_BARS = " ▁▂▃▄▅▆▇█"
_MOVED_SHOWN = 12
_FEATURES_TOLD = 3
_COURSES_SHOWN = 4


def drift_table(groups: Sequence[types.DriftGroup]) -> Group:
    """Return one row a fleet, site or device."""
    columns = ["MODEL", "WHERE", "STATE", "SINCE", ">ROWS", "MOVED", "DATA"]
    rows = [
        (
            plain(f"{one.model}@{one.version}"),
            plain(_where(one)),
            Text(plain(one.state), style=_STYLES.get(one.state, "")),
            age(one.since),
            str(one.rows),
            plain(_moved(one.findings)),
            plain(_faults(one.faults)),
        )
        for one in groups
    ]
    return Group(table(columns, rows))


def drift_summary_table(bundles: Sequence[types.DriftSummary]) -> Group:
    """Return one row a bundle."""
    columns = ["MODEL", "FLEET", "SINCE", ">SITES DRIFTING", ">DEVICES DRIFTING", ">DATA FAULTS"]
    rows = [
        (
            plain(f"{one.fleet.model}@{one.fleet.version}"),
            Text(plain(one.fleet.state), style=_STYLES.get(one.fleet.state, "")),
            age(one.fleet.since),
            str(one.sites.drifting + one.sites.recovering),
            str(one.devices.drifting + one.devices.recovering),
            str(one.faulty),
        )
        for one in bundles
    ]
    return Group(table(columns, rows))


def drift_history(found: types.DriftHistory) -> Group:
    """Return the distances of the features that were farthest, a row a step."""
    head = plain(f"{found.model}@{found.version}, {found.level} {found.group}".rstrip())
    read = f"{found.devices_read} of {found.devices} devices, steps of {found.step_s:.0f} s"
    shown = found.features[:_COURSES_SHOWN]
    columns = ["UNTIL", ">ROWS", *(f">{plain(one.feature)}" for one in shown)]
    rows = [
        (
            f"{time:%Y-%m-%d %H:%M}",
            str(found.rows[step]),
            *(_step(one, step) for one in shown),
        )
        for step, time in enumerate(found.times)
        if found.rows[step]
    ]
    return Group(Text(f"{head}; distance and p-value, {read}"), table(columns, rows))


def _step(course: types.DriftCourse, step: int) -> str:
    distance, p_value = course.distance[step], course.p_value[step]
    if distance is None:
        return "-"
    return f"{distance:.3f}" if p_value is None else f"{distance:.3f} {p_value:.1e}"


def drift_events_table(events: Sequence[types.DriftEventInfo]) -> Group:
    """Return one row an event."""
    columns = ["WHEN", "WHAT", "MODEL", "WHERE", "WHY"]
    rows = [
        (
            age(one.at),
            plain(one.kind),
            plain(f"{one.model}@{one.version}"),
            plain(f"{one.level} {one.group}".strip()),
            plain(_event_why(one)),
        )
        for one in events
    ]
    return Group(table(columns, rows))


def _event_why(event: types.DriftEventInfo) -> str:
    if event.replaced:
        return "no device of it runs the version any more"
    if event.accuracy is not None:
        return accuracy_text(event.accuracy)
    return _faults(event.faults) if event.kind.startswith("data") else _moved(event.findings)


def drift_detail(found: types.DriftDetail) -> Group:
    """Return a group's state, the features that moved with both histograms, and where else."""
    one = found.group
    state = Text.assemble(
        plain(f"{one.model}@{one.version}"),
        f", {plain(_where(one))}: ",
        (plain(one.state), _STYLES.get(one.state, "")),
        f" since {age(one.since)}; {one.rows} rows in {found.windows} windows until "
        f"{one.until:%Y-%m-%d %H:%M} UTC, reference of {found.reference_rows} rows",
    )
    lines: list[Text | Group] = [state]
    moved = [feature for feature in found.features if feature.moved]
    shown = (moved or list(found.features))[:_MOVED_SHOWN]
    columns = ["FEATURE", "REFERENCE", "NOW", ">DISTANCE", ">SPREAD", ">SHIFT"]
    rows = [
        (
            Text(plain(feature.feature), style="bold" if feature.moved else ""),
            _bars(feature.reference),
            _bars(feature.counts),
            f"{feature.distance:.3f}",
            f"{feature.spread:.3f}",
            f"{feature.shift:+.3f}",
        )
        for feature in shown
    ]
    lines.append(Group(table(columns, rows)))
    if one.faults:
        lines.append(Text(f"data: {plain(_faults(one.faults))}", style="yellow"))
    if found.usual is not None:
        days = f"{found.usual.since:%Y-%m-%d %H:%M} to {found.usual.until:%Y-%m-%d %H:%M} UTC"
        lines.append(Text(f"compared with usual days too: {days}"))
    for name, groups in (("sites", found.sites), ("devices", found.devices)):
        if groups:
            names = ", ".join(group.group or "-" for group in groups[:_MOVED_SHOWN])
            more = len(groups) - _MOVED_SHOWN
            lines.append(Text(plain(f"{name}: {names}" + (f", {more} more" if more > 0 else ""))))
    return Group(*lines)


def _bars(counts: Sequence[int]) -> str:
    """Return a histogram as one line of blocks, its highest bin as high as can be."""
    highest = max(counts, default=0)
    if highest == 0:
        return "-"
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-count * steps // highest)] for count in counts)


def _where(group: types.DriftGroup) -> str:
    return f"{group.level} {group.group}".strip()


def _moved(findings: Sequence[types.DriftFinding]) -> str:
    named = ", ".join(one.feature for one in findings[:_FEATURES_TOLD])
    more = len(findings) - _FEATURES_TOLD
    return f"{named}, {more} more" if more > 0 else named


def _faults(faults: Sequence[types.DataFault]) -> str:
    named = ", ".join(f"{one.kind} {one.feature}".strip() for one in faults[:_FEATURES_TOLD])
    more = len(faults) - _FEATURES_TOLD
    return f"{named}, {more} more" if more > 0 else named
