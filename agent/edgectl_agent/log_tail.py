"""Log lines to an operator who looks, as they come.

Rules: nothing happens unless a signed request runs; then the ring is looked at twice a second, the
journal every `JOURNAL_S`. The ring is the queue: what the line does not take stays in it, and what
leaves it before it was sent is counted as left out. No faster than `upload_bytes_per_s`, no more
than `BYTES_MAX` for one follow, no longer than the newest request says. The ring has no secrets.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from edgectl_agent.core.timing import Moment
from edgectl_agent.log_ring import LogRing
from edgectl_protocol.log_lines import (
    LINES_BYTES_MAX,
    LINES_MAX,
    LogFollowRequest,
    LogLine,
    LogLines,
)

__all__ = ["BYTES_MAX", "CONTEXT_LINES", "INTERVAL_S", "LogTail"]

CONTEXT_LINES = 30
"""Of those that are there when somebody begins to look."""
INTERVAL_S = 0.5
JOURNAL_S = 2.0
BYTES_MAX = 1024**2
_JOURNAL_LINES_MAX = 200
_log = logging.getLogger(__name__)

Timed = tuple[datetime, bytes]


@dataclass
class _Follow:
    request: LogFollowRequest
    until_s: float
    position: int
    """Number of the ring's next line."""
    journal_since: datetime
    journal_s: float
    left: int
    """Bytes that may still be sent."""
    journal: deque[Timed] = field(default_factory=deque)
    """What the journal has told and was not sent."""
    next_s: float = 0.0
    number: int = 0
    said: int = 0
    """Lines so far, those that were left out included."""


class LogTail:
    """One follow at a time; used by the main thread."""

    def __init__(
        self,
        device: str,
        ring: LogRing,
        *,
        journal: Callable[[datetime], Sequence[Timed]],
        bytes_per_s: int,
        send: Callable[[LogLines], bool],
    ) -> None:
        """Take what it needs.

        Args:
            device: our name.
            ring: the agent's own lines.
            journal: tells what has happened since a time, as encoded lines, the oldest first.
            bytes_per_s: of lines.
            send: signs and sends; False where the line takes nothing now.
        """
        self._device = device
        self._ring = ring
        self._journal = journal
        self._bytes_per_s = bytes_per_s
        self._send = send
        self._follow: _Follow | None = None

    @property
    def active(self) -> bool:
        """Whether somebody looks."""
        return self._follow is not None

    def take(self, request: LogFollowRequest, moment: Moment) -> None:
        """Begin, go on, or stop; the request was judged."""
        follow = self._follow
        same = follow is not None and follow.request.follow == request.follow
        if request.for_s == 0:
            if same:
                self._follow = None
            return
        until_s = moment.elapsed_s + request.for_s
        if same and follow is not None:
            follow.until_s = until_s
            return
        _log.info("an operator follows the log: %s", request.follow)
        self._follow = _Follow(
            request=request,
            until_s=until_s,
            position=max(0, self._ring.position - CONTEXT_LINES),
            journal_since=moment.wall,
            journal_s=moment.elapsed_s + JOURNAL_S,
            left=BYTES_MAX,
        )

    def pump(self, moment: Moment) -> None:
        """Send what is new and due."""
        follow = self._follow
        if follow is None:
            return
        if moment.elapsed_s >= follow.until_s:
            self._follow = None
            return
        if moment.elapsed_s < follow.next_s:
            return
        follow.next_s = moment.elapsed_s + INTERVAL_S
        self._read_journal(follow, moment)
        self._send_new(follow)

    def _read_journal(self, follow: _Follow, moment: Moment) -> None:
        if moment.elapsed_s < follow.journal_s:
            return
        follow.journal_s = moment.elapsed_s + JOURNAL_S
        for at, line in self._journal(follow.journal_since):
            if at > follow.journal_since:
                follow.journal_since = at
                follow.journal.append((at, line))
        while len(follow.journal) > _JOURNAL_LINES_MAX:
            follow.journal.popleft()
            follow.said += 1

    def _send_new(self, follow: _Follow) -> None:
        first, there = self._ring.after(follow.position)
        missed = first - follow.position
        chosen, from_ring, from_journal, size = self._choose(follow, there)
        over = size > 0 and follow.left - size <= 0
        if not chosen and not missed:
            return
        message = LogLines(
            device=self._device,
            follow=follow.request.follow,
            nonce=follow.request.nonce,
            number=follow.number + 1,
            first=follow.said + missed,
            lines=tuple(chosen),
            ended=over,
        )
        if not self._send(message):
            return  # all of it stays where it is
        follow.number += 1
        follow.said += missed + len(chosen)
        follow.position = first + from_ring
        for _ in range(from_journal):
            follow.journal.popleft()
        follow.left -= size
        follow.next_s += size / self._bytes_per_s
        if over:
            self._follow = None

    def _choose(
        self, follow: _Follow, there: Sequence[Timed]
    ) -> tuple[list[LogLine], int, int, int]:
        """Return the oldest lines that fit, how many are of the ring and the journal, and bytes."""
        chosen: list[LogLine] = []
        own = journal = size = 0
        while len(chosen) < LINES_MAX and (own < len(there) or journal < len(follow.journal)):
            of_journal = journal < len(follow.journal) and (
                own == len(there) or follow.journal[journal][0] <= there[own][0]
            )
            line = follow.journal[journal][1] if of_journal else there[own][1]
            if chosen and size + len(line) > min(LINES_BYTES_MAX, follow.left):
                break
            size += len(line)
            chosen.append(msgspec.json.decode(line, type=LogLine))
            if of_journal:
                journal += 1
            else:
                own += 1
        return chosen, own, journal, size
