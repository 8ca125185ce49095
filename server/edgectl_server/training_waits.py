"""Trainings that nobody can do: the server leaves them to workers, and none has the trainer.

::

    nobody has the trainer ──look──► the job says so ──`training_wait_s`──► an alert
                                          │
                                          └── a worker has it ──look──► the job waits for its turn

Rules: nobody claims such a job, so the server writes into it what it waits for, and since when. A
worker that takes it says what it does instead. Trainings that wait for a worker which is busy wait
for their turn, as any job does: that is no alert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_server.alerting.sources import Source
from edgectl_server.domain.alerts import Condition
from edgectl_server.jobs import free_at
from edgectl_server.retraining import RETRAIN
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Job, Worker
from edgectl_server.training.trainers import BUILT_IN
from edgectl_server.trial_sharing import SEEN_WITHIN

__all__ = ["TrainingWaits"]

_STAGE = "wait"
_SINCE = "waits_since"
_JOBS_MAX = 2000
"""That are looked at; the oldest."""
_NAMES_MAX = 5


class TrainingWaits:
    """Looks for them. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        now: Callable[[], datetime],
        trains: bool,
        alert_after: timedelta,
    ) -> None:
        """Take what it needs.

        Args:
            database: of jobs and workers.
            now: the clock.
            trains: the server trains itself: nothing waits but for its turn.
            alert_after: waiting for longer is an alert.
        """
        self._database = database
        self._now = now
        self._trains = trains
        self._alert_after = alert_after

    def look(self) -> None:
        """Have the jobs say what they wait for."""
        now = self._now()
        with self._database.read() as session:
            workers = _workers(session, now)
            changed = [job.id for job in _free(session, now) if self._is_news(job, workers)]
        for one in changed:
            with self._database.write() as session:
                wanted = free_at(now) & (Job.id == one)
                job = session.scalars(select(Job).where(wanted).with_for_update()).one_or_none()
                if job is not None:
                    self._write(job, workers, now)

    def source(self) -> Source:
        """Return what alerts are raised of."""
        return Source("trainings that wait", ("training",), self._read)

    def _why(self, job: Job, workers: Sequence[Worker]) -> str:
        return "" if self._trains else _lacking(workers, _trainer(job))

    def _is_news(self, job: Job, workers: Sequence[Worker]) -> bool:
        why = self._why(job, workers)
        return job.progress.get("message") != why if why else _waits(job)

    def _write(self, job: Job, workers: Sequence[Worker], now: datetime) -> None:
        why = self._why(job, workers)
        if why and not _waits(job):
            job.payload = {**job.payload, _SINCE: now.isoformat()}
        job.progress = {"stage": _STAGE, "message": why} if why else {}

    def _read(self, session: Session, now: datetime) -> Iterable[Condition]:
        late: dict[str, list[Job]] = {}
        for job in _free(session, now):
            since = datetime.fromisoformat(job.payload[_SINCE]) if _waits(job) else now
            if now - since >= self._alert_after:
                late.setdefault(_trainer(job), []).append(job)
        for trainer, jobs in late.items():
            models = sorted({job.payload["subject"]["model"] for job in jobs})
            more = f" and {len(models) - _NAMES_MAX} more" if len(models) > _NAMES_MAX else ""
            wait = "1 training waits" if len(jobs) == 1 else f"{len(jobs)} trainings wait"
            where = "" if trainer == BUILT_IN else " where trainers_file has that trainer"
            yield Condition(
                kind="training.waiting",
                subject=trainer,
                severity="warning",
                summary=f"{wait}, of {', '.join(models[:_NAMES_MAX])}{more}: "
                f"{jobs[0].progress['message']}",
                hint=f"start `edgectl server worker`{where}, or set trains = true",
                model=models[0] if len(models) == 1 else "",
            )


def _free(session: Session, now: datetime) -> Sequence[Job]:
    """Return the trainings that nobody holds, the oldest first."""
    wanted = select(Job).where(Job.kind == RETRAIN, free_at(now))
    return session.scalars(wanted.order_by(Job.created_at, Job.id).limit(_JOBS_MAX)).all()


def _workers(session: Session, now: datetime) -> Sequence[Worker]:
    return session.scalars(select(Worker).where(Worker.seen_at > now - SEEN_WITHIN)).all()


def _lacking(workers: Sequence[Worker], trainer: str) -> str:
    """Say that no worker has a trainer; empty: one has, or is too old to say which it has."""
    if any(one.trainers is None or trainer in one.trainers for one in workers):
        return ""
    there = {0: "none is there", 1: "1 is there without it"}
    without = there.get(len(workers), f"{len(workers)} are there without it")
    return f"no worker has the trainer {trainer}: {without}"


def _trainer(job: Job) -> str:
    return str(job.payload["subject"]["trainer"])


def _waits(job: Job) -> bool:
    """Say whether a job says that it waits."""
    return bool(job.progress.get("stage") == _STAGE)
