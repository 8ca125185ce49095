"""Sizes as people write them: ``512M``, ``20G``; a bare number is bytes, a unit a power of 1024."""

from __future__ import annotations

import re

import click

__all__ = ["Size"]

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_TEXT = re.compile(r"([0-9]{1,15})([KMGT]?)")


class Size(click.ParamType[int]):
    """A click type whose values are bytes, from `least` on."""

    name = "size"

    def __init__(self, least: str, example: str) -> None:
        """Take the least size that is allowed, and one to be shown, both as they are written."""
        self._least, self._example = least, example

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return bytes, or fail as a usage error."""
        size = _bytes(str(value))
        if size is None or size < (_bytes(self._least) or 0):
            detail = f"{value!r} is no size of {self._least} or more, such as {self._example}"
            self.fail(detail, param, ctx)
        return size


def _bytes(text: str) -> int | None:
    match = _TEXT.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None
