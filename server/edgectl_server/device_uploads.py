"""Uploads of devices: what is offered, which chunks are wanted, and where the whole of it lies.

::

    waiting ──a place is free──► receiving ──all chunks──► received ──assembled──► complete
       ▲                             │                         │
       └──────── went offline ───────┤                         │ another digest
                                     └── no progress, altered ─┴──────────► failed

Rules:

1. The server pulls. Nothing is stored that was not asked for: a chunk counts when its number is
   among `asked`, and its content is that of the signed offer's index. The others are dropped
   before any transaction that writes (`DeviceUploads.wanted`).
2. Chunks are rows until all are there, so that any replica can take one and none is lost; then
   they are put together piece by piece, hashed, and moved into a blob store of their own: what a
   device sends never lies where devices fetch from.
3. What is wanted next is asked when what was wanted has come: 2 chunks first, up to `WANTED_MAX`
   while a window drains fast, fewer while it drains slowly. What does not come is asked for again,
   with a growing wait, then given up. Time without a connection is no stall, and ends too.
4. `Limits` bounds what a device may send in a day, of each kind, so that none takes the room of
   another, and how many upload at a time; of one device one upload of a kind, so that it does not
   hold the places of all. Who owns a kind (`Owner`) says which offers are welcome
   at all: logs only to the request that asked for them, samples by the policy of their model. The
   owner looks at the whole once more before it is kept.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from edgectl_protocol import topics
from edgectl_protocol.chunks import Bitmap, chunk_count
from edgectl_protocol.messages import Ack, Reason, encode
from edgectl_protocol.uploads import (
    INDEX_NUMBER,
    UploadChunk,
    UploadKind,
    UploadOffer,
    UploadWanted,
)
from edgectl_server.errors import NotFound, Unavailable
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.files import make_private_directory
from edgectl_server.storage.tables import (
    Device,
    DeviceUpload,
    DeviceUploadChunk,
)
from edgectl_server.upload_owners import Examined, Owner
from edgectl_server.upload_rows import (
    adapt_window,
    bitmap_of,
    contradiction_in,
    find_upload,
    is_online,
    is_right,
    stalls_at,
    unheld,
)

__all__ = [
    "DeviceUploads",
    "Limits",
    "Publishes",
    "Taken",
    "open_device_uploads",
]

logger = logging.getLogger(__name__)

WINDOW_FIRST = 2
STALLS_MAX = 6
REFUSALS_MAX = 3
AWAY_MAX = timedelta(hours=1)
"""Without a connection; a device that comes back later offers again."""
RECEIVE_MAX = timedelta(hours=1)
"""From the first chunk to the last, while others wait for the place."""
_DAY = timedelta(days=1)
_DELETED_AT_ONCE = 200
_SHOWN_MAX = 200
_UNDER_WAY = ("waiting", "receiving", "received")


class Limits(NamedTuple):
    """What the operator has set."""

    bytes_per_day: int
    at_once: int
    keep: timedelta


class Publishes(Protocol):
    """The link to the broker, as it is used here."""

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Send."""


class Taken(NamedTuple):
    """What came of a message of a device."""

    complaint: Reason | None = None
    suspicious: bool = False
    """No honest device says that."""
    answer: UploadWanted | Ack | None = None
    """What to tell the device after the commit."""


