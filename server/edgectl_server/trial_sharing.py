"""Trials on several machines: each makes a part of them, and the push finds what they have made.

A machine that runs ``edgectl server worker`` has the database and the blob store of the server, and
no keys: it signs nothing and reaches no broker. A push that finds such machines at work makes a job
for each, with the specification of the search and the digests of its files. A worker does the first
stage of the search on its part of the recipes and keeps the results as known trials
(`known_trials`). The server does a part too, waits, and then runs the whole search, in which those
trials are known. So a worker that dies, or is slow, costs time and nothing else.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.errors import Conflict, NotFound, ServerError
from edgectl_server.jobs import ENDED, JobCancelled, JobContext, JobFailed, Jobs
from edgectl_server.known_trials import KnownTrials
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineError, PipelineRefused
from edgectl_server.pipeline.spec import PipelineSpec, Progress, decode_spec, encode
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.tables import Job, Worker

__all__ = ["TRIALS", "Presence", "TrialSharing", "TrialsHandler"]

logger = logging.getLogger(__name__)

TRIALS = "trials"
"""Kind of the jobs."""
SEEN_WITHIN = timedelta(seconds=15)
"""A worker that was not seen for so long is not counted on."""
_WORKERS_MAX = 32
_UNCLAIMED_S_MAX = 10.0
_POLL_S = 0.1
_BLOB = "blob:"


class Presence:
    """Says that a worker is there."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        name: str,
        trainers: Sequence[str],
    ) -> None:
        """Take what it needs: the worker's `name`, and those of the `trainers` that it has."""
        self._database = database
        self._now = now
        self._name = name
        self._trainers = list(trainers)

    def beat(self) -> None:
        """Say it; several times within `SEEN_WITHIN`."""
        with self._database.write() as session:
            row = Worker(name=self._name, seen_at=self._now(), trainers=self._trainers)
            session.merge(row)

    def leave(self) -> None:
        """Say that it is there no more."""
        with self._database.write() as session:
            row = session.get(Worker, self._name)
            if row is not None:
                session.delete(row)


class Distributes(Protocol):
    """What a push needs of this."""

    def begin(self, context: JobContext, spec: PipelineSpec, key: str) -> list[str]:
        """Have workers begin; return the ids of their jobs."""

    def wait(self, context: JobContext, jobs: Sequence[str]) -> None:
        """Wait until they have ended."""


