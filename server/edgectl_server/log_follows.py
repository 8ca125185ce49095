"""Log lines of a device while somebody looks: asked for with signed requests, kept for minutes.

::

    started ──request sent──► lines come ──nobody asks for lines any more──► ended
                                   │
                                   └── 10 minutes, offline, 2 MiB ──────────► ended

Rules: one follow a device, whoever looks; asking for lines is what says that somebody does. The
device is asked for `LEASE` at a time, again while somebody looks, and told to stop at the end; what
it sends counts with the nonce of its follow, and in order. Rows let any replica take a message and
any other show it; they are deleted some minutes after the end. Nothing of it is kept for good.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import to_builtins
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.log_lines import LogFollowRequest, LogLine, LogLines
from edgectl_protocol.messages import Reason
from edgectl_server.device_requests import BEGIN_WITHIN, next_request
from edgectl_server.device_uploads import Publishes
from edgectl_server.errors import Conflict, NotFound, TooMany
from edgectl_server.fleet import find_device
from edgectl_server.schemas import LogFollowInfo, LogFollowPage, LogLineInfo
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, LogFollow, LogFollowLines

__all__ = ["BYTES_MAX", "FOLLOWS_MAX", "FOLLOW_MAX", "WATCHED", "LogFollows"]

FOLLOW_MAX = timedelta(minutes=10)
LEASE = timedelta(seconds=120)
"""For so long the device sends after a request, whatever becomes of us."""
_RENEW = timedelta(seconds=40)
"""Before the end of the lease."""
WATCHED = timedelta(seconds=15)
"""Somebody looks for so long after asking for lines."""
_WATCHED_EVERY = timedelta(seconds=4)
BYTES_MAX = 2 * 1024**2
FOLLOWS_MAX = 16
"""At once, of all devices."""
_KEPT = timedelta(minutes=5)
_MESSAGES_AT_ONCE = 50


class LogFollows:
    """Asks, takes in, gives out. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        signer: OrderSigner,
        now: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what it needs; `wake` is called when there is something to send now."""
        self._database = database
        self._signer = signer
        self._now = now
        self._wake = wake

    def start(self, name: str, user: str) -> LogFollowInfo:
        """Begin to look at the log of a device, or join whoever does.

        Raises:
            NotFound: ``device.unknown``.
            Conflict: ``logs.offline``, ``logs.older``.
            TooMany: ``logs.follows``.
        """
        now = self._now()
        with self._database.write() as session:
            device = find_device(session, name)
            if device.state != "enrolled" or not device.online:
                raise Conflict(
                    "logs.offline",
                    f"{device.id} is not connected",
                    hint="look when it is; on the device: journalctl -fu edgectl-agent",
                )
            if device.reported.get("capabilities_seq") is None:
                # Of all that know the request; to others, one that they do not know is an attack.
                raise Conflict(
                    "logs.older",
                    f"the agent of {device.id} is too old to send its log as it comes",
                    hint=f"upgrade it, or fetch what is there: edgectl devices logs {device.id}",
                )
            running = _running(session)
            row = next((one for one in running if one.device == name), None)
            if row is None:
                if len(running) >= FOLLOWS_MAX:
                    raise TooMany(
                        "logs.follows",
                        f"the logs of {FOLLOWS_MAX} devices are looked at already",
                        hint="wait until somebody has seen enough",
                        data={"retry_after_s": 30},
                    )
                row = _new_row(name, user, now)
                session.add(row)
            row.watched_until = now + WATCHED
            session.flush()
            info = _info(row)
        self._wake()
        return info

    def page(self, name: str, follow: str, after: int) -> LogFollowPage:
        """Return the lines of the messages after number `after`; somebody looks.

        Raises:
            NotFound: ``logs.follow``: no such follow of this device, or it has long ended.
        """
        now = self._now()
        with self._database.read() as session:
            row = session.get(LogFollow, follow)
            if row is None or row.device != name:
                raise NotFound(
                    "logs.follow",
                    f"nobody looks at the log of {name} as {follow[:32]!r}",
                    hint=f"edgectl devices logs {name} --follow begins anew",
                )
            wanted = select(LogFollowLines).where(
                LogFollowLines.follow == follow, LogFollowLines.number > after
            )
            batches = session.scalars(
                wanted.order_by(LogFollowLines.number).limit(_MESSAGES_AT_ONCE)
            ).all()
        if row.ended_at is None and now + WATCHED - row.watched_until >= _WATCHED_EVERY:
            self._watch(follow, now)
        return LogFollowPage(
            follow=_info(row),
            after=batches[-1].number if batches else after,
            lines=[LogLineInfo.model_validate(line) for one in batches for line in one.lines],
        )

    def _watch(self, follow: str, now: datetime) -> None:
        with self._database.write() as session:
            row = session.get(LogFollow, follow, with_for_update=True)
            if row is not None and row.ended_at is None:
                row.watched_until = now + WATCHED

    def take(self, session: Session, device: str, message: LogLines) -> Reason | None:
        """Keep the lines of a message; say why they are not wanted, or None."""
        row = session.get(LogFollow, message.follow, with_for_update=True)
        if row is None or row.device != device or row.nonce != message.nonce:
            return Reason(code="logs.unasked", detail=f"{device} sends lines that nobody asks for")
        if row.ended_at is not None or message.number <= row.number:
            return None  # a moment late, or twice
        lines: list[Any] = [to_builtins(line) for line in message.lines]
        row.bytes += sum(_size(line) for line in message.lines)
        row.number = message.number
        row.missing += max(0, message.first - row.position)
        row.position = max(row.position, message.first) + len(lines)
        session.add(LogFollowLines(follow=row.id, number=message.number, lines=lines))
        if message.ended or row.bytes >= BYTES_MAX:
            row.ended_at, row.reason = self._now(), "enough"
        return None

    # ------------------------------------------------------------ in the background

    def tick(self, link: Publishes) -> None:
        """Ask devices for lines as long as somebody looks, and tell them to stop.

        Raises:
            Unavailable: the broker takes nothing now.
        """
        now = self._now()
        with self._database.read() as session:
            due = [one.id for one in _running(session) if self._is_due(session, one, now)]
            old = select(LogFollow.id).where(LogFollow.ended_at <= now - _KEPT)
            has_old = session.scalar(old.limit(1)) is not None
        for follow in due if link.connected else ():
            with self._database.write() as session:
                request = self._next_request(session, follow, now)
            if request is not None:
                link.publish(topics.command(request.device), self._signer.sign(request))
        if has_old:
            with self._database.write() as session:
                ids = list(session.scalars(old))
                session.execute(delete(LogFollowLines).where(LogFollowLines.follow.in_(ids)))
                session.execute(delete(LogFollow).where(LogFollow.id.in_(ids)))

    def _is_due(self, session: Session, row: LogFollow, now: datetime) -> bool:
        device = session.get(Device, row.device)
        return bool(_over(row, device, now)) or _wants_request(row, now)

    def _next_request(
        self, session: Session, follow: str, now: datetime
    ) -> LogFollowRequest | None:
        """Return what is to be sent, counted as sent; None where another replica was faster."""
        found = session.get(LogFollow, follow)
        if found is None:
            return None
        # In the order of the intake: the device's row, then the follow's.
        device = session.get(Device, found.device, with_for_update=True)
        row = session.get(LogFollow, follow, with_for_update=True, populate_existing=True)
        if device is None or row is None or row.ended_at is not None:
            return None
        reason, length = _over(row, device, now), timedelta()
        if reason:
            row.ended_at, row.reason = now, reason
            if reason == "offline" or row.asked_until is None:
                return None
        elif _wants_request(row, now):
            length = min(LEASE, row.ends_at - now)
            row.asked_until = now + length
        else:
            return None
        counter, _ = next_request(device, now)
        return LogFollowRequest(
            device=device.id,
            follow=row.id,
            counter=counter,
            nonce=row.nonce,
            issued_at=now,
            expires_at=now + BEGIN_WITHIN,
            for_s=0 if reason else max(1, int(length.total_seconds())),
        )


def _new_row(device: str, user: str, now: datetime) -> LogFollow:
    return LogFollow(
        id=secrets.token_hex(8),
        device=device,
        nonce=secrets.token_hex(16),
        started_by=user,
        started_at=now,
        ends_at=now + FOLLOW_MAX,
        watched_until=now + WATCHED,
        asked_until=None,
        number=0,
        position=0,
        missing=0,
        bytes=0,
        ended_at=None,
        reason="",
    )


def _running(session: Session) -> Sequence[LogFollow]:
    wanted = select(LogFollow).where(LogFollow.ended_at.is_(None))
    return session.scalars(wanted.order_by(LogFollow.started_at, LogFollow.id)).all()


def _over(row: LogFollow, device: Device | None, now: datetime) -> str:
    """Say why a follow is at its end; empty while it is not."""
    if device is None or device.state != "enrolled" or not device.online:
        return "offline"
    if now >= row.ends_at:
        return "time"
    return "unwatched" if now >= row.watched_until else ""


def _wants_request(row: LogFollow, now: datetime) -> bool:
    return row.asked_until is None or (
        row.asked_until - now <= _RENEW and row.asked_until < row.ends_at
    )


def _size(line: LogLine) -> int:
    return len(line.text.encode("utf-8", "replace")) + len(line.logger)


def _info(row: LogFollow) -> LogFollowInfo:
    return LogFollowInfo.model_validate(row, from_attributes=True)
