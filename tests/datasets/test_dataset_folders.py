"""Dataset folders: what is written is read, by us and by others, and nothing altered passes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets.made import CLASSES, START, blob_of, make
from edgectl_datasets.documents import decode_dataset, encode_dataset
from edgectl_datasets.errors import BadDataset
from edgectl_datasets.fitting import misfit_of
from edgectl_datasets.folders import open_folder
from edgectl_datasets.rows_file import decode_rows, encode_rows
from edgectl_datasets.samples import answer_of, read_sample
from edgectl_protocol.manifest import Scores, TensorSpec


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = make()
    folder = open_folder(made.write(tmp_path / "one"))
    assert folder.dataset == made.dataset
    assert tuple(folder.rows) == made.rows
    read = [(row, arrays["input.x"]) for row, _, arrays in folder.samples()]
    assert len(read) == 96
    assert all(array.shape == (1, 4) for _, array in read)
    mean = np.mean([array for row, array in read if row.split == "train"])
    (train,) = [one for one in made.dataset.statistics.inputs if one.split == "train"]
    assert train.mean == pytest.approx(mean, rel=1e-5)
    assert train.std == pytest.approx(
        np.std([array for row, array in read if row.split == "train"]), rel=1e-5
    )


def test_others_read_the_rows(tmp_path: Path) -> None:
    """DuckDB with a reader of its own, and pyarrow; pandas and Polars: the page's examples."""
    made = make()
    path = made.write(tmp_path / "one") / "rows.parquet"
    counted = duckdb.sql(
        f"""select label, "class", count(*), min(confidence), min(captured_at at time zone 'UTC')
        from '{path}' group by all order by 2"""
    ).fetchall()
    start = START.replace(tzinfo=None)
    assert counted == [
        (name, number, 32, 0.75, start + timedelta(minutes=8 * number))
        for number, name in enumerate(CLASSES)
    ]
    table = pq.read_table(path)
    assert table.schema.field("captured_at").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("class").type == pa.int32()


def test_the_id_follows_from_the_content_alone() -> None:
    made = make()
    assert make(name="other", created=START + timedelta(days=1)).dataset.id == made.dataset.id
    assert make(parent="sha256:" + "b" * 64).dataset.id != made.dataset.id
    assert make(seed=1).dataset.id != made.dataset.id
    first = made.rows[0]
    for changed in (
        first._replace(label="walk", number=1),
        first._replace(label=None, number=-1),
        first._replace(device="pi-9"),
        first._replace(confidence=0.7500000000000001),
        first._replace(captured_at=START + timedelta(microseconds=1)),
    ):
        assert made.with_rows((changed, *made.rows[1:])).dataset.id != made.dataset.id, changed


def test_nothing_altered_passes(tmp_path: Path) -> None:
    made = make()

    def alter(name: str) -> Path:
        return made.write(tmp_path / name)

    cases = {}
    path = cases["dataset.id"] = alter("label")
    rows = (made.rows[0]._replace(label="walk", number=1), *made.rows[1:])
    (path / "rows.parquet").write_bytes(encode_rows(rows))
    path = cases["dataset.rows"] = alter("fewer")
    (path / "rows.parquet").write_bytes(encode_rows(made.rows[1:]))
    path = cases["dataset.missing"] = alter("gone")
    (path / "dataset.json").unlink()
    path = cases["dataset.malformed"] = alter("json")
    (path / "dataset.json").write_bytes(b'{"format": 1, "rows": -1}')
    path = cases["dataset.format"] = alter("format")
    (path / "dataset.json").write_bytes(b'{"format": 2}')
    path = cases["dataset.large"] = alter("large")
    os.truncate(path / "dataset.json", 5 * 1024**2)
    for code, path in cases.items():
        with pytest.raises(BadDataset) as caught:
            open_folder(path)
        assert caught.value.code == code, path

    path = alter("blob")
    blob = path / "blobs" / f"{made.rows[3].blob}.safetensors"
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(BadDataset, match="other content"):
        list(open_folder(path).samples())
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    with pytest.raises(BadDataset, match="cannot read"):
        list(open_folder(path).samples())


