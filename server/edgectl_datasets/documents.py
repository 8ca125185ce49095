"""What a dataset says of itself, and how its id follows from its content.

The id is SHA-256 over lines of canonical JSON (keys sorted, no spaces, UTF-8), each ended by a line
feed: first ``dataset.json`` without `id`, `name`, `created` and `statistics`, then each row as a
list in the order of `Row`, rows in the order of their samples. The Parquet file's bytes do not
count, because another version of its library writes the same rows otherwise. Blobs count by their
digests, which are in the rows. Times are microseconds since 1970, in UTC.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, field

from edgectl_datasets.errors import BadDataset
from edgectl_protocol.fields import Message, Time
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.names import Digest, ModelName, Version

__all__ = [
    "BLOBS_BYTES_MAX",
    "CLASSES_MAX",
    "DATASET_FILE",
    "DOCUMENT_BYTES_MAX",
    "FORMAT",
    "ROWS_MAX",
    "SPLITS",
    "AnsweredBy",
    "Dataset",
    "DatasetName",
    "InputStatistics",
    "Row",
    "SplitName",
    "SplitRule",
    "Statistics",
    "dataset_id",
    "decode_dataset",
    "encode_dataset",
]

FORMAT = 1
DATASET_FILE = "dataset.json"
DOCUMENT_BYTES_MAX = 4 * 1024**2
ROWS_MAX = 20_000
BLOBS_BYTES_MAX = 2 * 1024**3
CLASSES_MAX = 1024
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

DatasetName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Ratio = Annotated[float, Meta(ge=0, le=1)]


class Row(NamedTuple):
    """One sample of a dataset; fields as in ``rows.parquet``.

    Attributes:
        number: of the class that `label` is (the column ``class``); -1 without a label.
        answer: number of the class that the model has answered; -1 where it has no class scores.
        blob: SHA-256 of the sample's file, in hexadecimal.
    """

    sample: str
    split: SplitName
    label: str | None
    number: int
    device: str
    site: str
    reason: str
    captured_at: datetime
    model_digest: str
    answer: int
    confidence: float | None
    blob: str


class SplitRule(Message, frozen=True, kw_only=True):
    """How rows were put into splits; see `edgectl_datasets.splits`."""

    by: Literal["device", "rank", "time"]
    ratios: tuple[_Ratio, _Ratio, _Ratio]
    """Of train, validation and test."""
    seed: Annotated[str, Meta(max_length=64)] = ""


class AnsweredBy(Message, frozen=True, kw_only=True):
    """A bundle whose answers are in the rows."""

    manifest: Digest
    version: Version
    rows: _Count


class InputStatistics(Message, frozen=True, kw_only=True):
    """Numbers of one input in one split, over all elements that are finite; None: there are none.

    `missing` is the share of elements that are not.
    """

    input: Annotated[str, Meta(max_length=256)]
    split: SplitName
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    missing: _Ratio


class Statistics(Message, frozen=True, kw_only=True):
    """What is in a dataset, in numbers."""

    inputs: Annotated[tuple[InputStatistics, ...], Meta(max_length=192)] = ()
    classes: dict[SplitName, Annotated[tuple[_Count, ...], Meta(max_length=CLASSES_MAX)]] = field(
        default_factory=dict
    )
    """Rows of each class, by split."""
    unlabelled: dict[SplitName, _Count] = field(default_factory=dict)
    devices: dict[SplitName, _Count] = field(default_factory=dict)


class Dataset(Message, frozen=True, kw_only=True, omit_defaults=False):
    """``dataset.json``."""

    format: int
    id: Digest
    name: DatasetName
    created: Time
    model: ModelName
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=64)]
    classes: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=CLASSES_MAX)
    ]
    rows: Annotated[int, Meta(ge=1, le=ROWS_MAX)]
    splits: dict[SplitName, _Count]
    split: SplitRule
    parent: Digest | None = None
    models: Annotated[tuple[AnsweredBy, ...], Meta(max_length=1024)] = ()
    filter: dict[str, str | bool] = field(default_factory=dict)
    left_out: dict[str, _Count] = field(default_factory=dict)
    statistics: Statistics = Statistics()


def dataset_id(dataset: Dataset, rows: Iterable[Row]) -> str:
    """Return the id that a dataset must have.

    Args:
        dataset: its own id, name, time and statistics do not count.
        rows: in the order of their samples.
    """
    document = msgspec.to_builtins(dataset)
    for left_out in ("id", "name", "created", "statistics"):
        del document[left_out]
    state = hashlib.sha256(_line(document))
    for row in rows:
        at = (row.captured_at - _EPOCH) // _MICROSECOND
        fields = row._asdict() | {"captured_at": at}
        state.update(_line(list(fields.values())))
    return f"sha256:{state.hexdigest()}"


def encode_dataset(dataset: Dataset) -> bytes:
    """Return ``dataset.json``, for people to read too."""
    document = msgspec.to_builtins(dataset)
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def decode_dataset(content: bytes) -> Dataset:
    """Decode ``dataset.json``; raise `BadDataset` ``dataset.malformed`` or ``dataset.format``."""
    if len(content) > DOCUMENT_BYTES_MAX:
        detail = f"{DATASET_FILE} has {len(content)} bytes, at most {DOCUMENT_BYTES_MAX}"
        raise BadDataset("dataset.malformed", detail)
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:
            raise BadDataset("dataset.format", f"format {found}, known is {FORMAT}")
        dataset = msgspec.json.decode(content, type=Dataset)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadDataset("dataset.malformed", f"{DATASET_FILE} is none: {error}"[:500]) from error
    if len(set(dataset.classes)) != len(dataset.classes):
        raise BadDataset("dataset.malformed", "two classes have one name")
    if sum(dataset.splits.values()) != dataset.rows:
        raise BadDataset("dataset.malformed", f"the splits do not add up to {dataset.rows} rows")
    return dataset


class _Format(msgspec.Struct):
    format: int


def _line(value: dict[str, object] | Sequence[object]) -> bytes:
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"
