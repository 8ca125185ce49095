"""Numbers and names as people read them."""

from __future__ import annotations

import re

__all__ = [
    "bytes_text",
    "count_text",
    "digest_text",
    "duration_text",
    "points_text",
    "quantity_text",
    "time_text",
    "value_text",
]

_KILO = 1000
_UNITS = ("B", "kB", "MB", "GB")
_FOUR_DIGITS_MAX = 100
_DIGEST_CHARACTERS = 19  # sha256: and twelve digits


def bytes_text(size: float | None) -> str:
    """Return a size in decimal units, such as ``121 kB``."""
    if size is None:
        return "\N{EN DASH}"
    value, unit = float(size), 0
    while value >= _KILO * 0.9995 and unit < len(_UNITS) - 1:
        value, unit = value / _KILO, unit + 1
    return f"{int(size)} B" if unit == 0 else f"{_three_digits(value)} {_UNITS[unit]}"


def duration_text(microseconds: float | None) -> str:
    """Return a time such as ``44.3 µs``, ``1.2 ms``."""
    if microseconds is None:
        return "\N{EN DASH}"
    if microseconds < _KILO:
        return f"{_three_digits(microseconds)} \N{MICRO SIGN}s"
    if microseconds < _KILO**2:
        return f"{_three_digits(microseconds / _KILO)} ms"
    return f"{_three_digits(microseconds / _KILO**2)} s"


def points_text(drop: float | None) -> str:
    """Return a loss in points as a change: a loss of 0.4 is shown as minus 0.40."""
    if drop is None:
        return "\N{EN DASH}"
    shown = f"{abs(drop):.2f}"
    if shown == "0.00":
        return shown
    return f"\N{MINUS SIGN}{shown}" if drop > 0 else f"+{shown}"


def value_text(value: float | None) -> str:
    """Return a metric's value with four digits, such as ``0.9540``."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.4f}" if abs(value) < _FOUR_DIGITS_MAX else f"{value:.5g}"


def quantity_text(value: float | None, unit: str) -> str:
    """Return what a gate measures: ``bytes``, ``time`` (microseconds), ``points``, ``share``."""
    if value is None:
        return ""
    if unit == "bytes":
        return bytes_text(value)
    if unit == "time":
        return duration_text(value)
    return f"{value:.2f} points" if unit == "points" else value_text(value)


def count_text(count: int, one: str, many: str = "") -> str:
    """Return ``1 sample`` or ``1,500 samples``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def time_text(moment: str) -> str:
    """Return ``2026-11-29 00:45 UTC`` of RFC 3339; anything else as it is."""
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d(\.\d+)?)?(Z|\+00:00)", moment, re.ASCII
    )
    return f"{found[1]} {found[2]} UTC" if found else moment


def digest_text(digest: str) -> str:
    """Return the beginning of a digest, enough to recognize it."""
    return digest if len(digest) <= _DIGEST_CHARACTERS else f"{digest[:_DIGEST_CHARACTERS]}…"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004
