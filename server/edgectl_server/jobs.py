"""Long work: the row is the truth, whoever does it.

::

    queued ──claim──► running ──finish──► succeeded
       ▲                │  ├──JobFailed──► failed
       └──interrupted───┘  └──cancelled──► cancelled

Rules:

1. Who claims a job raises its fence and holds a lease, which a heartbeat prolongs. Every later
   write names the fence: a worker that was thought dead writes nothing any more.
2. What a job achieves is written in the transaction that ends it (`JobContext.finish`). Everything
   before that may happen twice, and the handler makes that harmless.
3. A job whose worker died is taken up again, at most `attempts_max` times in all: one that takes
   its worker down with it ends. A server that is stopped in order gives its job back uncounted.
4. One worker thread works on one job at a time. Several machines may work on jobs of one database:
   each takes those that it has registered a handler for. What a worker left when it ended is taken
   up by itself at its next start, and by others when the lease is over.
5. Jobs that a device does (`Jobs.register_remote`) are never claimed: who registered the kind moves
   their rows on, by the same table.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import ColumnElement, and_, false, or_, select, true, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from edgectl_server.errors import Conflict, NotFound, ServerError, Unavailable
from edgectl_server.job_rows import end_job, job_info, new_job
from edgectl_server.schemas import JobInfo, Page
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import Job

__all__ = [
    "JobCancelled",
    "JobContext",
    "JobFailed",
    "JobHandler",
    "JobLost",
    "Jobs",
    "free_at",
]

logger = logging.getLogger(__name__)

ENDED = frozenset({"succeeded", "failed", "cancelled"})
_IDLE_S = 5.0  # how long the worker waits when nobody wakes it
_PROGRESS_S = 0.2  # progress is written at most so often
_RETRY_S = 2.0  # a job that met something unavailable waits so long, times its attempts
_SORT = {
    "created_at": Job.created_at,
    "finished_at": Job.finished_at,
    "kind": Job.kind,
    "state": Job.state,
}


class JobFailed(ServerError):
    """The job has ended without a result; trying again would not help."""

    status = 422
    title = "The job failed"


class JobCancelled(Exception):
    """The handler has noticed that it should stop, and has."""


class JobLost(Exception):
    """Somebody else holds the job by now; nothing may be written."""


class JobHandler(Protocol):
    """Does the work of one kind of job."""

    def run(self, context: JobContext) -> None:
        """Do the work and end it with `JobContext.finish`, or raise.

        Raises:
            JobFailed: for good.
            JobCancelled: because `JobContext.cancelled` said so.
            Unavailable: it is tried again later.
        """

    def ended(self, session: Session, job: Job, error: ServerError) -> None:
        """Write what follows from a job that has failed or was cancelled; in that transaction."""


@dataclass
class JobContext:
    """What a handler may know and say about its job."""

    id: str
    payload: dict[str, Any]
    fence: int
    attempt: int
    _database: Database
    _now: Callable[[], datetime]
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _progress: dict[str, Any] | None = None

    def progress(self, stage: str, message: str = "", done: int = 0, total: int = 0) -> None:
        """Say how far it is; costs nothing, the newest is written a few times a second."""
        with self._lock:
            self._progress = {"stage": stage, "message": message, "done": done, "total": total}

    def cancelled(self) -> bool:
        """Say whether the work should stop: cancelled, the server stops, or the lease was lost."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raise `JobCancelled` if the work should stop."""
        if self.cancelled():
            raise JobCancelled

    def hold(self, session: Session) -> Job:
        """Return the job's row, locked, in a handler's own transaction.

        Raises:
            JobLost: somebody else holds the job.
        """
        job = session.get(Job, self.id, with_for_update=True)
        if job is None or job.fence != self.fence or job.state != "running":
            raise JobLost(self.id)
        return job

    def finish(self, session: Session, result: dict[str, Any]) -> None:
        """End the job with `result` in the transaction that writes what it achieved."""
        job = self.hold(session)
        job.state, job.result, job.error = "succeeded", result, None
        job.progress = self.take_progress() or job.progress
        job.finished_at, job.lease_until = self._now(), None

    def take_progress(self) -> dict[str, Any] | None:
        """Return the newest progress that has not been written yet."""
        with self._lock:
            progress, self._progress = self._progress, None
        return progress

    def stop(self) -> None:
        """Ask the handler to stop."""
        self._stop.set()


