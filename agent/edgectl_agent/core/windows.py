"""Maintenance windows: may models be switched now, and if not, when.

Rules:

1. Windows of one list are alternatives; of several lists (the order's and the device's own) each
   must be open. An empty list is always open.
2. A clock that lies before the moment at which the newest order was issued is wrong, and a wrong
   clock opens nothing. One that is ahead cannot be told from a right one until the order expires;
   so a window is no protection against who sets the device's clock.
3. Local time is UTC plus the offset of the moment. When it changes (daylight saving), or when
   somebody sets the clock, is seen at the next look, at the latest after `LOOK_S_MAX`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from edgectl_agent.core.timing import Moment
from edgectl_protocol.messages import MaintenanceWindow, Reason
from edgectl_protocol.windows import WEEKDAYS

__all__ = ["LOOK_S_MAX", "closed", "is_open", "opens_at"]

LOOK_S_MAX = 900.0
"""A closed window is looked at again after this at the latest."""
_MINUTE = timedelta(minutes=1)
_DAYS_AHEAD = 8

Windows = Sequence[MaintenanceWindow]


def is_open(windows: Windows, moment: Moment) -> bool:
    """Say whether one of the windows is open, or there is none."""
    return not windows or any(_covers(one, _clock(one, moment)) for one in windows)


def opens_at(lists: Sequence[Windows], moment: Moment) -> datetime | None:
    """Return the next time, in UTC, at which every list is open; None: not in a week."""
    if all(is_open(one, moment) for one in lists):
        return moment.wall
    starts = sorted({at for windows in lists for one in windows for at in _starts(one, moment)})
    for at in starts:
        then = moment._replace(wall=at)
        if all(is_open(one, then) for one in lists):
            return at
    return None


def closed(
    lists: Sequence[Windows], moment: Moment, *, issued_at: datetime | None = None
) -> Reason | None:
    """Say why models must not be switched now, or None.

    Args:
        lists: all of them must be open.
        moment: now.
        issued_at: a time that is certainly past, such as that of the newest order.
    """
    if not any(lists):
        return None
    if issued_at is not None and moment.wall < issued_at:
        return _reason(
            f"the device's clock says {_text(moment.wall)}, which is before the order was issued: "
            "a wrong clock opens no window"
        )
    if all(is_open(one, moment) for one in lists):
        return None
    at = opens_at(lists, moment)
    if at is None:
        return _reason("the order's windows and the device's own are never open together")
    return _reason(f"the next maintenance window opens at {_text(at)}")


def _reason(detail: str) -> Reason:
    return Reason(code="update.window", detail=detail)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="minutes")


def _clock(window: MaintenanceWindow, moment: Moment) -> datetime:
    """Return what the window's clock shows."""
    if window.clock == "utc":
        return moment.wall
    return moment.wall + timedelta(seconds=moment.offset_s)


def _covers(window: MaintenanceWindow, at: datetime) -> bool:
    """Say whether a window that began today or yesterday is still open."""
    for days_ago in (0, 1):
        day = at - timedelta(days=days_ago)
        if window.days and WEEKDAYS[day.weekday()] not in window.days:
            continue
        start = _midnight(day) + window.start_minute * _MINUTE
        if start <= at < start + window.minutes * _MINUTE:
            return True
    return False


def _starts(window: MaintenanceWindow, moment: Moment) -> list[datetime]:
    """Return when the window begins within the days to come, in UTC."""
    shown = _clock(window, moment)
    starts = []
    for days in range(_DAYS_AHEAD):
        day = shown + timedelta(days=days)
        start = _midnight(day) + window.start_minute * _MINUTE
        if start > shown and (not window.days or WEEKDAYS[day.weekday()] in window.days):
            starts.append(moment.wall + (start - shown))
    return starts


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
