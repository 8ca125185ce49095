"""Maintenance windows as people write them: ``mon-fri 02:00-04:00, sat 22:00-02:00 utc``.

A window is optional days, a time span, and optionally ``utc``; without it the device's own local
time counts. Days are ``mon`` to ``sun``, ranges or single ones joined by ``+``, and say when the
window begins; none is every day. A span that ends no later than it begins goes past midnight;
``24:00`` is midnight at the end of a day.
"""

from __future__ import annotations

import re
from typing import get_args

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import MaintenanceWindow, Weekday

__all__ = ["WEEKDAYS", "WINDOWS_MAX", "format_windows", "parse_windows"]

WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
"""From Monday."""
WINDOWS_MAX = 14
_TEXT_MAX = 1024
_HOUR_MINUTES = 60
_DAY_MINUTES = 24 * _HOUR_MINUTES
_WINDOW = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:[-+][a-z]{3})*)\s+)?"
    r"(?P<from>\d{2}:\d{2})-(?P<to>\d{2}:\d{2})(?:\s+(?P<clock>utc|local))?",
    re.ASCII,
)


def parse_windows(text: str) -> tuple[MaintenanceWindow, ...]:
    """Return the windows in `text`, none for an empty one.

    Raises:
        MalformedMessage: it is not written as above, or there are too many.
    """
    if len(text) > _TEXT_MAX:
        raise MalformedMessage(f"maintenance windows of {len(text)} characters")
    parts = [part.strip() for part in text.lower().split(",")] if text.strip() else []
    if len(parts) > WINDOWS_MAX:
        raise MalformedMessage(f"{len(parts)} maintenance windows, at most {WINDOWS_MAX}")
    return tuple(_parse(part) for part in parts)


def format_windows(windows: tuple[MaintenanceWindow, ...]) -> str:
    """Return what `parse_windows` takes; one of every length."""
    return ", ".join(_format(window) for window in windows)


def _parse(text: str) -> MaintenanceWindow:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise MalformedMessage(
            f"{text[:80]!r} is no maintenance window such as 'mon-fri 02:00-04:00'"
        )
    start, end = _minute(found["from"]), _minute(found["to"])
    if start == _DAY_MINUTES:
        raise MalformedMessage(f"{text[:80]!r}: a window begins at 23:59 at the latest")
    minutes = end - start if end > start else end - start + _DAY_MINUTES
    return MaintenanceWindow(
        days=_days(found["days"]) if found["days"] else (),
        start_minute=start,
        minutes=minutes,
        clock="utc" if found["clock"] == "utc" else "local",
    )


def _minute(text: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    if minute >= _HOUR_MINUTES or hour * _HOUR_MINUTES + minute > _DAY_MINUTES:
        raise MalformedMessage(f"{text} is no time of day")
    return hour * _HOUR_MINUTES + minute


def _days(text: str) -> tuple[Weekday, ...]:
    days: set[int] = set()
    for part in text.split("+"):
        first, *last = part.split("-")
        if len(last) > 1 or any(one not in WEEKDAYS for one in (first, *last)):
            raise MalformedMessage(f"{text!r} are no days such as mon-fri or sat+sun")
        at = WEEKDAYS.index(first)
        length = (WEEKDAYS.index(last[0]) - at) % 7 if last else 0
        days.update((at + more) % 7 for more in range(length + 1))
    return tuple(WEEKDAYS[day] for day in sorted(days))


def _format(window: MaintenanceWindow) -> str:
    end = window.start_minute + window.minutes
    end = end if end <= _DAY_MINUTES else end - _DAY_MINUTES
    span = f"{_time(window.start_minute)}-{_time(end)}"
    days = "+".join(window.days)
    return " ".join(filter(None, (days, span, "utc" if window.clock == "utc" else "")))


def _time(minute: int) -> str:
    return f"{minute // _HOUR_MINUTES:02d}:{minute % _HOUR_MINUTES:02d}"
