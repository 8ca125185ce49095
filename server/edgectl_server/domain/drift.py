"""Does what a fleet sees still look like its model's reference? Judged from counts alone.

An evaluation looks at the windows of one manifest in one stretch of time: at each device, at each
site (the devices of one place together), and at the fleet. Rules:

1. **Budget of false alarms.** In an evaluation in which nothing has changed, the chance of any
   finding is at most `Limits.false_alarms`. The levels share it in equal parts; levels with the
   same groups ask the same and count once, those with too few rows ask nothing. Within a level
   every feature of every group is one question of as many (Bonferroni). A fleet of ten thousand
   devices asks no more at the level of the fleet than one of ten.
2. **Rows that resemble one another.** The design effects are found from the variation between the
   windows of each device, all devices and features together. For sites and fleet they are at least
   those of the variation between their devices: a fleet has not drifted because its sensors differ.
3. **Significant is not enough.** What is smaller than `Limits.distance` and `Limits.spread` is no
   finding, however many rows prove it.
4. **Usual days.** Where people have said which days were usual, a feature has moved only if it
   differs from the same hours of these days too, whose variation from day to day is that of blocks.
   This takes findings away and never adds one, so that the budget holds.
5. **Hysteresis.** One evaluation raises a suspicion, a second one in a row makes it drift; two
   quiet ones in a row end it. Too few rows change nothing.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgectl_protocol.watching import Feature, Reference
from edgectl_server.domain.two_samples import Comparison, compare
from edgectl_statistics.dispersion import Dispersion, design_effects, dispersion

__all__ = [
    "CLASSES",
    "DriftState",
    "Finding",
    "Judged",
    "Level",
    "Limits",
    "Usual",
    "Window",
    "compare_group",
    "evaluate",
    "next_state",
]

Level = Literal["device", "site", "fleet"]
LEVELS: tuple[Level, ...] = ("fleet", "site", "device")
DriftState = Literal["unknown", "quiet", "suspected", "drifting", "recovering"]
CLASSES = "classes"
"""Name of the model's answers among the features."""
FLEET = ""
"""Name of the one group at the level of the fleet."""
_DEVICES_MIN = 3
"""Fewer say nothing about how devices differ."""
USUAL_DAYS_MIN = 3
"""Fewer say nothing about how days differ."""
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is a finding.

    Attributes:
        false_alarms: chance of any finding in an evaluation without any change.
        distance: smallest difference of the cumulative shares that is of interest.
        spread: smallest Cohen's w that is.
        rows: with fewer rows a group is not judged.
    """

    false_alarms: float = 0.01
    distance: float = 0.03
    spread: float = 0.15
    rows: int = 100


@dataclass(frozen=True)
class Window:
    """Counts of one device in one window.

    Attributes:
        device: its name.
        site: where it is.
        rows: that were described.
        histograms: of each feature of the reference.
        classes: rows by answer.
        missing: rows of each feature that are no numbers; empty: none.
        outside: rows of each feature beyond the reference; empty: none.
        clock_shift_s: by how much the device's clock was set meanwhile.
    """

    device: str
    site: str
    rows: int
    histograms: Sequence[Sequence[int]]
    classes: Sequence[int]
    missing: Sequence[int] = ()
    outside: Sequence[int] = ()
    clock_shift_s: int = 0


@dataclass(frozen=True)
class Usual:
    """What one device has counted in one hour of a day that was usual."""

    day: date
    window: Window


@dataclass(frozen=True)
class Finding:
    """A feature that has moved.

    Attributes:
        feature: its name, or `CLASSES`.
        comparison: with the reference.
        p_value: corrected for all questions of the level.
    """

    feature: str
    comparison: Comparison
    p_value: float


@dataclass(frozen=True)
class Judged:
    """One group.

    Attributes:
        level: which kind of group.
        group: the device, the site, or empty for the fleet.
        rows: that were looked at.
        shifted: whether it differs from the reference; None: too few rows to say.
        findings: the features that moved, the largest movement first.
        histograms: counts by feature, of the group, for whoever wants to see them.
        effects: design effect by feature that was reckoned with.
    """

    level: Level
    group: str
    rows: int
    shifted: bool | None
    findings: tuple[Finding, ...] = ()
    histograms: Mapping[str, Counts] = field(default_factory=dict)
    effects: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    reference: Reference,
    windows: Sequence[Window],
    limits: Limits,
    usual: Sequence[Usual] = (),
) -> list[Judged]:
    """Judge every device, every site and the fleet, the fleet first.

    Args:
        reference: of the manifest.
        windows: of that manifest, of one stretch of time; each fits the reference.
        limits: what is a finding.
        usual: of the same hours of usual days, on the same edges; empty: the reference decides.
    """
    tables = _tables(reference, windows)
    within = _within(tables, [one.device for one in windows])
    levels = {level: _groups(level, windows) for level in LEVELS}
    asking = {level: _asking(groups, windows, limits) for level, groups in levels.items()}
    budget = limits.false_alarms / max(1, len({groups for groups in asking.values() if groups}))
    judged: list[Judged] = []
    compared: dict[tuple[int, ...], tuple[dict[str, float], dict[str, Comparison]]] = {}
    for level, groups in levels.items():
        questions = max(1, len(asking[level]) * len(tables))
        for group, numbers in sorted(groups.items()):
            rows = _rows(windows, numbers)
            inside = {name: table[numbers] for name, table in tables.items()}
            seen = {name: table.sum(axis=0) for name, table in inside.items()}
            if tuple(numbers) not in compared:  # else another level has the same group
                between = _between(inside, [windows[number].device for number in numbers])
                effects = {name: max(within[name], between[name]) for name in tables}
                asked = rows >= limits.rows
                compared[tuple(numbers)] = (
                    effects,
                    _comparisons(reference, seen, effects) if asked else {},
                )
            effects, comparisons = compared[tuple(numbers)]
            shifted: bool | None = None
            findings: tuple[Finding, ...] = ()
            if rows >= limits.rows:
                findings = _findings(comparisons, questions, budget, limits)
                if findings and usual:
                    of_group = [one for one in usual if _group(level, one.window) == group]
                    days = _compared_with_days(reference, seen, effects, of_group, limits)
                    if days is not None:
                        unusual = {
                            one.feature for one in _findings(days, questions, budget, limits)
                        }
                        findings = tuple(one for one in findings if one.feature in unusual)
                shifted = bool(findings)
            judged.append(Judged(level, group, rows, shifted, findings, seen, effects))
    return judged


def _findings(
    comparisons: Mapping[str, Comparison], questions: int, budget: float, limits: Limits
) -> tuple[Finding, ...]:
    found = []
    for name, comparison in comparisons.items():
        p_value = min(1.0, comparison.p_value * questions)
        large = comparison.distance >= limits.distance or comparison.spread >= limits.spread
        if p_value <= budget and large:
            found.append(Finding(name, comparison, p_value))
    return tuple(sorted(found, key=_size, reverse=True))


def _compared_with_days(
    reference: Reference,
    seen: Mapping[str, Counts],
    effects: Mapping[str, float],
    usual: Sequence[Usual],
    limits: Limits,
) -> dict[str, Comparison] | None:
    """Compare a group with its usual days; None where there are too few of them, or of their rows.

    A stretch is one block as each day is, so that it has at least the days' design effect.
    """
    days = {day: number for number, day in enumerate(sorted({one.day for one in usual}))}
    rows = sum(one.window.rows for one in usual)
    if len(days) < USUAL_DAYS_MIN or rows < limits.rows:
        return None
    of = [days[one.day] for one in usual]
    tables = {}
    for name, table in _tables(reference, [one.window for one in usual]).items():
        tables[name] = np.zeros((len(days), table.shape[1]), np.int64)
        np.add.at(tables[name], of, table)
    between = _effects(tables, [list(range(len(days)))])
    ordered = {one.name for one in reference.features}
    return {
        name: compare(
            tables[name].sum(axis=0).astype(np.float64),
            counts.astype(np.float64),
            reference_effect=between[name],
            effect=max(effects[name], between[name]),
            ordered=name in ordered,
        )
        for name, counts in seen.items()
    }


def compare_group(reference: Reference, windows: Sequence[Window]) -> dict[str, Comparison]:
    """Compare what one group has seen with the reference, whatever is to be decided of it.

    Args:
        reference: of the manifest.
        windows: of the group, of one stretch of time.

    Returns:
        Each feature's comparison; its p-value is corrected for the features of this group alone.
    """
    tables = _tables(reference, windows)
    devices = [one.device for one in windows]
    within, between = _within(tables, devices), _between(tables, devices)
    effects = {name: max(within[name], between[name]) for name in tables}
    seen = {name: table.sum(axis=0) for name, table in tables.items()}
    return {
        name: replace(one, p_value=min(1.0, one.p_value * len(tables)))
        for name, one in _comparisons(reference, seen, effects).items()
    }


def _comparisons(
    reference: Reference, seen: Mapping[str, Counts], effects: Mapping[str, float]
) -> dict[str, Comparison]:
    features: dict[str, Feature] = {one.name: one for one in reference.features}
    found = {}
    for name, counts in seen.items():
        feature = features.get(name)
        found[name] = compare(
            np.array(reference.classes if feature is None else feature.counts, np.float64),
            counts.astype(np.float64),
            reference_effect=1.0 if feature is None else feature.design_effect,
            effect=effects[name],
            ordered=feature is not None,
        )
    return found


def _size(finding: Finding) -> float:
    return max(finding.comparison.distance, finding.comparison.spread / 2)


def _tables(reference: Reference, windows: Sequence[Window]) -> dict[str, Counts]:
    """Return the counts of each feature, [windows, bins]."""
    tables = {
        feature.name: np.array([one.histograms[number] for one in windows], np.int64)
        for number, feature in enumerate(reference.features)
    }
    if reference.classes:
        width = len(reference.classes)
        tables[CLASSES] = np.array(
            [[*one.classes, *([0] * (width - len(one.classes)))] for one in windows], np.int64
        )
    return tables


def _within(tables: Mapping[str, Counts], devices: Sequence[str]) -> dict[str, float]:
    """Return the design effects of the variation between the windows of each device."""
    places: dict[str, list[int]] = {}
    for number, name in enumerate(devices):
        places.setdefault(name, []).append(number)
    return _effects(tables, list(places.values()))


def _between(tables: Mapping[str, Counts], devices: Sequence[str]) -> dict[str, float]:
    """Return the design effects of the variation between devices."""
    places = {name: number for number, name in enumerate(dict.fromkeys(devices))}
    if len(places) < _DEVICES_MIN:
        return dict.fromkeys(tables, 1.0)
    of = [places[name] for name in devices]
    totals = {}
    for name, table in tables.items():
        totals[name] = np.zeros((len(places), table.shape[1]), np.int64)
        np.add.at(totals[name], of, table)
    return _effects(totals, [list(range(len(places)))])


def _effects(tables: Mapping[str, Counts], groups: Sequence[list[int]]) -> dict[str, float]:
    """Return the design effects of the variation between the blocks of each group."""
    parts: list[list[Dispersion]] = [
        [dispersion(table[numbers]) for numbers in groups] for table in tables.values()
    ]
    return dict(zip(tables, design_effects(parts), strict=True))


def _groups(level: Level, windows: Sequence[Window]) -> dict[str, list[int]]:
    """Return the places of the windows of each group."""
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(windows):
        groups.setdefault(_group(level, one), []).append(number)
    return groups


def _asking(
    groups: Mapping[str, list[int]], windows: Sequence[Window], limits: Limits
) -> frozenset[tuple[int, ...]]:
    """Return the groups that have rows enough, whatever their names."""
    return frozenset(
        tuple(numbers) for numbers in groups.values() if _rows(windows, numbers) >= limits.rows
    )


def _group(level: Level, window: Window) -> str:
    if level == "device":
        return window.device
    return window.site if level == "site" else FLEET


def _rows(windows: Sequence[Window], numbers: Sequence[int]) -> int:
    return sum(windows[number].rows for number in numbers)


_NEXT: Mapping[tuple[DriftState, bool], DriftState] = {
    ("unknown",    False): "quiet",
    ("unknown",    True):  "suspected",
    ("quiet",      False): "quiet",
    ("quiet",      True):  "suspected",
    ("suspected",  False): "quiet",
    ("suspected",  True):  "drifting",
    ("drifting",   False): "recovering",
    ("drifting",   True):  "drifting",
    ("recovering", False): "quiet",
    ("recovering", True):  "drifting",
}  # fmt: skip


def next_state(state: DriftState, shifted: bool | None) -> DriftState:
    """Return the state after an evaluation; the same where it could not tell."""
    return state if shifted is None else _NEXT[state, shifted]
