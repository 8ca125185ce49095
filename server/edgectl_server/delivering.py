"""Rows on their way to somebody outside: claimed, sent, tried again, given up.

Rules:

1. An attempt is claimed before it is made: in one transaction it gets a number and a time at which
   it counts as lost. So two servers do not make the same attempt, and a server that dies makes it
   later than it would have: at least once, with the same id every time.
2. How it went is written only if nobody has claimed the row since.
3. Each receiver has a thread while something is due for it: a slow one holds itself up and nobody
   else.
4. Waits grow; after the last attempt the row has failed.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from edgectl_server.errors import Unavailable
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import AlertNotice, WebhookDelivery

__all__ = ["Attempt", "Deliveries", "Outcome"]

logger = logging.getLogger(__name__)

KEEP = timedelta(days=14)
"""What has ended is shown for so long."""
_LEASE = timedelta(seconds=120)
"""Longer than an attempt takes, with a name server that does not answer."""
_ERROR_CHARACTERS_MAX = 256

Row = TypeVar("Row", WebhookDelivery, AlertNotice)


class Outcome(NamedTuple):
    """How an attempt went."""

    error: str = ""
    """Empty: it was delivered."""
    status: int | None = None
    """Of an answer by HTTP; None: none has come."""


class Attempt(NamedTuple):
    """One attempt, as it was claimed."""

    id: str
    number: int
    send: Callable[[], Outcome]


class Deliveries(ABC, Generic[Row]):
    """Sends what is due. Its methods may be called from any thread."""

    def __init__(
        self,
        rows: type[Row],
        receiver: InstrumentedAttribute[str],
        *,
        database: Database,
        now: Callable[[], datetime],
        waits_s: Sequence[float],
        threads: int,
        name: str,
    ) -> None:
        """Take what it needs.

        Args:
            rows: what is sent.
            receiver: the column of them that says to whom.
            database: of the rows.
            now: the clock.
            waits_s: before each attempt but the first.
            threads: how many receivers are sent to at a time.
            name: of a receiver, for the log and the threads.
        """
        self._rows: type[Row] = rows
        self._receiver = receiver
        self._database = database
        self._now = now
        self._waits = [timedelta(seconds=one) for one in waits_s]
        self._name = name
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name.replace(" ", "-"))

    @abstractmethod
    def _takes(self, session: Session, receiver: str) -> bool:
        """Say whether anything is sent to a receiver now; if not, it waits."""

    @abstractmethod
    def _prepare(self, session: Session, row: Row) -> Callable[[], Outcome]:
        """Return what makes the attempt that is being claimed, outside of the transaction."""

    @abstractmethod
    def _is_last(self, session: Session, row: Row, outcome: Outcome) -> bool:
        """Say whether an attempt is the last one though waits are left, and write what follows."""

    def look(self) -> None:
        """Have sent what is due; returns at once."""
        due = select(self._receiver).where(self._rows.due_at <= self._now()).distinct()
        with self._database.read() as session:
            receivers = [one for one in session.scalars(due).all() if self._takes(session, one)]
        for receiver in receivers:
            with self._lock:
                if receiver in self._busy or self._closing.is_set():
                    continue
                self._busy.add(receiver)
                self._threads.submit(self._serve, receiver)

    @property
    def busy(self) -> bool:
        """Whether anything is being sent."""
        return bool(self._busy)

    def send_now(self, row: Row) -> str:
        """Add a row and make its attempt at once, and write how it went; return its id."""
        with self._database.write() as session:
            session.add(row)
            attempt = self._claim(session, row)
        self._end(attempt, attempt.send())
        return attempt.id

    def delete_old(self) -> None:
        """Forget what has ended long ago."""
        with self._database.write() as session:
            old = self._rows.ended_at < self._now() - KEEP
            session.execute(delete(self._rows).where(old))

    def close(self) -> None:
        """Begin no attempt any more, and wait for those under way. Idempotent."""
        with self._lock:
            self._closing.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _serve(self, receiver: str) -> None:
        """Send one receiver all that is due for it."""
        try:
            while not self._closing.is_set():
                attempt = self._claim_next(receiver)
                if attempt is None:
                    return
                self._end(attempt, attempt.send())
        except Unavailable as error:
            logger.warning("%s %s waits: %s", self._name, receiver, error.detail)
        except Exception:  # the next look tries again
            logger.exception("%s %s has failed", self._name, receiver)
        finally:
            with self._lock:
                self._busy.discard(receiver)

    def _claim_next(self, receiver: str) -> Attempt | None:
        wanted = (
            select(self._rows)
            .where(self._receiver == receiver, self._rows.due_at <= self._now())
            .order_by(self._rows.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._database.write() as session:
            row = session.scalars(wanted).one_or_none()
            if row is None or not self._takes(session, receiver):
                return None
            return self._claim(session, row)

    def _claim(self, session: Session, row: Row) -> Attempt:
        """Make the attempt this server's; the caller commits."""
        at = self._now()
        row.attempts += 1
        row.tried_at, row.due_at = at, at + _LEASE
        return Attempt(row.id, row.attempts, self._prepare(session, row))

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Write how an attempt went, and when the next one is."""
        with self._database.write() as session:
            row = session.get(self._rows, attempt.id, with_for_update=True)
            if row is None or row.attempts != attempt.number or row.state != "pending":
                return  # deleted, or somebody else's by now
            row.error = outcome.error[:_ERROR_CHARACTERS_MAX]
            last = self._is_last(session, row, outcome) or row.attempts > len(self._waits)
            if last or not outcome.error:
                row.state = "failed" if outcome.error else "delivered"
                row.due_at, row.ended_at = None, self._now()
            else:
                row.due_at = self._now() + self._waits[row.attempts - 1]
