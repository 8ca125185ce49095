"""Datasets on the server: made from samples, listed, packed, deleted; never changed.

Rules:

1. A dataset is what `edgectl_datasets` says: its id follows from its content, so that making the
   same once more is no second one. Its rows are a blob beside those of the samples, which stay for
   as long as a dataset holds them, whatever becomes of the samples.
2. What it is to be, `edgectl_server.dataset_building` decides before the transaction that writes;
   in that one the samples are locked and looked for once more, so that none is held whose content
   has just gone.
3. All that datasets hold takes `datasets_bytes_max` at most.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from edgectl_datasets.documents import (
    DATASET_FILE,
    Dataset,
    Row,
    encode_dataset,
)
from edgectl_datasets.errors import BadDataset
from edgectl_datasets.folders import BLOBS, check_rows, write_folder
from edgectl_datasets.rows_file import ROWS_FILE, decode_rows, encode_rows
from edgectl_datasets.samples import Arrays, read_sample
from edgectl_protocol.names import hex_of
from edgectl_server.audit import describe
from edgectl_server.contracts import Contracts
from edgectl_server.dataset_building import Built, DatasetBuilder, slices
from edgectl_server.errors import Conflict, NotFound, Refused, Unavailable
from edgectl_server.schemas import DatasetDetail, DatasetInfo, DatasetRequest, Page
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import (
    DatasetBlobRow,
    DatasetRow,
    DeviceUpload,
)
from edgectl_server.upload_rows import unheld

__all__ = ["Datasets"]

_SORT = {"created_at": DatasetRow.created_at, "name": DatasetRow.name, "rows": DatasetRow.rows}


class Datasets:
    """Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        contracts: Contracts,
        uploads: BlobStore,
        bytes_max: int,
        now: Callable[[], datetime],
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            contracts: of the models.
            uploads: where samples are; rows are put there too.
            bytes_max: of all that datasets hold.
            now: the clock.
        """
        self._database = database
        self._builder = DatasetBuilder(
            database=database, contracts=contracts, uploads=uploads, now=now
        )
        self._uploads = uploads
        self._bytes_max = bytes_max

    # ------------------------------------------------------------ making and deleting

    def create(self, asked: DatasetRequest, user: str) -> DatasetInfo:
        """Make a dataset, or return the one that is the same, under its name.

        Raises:
            Refused: ``dataset.empty``, ``dataset.large``, ``dataset.ratios``, ``dataset.parent``.
            NotFound: ``dataset.unknown``: the parent.
            Conflict: ``dataset.name``, ``dataset.exists``, ``dataset.changed``, ``dataset.full``.
        """
        if abs(sum(asked.ratios) - 1) > 1e-6:  # noqa: PLR2004 - rounding
            raise Refused(
                "dataset.ratios",
                f"the ratios add up to {sum(asked.ratios):g}, not to 1",
                hint="such as 0.7,0.15,0.15 for train, validation and test",
            )
        parent = None if asked.parent is None else self._read(asked.parent)
        if parent is not None and parent.dataset.model != asked.model:
            detail = f"{parent.dataset.name} is of {parent.dataset.model}, not of {asked.model}"
            raise Refused("dataset.parent", detail)
        built = self._builder.build(asked, parent)
        rows_blob = self._uploads.add_bytes(encode_rows(built.rows))
        try:
            with self._database.write() as session:
                row = self._insert(session, built, rows_blob, user)
                describe(object=row.name, model=row.model, id=row.id, rows=row.rows)
                return _info(row)
        except Conflict:
            self._discard({rows_blob})
            raise

    def delete(self, name: str) -> None:
        """Delete a dataset; blobs that nothing else holds go with it.

        Raises:
            NotFound: ``dataset.unknown``.
        """
        with self._database.write() as session:
            row = _find(session, name)
            describe(object=row.name, model=row.model, id=row.id, rows=row.rows)
            held = select(DatasetBlobRow.digest).where(DatasetBlobRow.dataset == row.id)
            digests = set(session.scalars(held))
            session.delete(row)
        self._discard(digests)

    # ------------------------------------------------------------ reading

    def page(self, paging: PageQuery, model: str | None) -> Page[DatasetInfo]:
        """Return one page of the datasets, the newest first."""
        wanted = select(DatasetRow)
        if model is not None:
            wanted = wanted.where(DatasetRow.model == model)
        if paging.q:
            wanted = wanted.where(match(paging.q, (DatasetRow.name, DatasetRow.model)))
        by = order(paging.sort, _SORT, default="-created_at", last=DatasetRow.id)
        with self._database.read() as session:
            rows, total = fetch_page(session, wanted.order_by(*by), paging)
            return Page(items=[_info(row) for row in rows], total=total)

    def get(self, name: str) -> DatasetDetail:
        """Return a dataset by its name or id; raise `NotFound` ``dataset.unknown``."""
        with self._database.read() as session:
            row = _find(session, name)
            held = select(DatasetBlobRow.digest).where(DatasetBlobRow.dataset == row.id)
            digests = session.scalars(held).all()
        missing = sum(not self._uploads.exists(digest) for digest in digests)
        return DatasetDetail(info=_info(row), document=row.document, blobs_missing=missing)

    def samples(self, name: str) -> tuple[Dataset, Sequence[Row], Iterator[tuple[Row, Arrays]]]:
        """Return a dataset, its rows, and its samples one by one.

        Raises:
            NotFound: ``dataset.unknown``, ``blob.missing``.
            Unavailable: ``dataset.damaged``.
        """
        found = self._read(name)
        return found.dataset, found.rows, self._arrays(found.rows)

    def write_to(self, name: str, path: Path) -> Dataset:
        """Write a dataset as the folder `path`, for a trainer.

        Raises:
            NotFound: ``dataset.unknown``, ``blob.missing``.
            Unavailable: ``dataset.damaged``.
            OSError: the disk.
        """
        found = self._read(name)
        dataset: Dataset = found.dataset
        names = sorted({row.blob for row in found.rows})
        blobs = [(one, lambda one=one: self._uploads.read(f"sha256:{one}")) for one in names]
        write_folder(path, encode_dataset(dataset), encode_rows(found.rows), blobs)
        return dataset

    def archive(self, name: str) -> tuple[DatasetInfo, Iterator[bytes]]:
        """Return a dataset as a tar file, piece by piece: a folder of its name.

        Raises:
            NotFound: ``dataset.unknown``.
            Unavailable: ``dataset.damaged``.
        """
        with self._database.read() as session:
            info = _info(_find(session, name))
        return info, self._pack(self._read(info.id))

    # ------------------------------------------------------------ steps

    def _read(self, name: str) -> Built:
        """Return a dataset with its rows, checked against its id."""
        with self._database.read() as session:
            row = _find(session, name)
            held = select(DatasetBlobRow.digest, DatasetBlobRow.length).where(
                DatasetBlobRow.dataset == row.id
            )
            lengths = {hex_of(one.digest): int(one.length) for one in session.execute(held)}
        try:
            dataset = msgspec.convert(row.document, Dataset)
            rows = decode_rows(self._uploads.read(row.rows_blob))
            check_rows(dataset, rows)
        except (BadDataset, msgspec.ValidationError) as error:
            raise Unavailable(
                "dataset.damaged",
                f"the dataset {row.name} is not what its id says: {error}",
                hint="restore the database and the blobs from one backup, or delete it",
            ) from error
        del lengths[hex_of(row.rows_blob)]
        return Built(dataset, rows, lengths)

    def _discard(self, digests: set[str]) -> None:
        """Delete blobs that neither an upload nor a dataset holds any more."""
        with self._database.write() as session:  # nobody comes to hold one meanwhile
            for some in slices(sorted(digests)):
                digests -= set(some) - unheld(session, some)
            for digest in digests:
                self._uploads.delete(digest)

    def _arrays(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Arrays]]:
        for row in rows:
            yield row, read_sample(self._uploads.read(f"sha256:{row.blob}"))[1]

    def _insert(self, session: Session, built: Built, rows_blob: str, user: str) -> DatasetRow:
        dataset = built.dataset
        same = session.get(DatasetRow, dataset.id)
        named = session.scalars(select(DatasetRow).where(DatasetRow.name == dataset.name)).first()
        if same is not None and same is named:
            return same
        if same is not None:
            raise Conflict(
                "dataset.exists",
                f"this very dataset is here as {same.name}",
                data={"id": same.id, "name": same.name},
            )
        if named is not None:
            raise Conflict(
                "dataset.name",
                f"{dataset.name} is another dataset, of {named.rows} rows",
                hint="datasets never change: choose another name",
                data={"id": named.id},
            )
        self._check_there(session, built)
        self._check_room(session, built)
        row = DatasetRow(
            id=dataset.id,
            name=dataset.name,
            model=dataset.model,
            parent=dataset.parent,
            document=msgspec.to_builtins(dataset),
            rows=dataset.rows,
            bytes=sum(built.lengths.values()),
            rows_blob=rows_blob,
            created_at=dataset.created,
            created_by=user,
        )
        session.add(row)
        session.flush()
        lengths = {f"sha256:{name}": size for name, size in built.lengths.items()}
        lengths[rows_blob] = self._uploads.size(rows_blob)
        session.add_all(
            DatasetBlobRow(dataset=row.id, digest=digest, length=length)
            for digest, length in lengths.items()
        )
        return row

    @staticmethod
    def _check_there(session: Session, built: Built) -> None:
        """Make sure that every blob is still held by an upload or a dataset, and stays."""
        for some in slices(sorted(f"sha256:{name}" for name in built.lengths)):
            there: set[str] = set()
            for column in (DeviceUpload.digest, DeviceUpload.kept_as, DatasetBlobRow.digest):
                wanted = select(column).where(column.in_(some)).with_for_update()
                there |= {one for one in session.scalars(wanted) if one is not None}
            if len(there) < len(some):
                raise Conflict(
                    "dataset.changed",
                    f"{len(some) - len(there)} samples have gone meanwhile",
                    hint="make the dataset again",
                )

    def _check_room(self, session: Session, built: Built) -> None:
        each = select(DatasetBlobRow.digest, func.max(DatasetBlobRow.length).label("length"))
        each_once = each.group_by(DatasetBlobRow.digest).subquery()
        held = session.scalar(select(func.sum(each_once.c.length))) or 0
        if int(held) + sum(built.lengths.values()) > self._bytes_max:
            raise Conflict(
                "dataset.full",
                f"datasets hold {held} bytes, datasets_bytes_max is {self._bytes_max}",
                hint="delete some: `edgectl dataset delete NAME`",
            )

    def _pack(self, found: Built) -> Iterator[bytes]:
        """Yield a tar file: blobs first, the document last, so that a part of it is none."""
        folder, at = found.dataset.name, int(found.dataset.created.timestamp())
        for name in sorted({row.blob for row in found.rows}):
            content = self._uploads.read(f"sha256:{name}")
            yield _member(f"{folder}/{BLOBS}/{name}.safetensors", content, at)
        yield _member(f"{folder}/{ROWS_FILE}", encode_rows(found.rows), at)
        yield _member(f"{folder}/{DATASET_FILE}", encode_dataset(found.dataset), at)
        yield b"\0" * 2 * tarfile.BLOCKSIZE


def _find(session: Session, name: str) -> DatasetRow:
    wanted = select(DatasetRow).where(or_(DatasetRow.name == name, DatasetRow.id == name))
    row = session.scalars(wanted).first()
    if row is None:
        raise NotFound(
            "dataset.unknown",
            f"there is no dataset {name}",
            hint="`edgectl dataset list` shows those that are here",
        )
    return row


def _info(row: DatasetRow) -> DatasetInfo:
    dataset = msgspec.convert(row.document, Dataset)
    return DatasetInfo(
        id=row.id,
        name=row.name,
        model=row.model,
        parent=row.parent,
        rows=row.rows,
        labelled=row.rows - sum(dataset.statistics.unlabelled.values()),
        splits={str(name): count for name, count in dataset.splits.items()},
        split_by=dataset.split.by,
        bytes=row.bytes,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _member(name: str, content: bytes, at: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), at, 0o644
    head = member.tobuf(tarfile.PAX_FORMAT)
    return head + content + b"\0" * (-len(content) % tarfile.BLOCKSIZE)
