"""Makes deltas to what is, or may soon be, rolled out, from what the fleet really runs.

Rules:

1. Wanted are deltas to the versions of unfinished rollouts and to the newest version of each model,
   from the bundles that enrolled devices report in that model's slot, of the same variant; of those
   the `bases_max` that most devices run. This is looked at when a rollout starts and again and
   again, so that it follows what devices report.
2. A row (`Delta`) is written for each before anything is made, and a job for the version, on a
   worker of its own: a push does not wait for deltas, and deltas not for a push. A rollout waits
   for rows that wait, for a while (`is_preparing`), and then goes on with whole files.
3. Two deltas are made of each, one of the model and one of the rest of the bundle. One is kept
   where it has at most `WORTH` of the file. Each is tried once: what failed, or is of no use, stays
   written down.
4. Of encrypted bundles there are none: what differs between two ciphertexts is everything.
5. Deltas to versions that are not wanted any more are deleted after `KEPT`; a device that asks for
   one then fetches the file whole.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session, aliased

from edgectl_protocol.chunks import CHUNK_BYTES, chunk_count, make_index
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import Descriptor, decode_manifest, device_layers, model_layer
from edgectl_protocol.names import digest_of
from edgectl_server import confined
from edgectl_server.delta_process import BASE_FILE, TARGET_FILE, DeltaNotMade, MadeFile, make_delta
from edgectl_server.delta_rests import write_rests
from edgectl_server.delta_rows import READY
from edgectl_server.errors import NotFound, ServerError
from edgectl_server.job_rows import new_job
from edgectl_server.jobs import JobCancelled, JobContext, JobFailed
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.tables import (
    BundleVariant,
    Delta,
    Device,
    Job,
    ModelVersion,
    ReportedSlot,
    Rollout,
)

__all__ = ["DELTAS", "DeltasHandler", "DeltasWanted"]

logger = logging.getLogger(__name__)

DELTAS = "deltas"
"""Kind of the jobs."""
WORTH = 0.9
KEPT = timedelta(days=30)
_PER_VERSION_MAX = 64
"""Rows of one version in all, however often the fleet changes."""
_VERSIONS_MAX = 256
"""Versions that are looked at in one turn, newest first."""
_DELETED_AT_ONCE = 100
_WAITING = "waiting"
_UNFINISHED = ("running", "paused")


class _Pair(NamedTuple):
    base_version: str
    base_manifest: str
    manifest: str
    variant: str


class DeltasWanted:
    """Which deltas there shall be. Its methods may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        now: Callable[[], datetime],
    ) -> None:
        self._bases_max = settings.delta_bases_max
        self._wait = timedelta(seconds=settings.delta_wait_s)
        self._database = database
        self._blobs = blobs
        self._now = now
        self.notify: Callable[[], None] = lambda: None
        """Called when there is something to make."""

    def plan(self, session: Session, version: ModelVersion) -> bool:
        """Write down what is to be made for a version; return whether anything new is.

        In the caller's transaction; `notify` after it.
        """
        pairs = self._missing(session, version)
        if not pairs:
            return False
        now = self._now()
        session.add_all(
            Delta(
                version_id=version.id,
                variant=one.variant,
                base_version=one.base_version,
                base_manifest=one.base_manifest,
                manifest=one.manifest,
                state=_WAITING,
                created_at=now,
            )
            for one in pairs
        )
        subject = {"model": version.model, "version": version.version}
        payload = {"version_id": version.id, "subject": subject}
        session.add(new_job(DELTAS, payload, "server", now))
        return True

    def is_preparing(self, session: Session, rollout: Rollout) -> bool:
        """Say whether a rollout shall wait for deltas that are being made."""
        if self._now() >= rollout.created_at + self._wait:
            return False
        waiting = select(Delta.id).where(
            Delta.version_id == rollout.version_id, Delta.state == _WAITING
        )
        return session.scalar(waiting.limit(1)) is not None

    def look(self) -> None:
        """Plan for every version that is wanted, and delete what is not wanted any more."""
        with self._database.read() as session:
            versions = session.scalars(
                select(ModelVersion)
                .where(ModelVersion.id.in_(_wanted_versions()))
                .order_by(ModelVersion.id.desc())
                .limit(_VERSIONS_MAX)
            ).all()
            missing = [one.id for one in versions if self._missing(session, one)]
            old = session.scalars(self._old().limit(1)).first() is not None
        for version_id in missing:
            with self._database.write() as session:
                self.plan(session, session.get_one(ModelVersion, version_id))
        if missing:
            self.notify()
        if old:
            self._delete_old()

    def _missing(self, session: Session, version: ModelVersion) -> list[_Pair]:
        """Return what is wanted and has no row."""
        if self._bases_max == 0 or version.state != "ready":
            return []
        base, base_version = aliased(BundleVariant), aliased(ModelVersion)
        devices = func.count().label("devices")
        wanted = session.execute(
            select(
                base_version.version, base.manifest, BundleVariant.manifest, BundleVariant.variant
            )
            .select_from(ReportedSlot)
            .join(Device, Device.id == ReportedSlot.device)
            .join(base, base.manifest == ReportedSlot.manifest)
            .join(base_version, base_version.id == base.version_id)
            .join(BundleVariant, BundleVariant.variant == base.variant)
            .where(
                ReportedSlot.slot == version.model,
                Device.state == "enrolled",
                BundleVariant.version_id == version.id,
                base.version_id != version.id,
                base.content_key.is_(None),
                BundleVariant.content_key.is_(None),
            )
            .group_by(
                base_version.version, base.manifest, BundleVariant.manifest, BundleVariant.variant
            )
            .order_by(devices.desc(), base.manifest)
            .limit(self._bases_max)
        ).all()
        if not wanted:
            return []
        rows = session.execute(
            select(Delta.base_manifest, Delta.manifest).where(Delta.version_id == version.id)
        ).all()
        known = {(base_manifest, manifest) for base_manifest, manifest in rows}
        pairs = [_Pair._make(row) for row in wanted]
        missing = [one for one in pairs if (one.base_manifest, one.manifest) not in known]
        return missing[: max(0, _PER_VERSION_MAX - len(known))]

    def _old(self) -> Select[Delta]:
        return select(Delta).where(
            Delta.ended_at < self._now() - KEPT, Delta.version_id.not_in(_wanted_versions())
        )

    def _delete_old(self) -> None:
        with self._database.write() as session:
            rows = session.scalars(self._old().limit(_DELETED_AT_ONCE)).all()
            digests = {one for row in rows for one in (row.digest, row.rest_digest)} - {None}
            for row in rows:
                session.delete(row)
            session.flush()
            kept = {
                digest
                for column in (Delta.digest, Delta.rest_digest)
                for digest in session.scalars(select(column).where(column.in_(digests)))
            }
            for digest in digests - kept:
                assert digest is not None
                self._blobs.delete(digest)


