"""The agent's logs for an operator who asks: signed like every request, answered by an upload.

What is offered is gzip of lines of JSON (`edgectl_agent.log_ring.LogLine`): the journal in words
and the agent's own lines, by their times; first what an older agent has written without one.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Protocol

import msgspec

from edgectl_agent.core.record import EMPTY, Record
from edgectl_agent.core.requests import RequestArrived
from edgectl_agent.core.timing import Moment
from edgectl_agent.log_ring import LogRing
from edgectl_agent.log_tail import LogTail
from edgectl_agent.request_ledger import RequestLedger
from edgectl_agent.trail import told
from edgectl_agent.uploads import Uploads
from edgectl_protocol.log_lines import LogFollowRequest, LogLine
from edgectl_protocol.messages import Reason
from edgectl_protocol.uploads import LogRequest, UploadAnswer

__all__ = ["MEDIA_TYPE", "Logs"]

MEDIA_TYPE = "application/x-ndjson+gzip"
_JOURNAL_LINES_MAX = 200
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
_log = logging.getLogger(__name__)


class Alarms(Protocol):
    """What is needed of the reporter."""

    def alarm(self, reason: Reason, moment: Moment) -> None:
        """Note what an attacker may have done."""


class Logs:
    """Answers requests; used by the main thread."""

    def __init__(
        self,
        ledger: RequestLedger,
        ring: LogRing,
        *,
        records: Callable[[], Sequence[Record]],
        uploads: Uploads,
        reporter: Alarms,
        tail: Callable[[Callable[[datetime], list[tuple[datetime, bytes]]]], LogTail],
    ) -> None:
        """Take what it needs.

        Args:
            ledger: of all requests.
            ring: the agent's own lines.
            records: reads the journal, the oldest first.
            uploads: takes what is offered.
            reporter: is told of requests that are none of ours.
            tail: makes what sends lines as they come, of what tells the journal since a time.
        """
        self._ledger = ledger
        self._ring = ring
        self._records = records
        self._uploads = uploads
        self._reporter = reporter
        self._tail = tail(self._journal)

    def follow(self, arrived: RequestArrived, moment: Moment) -> None:
        """Send lines as they come, or stop, unless something stands against it."""
        request = arrived.request
        assert isinstance(request, LogFollowRequest), request
        if self._is_taken(arrived, moment):
            self._tail.take(request, moment)

    def pump(self, moment: Moment) -> None:
        """Send what is new to whoever looks."""
        self._tail.pump(moment)

    def _is_taken(self, arrived: RequestArrived, moment: Moment) -> bool:
        refusal = self._ledger.refuse(arrived, moment)
        if refusal is not None:
            self._reporter.alarm(refusal, moment)
            return False
        return self._ledger.take(arrived, self._ledger.pending)

    def take(self, arrived: RequestArrived, moment: Moment) -> None:
        """Offer the lines, unless something stands against it."""
        request = arrived.request
        assert isinstance(request, LogRequest), request
        if not self._is_taken(arrived, moment):
            return
        _log.info("an operator has asked for the logs: job %s", request.job)
        since = moment.wall - timedelta(seconds=request.since_s) if request.since_s else None
        lines = sorted([*self._journal(since), *self._ring.lines(since)], key=lambda one: one[0])
        self._uploads.add(
            "logs",
            gzip.compress(b"".join(line + b"\n" for _, line in lines), mtime=0),
            MEDIA_TYPE,
            at=moment.wall,
            elapsed_s=moment.elapsed_s,
            request=UploadAnswer(job=request.job, nonce=request.nonce),
        )

    def _journal(self, since: datetime | None) -> list[tuple[datetime, bytes]]:
        try:
            records = [EMPTY, *self._records()]
        except OSError as error:
            _log.warning("the journal cannot be read: %s", error)
            return []
        lines = [
            LogLine(time=two.at, level="info", logger="journal", text=text)
            for one, two in pairwise(records)
            for text in told(one, two)
            if since is None or two.at is None or two.at >= since
        ]
        return [
            (line.time or _BEFORE_ALL, msgspec.json.encode(line))
            for line in lines[-_JOURNAL_LINES_MAX:]
        ]
