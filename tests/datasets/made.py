"""Datasets as the tests make them: rows of a few devices, and their blobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgectl_datasets.documents import (
    FORMAT,
    AnsweredBy,
    Dataset,
    Row,
    SplitRule,
    dataset_id,
    encode_dataset,
)
from edgectl_datasets.folders import write_folder
from edgectl_datasets.rows_file import encode_rows
from edgectl_datasets.samples import read_sample
from edgectl_datasets.splits import RATIOS, split_rows
from edgectl_datasets.statistics import Counting
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.samples import SampleNote, SampleTensor, encode_sample

MANIFEST = "sha256:" + "a" * 64
START = datetime(2026, 11, 1, tzinfo=UTC)
INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
CLASSES = ("sit", "walk", "run")


class Made(NamedTuple):
    dataset: Dataset
    rows: tuple[Row, ...]
    blobs: dict[str, bytes]

    def write(self, path: Path) -> Path:
        write_folder(
            path,
            encode_dataset(self.dataset),
            encode_rows(self.rows),
            [(name, lambda name=name: self.blobs[name]) for name in self.blobs],
        )
        return path

    def with_rows(self, rows: Sequence[Row]) -> Made:
        """The same with other rows, and with the id that belongs to them."""
        counted = {name: sum(row.split == name for row in rows) for name in self.dataset.splits}
        changed = msgspec.structs.replace(self.dataset, rows=len(rows), splits=counted)
        named = msgspec.structs.replace(changed, id=dataset_id(changed, rows))
        return Made(named, tuple(rows), self.blobs)


def blob_of(values: Any, at: datetime = START, scores: Any = (0.0, 0.0, 0.0)) -> bytes:
    note = SampleNote(model="har", version="1", manifest=MANIFEST, reason="random", taken_at=at)
    inputs, outputs = np.asarray([values], "<f4"), np.asarray([scores], "<f4")
    return encode_sample(
        note,
        [
            (SampleTensor("input.x", "F32", inputs.shape), inputs.tobytes()),
            (SampleTensor("output.y", "F32", outputs.shape), outputs.tobytes()),
        ],
    )


def make(
    *,
    devices: int = 8,
    each: int = 12,
    seed: int = 0,
    shape: tuple[int, ...] = (4,),
    **changes: Any,
) -> Made:
    """A sound dataset: three classes whose values differ, every class on every device.

    Args:
        devices: how many.
        each: rows of each.
        seed: of the values.
        shape: of a row of the only input.
        **changes: fields of the document.
    """
    inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1, *shape)),)
    numbers = np.random.default_rng(seed)
    bare, blobs, counting = [], {}, Counting()
    for count in range(devices * each):
        device, number = f"pi-{count % devices}", count // devices % len(CLASSES)
        at = START + timedelta(minutes=count)
        content = blob_of(numbers.normal(number, 0.5, shape), at)
        name = sha256(content).hexdigest()
        blobs[name] = content
        sample = f"{count:016x}"
        counting.add(sample, read_sample(content)[1])
        bare.append(
            Row(sample, "train", CLASSES[number], number, device, f"site-{count % 2}", "random",
                at, MANIFEST, number, 0.75, name)
        )  # fmt: skip
    split = split_rows([(row.device, row.captured_at, row.sample) for row in bare])
    rows = tuple(row._replace(split=of) for row, of in zip(bare, split.of, strict=True))
    fields: dict[str, Any] = {
        "format": FORMAT, "id": MANIFEST, "name": "har-1", "created": START, "model": "har",
        "inputs": inputs, "classes": CLASSES, "rows": len(rows),
        "splits": {name: split.of.count(name) for name in ("train", "validation", "test")},
        "split": SplitRule(by=split.by, ratios=RATIOS), "parent": None,
        "models": (AnsweredBy(manifest=MANIFEST, version="1", rows=len(rows)),),
        "statistics": counting.statistics(rows, len(CLASSES)),
    }  # fmt: skip
    dataset = Dataset(**(fields | changes))
    dataset = msgspec.structs.replace(dataset, id=dataset_id(dataset, rows))
    return Made(dataset, rows, blobs)