class DeltasHandler:
    """Handles jobs of kind ``deltas``."""

    def __init__(
        self,
        directory: Path,
        *,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        now: Callable[[], datetime],
        made: Callable[[], None],
    ) -> None:
        """Take what it needs.

        Args:
            directory: holds one folder a job while it is worked on.
            settings: limits of the work.
            database: of the rows.
            blobs: of the models, and of what is made.
            now: the clock.
            made: called when rollouts need not wait any more.
        """
        self._directory = make_private_directory(directory)
        for left in self._directory.iterdir():  # of a server that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._now = now
        self._made = made

    def run(self, context: JobContext) -> None:
        """Make what is written down for the version, until nothing is left."""
        version_id = context.payload["version_id"]
        subject = context.payload["subject"]
        done = 0
        while rows := self._waiting(version_id):
            for row in rows:
                context.check()
                message = f"{subject['model']} {row.base_version} to {subject['version']}"
                context.progress("delta", f"{message}, {row.variant}", done, done + len(rows))
                self._settle(context, row)
                done += 1
        with self._database.write() as session:
            context.finish(session, _result(session, version_id))
            _wake_rollouts(session, version_id, self._now())
        self._made()

    def ended(self, session: Session, job: Job, error: ServerError) -> None:
        """What was not made is not made any more; rollouts go on."""
        version_id = job.payload["version_id"]
        session.execute(
            update(Delta)
            .where(Delta.version_id == version_id, Delta.state == _WAITING)
            .values(state="failed", ended_at=self._now(), reason=_reason(error))
        )
        _wake_rollouts(session, version_id, self._now())

    def _waiting(self, version_id: int) -> Sequence[Delta]:
        with self._database.read() as session:
            return session.scalars(
                select(Delta)
                .where(Delta.version_id == version_id, Delta.state == _WAITING)
                .order_by(Delta.id)
            ).all()

    def _settle(self, context: JobContext, row: Delta) -> None:
        """Make one delta, and write what came of it."""
        found = Delta(state="failed", target_bytes=0, shared_bytes=0, rest_target_bytes=0)
        try:
            base, target = self._models(row, found)
            found.base, found.target, found.target_bytes = base.digest, target.digest, target.size
            if base.digest == target.digest:
                found.state = "same"
            elif not self._known(found):
                self._make(context, found)
        except (DeltaNotMade, NotFound) as error:
            found.reason = _reason(error)
            logger.warning("no delta to %s: %s: %s", row.manifest, error.code, error.detail)
        except ProtocolError as error:
            found.reason = {"code": error.code, "detail": str(error)}
            logger.warning("no delta to %s: %s", row.manifest, error)
        try:
            self._make_rest(context, row, found)
        except (DeltaNotMade, NotFound, ProtocolError) as error:
            logger.warning("no delta to the rest of %s: %s", row.manifest, error)
        values = {name: getattr(found, name) for name in _SETTLED}
        with self._database.write() as session:
            context.hold(session)
            session.execute(
                update(Delta).where(Delta.id == row.id).values(**values, ended_at=self._now())
            )

    def _models(self, row: Delta, found: Delta) -> tuple[Descriptor, Descriptor]:
        """Return the model layers of both bundles; note what both bundles have."""
        base, target = (
            decode_manifest(self._blobs.read(one)) for one in (row.base_manifest, row.manifest)
        )
        there = {one.digest for one in device_layers(base)}
        shared = [one.size for one in device_layers(target) if one.digest in there]
        found.shared_bytes = sum(shared)
        return model_layer(base), model_layer(target)

    def _known(self, found: Delta) -> bool:
        """Take over what was made between the same files for other bundles."""
        with self._database.read() as session:
            other = session.scalars(
                select(Delta)
                .where(
                    Delta.base == found.base,
                    Delta.target == found.target,
                    Delta.state.in_((READY, "useless")),
                )
                .limit(1)
            ).first()
        if other is None or (other.digest is not None and not self._blobs.exists(other.digest)):
            return False
        for name in ("state", "digest", "bytes", "chunk_index", "codec"):
            setattr(found, name, getattr(other, name))
        return True

    def _make(self, context: JobContext, found: Delta) -> None:
        """Make a delta of the model, and put it into the blob store if it is worth it."""
        assert found.base is not None
        assert found.target is not None
        with self._folder(context) as directory:
            self._blobs.copy_to(found.base, directory / BASE_FILE)
            self._blobs.copy_to(found.target, directory / TARGET_FILE)
            made = self._run(context, directory)
        found.bytes, found.codec = len(made.content), made.codec.name.lower()
        if len(made.content) > WORTH * found.target_bytes:
            found.state = "useless"
            return
        found.digest, found.chunk_index = self._keep(made.content)
        found.state = READY

    def _make_rest(self, context: JobContext, row: Delta, found: Delta) -> None:
        """Make a delta of the rest of the bundle, if it is worth it."""
        with self._folder(context) as directory:
            target = write_rests(
                self._blobs,
                row.base_manifest,
                row.manifest,
                base=directory / BASE_FILE,
                target=directory / TARGET_FILE,
            )
            if target is None:
                return
            made = self._run(context, directory)
        if len(made.content) > WORTH * target.bytes:
            return
        found.rest_target, found.rest_target_bytes = target
        found.rest_bytes = len(made.content)
        found.rest_digest, found.rest_chunk_index = self._keep(made.content)

    @contextmanager
    def _folder(self, context: JobContext) -> Iterator[Path]:
        """Give a folder for one delta."""
        directory = make_private_directory(self._directory / context.id)
        try:
            yield directory
        except OSError as error:
            raise JobFailed(
                "delta.disk",
                f"cannot write the files of the job: {error.strerror or error}",
                hint="make room in the server's data folder",
            ) from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _run(self, context: JobContext, directory: Path) -> MadeFile:
        try:
            return make_delta(
                directory,
                wall_s=self._settings.delta_s_max,
                memory_bytes=self._settings.delta_memory_bytes_max,
                cancelled=context.cancelled,
            )
        except confined.CommandCancelled as error:
            raise JobCancelled from error

    def _keep(self, content: bytes) -> tuple[str, str | None]:
        """Put a delta into the blob store; return its digest, and that of its chunk index."""
        index = None
        if chunk_count(len(content)) > 1:
            chunks = (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))
            index = digest_of(make_index(chunks))
        return self._blobs.add_bytes(content), index


