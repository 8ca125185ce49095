"""Datasets on the server: what goes in, what stays, what is refused."""

from __future__ import annotations

import io
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from edgectl_datasets.folders import open_folder
from edgectl_server.annotations import AnnotationFilter
from edgectl_server.errors import Conflict, NotFound, ServerError, Unavailable
from edgectl_server.samples import SampleFilter
from edgectl_server.schemas import AnnotationImport, AnnotationItem, DatasetInfo, DatasetRequest
from edgectl_server.storage.tables import DatasetBlobRow, DatasetRow
from server.fleet.fleet_helpers import PAGE_ALL
from server.learning.store import START, Store, contract


@pytest.fixture
def filled(small: Store) -> Store:
    small.fill()
    return small


@pytest.fixture
def on_both(store: Store) -> Store:
    store.fill()
    return store


def make(store: Store, name: str = "one", **asked: Any) -> DatasetInfo:
    return store.datasets.create(DatasetRequest(name=name, model="har", **asked), "anna")


def test_a_dataset_is_made_listed_and_packed(on_both: Store, tmp_path: Path) -> None:
    unlabelled = on_both.sample("pi-7", minute=99)
    info = make(on_both)
    assert (info.rows, info.labelled, info.split_by, info.created_by) == (36, 36, "rank", "anna")
    assert sum(info.splits.values()) == 36
    assert [one.name for one in on_both.datasets.page(PAGE_ALL, "har").items] == ["one"]
    assert on_both.datasets.page(PAGE_ALL, "kws").items == []
    detail = on_both.datasets.get(info.id)
    assert (detail.info, detail.blobs_missing) == (info, 0)
    assert detail.document["left_out"] == {"unlabelled": 1}

    on_both.datasets.write_to("one", tmp_path / "folder")
    _, pieces = on_both.datasets.archive("one")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        archive.extractall(tmp_path, filter="data")
    one, other = open_folder(tmp_path / "folder"), open_folder(tmp_path / "one")
    assert one.dataset == other.dataset
    assert one.dataset.id == info.id
    rows = {row.sample: (row, arrays) for row, _, arrays in other.samples()}
    assert len(rows) == 36
    assert unlabelled not in rows
    row, arrays = min(rows.values(), key=lambda found: found[0].captured_at)
    assert (row.label, row.number, row.device, row.site) == ("sit", 0, "pi-0", "site-0")
    assert (row.answer, row.confidence) == (1, pytest.approx(0.7, abs=1e-6))
    assert (row.captured_at, row.reason, row.model_digest) == (START, "random", on_both.manifest)
    assert arrays["input.x"].tolist() == [[0, 0, 0, 0]]
    (train,) = (one for one in one.dataset.statistics.inputs if one.split == "train")
    assert train.low is not None
    assert train.high is not None
    assert train.low < train.high


def test_nothing_to_take_says_what_was_left_out(store: Store) -> None:
    for minute in range(3):
        store.sample("pi-1", minute=minute)
    with pytest.raises(ServerError) as caught:
        make(store, "june")
    assert caught.value.detail == "there is no sample of har as asked for; left out: 3 unlabelled"
    assert "--with-unlabelled" in caught.value.hint


def test_what_is_asked_for(filled: Store) -> None:
    filled.labelled("pi-1", "walk", minute=200, reason="uncertain", site="site-1")
    filled.sample("pi-1", minute=201)
    later = START + timedelta(minutes=30)
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 37), ({"labelled": False}, 38), ({"reasons": ["uncertain"]}, 1),
        ({"site": "site-1"}, 19), ({"site": "nowhere", "labelled": False}, -1),
        ({"since": later}, 7), ({"until": later}, 30), ({"reasons": ["asked"]}, -1),
    ]  # fmt: skip
    for number, (asked, rows) in enumerate(cases):
        if rows < 0:
            with pytest.raises(ServerError) as caught:
                make(filled, f"d{number}", **asked)
            assert caught.value.code == "dataset.empty", asked
        else:
            assert make(filled, f"d{number}", **asked).rows == rows, asked


def test_the_same_once_more_is_the_same(filled: Store) -> None:
    first = make(filled)
    assert make(filled) == first
    with pytest.raises(Conflict) as caught:
        make(filled, "two")
    assert (caught.value.code, caught.value.data["name"]) == ("dataset.exists", "one")
    with pytest.raises(Conflict) as caught:
        make(filled, "one", seed="other")
    assert caught.value.code == "dataset.name"
    blobs = _held(filled)
    assert len(blobs) == 37
    stored = [path for path in (filled.folder / "u").rglob("*") if path.is_file()]
    assert len(stored) == 37, "what was refused has left nothing"


