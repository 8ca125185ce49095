"""Samples of inputs and answers: which are welcome, what is checked of them, and who reads them.

Rules:

1. An offer is welcome when the model's policy asks for that reason, the manifest is a published one
   of that very version, the device is to run that model, it was not taken in the future (it would
   be the newest for ever, in lists, loops and datasets), and its budget has room. Two days of the
   device's own clock lie in any 24 hours, so that twice its budget is the bound here.
2. A whole upload is believed no further than it can be checked (`edgectl_protocol.samples`): its
   header must fit its length, and its tensors the inputs and outputs that the signed bundle
   declares. What does not fit ends the upload; nothing of it is kept. One that is sealed to a key
   of the server's is opened first, and kept open. Of one that is sealed to another key its head is
   checked (key, device, note, length), and it is kept as it came.
3. The content goes to operators as it came; what the model has answered is read from it once, so
   that the least certain can be labelled first.
4. Samples go with their uploads: after `samples_days`; the oldest before, when all of them take
   more than `samples_bytes_max`, but none of the last day, so that no device makes room for itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from edgectl_datasets.samples import Answer, answer_of, read_sample
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import Reason
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SAMPLE_HEAD_BYTES_MAX,
    SampleHead,
    SampleNote,
    SampleTensor,
    read_sample_head,
)
from edgectl_protocol.sealed_samples import (
    SEALED_HEAD_BYTES_MAX,
    SEALED_MEDIA_TYPE,
    SEALED_SAMPLE_BYTES_MAX,
    is_sealed,
    read_sealed_head,
)
from edgectl_protocol.uploads import UploadOffer
from edgectl_server.audit import describe
from edgectl_server.contracts import Contracts
from edgectl_server.device_filter import site_column
from edgectl_server.errors import Conflict, NotFound
from edgectl_server.features import FUTURE_MAX
from edgectl_server.ground_truth import GroundTruth
from edgectl_server.sample_contract import misfit
from edgectl_server.sample_keys import SERVER, SampleKeys
from edgectl_server.sample_policies import sample_policies_of
from edgectl_server.schemas import Page, SampleInfo, SampleNews, SampleTensorInfo
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import (
    BundleVariant,
    DatasetBlobRow,
    DatasetRow,
    DesiredSlot,
    Device,
    DeviceUpload,
    ModelVersion,
    SampleRow,
)
from edgectl_server.upload_owners import Examined

__all__ = ["SAMPLE", "SampleFilter", "SampleLimits", "Samples", "live_samples", "sample_info"]

SAMPLE = "sample"
"""The kind of upload."""
_DAY = timedelta(days=1)
_FOR_EVER_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_MADE_ROOM_MAX = 200
_SORT = {"taken_at": SampleRow.taken_at, "received_at": SampleRow.received_at}


class SampleLimits(NamedTuple):
    """What the operator has set."""

    keep: timedelta
    bytes_max: int
    """Of all samples together."""


class SampleFilter(NamedTuple):
    """What is asked of samples; None: nothing."""

    model: str | None = None
    device: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    label_state: str | None = None
    """Empty: nobody has said anything."""
    label: str | None = None
    site: str | None = None
    """Of its device, as it is now."""


class Samples:
    """Owns the uploads of samples. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        contracts: Contracts,
        uploads: BlobStore,
        limits: SampleLimits,
        ground_truth: GroundTruth,
        keys: SampleKeys,
        now: Callable[[], datetime],
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            contracts: of the models.
            uploads: where whole uploads are put.
            limits: of the operator.
            ground_truth: what was said of requests before their samples came.
            keys: that samples are sealed to.
            now: the clock.
        """
        self._database = database
        self._keys = keys
        self._contracts = contracts
        self._uploads = uploads
        self._limits = limits
        self._ground_truth = ground_truth
        self._now = now

    # ------------------------------------------------------------ as the owner of uploads

    def admit(self, session: Session, device: str, offer: UploadOffer) -> Reason | None:
        """Say why an offer is not welcome, or None; see `edgectl_server.device_uploads.Owner`."""
        note = offer.sample
        sealed = offer.media_type == SEALED_MEDIA_TYPE
        length_max = SEALED_SAMPLE_BYTES_MAX if sealed else SAMPLE_BYTES_MAX
        if note is None or offer.length > length_max:
            detail = f"{device} offers {offer.length} bytes as a sample of nothing, or too many"
            return Reason(code="sample.offer", detail=detail)
        reason = self._complaint(session, device, note, sealed=sealed)
        if reason is not None:
            return reason
        (policy,) = sample_policies_of(session, [note.model]).values()
        sent = select(func.sum(DeviceUpload.length)).where(
            DeviceUpload.device == device,
            DeviceUpload.kind == SAMPLE,
            DeviceUpload.model == note.model,
            DeviceUpload.created_at > self._now() - _DAY,
        )
        used = int(session.scalar(sent) or 0)
        if used + offer.length > 2 * policy.bytes_per_day:
            detail = f"{device} has offered {used} bytes of {note.model} in a day, a budget of "
            detail += f"{policy.bytes_per_day} has no room for {offer.length} more"
            return Reason(code="sample.budget", detail=detail)
        if self._stored(session) + offer.length > self._limits.bytes_max:
            detail = f"the samples of the last day fill samples_bytes_max, {self._limits.bytes_max}"
            return Reason(code="sample.full", detail=detail)
        return None

    def examine(self, upload: DeviceUpload, path: Path) -> Examined:
        """Say what is wrong with a whole sample before it is kept; open what is sealed to us."""
        with path.open("rb") as file:
            content = file.read(SAMPLE_HEAD_BYTES_MAX)
        if (upload.media_type == SEALED_MEDIA_TYPE) != is_sealed(content):
            detail = f"what {upload.device} has sent is no {upload.media_type}"
            return Examined(Reason(code="sample.malformed", detail=detail))
        if is_sealed(content):
            return self._examine_sealed(upload, path)
        return Examined(self._examine_plain(upload, content, upload.length, sealed=False))

    def _examine_plain(
        self, upload: DeviceUpload, content: bytes, length: int, *, sealed: bool
    ) -> Reason | None:
        """Say what is wrong with the file of a sample.

        Args:
            upload: as which it came.
            content: its first bytes.
            length: of the whole file.
            sealed: whether it was, on its way.
        """
        try:
            head = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], length)
        except ProtocolError as error:
            return _malformed(upload, error)
        reason = self._check_note(upload, head.note, sealed=sealed)
        return reason or self._check_contract(upload.device, head)

    def _examine_sealed(self, upload: DeviceUpload, path: Path) -> Examined:
        content = path.read_bytes()
        try:
            head = read_sealed_head(content[:SEALED_HEAD_BYTES_MAX], upload.length)
        except ProtocolError as error:
            return Examined(_malformed(upload, error))
        if head.device != upload.device:
            detail = f"{upload.device} has sent what {head.device} has sealed"
            return Examined(Reason(code="sample.sealed", detail=detail))
        reason = self._check_note(upload, head.note, sealed=True)
        holder = self._keys.holder(head.key)
        if reason is None and holder is None:
            detail = f"{upload.device} has sealed a sample to a key {head.key} that nobody knows"
            reason = Reason(code="sample.key", detail=detail)
        if reason is not None or holder != SERVER:
            return Examined(reason, sealed_to=head.key)
        opened = self._keys.open(content, head.key)
        if opened.content is None:
            detail = f"a sample of {upload.device} is not opened: {opened.problem}"
            return Examined(Reason(code="sample.sealed", detail=detail[:1000]))
        plain = opened.content
        reason = self._examine_plain(upload, plain, len(plain), sealed=True)
        if reason is not None:
            return Examined(reason)
        path.write_bytes(plain)
        return Examined(kept_as=digest_of(plain), sealed_to=head.key)

    def moved(self, session: Session, upload: DeviceUpload, done: int, total: int) -> None:
        """Nobody waits for a sample."""

    def ended(self, session: Session, upload: DeviceUpload) -> None:
        """Note a sample that is here whole; twice is once."""
        here = select(SampleRow.id).where(SampleRow.upload == upload.id)
        if upload.reason is not None or session.scalar(here) is not None:
            return
        row = self._row_of(upload, self._uploads.read(upload.kept))
        upload.expires_at = row.received_at + self._limits.keep
        session.add(row)
        session.flush()
        self._ground_truth.join(session, row)

    def _row_of(self, upload: DeviceUpload, content: bytes) -> SampleRow:
        """Return the row of a sample that is kept; what is in it is told where it is open."""
        tensors, answer = tuple[SampleTensor, ...](), Answer(-1, None)
        sealed = is_sealed(content)
        if sealed:
            note = read_sealed_head(content[:SEALED_HEAD_BYTES_MAX], len(content)).note
        else:
            head = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content))
            note, tensors = head.note, head.tensors
            config = self._contracts.find(note.manifest)
            answer = answer_of(read_sample(content)[1], None if config is None else config.scores)
        return SampleRow(
            id=secrets.token_hex(8),
            upload=upload.id,
            device=upload.device,
            model=note.model,
            version=note.version,
            manifest=note.manifest,
            digest=upload.kept,
            reason=note.reason,
            taken_at=note.taken_at,
            received_at=self._now(),
            length=len(content),
            request=note.request or None,
            answer=answer.number,
            confidence=answer.confidence,
            tensors=[
                {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
                for one in tensors
            ],
            key=upload.sealed_to or "",
            sealed=sealed,
            redacted=bool(note.redacted),
        )

    # ------------------------------------------------------------ in the background

    def make_room(self) -> None:
        """Let the oldest samples expire where all of them take too much; forget old outcomes."""
        self._ground_truth.forget_old()
        with self._database.write() as session:
            excess = self._stored(session) - self._limits.bytes_max
            oldest = (
                select(DeviceUpload)
                .join(SampleRow, SampleRow.upload == DeviceUpload.id)
                .where(
                    SampleRow.received_at < self._now() - _DAY,
                    DeviceUpload.expires_at > self._now(),
                )
                .order_by(SampleRow.received_at)
                .limit(_MADE_ROOM_MAX)
            )
            for upload in session.scalars(oldest) if excess > 0 else ():
                if excess <= 0:
                    break
                upload.expires_at = _FOR_EVER_AGO
                excess -= upload.length

    # ------------------------------------------------------------ what people do

    def page(self, paging: PageQuery, asked: SampleFilter) -> Page[SampleInfo]:
        """Return one page of samples, the newest first."""
        wanted = select(SampleRow)
        for column, value in (
            (SampleRow.model, asked.model),
            (SampleRow.device, asked.device),
            (SampleRow.reason, asked.reason),
            (SampleRow.label_state, asked.label_state),
            (SampleRow.label, asked.label),
        ):
            if value is not None:
                wanted = wanted.where(column == value)
        if asked.since is not None:
            wanted = wanted.where(SampleRow.taken_at >= asked.since)
        if asked.site is not None:
            inside = select(Device.id).where(site_column() == asked.site)
            wanted = wanted.where(SampleRow.device.in_(inside))
        if asked.until is not None:
            wanted = wanted.where(SampleRow.taken_at < asked.until)
        if paging.q:
            wanted = wanted.where(match(paging.q, (SampleRow.device, SampleRow.model)))
        by = order(paging.sort, _SORT, default="-taken_at", last=SampleRow.id)
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted.order_by(*by), paging)
            uploads = select(DeviceUpload.id, DeviceUpload.expires_at).where(
                DeviceUpload.id.in_([row.upload for row in rows])
            )
            ends = {row.id: row.expires_at for row in session.execute(uploads)}
            return Page(items=[_info(row, ends[row.upload]) for row in rows], total=total)

    def news(self) -> SampleNews:
        """Return what tells whether a sample has come or gone; asked each second."""
        newest = select(func.count(), func.max(SampleRow.received_at))
        with self._database.read() as session:
            count, received_at = session.execute(newest).one()
        return SampleNews(samples=count, received_at=received_at)

    def read(self, sample: str) -> tuple[SampleInfo, Iterator[bytes]]:
        """Return a sample and its file, piece by piece.

        Raises:
            NotFound: ``sample.unknown``, ``blob.missing``.
        """
        with self._database.read() as session:
            row = _find(session, sample)
            info = sample_info(session, row)
        self._uploads.size(info.digest)  # before an answer has begun
        return info, self._uploads.stream(info.digest)

    def delete(self, sample: str) -> None:
        """Have a sample expire now: it is gone for everybody, and its content soon.

        Raises:
            NotFound: ``sample.unknown``.
            Conflict: ``sample.held``: it would stay in a dataset.
        """
        with self._database.write() as session:
            row = _find(session, sample)
            _check_free(session, row)
            describe(device=row.device, model=row.model, digest=row.digest)
            session.get_one(DeviceUpload, row.upload).expires_at = _FOR_EVER_AGO
            session.delete(row)

    # ------------------------------------------------------------ steps

    def _check_note(self, upload: DeviceUpload, note: SampleNote, *, sealed: bool) -> Reason | None:
        """Say why a whole sample of this is not wanted, or None."""
        with self._database.read() as session:
            reason = self._complaint(session, upload.device, note, sealed=sealed)
        if reason is None and note.model != upload.model:
            detail = f"{upload.device} has offered {upload.model} and sent {note.model}"
            reason = Reason(code="sample.model", detail=detail)
        return reason

    def _complaint(
        self, session: Session, device: str, note: SampleNote, *, sealed: bool
    ) -> Reason | None:
        """Say why a sample of this is not wanted from this device, or None."""
        policy = sample_policies_of(session, [note.model]).get(note.model)
        if policy is None or note.reason not in policy.reasons:
            detail = f"{device} offers a sample of {note.model}, {note.reason}; none is asked for"
            return Reason(code="sample.unasked", detail=detail)
        if policy.key is not None and not sealed:
            detail = f"{device} offers a sample of {note.model} as it is, and the policy has a key "
            detail += "to seal it to: its agent is too old for that"
            return Reason(code="sample.plain", detail=detail)
        published = (
            select(BundleVariant.manifest)
            .join(ModelVersion, BundleVariant.version_id == ModelVersion.id)
            .where(
                BundleVariant.manifest == note.manifest,
                ModelVersion.model == note.model,
                ModelVersion.version == note.version,
            )
        )
        runs = session.get(DesiredSlot, (device, note.model)) is not None
        if not runs or session.scalar(published) is None:
            detail = f"{device} offers a sample of {note.model} {note.version}, which is no version"
            return Reason(code="sample.model", detail=f"{detail} for it")
        if note.taken_at > self._now() + FUTURE_MAX:
            detail = f"{device} offers a sample of {note.taken_at.isoformat()}, which is to come"
            return Reason(code="sample.time", detail=detail)
        return None

    def _stored(self, session: Session) -> int:
        """Return the bytes of all samples that are not about to go."""
        total = (
            select(func.sum(SampleRow.length))
            .join(DeviceUpload, SampleRow.upload == DeviceUpload.id)
            .where(DeviceUpload.expires_at > self._now())
        )
        return int(session.scalar(total) or 0)

    def _check_contract(self, device: str, head: SampleHead) -> Reason | None:
        """Say where a sample is not what the signed bundle declares, or None."""
        config = self._contracts.find(head.note.manifest)
        problem = "its bundle cannot be read" if config is None else misfit(head, config)
        if not problem:
            return None
        detail = f"{device} sends another thing than {head.note.model}: {problem}"
        return Reason(code="sample.contract", detail=detail[:1000])


def _malformed(upload: DeviceUpload, error: ProtocolError) -> Reason:
    detail = f"what {upload.device} has sent as a sample is none: {error}"
    return Reason(code="sample.malformed", detail=detail[:1000])


def _find(session: Session, sample: str) -> SampleRow:
    row = session.get(SampleRow, sample)
    if row is None:
        raise NotFound(
            "sample.unknown",
            f"there is no sample {sample}",
            hint="`edgectl samples list` shows those that are here",
        )
    return row


def live_samples(model: str, now: datetime) -> Select[SampleRow]:
    """Return the statement for the samples of a model that are not about to go."""
    return (
        select(SampleRow)
        .join(DeviceUpload, SampleRow.upload == DeviceUpload.id)
        .where(SampleRow.model == model, DeviceUpload.expires_at > now)
    )


def sample_info(session: Session, row: SampleRow) -> SampleInfo:
    """Return what is shown of a sample."""
    return _info(row, session.get_one(DeviceUpload, row.upload).expires_at)


def _check_free(session: Session, row: SampleRow) -> None:
    """Refuse to delete what a dataset holds: who deletes a sample wants its content gone."""
    wanted = (
        select(DatasetRow.name)
        .join(DatasetBlobRow, DatasetBlobRow.dataset == DatasetRow.id)
        .where(DatasetBlobRow.digest == row.digest)
    )
    holding = session.scalars(wanted.order_by(DatasetRow.name).limit(10)).all()
    if holding:
        raise Conflict(
            "sample.held",
            f"the sample {row.id} is in the datasets {', '.join(holding)}",
            hint="delete those first: `edgectl dataset delete NAME`",
            data={"datasets": list(holding)},
        )


def _info(row: SampleRow, expires_at: datetime) -> SampleInfo:
    return SampleInfo(
        id=row.id,
        device=row.device,
        model=row.model,
        version=row.version,
        manifest=row.manifest,
        digest=row.digest,
        reason=row.reason,  # type: ignore[arg-type]  # the protocol admits only these
        taken_at=row.taken_at,
        received_at=row.received_at,
        expires_at=expires_at,
        length=row.length,
        tensors=[SampleTensorInfo.model_validate(one) for one in row.tensors],
        request=row.request,
        answer=row.answer,
        confidence=row.confidence,
        label_state=row.label_state or "unlabelled",  # type: ignore[arg-type]  # only these
        label=row.label,
        key=row.key or None,
        sealed=row.sealed,
        redacted=row.redacted,
    )
