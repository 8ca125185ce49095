"""Versions from other servers: their exported files, believed by the origin's keys, signed by ours.

::

    headers → index → is the origin believed → documents and blobs → into the store → rows ╗ 1
    sign the manifests (TUF) → publish the metadata →  version ready or unsigned, job done ╝ 2

Rules: nothing is written of a file that is not believed. What is kept of an origin (its root, and
how new its metadata was) changes in transaction 1, together with the version. After a crash the
job begins again, and every step can be done twice. A version has the same name, and its bundles
the same digests, on both servers; a version that is there already with these bundles stays as it
is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgectl_protocol.archives import Archive
from edgectl_protocol.errors import ArchiveRefused, ProtocolError
from edgectl_protocol.offline import candidates_of, decode_index
from edgectl_server.audit import describe, note
from edgectl_server.errors import Conflict, Forbidden, NotFound, Refused, ServerError
from edgectl_server.import_bundles import Bundle, read_bundle, store_bundle
from edgectl_server.jobs import JobContext, JobFailed, Jobs
from edgectl_server.origins import Believed, believe, find_root, fingerprint_of
from edgectl_server.schemas import (
    ImportAccepted,
    ImportRequest,
    OriginInfo,
    Page,
    PushOptions,
    Role,
)
from edgectl_server.signing.repository import Target
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.tables import Blob, BundleVariant, Job, Model, ModelVersion, Origin
from edgectl_server.uploads import discard_unused
from edgectl_server.version_rows import bundles_of, find_version
from edgectl_server.version_signing import Settled

__all__ = ["IMPORT", "ImportHandler", "Imports"]

IMPORT = "import"
"""Kind of the job."""
_ORIGINS_MAX = 1000
_AGAIN = "copy the file again, or write it anew: edgectl export MODEL@VERSION"
logger = logging.getLogger(__name__)


class Signs(Protocol):
    """What is needed of the TUF repository."""

    def add_targets(self, targets: Sequence[Target], now: datetime) -> bool:
        """Sign for manifests."""


class Settles(Protocol):
    """What is needed to know the state of a version."""

    def state_of(self, variants: Sequence[BundleVariant]) -> Settled:
        """Return whether it is ready or waits for signatures."""


class Publishes(Protocol):
    """What is needed of the publisher."""

    def publish_metadata(self) -> object:
        """Bring the signed metadata to the broker."""


class Imports:
    """Takes requests, and knows the origins; may be used from any thread."""

    def __init__(
        self, database: Database, blobs: BlobStore, jobs: Jobs, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._jobs = jobs
        self._now = now

    def start(self, request: ImportRequest, user: str, role: Role) -> ImportAccepted:
        """Begin to import a file that was uploaded.

        Raises:
            Conflict: ``upload.missing``, ``import.root``: the origin is known by another root.
            Refused: ``import.origin``: it is not known, and no root is named.
            Forbidden: ``import.pin``: an admin must name the root of a new origin.
        """
        digest = f"sha256:{request.file}"
        if not self._blobs.exists(digest):
            raise Conflict(
                "upload.missing",
                "the named file has not been uploaded",
                hint="send it with PATCH /api/v1/uploads/{sha256} first",
                data={"missing": [request.file]},
            )
        with self._database.write() as session:
            _check_origin(session.get(Origin, request.origin), request, role)
            job = self._jobs.create(
                session,
                IMPORT,
                {
                    "subject": {"origin": request.origin, "file": request.filename},
                    "request": request.model_dump(mode="json"),
                    "user": user,
                },
                user,
            )
        describe(object=request.origin)
        self._jobs.notify()
        return ImportAccepted(job=job)

    def origins(self) -> Page[OriginInfo]:
        """Return the origins, by name."""
        with self._database.read() as session:
            rows = session.scalars(select(Origin).order_by(Origin.name).limit(_ORIGINS_MAX)).all()
            items = [_info(row) for row in rows]
        return Page(items=items, total=len(items))

    def forget(self, name: str) -> None:
        """Forget an origin; what came from it stays. Raise `NotFound` ``import.unknown_origin``."""
        with self._database.write() as session:
            row = session.get(Origin, name, with_for_update=True)
            if row is None:
                raise NotFound(
                    "import.unknown_origin",
                    f"there is no origin {name}",
                    hint="edgectl origins list",
                )
            describe(pinned=row.pinned, root=fingerprint_of(row.root))
            session.delete(row)


class _Read(NamedTuple):
    """A file that is believed."""

    model: str
    version: str
    bundles: list[Bundle]
    believed: Believed


class ImportHandler:
    """Handles jobs of kind ``import``."""

    def __init__(
        self,
        directory: Path,
        *,
        database: Database,
        blobs: BlobStore,
        repository: Signs,
        signing: Settles,
        publisher: Publishes,
        now: Callable[[], datetime],
    ) -> None:
        """Take what it needs; `directory` holds one folder a job while it is worked on."""
        self._directory = make_private_directory(directory)
        for left in self._directory.iterdir():  # of a server that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._database = database
        self._blobs = blobs
        self._repository = repository
        self._signing = signing
        self._publisher = publisher
        self._now = now

    def run(self, context: JobContext) -> None:
        """Do the import; see the module."""
        request = ImportRequest.model_validate(context.payload["request"])
        version, created = self._begun(context), True
        if version is None:
            read = self._read(context, request)
            version, created = self._write_rows(context, request, read)
        with self._database.read() as session:
            variants = bundles_of(session, version)
        context.progress("sign", f"{len(variants)} variants")
        if created:
            self._repository.add_targets(
                [Target(one.target, one.manifest, one.manifest_size) for one in variants],
                self._now(),
            )
        context.progress("publish", request.filename)
        self._publisher.publish_metadata()
        self._finish(context, request, version, variants, created=created)

    def ended(self, session: Session, job: Job, error: ServerError) -> None:
        """Mark the version, if there is one already, in the transaction in which the job ends."""
        wanted = select(ModelVersion).where(
            ModelVersion.job == job.id, ModelVersion.state == "processing"
        )
        for row in session.scalars(wanted.with_for_update()):
            row.state, row.problem = "failed", error.document()

    def _begun(self, context: JobContext) -> int | None:
        """Return the version whose rows this job has written before a crash."""
        wanted = select(ModelVersion.id).where(
            ModelVersion.job == context.id, ModelVersion.state == "processing"
        )
        with self._database.read() as session:
            return session.scalars(wanted).first()

    # ------------------------------------------------------------ the file

    def _read(self, context: JobContext, request: ImportRequest) -> _Read:
        directory = make_private_directory(self._directory / context.id / str(context.fence))
        try:
            return self._fetch(context, request, directory)
        except OSError as error:
            raise JobFailed(
                "import.disk",
                f"cannot write the files of the job: {error.strerror or error}",
                hint="make room in the server's data folder, then import again",
            ) from error
        finally:
            shutil.rmtree(directory.parent, ignore_errors=True)

    def _fetch(self, context: JobContext, request: ImportRequest, directory: Path) -> _Read:
        """Verify the file, and bring its blobs into the store."""
        context.progress("fetch", request.filename)
        path = directory / "archive"
        self._blobs.copy_to(f"sha256:{request.file}", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            archive = Archive(
                lambda start, length: os.pread(descriptor, length, start), path.stat().st_size
            )
            read = self._verify(context, request, archive, directory)
            self._store(context, archive, read, directory)
        except ArchiveRefused as error:
            raise Refused(error.code, f"{error}", hint=_AGAIN) from error
        except ProtocolError as error:
            raise Refused("offline.malformed", f"{error}", hint=_AGAIN) from error
        else:
            return read
        finally:
            os.close(descriptor)

    def _store(self, context: JobContext, archive: Archive, read: _Read, directory: Path) -> None:
        total = sum(part.size for one in read.bundles for part in one.parts)
        done = 0

        def stored(size: int) -> None:
            nonlocal done
            done += size
            context.check()
            context.progress("store", f"{read.model}@{read.version}", done, total)

        for bundle in read.bundles:
            store_bundle(archive, bundle, self._blobs, directory, stored)

    def _verify(
        self, context: JobContext, request: ImportRequest, archive: Archive, directory: Path
    ) -> _Read:
        """Return what is in the file, if all of it is believed."""
        context.progress("verify", request.filename)
        model, version, candidates = candidates_of(decode_index(archive.index()))
        files = archive.metadata()
        with self._database.read() as session:
            origin = session.get(Origin, request.origin)
        known = (
            find_root(files, request.origin_root or "")
            if origin is None
            else Believed(origin.root, origin.timestamp, origin.snapshot)
        )
        believed = believe(
            files,
            known,
            candidates,
            now=self._now(),
            grace=timedelta(seconds=request.expired_for_s),
            directory=make_private_directory(directory / "tuf"),
        )
        bundles = []
        for number, one in enumerate(candidates):
            context.check()
            context.progress("check", f"{model}@{version} {one.variant}", number, len(candidates))
            bundles.append(read_bundle(archive, one))
        return _Read(model, version, bundles, believed)

    # ------------------------------------------------------------ rows

    def _write_rows(
        self, context: JobContext, request: ImportRequest, read: _Read
    ) -> tuple[int, bool]:
        """Write what has come; return the version's row, and whether it is new."""
        try:
            return self._write_once(context, request, read)
        except IntegrityError:  # somebody else has just made the same model or version
            return self._write_once(context, request, read)

    def _write_once(
        self, context: JobContext, request: ImportRequest, read: _Read
    ) -> tuple[int, bool]:
        user, now = context.payload["user"], self._now()
        with self._database.write() as session:
            context.hold(session)
            self._keep_origin(session, request, read.believed, user)
            if session.get(Model, read.model, with_for_update=True) is None:
                session.add(Model(name=read.model, created_at=now, created_by=user))
                session.flush()
            row = find_version(session, read.model, read.version)
            if row is not None:
                return row.id, self._resume(session, context, row, read)
            row = _version_row(read, request, user, now)
            row.job = context.id
            session.add(row)
            session.flush()
            for rank, one in enumerate(read.bundles):
                session.add(_variant_row(row.id, rank, one))
                for digest, size in one.blobs.items():
                    session.merge(Blob(digest=digest, size=size, created_at=now, published=True))
            return row.id, True

    def _keep_origin(
        self, session: Session, request: ImportRequest, believed: Believed, user: str
    ) -> None:
        assert believed.timestamp is not None
        assert believed.snapshot is not None
        now = self._now()
        row = session.get(Origin, request.origin, with_for_update=True)
        if row is None:
            row = Origin(
                name=request.origin,
                pinned=request.origin_root or "",
                created_at=now,
                created_by=user,
            )
            session.add(row)
            note(session, "pin_origin", row.name, {"root": row.pinned}, actor=user)
        row.root = believed.root
        row.timestamp, row.snapshot = believed.timestamp, believed.snapshot
        row.imported_at = now

    def _resume(
        self, session: Session, context: JobContext, row: ModelVersion, read: _Read
    ) -> bool:
        """Say whether the version must still be signed; refuse another content."""
        there = {(one.variant, one.manifest) for one in bundles_of(session, row.id)}
        coming = {(one.candidate.variant, one.candidate.manifest) for one in read.bundles}
        name = f"{row.model}@{row.version}"
        if row.state == "processing" and row.job != context.id:
            raise Conflict(
                "import.busy",
                f"{name} is being made by another job",
                hint=f"wait for it: edgectl jobs show {row.job} --watch",
            )
        if not coming <= there:
            raise Conflict(
                "version.exists",
                f"{name} exists with other content, and a version never changes",
                hint="push or export it as another version",
                data={"model": row.model, "version": row.version, "state": row.state},
            )
        if row.state in {"ready", "unsigned"}:
            return False
        row.state, row.problem, row.job = "processing", None, context.id
        return True

    def _finish(
        self,
        context: JobContext,
        request: ImportRequest,
        version: int,
        variants: Sequence[BundleVariant],
        *,
        created: bool,
    ) -> None:
        settled = self._signing.state_of(variants)
        with self._database.write() as session:
            row = session.get_one(ModelVersion, version, with_for_update=True)
            context.finish(
                session,
                {
                    "model": row.model,
                    "version": row.version,
                    "created": created,
                    "waits_for": settled.role or None,
                    "variants": [one.variant for one in variants],
                },
            )
            if created:
                row.state = "ready" if settled.state == "ready" else "unsigned"
                row.problem = None
                assert row.imported is not None
                details = {
                    key: row.imported[key]
                    for key in ("origin", "root", "file", "pushed_by", "expired_for_s")
                }
                name = f"{row.model}@{row.version}"
                note(session, "import_version", name, details, actor=context.payload["user"])
            discard_unused(session, self._blobs, f"sha256:{request.file}")


