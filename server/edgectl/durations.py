"""Durations and times as people write them: ``90s``, ``30m``, ``7d``, ``2026-11-01T14:30``.

A bare number is seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

__all__ = ["Duration", "Moment"]

_UNITS_S = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TEXT = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(s|m|min|h|d|w|)")


class Duration(click.ParamType[int]):
    """A click type whose values are whole seconds, within bounds."""

    name = "duration"

    def __init__(self, least_s: int, most_s: int) -> None:
        """Take the bounds in seconds, both allowed."""
        self._least_s = least_s
        self._most_s = most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return seconds, or fail as a usage error."""
        if isinstance(value, int):
            return value
        match = _TEXT.fullmatch(str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no duration: write it like 90s, 30m, 1h, 7d", param, ctx)
        seconds = round(float(match[1]) * _UNITS_S[match[2]])
        if not self._least_s <= seconds <= self._most_s:
            self.fail(
                f"{value!r} is not within {_text(self._least_s)} and {_text(self._most_s)}",
                param,
                ctx,
            )
        return seconds


class Moment(click.ParamType[str]):
    """A time as people write it; without a zone it is this machine's."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as the API takes it."""
        try:
            moment = datetime.fromisoformat(str(value))
            return moment.astimezone(UTC).isoformat()
        except (ValueError, OverflowError):
            self.fail(f"{value!r}: write 2026-11-01 or 2026-11-01T14:30", param, ctx)


def _text(seconds: int) -> str:
    """Return a duration as it can be written."""
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS_S[unit] and seconds % _UNITS_S[unit] == 0:
            return f"{seconds // _UNITS_S[unit]}{unit}"
    return f"{seconds}s"
