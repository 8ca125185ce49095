"""Pictures as inline SVG, by small pure functions.

Colours are classes of the style sheet, so that pictures follow light, dark and print; shape says
the same as colour. Positions are in the units of the ``viewBox``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgectl_server.report_page.html import Html, join, tag

__all__ = ["Mark", "Scatter", "bar", "marker", "scatter", "ticks", "x_range"]

_WIDTH, _HEIGHT = 470.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 26.0, 14.0, 44.0
_RADIUS = 6.0
_LABEL_WIDTH, _LABEL_HEIGHT = 17.0, 13.0
_NEAR = 1.5
_DECADES_MIN = 1.2
_TICKS = 5


@dataclass(frozen=True)
class Mark:
    """One point: its shape (circle, diamond, square or cross), label and tooltip."""

    x: float
    y: float
    number: str
    shape: str
    title: str


@dataclass(frozen=True)
class Scatter:
    """What is common to a picture: marks, axes and the lines across it.

    Attributes:
        marks: points; x above 0.
        x_title: written below.
        y_title: written at the left.
        x_text: a value of x as it is written at the axis.
        lines: y, words and class of each horizontal line.
        y_low: lower end of the vertical axis.
        y_high: its upper end.
        y_clip: what lies below is drawn here, with an arrow.
        caption: for who cannot see the picture.
    """

    marks: Sequence[Mark]
    x_title: str
    y_title: str
    x_texts: Sequence[tuple[float, str]]
    lines: Sequence[tuple[float, str, str]]
    y_low: float
    y_high: float
    y_clip: float
    caption: str


def ticks(low: float, high: float, count: int = _TICKS) -> list[float]:
    """Return about `count` numbers, apart by 1, 2, 2.5 or 5 times a power of ten."""
    assert high > low, (low, high)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


class _Scale:
    """From values to positions along one axis."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False):
        self._convert = math.log10 if log else float
        self._low, self._high = self._convert(low), self._convert(high)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (self._convert(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def x_range(values: Sequence[float]) -> tuple[float, float, bool]:
    """Return the range of the x axis and whether it is logarithmic, which wide ones are."""
    low, high = min(values), max(values)
    if math.log10(high / low) > _DECADES_MIN:
        return low / 1.3, high * 1.3, True
    return 0.0, high * 1.08, False


def scatter(picture: Scatter) -> Html:
    """Return a picture of points, or an empty text without any."""
    if not picture.marks:
        return Html("")
    low, high, log = x_range([mark.x for mark in picture.marks])
    across = _Scale(low, high, _LEFT, _WIDTH - _RIGHT, log=log)
    up = _Scale(picture.y_low, picture.y_high, _HEIGHT - _BOTTOM, _TOP)
    placed = [
        (across(mark.x), up(max(mark.y, picture.y_clip)), mark, mark.y < picture.y_clip)
        for mark in picture.marks
    ]
    texts = [(value, text) for value, text in picture.x_texts if low <= value <= high]
    return tag(
        "svg",
        tag("title", picture.caption),
        _grid(picture, across, up, texts),
        _lines(picture, up),
        join(_mark(x, y, mark, below=below) for x, y, mark, below in placed),
        _numbers(placed),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        class_="plot",
    )


def marker(shape: str) -> Html:
    """Return a mark alone, for a table or a legend."""
    mark = Mark(0, 0, "", shape, "")
    return tag(
        "svg", _mark(8, 8, mark, below=False), viewBox="0 0 16 16", class_="key", aria_hidden="true"
    )


def bar(share: float, kind: str, *, limit: float | None = None) -> Html:
    """Return a bar that fills `share` (0 to 1) of its cell, and a line at `limit`."""
    width = 100 * min(1.0, max(0.0, share))
    parts = [
        tag("rect", x=0, y=0, width=100, height=8, class_="track"),
        tag("rect", x=0, y=0, width=width, height=8, class_=f"fill {kind}"),
    ]
    if limit is not None:
        at = 100 * min(1.0, max(0.0, limit))
        parts.append(tag("line", x1=at, x2=at, y1=-2, y2=10, class_="limit"))
    return tag(
        "svg",
        *parts,
        viewBox="0 -2 100 12",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def _grid(picture: Scatter, across: _Scale, up: _Scale, texts: Sequence[tuple[float, str]]) -> Html:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for value in ticks(picture.y_low, picture.y_high):
        y = up(value)
        shown = f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"
        parts += [
            tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"),
            tag("text", shown, x=_LEFT - 8, y=y + 4, text_anchor="end", class_="axis"),
        ]
    for value, text in texts:
        x = across(value)
        parts += [
            tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="tick"),
            tag("text", text, x=x, y=bottom + 18, text_anchor="middle", class_="axis"),
        ]
    middle = (_TOP + bottom) / 2
    parts += [
        tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="tick"),
        tag(
            "text",
            picture.x_title,
            x=(_LEFT + _WIDTH - _RIGHT) / 2,
            y=_HEIGHT - 6,
            text_anchor="middle",
            class_="axis name",
        ),
        tag(
            "text",
            picture.y_title,
            transform=f"translate(13 {middle:g}) rotate(-90)",
            text_anchor="middle",
            class_="axis name",
        ),
    ]
    return join(parts)


def _lines(picture: Scatter, up: _Scale) -> Html:
    parts = []
    for value, words, kind in picture.lines:
        beside = -5.0 if kind == "zero" else 14.0  # two lines may be near to one another
        if picture.y_low <= value <= picture.y_high:
            y = up(value)
            parts += [
                tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_=f"across {kind}"),
                tag("text", words, x=_LEFT + 5, y=y + beside, class_=f"axis {kind}"),
            ]
    return join(parts)