class DeviceUploads:
    """The uploads of all devices. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        directory: Path,
        limits: Limits,
        owners: dict[str, Owner],
        now: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            blobs: of whole uploads and nothing else.
            directory: where they are put together; made if need be, and emptied.
            limits: of the operator.
            owners: by kind.
            now: the clock.
            wake: called when there is something to put together.
        """
        self._database = database
        self._blobs = blobs
        self._directory = make_private_directory(directory)
        for stale in self._directory.iterdir():
            stale.unlink()
        self._limits = limits
        self._owners = owners
        self._now = now
        self._wake = wake

    # ------------------------------------------------------------ what devices say

    def wanted(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], frozenset[int]]:
        """Return the numbers of the chunks that are wanted now, by device and digest."""
        asked = select(DeviceUpload.device, DeviceUpload.digest, DeviceUpload.asked).where(
            tuple_(DeviceUpload.device, DeviceUpload.digest).in_(list(keys)),
            DeviceUpload.state == "receiving",
        )
        with self._database.read() as session:
            rows = session.execute(asked).all()
        return {(device, digest): frozenset(numbers) for device, digest, numbers in rows}

    def take_offer(self, session: Session, device: Device, offer: UploadOffer) -> Taken:
        """Take an offer, in the caller's transaction; one that is taken already is no other."""
        device.last_seen_at = self._now()
        row = find_upload(session, device.id, offer.upload)
        reason = contradiction_in(offer, row)
        if reason is not None:
            return _refused(offer.upload, reason, suspicious=True)
        job = "" if offer.request is None else offer.request.job
        begins = row is None or row.state == "failed"
        if begins or (row is not None and row.job != job):
            reason = self._owners[offer.kind].admit(session, device.id, offer)
            if reason is None and begins:
                reason = self._over_budget(session, device.id, offer)
            if reason is not None:
                return _refused(offer.upload, reason)
        if row is None or row.state == "failed":
            row = self._begin(session, row, device.id, offer)
        row.job = job
        row.moved_at = self._now()
        if row.state == "complete":
            self._owners[row.kind].ended(session, row)
            return Taken(answer=UploadWanted(upload=row.digest, done=True))
        self._tell_moved(session, row)
        if row.state == "waiting":
            self._promote(session, row)
        return Taken(answer=self._ask(row) if row.state == "receiving" else None)

    def take_chunk(self, session: Session, device: str, chunk: UploadChunk) -> Taken:
        """Take a chunk, in the caller's transaction."""
        row = find_upload(session, device, chunk.upload)
        if row is None or row.state != "receiving" or chunk.number not in row.asked:
            detail = f"{device} sends chunk {chunk.number} of {chunk.upload}, not asked for"
            return Taken(Reason(code="upload.unwanted", detail=detail))
        if not is_right(row, chunk):
            return self._refuse_chunk(session, row, chunk)
        if chunk.number == INDEX_NUMBER:
            row.index = chunk.content
        else:
            bitmap = bitmap_of(row)
            bitmap.add(chunk.number)
            row.bitmap = bitmap.to_bytes()
            session.add(
                DeviceUploadChunk(upload=row.id, number=chunk.number, content=chunk.content)
            )
        row.asked = [number for number in row.asked if number != chunk.number]
        row.stalls = 0
        row.moved_at = self._now()
        self._tell_moved(session, row)
        if row.asked:
            return Taken()
        adapt_window(row, self._now())
        return Taken(answer=self._ask(row))

    # ------------------------------------------------------------ in the background

    def tick(self, link: Publishes) -> None:
        """Move on what is due while the broker is there: put together, begin, ask again, give up.

        Raises:
            Unavailable: the broker or the blob store takes nothing now.
        """
        if not link.connected:
            return
        under_way = select(DeviceUpload).where(DeviceUpload.state.in_(_UNDER_WAY))
        with self._database.read() as session:
            rows = session.scalars(under_way.order_by(DeviceUpload.created_at)).all()
            online = {row.device: is_online(session, row.device) for row in rows}
        taken = {(row.device, row.kind) for row in rows if row.state == "receiving"}
        now = self._now()
        for row in rows:
            if row.state == "received":
                self._assemble(row.id, link)
            elif self._is_due(row, now, online=online[row.device], taken=taken):
                self._look_after(row.id, link)

    def delete_old(self) -> None:
        """Delete what has expired, and its content where no other upload or dataset has it."""
        old = select(DeviceUpload).where(
            DeviceUpload.expires_at < self._now(), DeviceUpload.state.not_in(_UNDER_WAY)
        )
        with self._database.write() as session:
            oldest = old.order_by(DeviceUpload.expires_at).limit(_DELETED_AT_ONCE)
            rows = session.scalars(oldest.with_for_update()).all()
            for row in rows:
                session.delete(row)
            session.flush()
            digests = unheld(session, {row.kept for row in rows if row.state == "complete"})
        for digest in digests:
            self._blobs.delete(digest)

    # ------------------------------------------------------------ what people do

    def all_of(self, device: str, *, kind: UploadKind) -> Sequence[DeviceUpload]:
        """Return the newest uploads of a kind of a device, newest first."""
        wanted = select(DeviceUpload).where(
            DeviceUpload.device == device, DeviceUpload.kind == kind
        )
        with self._database.read() as session:
            newest = wanted.order_by(DeviceUpload.created_at.desc(), DeviceUpload.id.desc())
            return session.scalars(newest.limit(_SHOWN_MAX)).all()

    def read(
        self, device: str, digest: str, *, kind: UploadKind
    ) -> tuple[DeviceUpload, Iterator[bytes]]:
        """Return a whole upload of a kind and its content, piece by piece.

        Raises:
            NotFound: ``upload.unknown``, ``blob.missing``.
        """
        with self._database.read() as session:
            row = find_upload(session, device, digest, lock=False)
        if row is None or row.state != "complete" or row.kind != kind:
            raise NotFound(
                "upload.unknown",
                f"there is no whole upload {digest} of {device}",
                hint=f"`edgectl devices logs {device}` asks for a new one",
            )
        self._blobs.size(row.kept)  # before an answer has begun
        return row, self._blobs.stream(row.kept)

    # ------------------------------------------------------------ steps

    def _begin(
        self, session: Session, row: DeviceUpload | None, device: str, offer: UploadOffer
    ) -> DeviceUpload:
        """Make the row of an offer, or begin a failed one anew."""
        now = self._now()
        if row is None:
            row = DeviceUpload(device=device, digest=offer.upload)
            session.add(row)
        row.kind, row.media_type = offer.kind, offer.media_type
        row.model = "" if offer.sample is None else offer.sample.model
        row.length, row.chunk_index = offer.length, offer.chunk_index
        row.index, row.bitmap = None, Bitmap(chunk_count(offer.length)).to_bytes()
        row.state, row.asked, row.asked_at = "waiting", [], None
        row.window, row.stalls, row.refusals = WINDOW_FIRST, 0, 0
        row.made_at, row.created_at, row.began_at, row.ended_at = offer.at, now, None, None
        row.expires_at, row.reason = now + self._limits.keep, None
        row.kept_as, row.sealed_to = None, None
        return row

    def _promote(self, session: Session, row: DeviceUpload) -> None:
        """Begin to receive, if there is a place."""
        receiving = select(DeviceUpload.device, DeviceUpload.kind).where(
            DeviceUpload.state == "receiving"
        )
        if self._has_place(row, {(device, kind) for device, kind in session.execute(receiving)}):
            row.state, row.stalls = "receiving", 0
            row.began_at = row.began_at or self._now()

    def _has_place(self, row: DeviceUpload, taken: Collection[tuple[str, str]]) -> bool:
        """Say whether it may begin; `taken` are devices and kinds of those that are received."""
        return len(taken) < self._limits.at_once and (row.device, row.kind) not in taken

    def _ask(self, row: DeviceUpload) -> UploadWanted | None:
        """Say what is wanted next; None when everything is there."""
        if row.chunk_index is not None and row.index is None:
            row.asked = [INDEX_NUMBER]
        else:
            missing = bitmap_of(row).missing()
            row.asked = [number for number, _ in zip(missing, range(row.window), strict=False)]
        row.asked_at = self._now()
        if not row.asked:
            row.state = "received"
            self._wake()
            return None
        return UploadWanted(upload=row.digest, chunks=tuple(row.asked))

    def _refuse_chunk(self, session: Session, row: DeviceUpload, chunk: UploadChunk) -> Taken:
        row.refusals += 1
        detail = f"chunk {chunk.number} of {row.digest} has another content than the signed one"
        reason = Reason(code="upload.altered", detail=detail)
        if row.refusals < REFUSALS_MAX:
            again = UploadWanted(upload=row.digest, chunks=(chunk.number,))
            return Taken(reason, suspicious=True, answer=again)
        return Taken(reason, suspicious=True, answer=self._fail(session, row, reason))

    def _over_budget(self, session: Session, device: str, offer: UploadOffer) -> Reason | None:
        sent = select(func.sum(DeviceUpload.length)).where(
            DeviceUpload.device == device,
            DeviceUpload.kind == offer.kind,
            DeviceUpload.created_at > self._now() - _DAY,
        )
        used = int(session.scalar(sent) or 0)
        if used + offer.length <= self._limits.bytes_per_day:
            return None
        detail = f"{device} has offered {used} bytes of {offer.kind} in a day, "
        detail += f"{offer.length} more are above the limit"
        return Reason(code="upload.budget", detail=detail)

    def _tell_moved(self, session: Session, row: DeviceUpload) -> None:
        bitmap = bitmap_of(row)
        self._owners[row.kind].moved(session, row, bitmap.done(), len(bitmap))

    def _fail(self, session: Session, row: DeviceUpload, reason: Reason) -> UploadWanted:
        """End an upload, and return what the device is told."""
        logger.info("upload %s of %s has failed: %s", row.digest, row.device, reason.detail)
        row.state, row.asked, row.ended_at = "failed", [], self._now()
        row.reason = {"code": reason.code, "detail": reason.detail}
        session.execute(delete(DeviceUploadChunk).where(DeviceUploadChunk.upload == row.id))
        self._owners[row.kind].ended(session, row)
        return UploadWanted(upload=row.digest, refused=reason)

    def _is_due(
        self,
        row: DeviceUpload,
        now: datetime,
        *,
        online: bool,
        taken: Collection[tuple[str, str]],
    ) -> bool:
        """Say whether `_move_on` would do anything; not in a transaction that writes."""
        if not online:
            return row.state == "receiving" or now - row.moved_at > AWAY_MAX
        if row.state == "waiting":
            return self._has_place(row, taken)
        return now - (row.began_at or now) > RECEIVE_MAX or stalls_at(row) <= now

    def _look_after(self, upload: int, link: Publishes) -> None:
        answer = None
        with self._database.write() as session:
            row = session.get(DeviceUpload, upload, with_for_update=True)
            if row is None or row.state not in {"waiting", "receiving"}:
                return
            answer = self._move_on(session, row, online=is_online(session, row.device))
            name = row.device
        if answer is not None:
            link.publish(topics.wanted(name), encode(answer))

    def _move_on(self, session: Session, row: DeviceUpload, *, online: bool) -> UploadWanted | None:
        now = self._now()
        if not online:
            return self._set_aside(session, row, now)
        if row.state == "waiting":
            self._promote(session, row)
            return self._ask(row) if row.state == "receiving" else None
        if now - (row.began_at or now) > RECEIVE_MAX:
            detail = f"{row.device} has not sent everything within {RECEIVE_MAX}"
            return self._fail(session, row, Reason(code="upload.slow", detail=detail))
        if stalls_at(row) > now:
            return None
        row.stalls += 1
        if row.stalls > STALLS_MAX:
            detail = f"{row.device} does not send chunk {row.asked[0]}, asked {STALLS_MAX} times"
            return self._fail(session, row, Reason(code="upload.stalled", detail=detail))
        row.window = max(1, row.window // 2)
        return self._ask(row)

    def _set_aside(self, session: Session, row: DeviceUpload, now: datetime) -> UploadWanted | None:
        """Give the place of an upload to others, while its device is not connected."""
        if row.state == "receiving":
            row.state, row.asked, row.asked_at = "waiting", [], None
        if now - row.moved_at <= AWAY_MAX:
            return None
        detail = f"{row.device} went offline while it uploaded, and has not come back"
        return self._fail(session, row, Reason(code="upload.away", detail=detail))

    def _assemble(self, upload: int, link: Publishes) -> None:
        """Put an upload together; done twice it gives the same."""
        with self._database.read() as session:
            row = session.get(DeviceUpload, upload)
        if row is None or row.state != "received":
            return
        path = self._directory / f"{upload}.part"
        state = hashlib.sha256()
        examined = Examined()
        try:
            with path.open("wb") as file:
                for content in self._chunks(row):
                    state.update(content)
                    file.write(content)
            if f"sha256:{state.hexdigest()}" == row.digest:
                examined = self._owners[row.kind].examine(row, path)
            else:
                detail = f"the chunks that {row.device} has signed for are not {row.digest}"
                examined = Examined(Reason(code="upload.mismatch", detail=detail))
            if examined.reason is None:
                expected = examined.kept_as or row.digest
                self._blobs.add_file(path, expected=expected, consume=True)
        except OSError as error:
            raise Unavailable(
                "upload.disk",
                f"cannot put an upload together: {error.strerror}",
                hint="make room in the data folder",
            ) from error
        finally:
            path.unlink(missing_ok=True)
        with self._database.write() as session:
            row = session.get(DeviceUpload, upload, with_for_update=True)
            if row is None or row.state != "received":
                return
            if examined.reason is None:
                session.execute(delete(DeviceUploadChunk).where(DeviceUploadChunk.upload == row.id))
                row.state, row.ended_at, row.index = "complete", self._now(), None
                row.kept_as, row.sealed_to = examined.kept_as, examined.sealed_to
                self._owners[row.kind].ended(session, row)
                answer = UploadWanted(upload=row.digest, done=True)
            else:
                answer = self._fail(session, row, examined.reason)
            name = row.device
        link.publish(topics.wanted(name), encode(answer))

    def _chunks(self, row: DeviceUpload) -> Iterator[bytes]:
        for number in range(chunk_count(row.length)):
            wanted = select(DeviceUploadChunk.content).where(
                DeviceUploadChunk.upload == row.id, DeviceUploadChunk.number == number
            )
            with self._database.read() as session:
                yield session.scalars(wanted).one()


def open_device_uploads(
    settings: Settings,
    database: Database,
    *,
    owners: dict[str, Owner],
    now: Callable[[], datetime],
    wake: Callable[[], None],
) -> DeviceUploads:
    """Return the uploads of a server, with what the operator has set."""
    return DeviceUploads(
        database=database,
        blobs=BlobStore(settings.device_uploads_address),
        directory=settings.data_path / "device-uploads",
        limits=Limits(
            bytes_per_day=settings.device_upload_bytes_per_day,
            at_once=settings.device_uploads_at_once,
            keep=timedelta(days=settings.device_upload_days),
        ),
        owners=owners,
        now=now,
        wake=wake,
    )


def _refused(upload: str, reason: Reason, *, suspicious: bool = False) -> Taken:
    return Taken(reason, suspicious, UploadWanted(upload=upload, refused=reason))
