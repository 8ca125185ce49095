"""Markup that cannot be broken out of: a plain `str` is text and is escaped, `Html` is markup.

Only `tag` and `join` make `Html`. Names of tags and attributes are constants of this package.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

__all__ = ["Html", "join", "tag"]

_VOID = frozenset({"meta", "circle", "line", "path", "rect", "br", "col"})
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff"
    "\\ud800-\\udfff]"
)
"""Control characters, and those that turn the order of the text around or hide in it."""


class Html(str):
    """Markup. Never made of foreign text but by `tag` and `join`, which escape it."""

    __slots__ = ()


def _escaped(child: str) -> str:
    if isinstance(child, Html):
        return child
    return html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", child))


def join(children: Iterable[str], between: str = "") -> Html:
    """Return the children one after the other, escaped where they are plain text."""
    return Html(_escaped(between).join(_escaped(child) for child in children))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Html:
    """Return an element.

    Args:
        name: of the tag.
        children: text, which is escaped, or `Html`.
        attributes: ``class_`` is class, ``data_x`` is ``data-x``, ``stroke_width`` is
            ``stroke-width``; None is left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        assert not children, name
        return Html(f"<{name}{given}>" if name in {"meta", "br", "col"} else f"<{name}{given}/>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def _text(value: str | float) -> str:
    """Return a number for SVG, without an exponent and with two digits at most."""
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".")