def _check_origin(row: Origin | None, request: ImportRequest, role: Role) -> None:
    name, named = request.origin, request.origin_root
    if row is None and named is None:
        raise Refused(
            "import.origin",
            f"nothing is known of the origin {name}",
            hint="name its root once: --origin-root FILE, or the fingerprint that edgectl export "
            "prints; edgectl origins list shows those that are known",
        )
    if row is None and role != "admin":
        raise Forbidden(
            "import.pin",
            f"{name} is a new origin, and whom to believe is an admin's to say",
            hint="ask an admin to import the first file",
        )
    if row is not None and named not in {None, row.pinned, fingerprint_of(row.root)}:
        raise Conflict(
            "import.root",
            f"{name} is known by the root {row.pinned}, not {named}",
            hint=f"is it another server? Give it another name; or edgectl origins forget {name}",
        )


def _version_row(read: _Read, request: ImportRequest, user: str, now: datetime) -> ModelVersion:
    first = read.bundles[0].config
    manifests = sorted(one.candidate.manifest for one in read.bundles)
    content = hashlib.sha256(json.dumps({"imported": manifests}).encode()).hexdigest()
    options = PushOptions(
        labels=list(first.labels),
        precisions=sorted({one.config.precision for one in read.bundles}),
        runtimes=sorted({one.config.runtime for one in read.bundles}),
    )
    calibrations = (one.config.quantization.calibration for one in read.bundles)
    imported: dict[str, Any] = {
        "origin": request.origin,
        "root": fingerprint_of(read.believed.root),
        "root_version": read.believed.root_version,
        "file": f"sha256:{request.file}",
        "filename": request.filename,
        "pushed_by": first.lineage.pushed_by,
        "imported_at": now.isoformat(),
        "expired_for_s": request.expired_for_s,
    }
    return ModelVersion(
        model=read.model,
        version=read.version,
        state="processing",
        content=f"sha256:{content}",
        source=first.lineage.source,
        # The file itself has not come; the largest variant is the nearest to it.
        source_size=max(one.model_bytes() for one in read.bundles),
        source_name=request.filename,
        calibration=next(filter(None, calibrations), None),
        evaluation=None if first.evaluation is None else first.evaluation.dataset,
        own_metric=None,
        options=options.model_dump(mode="json"),
        encrypted=False,
        report=None,
        parent=first.lineage.parent,
        problem=None,
        imported=imported,
        created_at=now,
        created_by=user,
    )


def _variant_row(version: int, rank: int, bundle: Bundle) -> BundleVariant:
    one = bundle.candidate
    return BundleVariant(
        version_id=version,
        variant=one.variant,
        precision=bundle.config.precision,
        target=one.target,
        manifest=one.manifest,
        manifest_size=len(bundle.content),
        bundle_bytes=bundle.device_bytes,
        model_bytes=bundle.model_bytes(),
        rank=rank,
        trial=bundle.trial(),
        content_key=None,
    )


def _info(row: Origin) -> OriginInfo:
    return OriginInfo(
        name=row.name,
        pinned=row.pinned,
        root=fingerprint_of(row.root),
        root_version=Believed(row.root).root_version,
        created_at=row.created_at,
        created_by=row.created_by,
        imported_at=row.imported_at,
    )
