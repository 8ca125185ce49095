"""Uploads: large files that arrive in pieces, whatever happens in between.

Rules: the SHA-256 that a client announces names the upload, before and after it is complete. What
has arrived is the length of ``<sha256>.part`` and nothing else, so that a killed server knows what
it has. An answer means that the bytes are durable. One request at a time writes to an upload. Only
a file whose content is what was announced reaches the blob store. It stays there for as long as a
version may be made of it; what is encrypted in all its variants is made once (`discard_uploads`).
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from edgectl_server.errors import Conflict, Refused, TooLarge, Unavailable
from edgectl_server.schemas import UploadLimits
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.tables import Blob, ModelVersion

__all__ = ["UploadStatus", "UploadWriter", "Uploads", "discard_unused", "discard_uploads"]

logger = logging.getLogger(__name__)


_FILES = (
    ModelVersion.source,
    ModelVersion.calibration,
    ModelVersion.evaluation,
    ModelVersion.own_metric,
)
_NEEDS_ITS_FILES = or_(ModelVersion.encrypted.is_(False), ModelVersion.state == "processing")
_SWEPT_AT_ONCE = 200


class UploadStatus(NamedTuple):
    """How much of a file is there."""

    offset: int
    """Bytes that are durable; where the next request must begin."""
    complete: bool


class UploadWriter:
    """An upload that a request writes to; made by `Uploads.writing`."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self._descriptor = descriptor
        self._length = length
        self.offset = offset

    def write(self, content: bytes) -> None:
        """Append `content`; raise `TooLarge` ``upload.length`` past the announced length."""
        if self.offset + len(content) > self._length:
            raise TooLarge(
                "upload.length",
                f"more bytes than the {self._length} that Upload-Length announced",
            )
        view = memoryview(content)
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError as error:
                raise Unavailable(
                    "upload.disk",
                    f"cannot write the upload: {error.strerror}",
                    hint="make room in the data folder, then send the rest",
                ) from error
            self.offset += written
            view = view[written:]