def test_a_dataset_holds_what_the_samples_no_longer_do(on_both: Store, tmp_path: Path) -> None:
    info = make(on_both)
    sample = next(iter(on_both.annotations.page(PAGE_ALL, AnnotationFilter()).items)).sample
    with pytest.raises(Conflict) as caught:
        on_both.samples.delete(sample)
    assert (caught.value.code, caught.value.data) == ("sample.held", {"datasets": ["one"]})
    extra = on_both.labelled("pi-1", "walk", minute=300)
    digest = next(one.digest for one in on_both.samples.page(PAGE_ALL, SampleFilter()).items
                  if one.id == extra)  # fmt: skip
    on_both.now += timedelta(days=31)
    on_both.device_uploads.delete_old()
    assert on_both.samples.page(PAGE_ALL, SampleFilter()).items == []
    assert not on_both.uploads.exists(digest), "no dataset holds that one"
    on_both.datasets.write_to("one", tmp_path / "one")
    assert len(list(open_folder(tmp_path / "one").samples())) == 36

    second = make(on_both, "two", parent="one", seed="again")
    assert second.parent == info.id
    on_both.datasets.delete("one")
    assert on_both.datasets.get("two").blobs_missing == 0
    on_both.datasets.delete(second.id)
    assert _held(on_both) == set()
    assert not [path for path in (on_both.folder / "u").rglob("*") if path.is_file()]
    with pytest.raises(NotFound):
        on_both.datasets.get("one")


def test_a_dataset_continues_another(filled: Store) -> None:
    first = make(filled)
    before = {row.device: row.split for row in filled.datasets.samples("one")[1]}
    changed = filled.datasets.samples("one")[1][0]
    truth = AnnotationItem(sample=changed.sample, label="run")
    filled.annotations.take_in(AnnotationImport(items=[truth], truth=True), "ben")
    filled.labelled("pi-8", "sit", minute=500)
    filled.labelled("pi-0", "sit", minute=501)
    later = START + timedelta(minutes=400)
    second = make(filled, "two", parent=first.id, since=later)
    _, rows, _ = filled.datasets.samples("two")
    assert second.rows == 38
    assert next(row for row in rows if row.sample == changed.sample).label == changed.label
    third = make(filled, "three", parent="one")
    _, rows, _ = filled.datasets.samples("three")
    assert third.rows == 38
    assert next(row for row in rows if row.sample == changed.sample).label == "run"
    for row in rows:
        assert before.get(row.device, row.split) == row.split, "what tested never trains"

    other = filled.publish(contract(version="2", labels=("a", "b", "c")))
    filled.labelled("pi-1", "a", minute=600, manifest=other, version="2")
    fourth = make(filled, "four", parent="one")
    document = filled.datasets.get("four").document
    assert (fourth.rows, document["left_out"]) == (1, {"contract": 74})
    assert document["classes"] == ["a", "b", "c"]


def test_what_no_dataset_is_made_of(filled: Store) -> None:
    make(filled)
    small = filled.open_datasets(bytes_max=1000)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": "kws"}, "dataset.empty"),
        ({"ratios": (0.7, 0.1, 0.1)}, "dataset.ratios"),
        ({"parent": "nobody"}, "dataset.unknown"),
    ]
    for changes, code in cases:
        with pytest.raises(ServerError) as caught:
            filled.datasets.create(
                DatasetRequest(**({"name": "x", "model": "har"} | changes)), "anna"
            )
        assert caught.value.code == code
    with pytest.raises(Conflict) as caught:
        small.create(DatasetRequest(name="x", model="har", seed="s"), "anna")
    assert caught.value.code == "dataset.full"
    filled.labelled("pi-1", "walk", minute=700, model="kws")
    with pytest.raises(ServerError) as caught:
        filled.datasets.create(DatasetRequest(name="x", model="kws", parent="one"), "anna")
    assert caught.value.code == "dataset.parent"


def test_damaged_samples_are_left_out_and_damaged_datasets_found(filled: Store) -> None:
    sample = filled.labelled("pi-1", "walk", minute=800)
    digest = next(one.digest for one in filled.samples.page(PAGE_ALL, SampleFilter()).items
                  if one.id == sample)  # fmt: skip
    filled.uploads.delete(digest)
    info = make(filled)
    assert info.rows == 36
    assert filled.datasets.get("one").document["left_out"] == {"content": 1}
    filled.uploads.delete(f"sha256:{filled.datasets.samples('one')[1][0].blob}")
    assert filled.datasets.get("one").blobs_missing == 1
    with filled.database.write() as session:
        row = session.get_one(DatasetRow, info.id)
        row.document = msgspec.to_builtins(row.document) | {"model": "kws"}
    with pytest.raises(Unavailable) as caught:
        filled.datasets.archive("one")
    assert caught.value.code == "dataset.damaged"


def _held(store: Store) -> set[str]:
    with store.database.read() as session:
        return set(session.scalars(select(DatasetBlobRow.digest)))
