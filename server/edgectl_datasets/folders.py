"""A dataset as a folder: written whole or not at all, opened with everything checked.

Order of checks: the document, the rows, the id that follows from both, then each blob's digest and
tensors. Until the id is right nothing in the folder is believed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from edgectl_datasets.documents import (
    BLOBS_BYTES_MAX,
    DATASET_FILE,
    DOCUMENT_BYTES_MAX,
    Dataset,
    Row,
    dataset_id,
    decode_dataset,
)
from edgectl_datasets.errors import BadDataset
from edgectl_datasets.rows_file import ROWS_BYTES_MAX, ROWS_FILE, decode_rows
from edgectl_datasets.samples import Arrays, read_sample
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.samples import SAMPLE_BYTES_MAX, SampleNote

__all__ = ["BLOBS", "Folder", "check_rows", "open_folder", "write_folder"]

BLOBS = "blobs"


class Folder(NamedTuple):
    """A dataset that has been opened: its document and rows are those of its id."""

    path: Path
    dataset: Dataset
    rows: Sequence[Row]

    def blob(self, row: Row) -> bytes:
        """Return a row's file, with its digest checked; raise `BadDataset` ``dataset.blob``."""
        content = _read(self.path / BLOBS / f"{row.blob}.safetensors", SAMPLE_BYTES_MAX)
        if hashlib.sha256(content).hexdigest() != row.blob:
            raise BadDataset("dataset.blob", f"the blob {row.blob} has other content")
        return content

    def samples(self) -> Iterator[tuple[Row, SampleNote, Arrays]]:
        """Yield each row with its tensors; raise `BadDataset` ``dataset.blob``."""
        for row in self.rows:
            try:
                note, arrays = read_sample(self.blob(row))
            except ProtocolError as error:
                raise BadDataset("dataset.blob", f"the blob {row.blob}: {error}") from error
            yield row, note, arrays


def open_folder(path: Path) -> Folder:
    """Open a dataset.

    Raises:
        BadDataset: ``dataset.missing``, ``dataset.malformed``, ``dataset.format``,
            ``dataset.rows``, ``dataset.id``.
    """
    dataset = decode_dataset(_read(path / DATASET_FILE, DOCUMENT_BYTES_MAX))
    rows = decode_rows(_read(path / ROWS_FILE, ROWS_BYTES_MAX))
    check_rows(dataset, rows)
    return Folder(path, dataset, rows)


def check_rows(dataset: Dataset, rows: Sequence[Row]) -> None:
    """Raise `BadDataset` ``dataset.rows`` or ``dataset.id`` where rows are not a dataset's."""
    if len(rows) != dataset.rows:
        raise BadDataset("dataset.rows", f"{len(rows)} rows, {DATASET_FILE} says {dataset.rows}")
    names = [row.sample for row in rows]
    if any(one >= other for one, other in pairwise(names)):
        raise BadDataset("dataset.rows", "the samples do not ascend, or one is there twice")
    for name, count in dataset.splits.items():
        if sum(row.split == name for row in rows) != count:
            raise BadDataset("dataset.rows", f"the split {name} has not {count} rows")
    for row in rows:
        known = row.number == -1 or dataset.classes[row.number : row.number + 1] == (row.label,)
        if not known or row.answer >= max(1, len(dataset.classes)):
            detail = f"label {row.label!r}, class {row.number}, answer {row.answer}: none of these"
            raise BadDataset("dataset.rows", f"{detail} {len(dataset.classes)} classes")
    found = dataset_id(dataset, rows)
    if found != dataset.id:
        raise BadDataset("dataset.id", f"the content is {found}, and calls itself {dataset.id}")


def write_folder(
    path: Path, document: bytes, rows: bytes, blobs: Sequence[tuple[str, Callable[[], bytes]]]
) -> None:
    """Write a dataset to the folder `path`, which must not be there.

    Args:
        path: its parent is there.
        document: ``dataset.json``.
        rows: ``rows.parquet``.
        blobs: SHA-256 in hexadecimal of each, and what reads it.

    Raises:
        OSError: what is written so far is left for the caller to remove.
    """
    path.mkdir()
    (path / BLOBS).mkdir()
    total = 0
    for name, read in blobs:
        content = read()
        total += len(content)
        if total > BLOBS_BYTES_MAX:
            raise BadDataset("dataset.large", f"more than {BLOBS_BYTES_MAX} bytes of blobs")
        (path / BLOBS / f"{name}.safetensors").write_bytes(content)
    (path / ROWS_FILE).write_bytes(rows)
    (path / DATASET_FILE).write_bytes(document)  # last: without it the folder is none


def _read(path: Path, bytes_max: int) -> bytes:
    """Read a regular file within a bound; a link that leads elsewhere is none of the dataset's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise BadDataset("dataset.missing", f"cannot read {path}: {error.strerror}") from error
    if len(content) > bytes_max:
        raise BadDataset("dataset.large", f"{path} has more than {bytes_max} bytes")
    return content