_SETTLED = (
    "state", "base", "target", "target_bytes", "shared_bytes", "digest", "bytes", "chunk_index",
    "codec", "reason", "rest_target", "rest_target_bytes", "rest_digest", "rest_bytes",
    "rest_chunk_index",
)  # fmt: skip


def _wanted_versions() -> Select[int]:
    """Return the versions of unfinished rollouts, and the newest of each model."""
    newest = (
        select(func.max(ModelVersion.id))
        .where(ModelVersion.state == "ready")
        .group_by(ModelVersion.model)
    )
    unfinished = select(Rollout.version_id).where(Rollout.state.in_(_UNFINISHED))
    return select(ModelVersion.id).where(
        ModelVersion.id.in_(newest) | ModelVersion.id.in_(unfinished)
    )


def _wake_rollouts(session: Session, version_id: int, now: datetime) -> None:
    session.execute(
        update(Rollout)
        .where(Rollout.version_id == version_id, Rollout.due_at.is_not(None))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )


def _reason(error: ServerError) -> dict[str, str]:
    return {"code": error.code, "detail": error.detail[:1024]}


def _result(session: Session, version_id: int) -> dict[str, object]:
    """Return what is shown of the job: what was made, and what it saves."""
    rows = session.scalars(
        select(Delta).where(Delta.version_id == version_id).order_by(Delta.id)
    ).all()
    return {
        "deltas": [
            {
                "variant": row.variant,
                "from": row.base_version,
                "state": row.state,
                "bytes": row.bytes,
                "whole_bytes": row.target_bytes,
                "codec": row.codec,
                "rest_bytes": row.rest_bytes,
                "rest_whole_bytes": row.rest_target_bytes,
                "reason": row.reason,
            }
            for row in rows
        ]
    }
