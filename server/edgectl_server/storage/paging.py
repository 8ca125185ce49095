"""One page of a list: what is asked, and how a statement is searched, sorted and cut to it.

Sort keys are names with an optional ``-`` for descending; only those that a list offers are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from edgectl_server.errors import Refused

__all__ = ["LIMIT_MAX", "PageQuery", "fetch_page", "match", "order"]

LIMIT_MAX = 200


class PageQuery(NamedTuple):
    """What a client asks of a list."""

    q: str
    sort: str
    offset: int
    limit: int


def match(q: str, columns: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that `q` occurs in one of `columns`, whatever its case."""
    return or_(*(column.icontains(q, autoescape=True) for column in columns))


def order(
    sort: str, sortable: Mapping[str, Any], *, default: str, last: Any
) -> tuple[ColumnElement[Any], ...]:
    """Return what to order by; `last` makes the order total.

    Raises:
        Refused: ``request.sort``: not one of `sortable`.
    """
    wanted = sort or default
    column = sortable.get(wanted.removeprefix("-"))
    if column is None:
        raise Refused(
            "request.sort",
            f"cannot sort by {wanted!r}",
            hint=f"sort by one of: {', '.join(sorted(sortable))}",
        )
    if wanted.startswith("-"):
        return (column.desc(), last.desc())
    return (column.asc(), last.asc())


def fetch_page(
    session: Session, statement: Select[Any], query: PageQuery, *, key: Any = None
) -> tuple[Sequence[Any], int]:
    """Return the rows of one page and the number of all rows.

    Args:
        session: open.
        statement: complete, with its order, selecting one entity.
        query: offset and limit are taken from here.
        key: column that names a row, for a table of wide rows: the page is found by it, so that
            what comes before the page is not read.
    """
    found = statement if key is None else statement.with_only_columns(key)
    total = session.scalar(select(func.count()).select_from(found.order_by(None).subquery()))
    page = found.offset(query.offset).limit(query.limit)
    if key is None:
        return session.scalars(page).all(), int(total or 0)
    keys = session.scalars(page).all()
    return session.scalars(statement.where(key.in_(keys))).all(), int(total or 0)