class Jobs:
    """The rows, and the one thread that works on them."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        *,
        worker: str = "server",
        lease_s: float = 30.0,
        attempts_max: int = 3,
        look_s: float = _IDLE_S,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            now: the clock.
            worker: the name of this one, the same after a restart.
            lease_s: how long a worker may be silent.
            attempts_max: how often a job is tried.
            look_s: how often it looks for jobs that others have made.
        """
        self._look_s = look_s
        self._worker = worker
        self._database = database
        self._now = now
        self._lease = timedelta(seconds=lease_s)
        self._attempts_max = attempts_max
        self._handlers: dict[str, JobHandler] = {}
        self._takes: list[ColumnElement[bool]] = [false()]
        self._remote: set[str] = set()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._current: JobContext | None = None
        self._thread: threading.Thread | None = None

    def register(
        self, kind: str, handler: JobHandler, *, able: ColumnElement[bool] | None = None
    ) -> None:
        """Say who does jobs of `kind`.

        Args:
            kind: of the jobs.
            handler: does them, and writes what follows from the end of one that is cancelled here.
            able: a condition on `Job`: those that this machine can do; None: all of them.
        """
        self._handlers[kind] = handler
        self._takes.append(and_(Job.kind == kind, true() if able is None else able))

    def register_remote(self, kind: str) -> None:
        """Say that devices do jobs of `kind`: they are listed and cancelled here, and not claimed.

        What a device goes on to say of a job that was cancelled changes it no more.
        """
        self._remote.add(kind)

    # ------------------------------------------------------------ the rows

    def create(self, session: Session, kind: str, payload: dict[str, Any], created_by: str) -> str:
        """Add a job to the caller's transaction and return its id; `notify` after the commit.

        Args:
            session: of `Database.write`.
            kind: one that a worker has a handler for.
            payload: what the handler needs; ``payload["subject"]`` is shown to people.
            created_by: user name.
        """
        job = new_job(kind, payload, created_by, self._now())
        session.add(job)
        return job.id

    def notify(self) -> None:
        """Wake the worker: there is something to do."""
        self._wake.set()

    def get(self, job_id: str) -> Job:
        """Return a job; raise `NotFound` ``job.unknown``."""
        with self._database.read() as session:
            return _find(session, job_id)

    def page(self, paging: PageQuery, *, state: str | None = None) -> Page[JobInfo]:
        """Return one page of the jobs, newest first."""
        wanted = select(Job).order_by(
            *order(paging.sort, _SORT, default="-created_at", last=Job.id)
        )
        if state is not None:
            wanted = wanted.where(Job.state == state)
        if paging.q:
            wanted = wanted.where(match(paging.q, (Job.id, Job.kind, Job.created_by)))
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted, paging)
        return Page(items=[job_info(row) for row in rows], total=total)

    def snapshot(self, job_id: str) -> JobInfo | None:
        """Return a job as it is shown, or None; for live listeners."""
        with self._database.read() as session:
            job = session.get(Job, job_id)
            return None if job is None else job_info(job)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once if it waits, as soon as its handler notices if it runs.

        Raises:
            NotFound: ``job.unknown``.
            Conflict: ``job.ended``.
        """
        with self._database.write() as session:
            job = _find(session, job_id, lock=True)
            if job.state in ENDED:
                raise Conflict("job.ended", f"job {job_id} has {job.state} already")
            job.cancel_requested = True
            if job.kind in self._remote:
                end_job(job, "cancelled", self._now(), error=_cancelled())
            elif job.state == "queued":
                self._end(session, job, "cancelled", _cancelled())
        current = self._current
        if current is not None and current.id == job_id:
            current.stop()
        return job

    # ------------------------------------------------------------ the worker

    def start(self) -> None:
        """Take up what a former worker left, and begin to work."""
        with self._database.write() as session:
            session.execute(
                update(Job)
                .where(Job.state == "running", Job.worker == self._worker)
                .values(lease_until=self._now())
            )
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop working; the job at hand is given back and taken up at the next start."""
        self._closing.set()
        self._wake.set()
        current = self._current
        if current is not None:
            current.stop()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the worker thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            try:
                while not self._closing.is_set() and (context := self._claim()) is not None:
                    self._work(context)
            except Exception:  # the worker outlives a database that is away for a moment
                logger.exception("the job worker has met an error and goes on")
            self._wake.wait(self._look_s)

    def _claim(self) -> JobContext | None:
        """Take the oldest job that waits, or whose worker has been silent for too long."""
        with self._database.write() as session:
            at = self._now()
            job = session.scalars(
                select(Job)
                .where(free_at(at), or_(*self._takes))
                .order_by(Job.created_at, Job.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if job is None:
                return None
            if job.cancel_requested:
                self._end(session, job, "cancelled", _cancelled())
                self._wake.set()
                return None
            if job.attempts >= self._attempts_max:
                error = JobFailed(
                    "job.attempts",
                    f"given up: its worker has died or was not served {job.attempts} times",
                    hint="look into the server's log, then push again",
                )
                self._end(session, job, "failed", error)
                self._wake.set()
                return None
            job.state, job.started_at = "running", job.started_at or at
            job.fence += 1
            job.attempts += 1
            job.lease_until = at + self._lease
            job.worker = self._worker
            return JobContext(
                job.id, dict(job.payload), job.fence, job.attempts, self._database, self._now
            )

    def _work(self, context: JobContext) -> None:
        with self._database.read() as session:
            kind = _find(session, context.id).kind
        self._current = context
        if self._closing.is_set():
            context.stop()
        done = threading.Event()
        heart = threading.Thread(
            target=self._beat, args=(context, done), name="job-heartbeat", daemon=True
        )
        heart.start()
        logger.info("job %s (%s): attempt %d", context.id, kind, context.attempt)
        try:
            self._handle(kind, context)
        except JobLost:
            logger.warning("job %s is somebody else's by now", context.id)
        finally:
            done.set()
            heart.join()
            self._current = None

    def _handle(self, kind: str, context: JobContext) -> None:
        try:
            self._handlers[kind].run(context)
        except JobLost:
            raise
        except JobCancelled:
            self._stopped(context)
        except Unavailable as error:
            logger.warning("job %s has to wait: %s: %s", context.id, error.code, error.detail)
            delay = timedelta(seconds=_RETRY_S * context.attempt)
            self._give_back(context, error=error, until=self._now() + delay)
        except ServerError as error:
            self._fail(context, error)
        except Exception:
            logger.exception("job %s has failed by a bug", context.id)
            bug = JobFailed(
                "job.bug",
                "Something went wrong that should not be able to.",
                hint=f"look for job {context.id} in the server's log",
            )
            self._fail(context, bug)
        else:
            with self._database.read() as session:
                state = _find(session, context.id).state
            assert state in ENDED, f"the handler of {kind} has returned without an end"

    def _stopped(self, context: JobContext) -> None:
        with self._database.write() as session:
            job = context.hold(session)
            if job.cancel_requested:
                self._end(session, job, "cancelled", _cancelled())
                return
        assert self._closing.is_set(), "a handler has stopped without being asked to"
        self._give_back(context, counted=False)

    def _give_back(
        self,
        context: JobContext,
        *,
        counted: bool = True,
        error: ServerError | None = None,
        until: datetime | None = None,
    ) -> None:
        with self._database.write() as session:
            job = context.hold(session)
            if job.attempts >= self._attempts_max and error is not None:
                self._end(session, job, "failed", error)
                return
            job.state, job.lease_until = "queued", until
            job.attempts -= 0 if counted else 1
            if error is not None:
                job.progress = {**job.progress, "message": f"waits: {error.detail}"[:500]}

    def _fail(self, context: JobContext, error: ServerError) -> None:
        logger.info("job %s has failed: %s: %s", context.id, error.code, error.detail)
        with self._database.write() as session:
            self._end(session, context.hold(session), "failed", error)

    def _end(self, session: Session, job: Job, state: str, error: ServerError) -> None:
        end_job(job, state, self._now(), error=error)
        if job.kind in self._handlers:  # else of a kind that other workers do
            self._handlers[job.kind].ended(session, job, error)

    def _beat(self, context: JobContext, done: threading.Event) -> None:
        """Write progress and prolong the lease until `done`; notice what others have written."""
        every_s = self._lease.total_seconds() / 3
        due = time.monotonic() + every_s
        while not done.wait(_PROGRESS_S):
            progress = context.take_progress()
            if progress is None and time.monotonic() < due:
                continue
            try:
                self._write_beat(context, progress)
            except JobLost:
                context.stop()
                return
            except SQLAlchemyError:
                logger.exception("the heartbeat of job %s cannot be written", context.id)
            due = time.monotonic() + every_s

    def _write_beat(self, context: JobContext, progress: dict[str, Any] | None) -> None:
        with self._database.write() as session:
            job = session.get(Job, context.id, with_for_update=True)
            if job is None or job.fence != context.fence:
                raise JobLost(context.id)
            if job.state != "running":
                return  # it has just ended
            job.lease_until = self._now() + self._lease
            if progress is not None:
                job.progress = progress
            if job.cancel_requested:
                context.stop()


def free_at(at: datetime) -> ColumnElement[bool]:
    """Return the condition on `Job` that it waits, or its worker has been silent for too long."""
    free = or_(Job.lease_until.is_(None), Job.lease_until <= at)
    return and_(Job.state.in_(("queued", "running")), free)


def _find(session: Session, job_id: str, *, lock: bool = False) -> Job:
    job = session.get(Job, job_id, with_for_update=lock)
    if job is None:
        raise NotFound("job.unknown", f"there is no job {job_id[:40]!r}")
    return job


def _cancelled() -> JobFailed:
    return JobFailed("job.cancelled", "cancelled by an operator")
