"""Lists: ``?q=&sort=&offset=0&limit=25``, the same everywhere; a route takes `Paging`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from edgectl_server.storage.paging import LIMIT_MAX, PageQuery

__all__ = ["Paging"]


async def _page_query(
    q: Annotated[str, Query(max_length=128, description="Text that must occur.")] = "",
    sort: Annotated[
        str, Query(max_length=32, pattern=r"^-?[a-z_]*$", description="Column; `-` descends.")
    ] = "",
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 25,
) -> PageQuery:
    return PageQuery(q, sort, offset, limit)


Paging = Annotated[PageQuery, Depends(_page_query)]
