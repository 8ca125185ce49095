"""Who is told what of which alerts: one message for many, and no message too often.

Rules:

1. An alert that is open is told once by each route that wants it, again every `repeat` as long as
   nobody has acknowledged it, and again at once when it has grown more severe. When it has ended,
   that is told too, to those who were told that it began.
2. A silence keeps news and reminders back. The end is told all the same, so that nobody waits for
   the end of what is over.
3. Between two messages of a route lies at least `gather`: the first alert is told at once, and a
   storm that follows is told together.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgectl_server.domain.alerts import RANKS, AlertState, Selector, Severity

__all__ = ["Facts", "Plan", "RouteFacts", "Told", "plan"]


@dataclass(frozen=True)
class Facts:
    """What must be known of an alert.

    Attributes:
        id: of it.
        state: of it.
        severity: of it.
        silenced: somebody has asked for silence.
        wanted: the route's selector fits it.
    """

    id: str
    state: AlertState
    severity: Severity
    silenced: bool
    wanted: bool


@dataclass(frozen=True)
class Told:
    """What a route has told of an alert.

    Attributes:
        at: when, the last time.
        severity: as which.
    """

    at: datetime
    severity: Severity


@dataclass(frozen=True)
class RouteFacts:
    """What must be known of a route.

    Attributes:
        selector: which alerts it wants.
        repeat: how often it reminds of those that are open; None: never.
        gather: least time between two messages.
        last_at: when it last sent one; None: never.
    """

    selector: Selector
    repeat: timedelta | None
    gather: timedelta
    last_at: datetime | None


@dataclass(frozen=True)
class Plan:
    """One message: ids of alerts, each list as the alerts were given."""

    began: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.began or self.again or self.ended)


def plan(
    route: RouteFacts, alerts: Iterable[Facts], told: Mapping[str, Told], now: datetime
) -> Plan:
    """Return what a route has to say now; false: nothing, or not yet.

    Args:
        route: which.
        alerts: all that have not ended, and those that it has told of.
        told: by the alert's id: what it has told, and not yet the end of.
        now: the time.
    """
    if route.last_at is not None and now < route.last_at + route.gather:
        return Plan()
    began, again, ended = [], [], []
    for one in alerts:
        before = told.get(one.id)
        if one.state == "resolved":
            if before is not None:
                ended.append(one.id)
        elif one.state == "open" and one.wanted and not one.silenced:
            if before is None or RANKS[one.severity] > RANKS[before.severity]:
                began.append(one.id)
            elif route.repeat is not None and now >= before.at + route.repeat:
                again.append(one.id)
    return Plan(tuple(began), tuple(again), tuple(ended))
