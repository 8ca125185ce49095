"""What a person or a program sees: tables or JSON on stdout, everything else on stderr.

Text from servers, devices and files is hostile to a terminal: `plain` shows control characters
instead of sending them, and no text is read as markup.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from edgectl.clock import now
from edgectl.errors import EdgectlError

__all__ = [
    "Folding",
    "age",
    "bytes_text",
    "consoles",
    "duration_text",
    "latency_text",
    "pairs",
    "plain",
    "print_error",
    "print_json",
    "print_list",
    "share_text",
    "state_text",
    "table",
]

Item = TypeVar("Item")

_WIDTH_WITHOUT_TERMINAL = 200
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STATE_STYLES = {
    "green": {
        *("ready", "published", "succeeded", "committed", "completed", "online", "ok"),
        "passed",
    },
    "red": {
        "refused",
        "failed",
        "rejected",
        "rolled_back",
        "rolled-back",
        "aborted",
        "fail",
        "critical",
        "error",
    },
    "yellow": {
        *("processing", "unsigned", "queued", "running", "in_progress", "paused", "pending"),
        "overdue",
        *("warn", "warning", "not_enough_data", "overridden"),
    },
}


def consoles() -> tuple[Console, Console]:
    """Return the consoles of stdout and stderr; colours only where a terminal is."""
    return _console(stderr=False), _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        force_terminal=terminal,
        no_color=None if terminal else True,
        width=None if terminal else _WIDTH_WITHOUT_TERMINAL,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not terminal,
    )


def plain(value: object) -> str:
    """Return `value` as text that does nothing to a terminal; None becomes a dash."""
    if value is None or value == "":
        return "-"
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(value))


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_list(
    items: Sequence[Item],
    make_table: Callable[[Sequence[Item]], Any],
    nothing: str,
    *,
    as_json: bool,
) -> None:
    """Print a list for a program, or for a person: a table, or on stderr that there is nothing."""
    output, errors = consoles()
    if as_json:
        print_json(items)
    elif items:
        output.print(make_table(items))
    else:
        errors.print(nothing)


def print_error(error: EdgectlError) -> None:
    """Print an error on stderr: what, while doing what, what to try."""
    lines = [f"error[{plain(error.code)}]: {plain(error.detail)}"]
    lines += [f"while: {plain(doing)}" for doing in error.doing]
    if error.hint:
        lines.append(f"try: {plain(error.hint)}")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


class Folding:
    """A name that goes on in the next line, behind a dash, where the terminal is too narrow."""

    def __init__(self, name: str) -> None:
        self._parts = re.findall(r"[^-]*-|[^-]+", name)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [len(part) for part in self._parts] or [0]
        return Measurement(max(widths), sum(widths)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for part in self._parts:
            if lines[-1] and len(lines[-1]) + len(part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Text | Folding | str]],
    title: str = "",
    *,
    gap: int = 2,
    folding: bool = False,
) -> Table:
    """Return a table; a column whose heading starts with ``>`` is aligned to the right.

    The first column is never folded; with `folding` it is the only one that is. `gap` is the
    number of spaces between columns.
    """
    result = Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, gap, 0, 0),
        header_style="dim",
    )
    for number, column in enumerate(columns):
        result.add_column(
            Text(column.removeprefix(">")),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
            no_wrap=(number == 0) is not folding,  # names and ids are copied
        )
    for row in rows:
        result.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return result


def pairs(rows: Iterable[tuple[str, Text | str]], title: str = "") -> Table:
    """Return names and values beneath one another."""
    result = table(["", ""], ((name, value) for name, value in rows), title)
    result.show_header = False
    return result


def state_text(state: str) -> Text:
    """Return a state in its colour."""
    shown = plain(state)
    for style, states in _STATE_STYLES.items():
        if state in states:
            return Text(shown, style=style)
    return Text(shown)


def bytes_text(count: int | None) -> str:
    """Return a size in powers of 1000, such as ``444.1 kB``."""
    if count is None:
        return "-"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - the SI step
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def share_text(value: float | None) -> str:
    """Return a share of 1 with three digits."""
    return "-" if value is None else f"{value:.3f}"


def latency_text(microseconds: float | None) -> str:
    """Return a latency, such as ``312 µs`` or ``1.4 ms``."""
    if microseconds is None:
        return "-"
    if microseconds < 1000:  # noqa: PLR2004 - the SI step
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1000:.1f} ms"


def duration_text(seconds: float) -> str:
    """Return a time span, such as ``45 s`` or ``3 h``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def age(moment: datetime | None) -> str:
    """Return how long ago `moment` was."""
    if moment is None:
        return "never"
    seconds = (now() - moment).total_seconds()
    return (
        f"in {duration_text(-seconds)}" if seconds < -1 else f"{duration_text(max(seconds, 0))} ago"
    )