@pytest.mark.parametrize(
    "change",
    [
        {"sample": "../../etc/passwd0"},
        {"blob": "../" + "a" * 61},
        {"split": "holdout"},
        {"number": 3},
        {"number": -2, "label": None},
        {"label": None},
        {"answer": 3},
        {"confidence": 1.5},
        {"site": "x" * 1025},
        {"model_digest": "a" * 64},
    ],
    ids=str,
)
def test_rows_that_nobody_could_have_written(change: dict[str, object], tmp_path: Path) -> None:
    made = make()
    path = made.with_rows((made.rows[0]._replace(**change), *made.rows[1:])).write(tmp_path / "one")
    with pytest.raises(BadDataset) as caught:
        open_folder(path)
    assert caught.value.code == "dataset.rows" or change.get("split")


def test_a_parquet_file_with_other_columns_or_a_bomb() -> None:
    made = make()
    table = pa.table({"sample": pa.array(["a"])})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    for content in (sink.getvalue().to_pybytes(), b"", b"PAR1", encode_rows(made.rows)[:-9]):
        with pytest.raises(BadDataset, match=r"rows\.parquet"):
            decode_rows(content)
    bomb = [made.rows[0]._replace(site="x" * 250, device="y" * 250)] * 20_001
    content = encode_rows(bomb)
    assert len(content) < 100_000, "a small file with many rows"
    with pytest.raises(BadDataset, match="at most 20000"):
        decode_rows(content)


def test_a_text_that_is_long_and_stands_in_every_row() -> None:
    """A dictionary holds it once: unpacked, row by row, it is as long as there are rows."""
    made = make()
    table = pq.read_table(pa.BufferReader(encode_rows(made.rows)))
    numbers = pa.array([0] * len(made.rows), pa.int32())
    texts = pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * 1_000_000]))
    field = pa.field("site", texts.type, nullable=False)
    sink = pa.BufferOutputStream()
    table = table.set_column(table.column_names.index("site"), field, texts)
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    assert len(content) < 20_000
    with pytest.raises(BadDataset, match="a text of 1000000 bytes as site"):
        decode_rows(content)


def test_unknown_fields_of_the_document_are_ignored() -> None:
    made = make()
    document = msgspec.json.decode(encode_dataset(made.dataset))
    assert decode_dataset(msgspec.json.encode(document | {"later": 1})) == made.dataset


def test_answers_are_those_of_the_bundles_scores() -> None:
    _, arrays = read_sample(blob_of([0, 0, 0, 0], scores=(0.0, 2.0, 1.0)))
    logits = answer_of(arrays, Scores(output="y", kind="logits"))
    assert logits == (1, pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)), abs=1e-6))
    quantized = Scores(output="y", kind="probabilities", scale=0.25, zero_point=-1)
    assert answer_of(arrays, quantized) == (1, 0.75)
    assert answer_of(arrays, None) == (-1, None)
    _, arrays = read_sample(blob_of([0, 0, 0, 0], scores=(0.0, float("nan"), 1.0)))
    assert answer_of(arrays, Scores(output="y", kind="logits")) == (-1, None)


def test_misfits_are_named() -> None:
    _, arrays = read_sample(blob_of([0, 0, 0, 0]))
    assert misfit_of(arrays, make().dataset.inputs) == ""
    for spec, said in (
        (TensorSpec(name="z", datatype="FP32", shape=(-1, 4)), "no input z"),
        (TensorSpec(name="x", datatype="FP64", shape=(-1, 4)), "not FP64"),
        (TensorSpec(name="x", datatype="FP32", shape=(-1, 5)), "not [-1, 5]"),
        (TensorSpec(name="x", datatype="FP32", shape=(4,)), "not [4]"),
    ):
        assert said in misfit_of(arrays, (spec,))