class Uploads:
    """The folder of partial files, and the way from there into the blob store."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        blobs: BlobStore,
        database: Database,
        now: Callable[[], datetime],
    ) -> None:
        """Open the folder; delete what has been left there for too long."""
        self._directory = make_private_directory(directory)
        self._settings = settings
        self._blobs = blobs
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}  # digits of the digest: bytes still to come
        self._sweep()

    def limits(self) -> UploadLimits:
        """Return what one file may have, and what there is room for now."""
        with self._lock:
            free = shutil.disk_usage(self._directory).free - sum(self._open.values())
        room = max(0, free - self._settings.upload_free_bytes_min)
        return UploadLimits(file_bytes_max=self._settings.upload_bytes_max, room_bytes=room)

    def status(self, sha256: str) -> UploadStatus:
        """Return how much of a file is there; 0 bytes of one that nobody has begun to send."""
        digest = f"sha256:{sha256}"
        if self._blobs.exists(digest):
            return UploadStatus(self._blobs.size(digest), complete=True)
        try:
            return UploadStatus(self._part(sha256).stat().st_size, complete=False)
        except FileNotFoundError:
            return UploadStatus(0, complete=False)

    @contextmanager
    def writing(self, sha256: str, offset: int, length: int) -> Iterator[UploadWriter]:
        """Give a writer that appends to an upload; what it has written is durable at the end.

        Args:
            sha256: 64 hexadecimal digits.
            offset: where the client wants to go on.
            length: bytes of the whole file, as announced.

        Raises:
            TooLarge: ``upload.size``.
            Conflict: ``upload.busy``, ``upload.offset`` (with ``data["offset"]``).
            Unavailable: ``upload.disk``.
        """
        if length > self._settings.upload_bytes_max:
            raise TooLarge(
                "upload.size",
                f"a file of {length} bytes, at most {self._settings.upload_bytes_max}",
                hint="the setting upload_bytes_max of the server limits it",
            )
        with self._claim(sha256, max(0, length - offset)):
            there = self.status(sha256).offset
            if there != offset or offset > length:
                raise Conflict(
                    "upload.offset",
                    f"{there} bytes are there, not {offset}",
                    hint=f"go on from byte {there}",
                    data={"offset": there},
                )
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._part(sha256), flags, 0o600)
            try:
                yield UploadWriter(descriptor, offset, length)
            finally:
                os.fsync(descriptor)
                os.close(descriptor)

    def finish(self, sha256: str, length: int) -> UploadStatus:
        """Move an upload that has all its bytes into the blob store, checked.

        Returns:
            The status; not complete when bytes are missing.

        Raises:
            Refused: ``upload.digest``: other content than announced; the upload begins anew.
        """
        with self._claim(sha256, 0):
            status = self.status(sha256)
            if status.complete or status.offset < length:
                return status
            part, digest = self._part(sha256), f"sha256:{sha256}"
            try:
                self._blobs.add_file(part, expected=digest, consume=True)
            except Refused as error:
                part.unlink()
                raise Refused(
                    "upload.digest",
                    f"the {length} bytes that came are not {digest}",
                    hint="was the file changed meanwhile? Send it again from the beginning",
                ) from error
            with self._database.write() as session:
                session.merge(Blob(digest=digest, size=length, created_at=self._now()))
            return UploadStatus(length, complete=True)

    @contextmanager
    def _claim(self, sha256: str, coming: int) -> Iterator[None]:
        """Let nobody else write to the upload, and keep room on the disk for what is coming."""
        with self._lock:
            if sha256 in self._open:
                raise Conflict(
                    "upload.busy",
                    "another request is writing to this upload",
                    hint="wait until it ends, ask for the offset, go on from there",
                )
            free = shutil.disk_usage(self._directory).free - sum(self._open.values())
            if coming and free - coming < self._settings.upload_free_bytes_min:
                raise Unavailable(
                    "upload.disk",
                    f"{coming} bytes to come, only {max(0, free)} free on the server's disk",
                    hint="make room in the data folder, or lower upload_free_bytes_min",
                )
            self._open[sha256] = coming
        try:
            yield
        finally:
            with self._lock:
                del self._open[sha256]

    def forget_unused(self) -> int:
        """Remove finished uploads that no version is made of, once they are old; return how many.

        So what a push left behind that was refused, or never asked for, does not stay either.
        """
        oldest = self._now() - timedelta(seconds=self._settings.upload_keep_s)
        needing = select(ModelVersion.id).where(
            or_(*(one == Blob.digest for one in _FILES)), _NEEDS_ITS_FILES
        )
        unused = select(Blob).where(
            Blob.published.is_(False), Blob.created_at < oldest, ~needing.exists()
        )
        with self._database.write() as session:
            rows = session.scalars(unused.limit(_SWEPT_AT_ONCE)).all()
            for row in rows:
                _discard(session, self._blobs, row.digest, row)
        return len(rows)

    def _part(self, sha256: str) -> Path:
        assert len(sha256) == 64 and sha256.isalnum(), sha256  # noqa: PLR2004, PT018
        return self._directory / f"{sha256}.part"

    def _sweep(self) -> None:
        oldest = self._now() - timedelta(seconds=self._settings.upload_keep_s)
        for part in self._directory.glob("*.part"):
            if part.stat().st_mtime < oldest.timestamp():
                logger.info("an unfinished upload is too old and deleted: %s", part.name)
                part.unlink()


def discard_uploads(session: Session, blobs: BlobStore, version: ModelVersion) -> None:
    """Remove the files of a version that is encrypted in all its variants; others stay.

    What is part of a bundle stays too, and what another version is, or may still be, made of.
    """
    if not version.encrypted:
        return
    files = {version.source, version.calibration, version.evaluation, version.own_metric}
    for digest in files:
        if digest is None or _is_needed(session, digest, version.id):
            continue
        row = session.get(Blob, digest)
        if row is None or not row.published:
            _discard(session, blobs, digest, row)


def discard_unused(session: Session, blobs: BlobStore, digest: str) -> None:
    """Remove an uploaded file that has served, unless a version is made of it or names it."""
    row = session.get(Blob, digest)
    if row is not None and not row.published and not _is_needed(session, digest, -1):
        _discard(session, blobs, digest, row)


def _is_needed(session: Session, digest: str, but: int) -> bool:
    needing = select(ModelVersion.id).where(
        ModelVersion.id != but, or_(*(one == digest for one in _FILES)), _NEEDS_ITS_FILES
    )
    return session.scalar(needing.limit(1)) is not None


def _discard(session: Session, blobs: BlobStore, digest: str, row: Blob | None) -> None:
    blobs.delete(digest)
    if row is not None:
        session.delete(row)
