"""The examples of docs/datasets.md, run as they are written: others read a dataset without us."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from datasets.made import Made, make
from edgectl_datasets.samples import read_sample

PAGE = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
EXAMPLES = {
    tool: next(
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        if f"import {tool}" in block
    )
    for tool in ("pandas", "polars", "duckdb")
}
SHAPES = {"values": (4,), "pictures": (3, 8, 8)}
COLUMNS = (
    "sample", "split", "label", "class", "device", "site", "reason", "captured_at",
    "model_digest", "answer", "confidence", "blob",
)  # fmt: skip


@pytest.fixture(params=SHAPES.values(), ids=list(SHAPES))
def made(request: pytest.FixtureRequest) -> Made:
    """A dataset of which somebody has yet to label a row."""
    dataset = make(shape=request.param)
    return dataset.with_rows((dataset.rows[0]._replace(label=None, number=-1), *dataset.rows[1:]))


@pytest.fixture
def run(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``run(tool)``: what the example's names stand for after it has run beside the folder."""
    made.write(tmp_path / "har-november")
    monkeypatch.chdir(tmp_path)

    def example(tool: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(compile(EXAMPLES[tool], tool, "exec"), names)
        return names

    return example


def statistics_of(made: Made) -> list[tuple[Any, ...]]:
    inputs = made.dataset.statistics.inputs
    return [
        (one.input, one.split, one.mean, one.std, one.low, one.high, one.missing) for one in inputs
    ]


def counts_of(made: Made) -> Counter[tuple[str, str | None]]:
    return Counter((row.split, row.label) for row in made.rows)


def check_inputs(found: dict[str, Any], made: Made) -> None:
    """Each row of train has its own values: compared with those of the blob of its sample."""
    train = [row for row in made.rows if row.split == "train"]
    assert len(train) > 50
    assert found.keys() == {row.sample for row in train}
    for row in train:
        _, arrays = read_sample(made.blobs[row.blob])
        np.testing.assert_array_equal(found[row.sample], arrays["input.x"][0])


def test_pandas(run: Any, made: Made) -> None:
    names = run("pandas")
    rows = names["rows"]
    assert tuple(rows.columns) == COLUMNS
    assert isinstance(rows["captured_at"].dtype, pd.DatetimeTZDtype)
    assert rows["class"].dtype == np.int32
    read = [
        tuple(None if pd.isna(value) else value for value in row)
        for row in rows.itertuples(index=False, name=None)
    ]
    assert read == [tuple(row) for row in made.rows]
    counted = {pair: number for pair, number in names["counts"].stack().items() if number}
    assert counted == {pair: number for pair, number in counts_of(made).items() if pair[1]}
    assert list(names["statistics"].itertuples(index=False, name=None)) == statistics_of(made)
    check_inputs(names["inputs"], made)


def test_pandas_sees_a_blob_that_is_another(run: Any, made: Made) -> None:
    row = next(row for row in made.rows if row.split == "train")
    blob = Path("har-november/blobs") / f"{row.blob}.safetensors"
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(AssertionError):
        run("pandas")
    names = run("duckdb")
    assert row.sample not in names["inputs"]


def test_polars(run: Any, made: Made) -> None:
    names = run("polars")
    rows = names["rows"]
    assert tuple(rows.columns) == COLUMNS
    assert rows.schema["captured_at"] == pl.Datetime("us", "UTC")
    assert rows.schema["class"] == pl.Int32
    assert rows.rows() == [tuple(row) for row in made.rows]
    counted = {(split, label): number for split, label, number in names["counts"].iter_rows()}
    assert counted == counts_of(made)
    assert names["statistics"].rows() == statistics_of(made)
    check_inputs(names["inputs"], made)


def test_duckdb(run: Any, made: Made) -> None:
    names = run("duckdb")
    rows = names["rows"]
    assert tuple(rows.columns) == COLUMNS
    assert [str(kind) for kind in rows.types][7] == "TIMESTAMP WITH TIME ZONE"
    read = rows.select("* replace (captured_at at time zone 'UTC' as captured_at)").fetchall()
    assert read == [
        tuple(row._replace(captured_at=row.captured_at.replace(tzinfo=None))) for row in made.rows
    ]
    counted = {(split, label): number for split, label, number in names["counts"].fetchall()}
    assert counted == counts_of(made)
    assert names["statistics"].fetchall() == statistics_of(made)
    check_inputs(names["inputs"], made)
