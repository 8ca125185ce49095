"""Alerts: when one opens, changes and ends, who is spared it, and who wants to be told of it.

Rules:

1. A source states conditions: what is wrong now, named by kind and subject. An alert is one
   condition from its beginning to its end; while it lasts there is no second one of that name.
2. An alert ends when its condition has been away for as long as the source says (`clear_after`):
   what comes and goes within that time is one alert. A source that could not be asked ends nothing.
3. Whoever has acknowledged an alert knows of it as it was: when it grows more severe, it is open
   again. It keeps the greatest severity that it has had, so that what wavers is told once.
4. An alert that a person has resolved while its condition lasted stays resolved until that has
   ended, unless it grows more severe: then it opens again.
5. A silence keeps alerts from being told, and not from being raised: the list shows them.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

__all__ = [
    "CONDITIONS_MAX",
    "OVERFLOW",
    "RANKS",
    "AlertState",
    "Condition",
    "Kept",
    "Selector",
    "Severity",
    "Step",
    "bounded",
    "next_step",
]

Severity = Literal["info", "warning", "critical"]
AlertState = Literal["open", "acknowledged", "resolved"]
Step = Literal["open", "refresh", "escalate", "leave", "resolve", "release", "keep"]
"""What becomes of an alert: ``leave``: its condition is away, not yet for long enough;
``release``: it was resolved by a person, and its name is free again."""

RANKS: dict[str, int] = {"info": 0, "warning": 1, "critical": 2}
CONDITIONS_MAX = 2000
"""So many alerts at most are there at once; that there are more is one of them."""
OVERFLOW = "alerts.overflow"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that is wrong now.

    Attributes:
        kind: what it is, such as ``drift.site``; parts are separated by dots.
        subject: which thing, unique within its kind, and the same as long as it lasts.
        severity: how bad.
        summary: one line for people.
        hint: what to do about it.
        model: that it is about; empty: none.
        site: where; empty: everywhere or nowhere.
        device: on which; empty: none or many.
        clear_after: how long it must be away before its alert ends.
    """

    kind: str
    subject: str
    severity: Severity
    summary: str
    hint: str = ""
    model: str = ""
    site: str = ""
    device: str = ""
    clear_after: timedelta = timedelta(0)

    @property
    def name(self) -> tuple[str, str]:
        """What makes it one condition."""
        return self.kind, self.subject


@dataclass(frozen=True)
class Kept:
    """What must be known of the alert that holds a name.

    Attributes:
        state: of it.
        severity: of it.
        absent_since: when its condition was first away; None: it is there.
        clear_after: as its condition said last.
    """

    state: AlertState
    severity: Severity
    absent_since: datetime | None
    clear_after: timedelta


@dataclass(frozen=True)
class Selector:
    """Which alerts are meant: all that fit every part that is not empty.

    Attributes:
        kinds: whole kinds, or beginnings of some up to a dot; empty: all.
        severity: at least this.
        model: exactly this.
        site: exactly this.
        subject: exactly this.
    """

    kinds: tuple[str, ...] = ()
    severity: Severity = "info"
    model: str = ""
    site: str = ""
    subject: str = ""

    def fits(
        self, *, kind: str, severity: str, model: str = "", site: str = "", subject: str = ""
    ) -> bool:
        """Say whether an alert is meant."""
        return (
            (not self.kinds or any(kind == one or kind.startswith(f"{one}.") for one in self.kinds))
            and RANKS[severity] >= RANKS[self.severity]
            and self.model in {"", model}
            and self.site in {"", site}
            and self.subject in {"", subject}
        )


def next_step(kept: Kept | None, condition: Condition | None, now: datetime) -> Step:
    """Decide what becomes of the alert with one name.

    Args:
        kept: the alert that holds the name; None: none does.
        condition: of that name; None: it is not there. One of both is given.
        now: the time.
    """
    if condition is not None:
        if kept is None:
            return "open"
        if RANKS[condition.severity] > RANKS[kept.severity]:
            return "escalate"
        return "refresh"
    assert kept is not None, "nothing there, and nothing kept"
    if kept.absent_since is None and kept.clear_after > timedelta(0):
        return "leave"
    away = timedelta(0) if kept.absent_since is None else now - kept.absent_since
    if away < kept.clear_after:
        return "keep"
    return "release" if kept.state == "resolved" else "resolve"


def bounded(
    conditions: Iterable[Condition], known: Iterable[tuple[str, str]]
) -> Sequence[Condition]:
    """Return at most `CONDITIONS_MAX` conditions, each name once.

    Those that have an alert stay, then the most severe come. What is left out is counted in one
    more, of the kind `OVERFLOW`.

    Args:
        conditions: from all sources; of two with one name the more severe is taken.
        known: names that have an alert.
    """
    unique: dict[tuple[str, str], Condition] = {}
    for one in conditions:
        other = unique.get(one.name)
        if other is None or RANKS[one.severity] > RANKS[other.severity]:
            unique[one.name] = one
    if len(unique) <= CONDITIONS_MAX:
        return list(unique.values())
    held = frozenset(known)

    def urgency(one: Condition) -> tuple[bool, int, tuple[str, str]]:
        return one.name not in held, -RANKS[one.severity], one.name

    first = sorted(unique.values(), key=urgency)[: CONDITIONS_MAX - 1]
    left = len(unique) - len(first)
    overflow = Condition(
        kind=OVERFLOW,
        subject="",
        severity="critical",
        summary=f"{left} more conditions hold than are kept as alerts ({CONDITIONS_MAX})",
        hint="look for one cause: a site that is down, or a bad version",
        clear_after=timedelta(minutes=5),
    )
    return [*first, overflow]
