"""Live progress: server-sent events with whole snapshots.

``event`` is the topic's kind, ``data`` is ``{"topic": …, "snapshot": …}`` with the newest state of
it: at once, then whenever it has changed, at most once a second. Whoever has missed some has missed
nothing: every snapshot is complete. When nothing has changed for `RECHECK_S`, the event `beat` says
so: whoever hears nothing for some times as long has lost the connection, be it that no error tells
of it (a laptop that slept, a firewall that forgot). Whoever may not look any more, because the
login has ended, the token was deleted or the role taken away, sees the stream end within
`RECHECK_S`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from edgectl_server.api.access import get_services, is_still_allowed, viewer
from edgectl_server.api.problems import responses

__all__ = ["router"]

router = APIRouter(tags=["events"])

RETRY_MS = 2000
RECHECK_S = 5.0
BEAT = "beat"
"""The event that says that there is nothing to say; no kind of topic has this name."""


async def checked_topics(
    request: Request,
    topic: Annotated[
        list[str],
        Query(
            max_length=64,
            description="`fleet`, `trust`, `alerts`, `drift`, `samples`, `loops`, `rollout:<id>`, "
            "`job:<id>`, `device:<id>`, `version:<model>@<version>`; may be repeated.",
        ),
    ],
) -> tuple[str, ...]:
    """Dependency: refuse unknown topics before the stream begins."""
    return get_services(request).hub.check(topic)


@router.get(
    "/events",
    operation_id="events",
    response_class=EventSourceResponse,
    dependencies=[viewer],
    responses=responses(401, 422, 429),
)
async def events(
    request: Request, topics: Annotated[tuple[str, ...], Depends(checked_topics)]
) -> AsyncIterator[ServerSentEvent]:
    """Stream snapshots until the client or the server goes."""
    hub = get_services(request).hub
    yield ServerSentEvent(comment="welcome", retry=RETRY_MS)
    checked = monotonic()
    async for snapshot in hub.listen(topics, idle_s=RECHECK_S):
        if monotonic() - checked >= RECHECK_S:
            if not await run_in_threadpool(is_still_allowed, request):
                return
            checked = monotonic()
        if snapshot is None:
            yield ServerSentEvent(raw_data="{}", event=BEAT)
        else:
            yield ServerSentEvent(
                raw_data=snapshot.text, event=snapshot.kind, id=str(snapshot.revision)
            )
