"""Brings pieces of blobs by HTTP: from the server, or from a mirror in the same network.

Every chunk is judged by its signed digest before it is written. One answer is read as long as it
brings chunks that are missing; after trouble, the next question is for what is missing then. So an
answer may break off, begin elsewhere or be the whole, and nothing is fetched twice but the chunk in
which it broke.

A source that alters content, or answers something else than was asked, gets no second question in
this turn; one that does not answer gets `TRIES_MAX`.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable

from edgectl_agent.core.pacing import Pacer
from edgectl_agent.core.pulling import BadAnswer, Cutter, next_span, starts_at, whole_length
from edgectl_agent.core.timing import delay_s
from edgectl_agent.errors import StepCancelled, TokenAway, make_reason
from edgectl_agent.http_pull import Denied, HttpClient, Reply, Trouble
from edgectl_agent.pieces import BadPiece, SourceFailed, Want
from edgectl_protocol.messages import Reason

__all__ = ["HttpPieces"]

TRIES_MAX = 3
RETRY_FIRST_S = 1.0
RETRY_S_MAX = 30.0
WAIT_BESIDE_OTHERS_S = 5.0
"""Asked to wait for longer, somebody else gets a turn instead."""
_READ_BYTES = 64 * 1024
_SLICE_S = 0.25
_log = logging.getLogger(__name__)


class HttpPieces:
    """A `Source`: one server or mirror."""

    def __init__(
        self,
        client: HttpClient,
        *,
        alarm: Callable[[Reason], None] = lambda _: None,
        elapsed: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        pacer: Pacer | None = None,
    ) -> None:
        """Take who is asked.

        Args:
            client: of the server or mirror.
            alarm: told of each piece that came altered.
            elapsed: seconds of a clock that only goes forward.
            sleep: waits so many seconds.
            pacer: bound on bytes per second.
        """
        self._client = client
        self._alarm = alarm
        self._elapsed = elapsed
        self._sleep = sleep
        self._pacer = pacer or Pacer(0)
        self._random = random.SystemRandom()
        self._bytes_received = 0
        self._bad: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """The address that is asked."""
        return self._client.address

    @property
    def bytes_received(self) -> int:
        """Payload bytes since the start, also of those not believed."""
        return self._bytes_received

    @property
    def bad_pieces(self) -> Counter[str]:
        """What came and was not wanted, since the start, by `BadPiece`."""
        return self._bad

    def fetch(
        self, want: Want, *, alone: bool, cancelled: Callable[[], bool], pause: Callable[[], None]
    ) -> None:
        """Bring what is missing; see `Source`."""
        failures = 0
        while not want.done:
            if cancelled():
                raise StepCancelled
            taken = want.bytes_taken
            try:
                self._ask(want, cancelled)
            except (Denied, BadAnswer) as error:
                if isinstance(error, BadAnswer):
                    self._bad[BadPiece.ANSWER] += 1
                if cancelled():
                    raise StepCancelled from error
                raise self._failed("transfer.refused", want, error) from error
            except (Trouble, TokenAway) as error:
                if cancelled():
                    raise StepCancelled from error
                failures = 1 if want.bytes_taken > taken else failures + 1
                asked_s = error.retry_after_s if isinstance(error, Trouble) else 0.0
                wait_s = max(asked_s, self._delay_s(failures))
                if failures >= TRIES_MAX or (not alone and wait_s > WAIT_BESIDE_OTHERS_S):
                    raise self._failed("transfer.stalled", want, error) from error
                _log.info("%s, trying again in %.0f s: %s", self.name, wait_s, error)
                pause()
                self._wait(wait_s, cancelled)

    def _ask(self, want: Want, cancelled: Callable[[], bool]) -> None:
        """Ask once, for the whole or for the first part that is missing."""
        if want.whole:
            with self._client.get(want.path, {}, cancelled) as reply:
                self._read_whole(want, reply, cancelled)
            return None
        span = next_span(want.missing, want.length)
        headers = {"Range": f"bytes={span.start}-{span.stop - 1}"}
        with self._client.get(want.path, headers, cancelled) as reply:
            start = starts_at(reply.status, reply.headers, span, want.length)
            cutter = Cutter(want.length, start)
            while not want.done:
                content = self._read(reply, _READ_BYTES, cancelled)
                if not content:
                    return self._check_progress(want, span.start)
                for number, chunk in cutter.feed(content):
                    reply.alive()
                    self._judge(want, number, chunk)
        return None

    def _check_progress(self, want: Want, start: int) -> None:
        """Raise where an answer that ended in good order has brought nothing that was asked for."""
        if want.missing and next_span(want.missing, want.length).start == start:
            raise BadAnswer("the answer ends before the first chunk that was asked for does")

    def _read_whole(self, want: Want, reply: Reply, cancelled: Callable[[], bool]) -> None:
        whole_length(reply.headers, want.length)
        if reply.status != 200:  # noqa: PLR2004 - of HTTP; no part was asked for
            raise BadAnswer(f"status {reply.status}")
        content = bytearray()
        while piece := self._read(reply, _READ_BYTES, cancelled):
            content += piece
            if len(content) > want.length:
                raise BadAnswer(f"more than {want.length} bytes come")
        self._judge(want, want.missing[0], bytes(content))

    def _read(self, reply: Reply, bytes_max: int, cancelled: Callable[[], bool]) -> bytes:
        content = reply.read(bytes_max)
        self._bytes_received += len(content)
        wait_s = self._pacer.spend(len(content), self._elapsed())
        if wait_s > 0:
            self._wait(wait_s, cancelled)
        return content

    def _judge(self, want: Want, number: int, chunk: bytes) -> None:
        if not want.is_missing(number):
            return
        if not want.is_right(number, chunk):
            self._bad[want.fault(number, chunk)] += 1
            detail = (
                f"chunk {number} of {want.blob} came from {self.name} with another content than "
                "the signed one; the running model is not affected"
            )
            reason = make_reason("transfer.chunk_altered", detail)
            self._alarm(reason)
            raise SourceFailed(reason)
        want.take(number, chunk)

    def _delay_s(self, failures: int) -> float:
        jitter = self._random.random()
        return delay_s(max(1, failures), first_s=RETRY_FIRST_S, max_s=RETRY_S_MAX, jitter=jitter)

    def _wait(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        until_s = self._elapsed() + seconds
        while (left_s := until_s - self._elapsed()) > 0:
            if cancelled():
                raise StepCancelled
            self._sleep(min(left_s, _SLICE_S))

    def _failed(self, code: str, want: Want, error: Exception) -> SourceFailed:
        return SourceFailed(
            make_reason(code, f"{want.blob} does not come from {self.name}: {error}")
        )