class TrialSharing:
    """The server's side."""

    def __init__(
        self, database: Database, blobs: BlobStore, jobs: Jobs, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._jobs = jobs
        self._now = now

    def begin(self, context: JobContext, spec: PipelineSpec, key: str) -> list[str]:
        """Make a job for each worker that is there: part 1 of n, part 2, …; part 0 is the server's.

        Args:
            context: of the push.
            spec: of the whole search; its files are put into the blob store.
            key: under which the results are kept.
        """
        with self._database.read() as session:
            since = self._now() - SEEN_WITHIN
            there = select(func.count()).select_from(Worker).where(Worker.seen_at > since)
            workers = min(_WORKERS_MAX, session.scalar(there) or 0)
        if not workers:
            return []
        document = _with_blobs(spec, self._blobs)
        with self._database.write() as session:
            context.hold(session)
            return [
                self._jobs.create(
                    session,
                    TRIALS,
                    {
                        "spec": document,
                        "key": key,
                        "part": part,
                        "parts": workers + 1,
                        "subject": {"model": spec.model, "version": spec.version},
                    },
                    "server",
                )
                for part in range(1, workers + 1)
            ]

    def wait(self, context: JobContext, jobs: Sequence[str]) -> None:
        """Wait until the jobs have ended; those that nobody works on are cancelled.

        Raises:
            JobCancelled: the push was cancelled, and with it the jobs.
        """
        unclaimed_since = time.monotonic()
        while True:
            left = self._left(jobs)
            if not left:
                return
            if any(left.values()):
                unclaimed_since = time.monotonic()
            late = time.monotonic() - unclaimed_since > _UNCLAIMED_S_MAX
            if context.cancelled() or late:
                self._cancel(left)
            if context.cancelled():
                raise JobCancelled
            if late:
                logger.warning("no worker works on %d parts of a search", len(left))
                return
            threading.Event().wait(_POLL_S)

    def _left(self, jobs: Sequence[str]) -> dict[str, bool]:
        """Return the jobs that have not ended, and whether a worker that is alive holds them."""
        with self._database.read() as session:
            wanted = select(Job.id, Job.state, Job.lease_until).where(
                Job.id.in_(jobs), Job.state.not_in(ENDED)
            )
            return {
                job: state == "running" and lease_until is not None and lease_until > self._now()
                for job, state, lease_until in session.execute(wanted)
            }

    def _cancel(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            try:
                self._jobs.cancel(job)
            except (Conflict, NotFound):
                continue  # it has just ended


class TrialsHandler:
    """Handles jobs of kind ``trials``, on a worker."""

    def __init__(
        self,
        directory: Path,
        *,
        database: Database,
        blobs: BlobStore,
        known_trials: KnownTrials,
        workers: int,
    ) -> None:
        """Take what it needs; `workers` is how many trials this machine makes at a time."""
        self._directory = make_private_directory(directory)
        for left in self._directory.iterdir():  # of a worker that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._database = database
        self._blobs = blobs
        self._known_trials = known_trials
        self._workers = workers

    def run(self, context: JobContext) -> None:
        """Make the trials of a part, and keep them."""
        from edgectl_server.pipeline.runner import run_pipeline

        def tell(progress: Progress) -> None:
            context.progress(progress.stage, progress.message, progress.done, progress.total)

        directory = make_private_directory(self._directory / context.id / str(context.fence))
        try:
            spec = self._spec(context, directory)
            work = make_private_directory(directory / "work")
            self._known_trials.bring(context.payload["key"], work)
            try:
                run_pipeline(spec, work, on_progress=tell, cancelled=context.cancelled)
            except PipelineCancelled as error:
                raise JobCancelled from error
            except PipelineRefused:
                pass  # what was tried is known all the same; whether it will do, the push decides
            except PipelineError as error:
                raise JobFailed(error.code, error.detail, hint=error.hint) from error
            kept = self._known_trials.keep(context.payload["key"], work)
        finally:
            shutil.rmtree(directory.parent, ignore_errors=True)
        with self._database.write() as session:
            context.finish(session, {"trials": kept})

    def ended(self, session: Session, job: Job, error: ServerError) -> None:
        """Nothing follows: the push makes the trials itself."""

    def _spec(self, context: JobContext, directory: Path) -> PipelineSpec:
        document = _with_files(context.payload["spec"], directory, self._blobs, context.check)
        spec = decode_spec(msgspec.json.encode(document))
        limits = msgspec.structs.replace(spec.limits, workers=self._workers)
        return msgspec.structs.replace(
            spec, part=context.payload["part"], parts=context.payload["parts"], limits=limits
        )


def _with_blobs(spec: PipelineSpec, blobs: BlobStore) -> dict[str, Any]:
    """Return the spec as JSON's plain types, with digests in place of its files."""
    names = {str(path): _BLOB + blobs.add_file(path) for path in spec.files}

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(one) for key, one in value.items()}
        return names.get(value, value) if isinstance(value, str) else value

    document: dict[str, Any] = put(msgspec.json.decode(encode(spec)))
    return document


def _with_files(value: Any, directory: Path, blobs: BlobStore, check: Callable[[], None]) -> Any:
    """Return a document with its blobs as files of `directory`."""
    if isinstance(value, dict):
        return {key: _with_files(one, directory, blobs, check) for key, one in value.items()}
    if not isinstance(value, str) or not value.startswith(_BLOB):
        return value
    check()
    digest = value.removeprefix(_BLOB)
    path = directory / digest.replace(":", "-")
    blobs.copy_to(digest, path)
    return str(path)