def _mark(x: float, y: float, mark: Mark, *, below: bool) -> Html:
    r = _RADIUS
    shapes = {
        "circle": f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z",
        "square": f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}Z",
        "diamond": f"M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8 -8Z",
        "cross": f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10",
    }
    arrow = f"M{x:.1f} {y + 15:.1f}l-4 -6h8Z" if below else ""
    parts = [tag("title", mark.title)] if mark.title else []
    parts.append(tag("path", d=shapes[mark.shape], class_=f"mark {mark.shape}"))
    if arrow:
        parts.append(tag("path", d=arrow, class_="arrow"))
    return tag("g", *parts)


def _numbers(placed: Sequence[tuple[float, float, Mark, bool]]) -> Html:
    """Write each mark's number beside it, where neither marks nor numbers are in the way."""
    taken = [(x, y) for x, y, _, _ in placed]
    parts = []
    for x, y, mark, _ in placed:
        if not mark.number:
            continue
        places = [
            (x + distance * dx, y + distance * dy)
            for distance in (1.0, 1.7, 2.4)
            for dx, dy in ((14, 0), (0, -14), (-14, 0), (0, 15), (12, -12), (-12, -12), (12, 12))
        ]
        inside = [
            (px, py)
            for px, py in places
            if _LEFT + 6 < px < _WIDTH - 6 and _TOP - 4 < py < _HEIGHT - _BOTTOM + 6
        ]
        spot = next((one for one in inside if _is_free(one, taken)), None)
        if spot is None:
            continue  # too crowded here; the table has it
        taken.append(spot)
        px, py = spot
        if math.hypot(px - x, py - y) > _NEAR * _LABEL_WIDTH:
            parts.append(tag("line", x1=x, y1=y, x2=px, y2=py, class_="leader"))
        parts.append(
            tag("text", mark.number, x=px, y=py + 4, text_anchor="middle", class_="number")
        )
    return join(parts)


def _is_free(spot: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    return all(
        abs(spot[0] - x) >= _LABEL_WIDTH * 0.8 or abs(spot[1] - y) >= _LABEL_HEIGHT * 0.8
        for x, y in taken
    )
