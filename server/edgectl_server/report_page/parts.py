"""Building blocks of the sections: panels, tables, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgectl_server.report_page.html import Html, join, tag

__all__ = ["Column", "column", "facts", "panel", "pill", "table"]

_GOOD = frozenset({"published", "passed", "ready", "ok", "true", "pass", "met", "info"})
_BAD = frozenset({"rejected", "failed", "refused", "error", "fail", "broken", "missed"})
_WARN = frozenset({"warned", "warning", "unsigned", "overridden", "warn", "not_enough_data"})

Column = tuple[str, str]
"""Title and class."""


def column(title: str, class_: str = "") -> Column:
    """Return a column of a table; `class_` is ``right``, ``text``, ``graph`` or nothing."""
    return title, class_


def panel(title: str, under: str, *content: str) -> Html:
    """Return a section; `under` is one sentence below its title."""
    head = [tag("h2", title)]
    if under:
        head.append(tag("p", under, class_="soft small"))
    return tag("section", *head, *content)


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    label: str,
    below: Sequence[str] = (),
) -> Html:
    """Return a table that scrolls by itself where it is too wide.

    Args:
        columns: the first is the head of each row.
        rows: cells; text or `Html`.
        label: what the table is, for who cannot see it.
        below: for each row a sentence that gets the whole width, or nothing.
    """
    body = []
    for number, row in enumerate(rows):
        cells = [tag("th", row[0], scope="row")]
        cells += [
            tag("td", cell, class_=class_ or None)
            for cell, (_, class_) in zip(row[1:], columns[1:], strict=True)
        ]
        body.append(tag("tr", *cells))
        if number < len(below) and below[number]:
            reason = tag("td", below[number], colspan=len(columns))
            body.append(tag("tr", reason, class_="reason"))
    head = [tag("th", title, scope="col", class_=class_ or None) for title, class_ in columns]
    inside = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=label)


def pill(verdict: str, words: str = "") -> Html:
    """Return a verdict; a sign says the same as its colour."""
    lower = verdict.lower()
    for names, sign, class_ in (
        (_GOOD, "\N{CHECK MARK} ", "good"),
        (_BAD, "\N{MULTIPLICATION SIGN} ", "bad"),
        (_WARN, "! ", "warn"),
    ):
        if lower in names:
            return tag("span", sign, words or verdict, class_=f"pill {class_}")
    return tag("span", words or verdict or "\N{EN DASH}", class_="pill")


def facts(rows: Iterable[tuple[str, str]]) -> Html:
    """Return names and values below one another; rows without a value are left out."""
    pairs = [join([tag("dt", name), tag("dd", value)]) for name, value in rows if value]
    return tag("dl", *pairs, class_="facts")
