"""What a check has found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from edgectl_server.errors import ServerError

__all__ = ["Check", "Finding", "bad", "fine", "look", "unsure"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the result."""

    check: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    hint: str = ""
    """The next step, where there is one."""


Check = Callable[[], Iterable[Finding]]


def fine(check: str, detail: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check=check, state="ok", detail=detail)


def unsure(check: str, detail: str, hint: str = "") -> Finding:
    """Return that the server would start, but somebody should look."""
    return Finding(check=check, state="warning", detail=detail, hint=hint)


def bad(check: str, detail: str, hint: str) -> Finding:
    """Return that the server would not start, or not work."""
    return Finding(check=check, state="failed", detail=detail, hint=hint)


def look(name: str, check: Check) -> list[Finding]:
    """Do a check; an error of ours is a finding, too."""
    try:
        return list(check())
    except ServerError as error:
        cause = "" if error.__cause__ is None else f": {str(error.__cause__).splitlines()[0][:200]}"
        return [bad(name, f"{error.detail}{cause}", error.hint)]
