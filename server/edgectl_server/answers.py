"""Which devices have answered with which digest, and when: kept by the hour, asked in one query.

Windows of telemetry are many: one for each device and minute. What is asked afterwards, when a
version has turned out to be bad, is less: which devices, from when to when, how often. So each new
window is added to the row of its device, digest and hour, in the transaction that stores it; a
repeated batch is not. Times are the device's, but never later than its message came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from edgectl_protocol.messages import InferenceWindow
from edgectl_server.errors import Refused
from edgectl_server.schemas import AnswerInfo, Page
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, match, order
from edgectl_server.storage.tables import AnsweredHour

__all__ = ["WINDOW_REQUESTS_MAX", "Answers", "add_answers"]

WINDOW_REQUESTS_MAX = 10**9
"""That one window counts for: whatever a device says, sums of many stay what a column holds."""
_FIRST, _LAST = func.min(AnsweredHour.first), func.max(AnsweredHour.last)
_REQUESTS = func.sum(AnsweredHour.requests)
_SORT = {"device": AnsweredHour.device, "first": _FIRST, "last": _LAST, "requests": _REQUESTS}


def add_answers(
    session: Session, answered: Iterable[tuple[str, InferenceWindow]], now: datetime
) -> None:
    """Add windows that are stored for the first time.

    Args:
        session: in which they are stored.
        answered: devices, each with a window in which something was answered or not.
        now: the time of arrival.
    """
    rows: dict[tuple[str, datetime, str, str], dict[str, Any]] = {}
    for device, window in answered:
        if window.requests:
            _add(rows, device, window, min(window.end, now))
    if not rows:
        return
    postgres = session.get_bind().dialect.name == "postgresql"
    new = (postgresql if postgres else sqlite).insert(AnsweredHour)
    kept = AnsweredHour
    least = func.least if postgres else func.min
    most = func.greatest if postgres else func.max
    session.execute(
        new.on_conflict_do_update(
            index_elements=["manifest", "hour", "device", "slot"],
            set_={
                "first": least(kept.first, new.excluded.first),
                "last": most(kept.last, new.excluded.last),
                "requests": kept.requests + new.excluded.requests,
                "errors": kept.errors + new.excluded.errors,
            },
        ),
        [rows[key] for key in sorted(rows)],
    )


def _add(
    rows: dict[tuple[str, datetime, str, str], dict[str, Any]],
    device: str,
    window: InferenceWindow,
    end: datetime,
) -> None:
    """Add a window to the row of its device, digest and hour."""
    hour = end.replace(minute=0, second=0, microsecond=0)
    row = rows.setdefault(
        (window.manifest, hour, device, window.slot),
        {
            "manifest": window.manifest,
            "hour": hour,
            "device": device,
            "slot": window.slot,
            "version": window.version,
            "first": min(window.start, end),
            "last": end,
            "requests": 0,
            "errors": 0,
        },
    )
    row["first"], row["last"] = min(row["first"], window.start), max(row["last"], end)
    row["requests"] += min(WINDOW_REQUESTS_MAX, window.requests)
    row["errors"] += min(WINDOW_REQUESTS_MAX, window.errors)


class Answers:
    """What is asked of them. Its methods may be called from any thread."""

    def __init__(self, *, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    def page(
        self,
        paging: PageQuery,
        *,
        digest: str | None,
        model: str | None,
        version: str | None,
        device: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> Page[AnswerInfo]:
        """Return one page of devices and digests, who answered last first.

        Args:
            paging: sorted by ``device``, ``first``, ``last`` or ``requests``.
            digest: of a manifest; None: any.
            model: None: any.
            version: of `model`; None: any.
            device: None: all.
            since: nothing before; None: as far back as it is kept. Counts are of whole hours.
            until: nothing after; None: now.

        Raises:
            Refused: ``answers.what``: neither digest nor model nor device, or no time between.
        """
        if not (digest or model or device) or (version and not model):
            raise Refused(
                "answers.what",
                "say what is asked for: a digest, a model with or without a version, or a device",
                hint="such as ?model=har&version=2&from=2026-11-01T00:00:00Z",
            )
        until = until or self._now()
        if since is not None and since > until:
            raise Refused("answers.what", "the time ends before it begins")
        # Not by the hour, which is that of the end: a window may have begun in the one before.
        wanted = _grouped().where(AnsweredHour.first <= until)
        if since is not None:
            hour = since.replace(minute=0, second=0, microsecond=0)
            wanted = wanted.where(AnsweredHour.hour >= hour, AnsweredHour.last >= since)
        for column, value in (
            (AnsweredHour.manifest, digest),
            (AnsweredHour.slot, model),
            (AnsweredHour.version, version),
            (AnsweredHour.device, device),
        ):
            if value:
                wanted = wanted.where(column == value)
        if paging.q:
            wanted = wanted.where(match(paging.q, (AnsweredHour.device,)))
        columns = order(paging.sort, _SORT, default="-last", last=AnsweredHour.device)
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(wanted.subquery()))
            rows = session.execute(
                wanted.order_by(*columns, AnsweredHour.manifest)
                .offset(paging.offset)
                .limit(paging.limit)
            ).all()
        return Page(items=[_info(row) for row in rows], total=int(total or 0))


def _grouped() -> Select[str, str, str, str, datetime, datetime, int, int]:
    return select(
        AnsweredHour.device,
        AnsweredHour.slot,
        func.max(AnsweredHour.version).label("version"),
        AnsweredHour.manifest,
        _FIRST.label("first"),
        _LAST.label("last"),
        _REQUESTS.label("requests"),
        func.sum(AnsweredHour.errors).label("errors"),
    ).group_by(AnsweredHour.device, AnsweredHour.manifest, AnsweredHour.slot)


def _info(row: Row[str, str, str, str, datetime, datetime, int, int]) -> AnswerInfo:
    return AnswerInfo(
        device=row.device,
        model=row.slot,
        version=row.version,
        digest=row.manifest,
        first=row.first,
        last=row.last,
        requests=int(row.requests),
        errors=int(row.errors),
    )
