"""What the commands share: how they are declared, how values and tables are shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from edgectl_agent.settings import Settings

__all__ = [
    "DEFAULT_CONFIG",
    "Commands",
    "add_command",
    "bytes_text",
    "examples_text",
    "print_json",
    "print_table",
    "seconds_text",
]

DEFAULT_CONFIG = Path("/etc/edgectl/agent.toml")
_UNITS = ("B", "kB", "MB", "GB", "TB")
_THOUSAND = 1000

Commands = Any
"""What `ArgumentParser.add_subparsers` returns; its class has no public name."""
Function = Callable[[Settings, argparse.Namespace], int]


def add_command(
    commands: Commands,
    name: str,
    function: Function,
    *,
    doing: str,
    summary: str,
    examples: Sequence[str],
) -> argparse.ArgumentParser:
    """Declare a command.

    Args:
        commands: where it goes.
        name: of the command.
        function: does it, and returns the exit code.
        doing: what is said to be going on when it fails.
        summary: one line.
        examples: whole command lines.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples_text(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, help=f"settings in TOML ({DEFAULT_CONFIG} where it exists)"
    )
    parser.add_argument("--state", help="state directory")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--verbose", action="store_true", help="say more on standard error")
    parser.set_defaults(function=function, doing=doing)
    return parser


def examples_text(*lines: str) -> str:
    """Return the end of a help text."""
    return "Examples:\n" + "\n".join(f"  {line}" for line in lines)


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value), flush=True)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as they need."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def bytes_text(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in _UNITS[:-1]:
        if abs(count) < _THOUSAND:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _THOUSAND
    return f"{count:.1f} {_UNITS[-1]}"


def seconds_text(seconds: float) -> str:
    """Return a duration as people read it: its two largest units."""
    rest = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
