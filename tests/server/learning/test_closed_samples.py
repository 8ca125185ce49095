"""Samples that came sealed: opened ones are as any, closed ones are in nothing that looks in."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgectl_protocol.sealed_samples import sample_key_id
from edgectl_server.annotations import QueueQuery
from edgectl_server.errors import Refused
from edgectl_server.schemas import AnnotationImport, AnnotationItem, DatasetRequest
from server.learning.store import KEY, Store


def asked(**changes: object) -> DatasetRequest:
    return DatasetRequest.model_validate({"name": "one", "model": "har", **changes})


def test_a_dataset_holds_what_an_opened_sample_is_kept_as(store: Store) -> None:
    """Its upload has the digest of the sealed one, which nothing is kept under."""
    first = store.labelled("pi-1", "walk", came="sealed")
    store.labelled("pi-2", "run", minute=1, values=(4, 5, 6, 7), came="sealed")
    info = store.datasets.create(asked(), "anna")
    assert info.rows == 2
    digest = store.annotations.of_sample(first).sample.digest
    store.now += timedelta(days=40)
    store.device_uploads.delete_old()
    assert store.uploads.exists(digest), "the dataset holds it"
    store.datasets.delete("one")
    assert not store.uploads.exists(digest)


def test_a_closed_sample_is_shown_to_nobody_and_waits_for_nobody(store: Store) -> None:
    closed = store.sample(came="closed", request="r-1")
    opened = store.sample("pi-2", minute=1)
    with pytest.raises(Refused) as caught:
        store.annotations.content(closed)
    assert caught.value.code == "sample.sealed"
    assert "--key FILE" in caught.value.hint
    queue = store.annotations.queue("har", QueueQuery(), "anna")
    assert ([one.id for one in queue.items], queue.waiting, queue.sealed) == ([opened], 1, 1)
    info = store.annotations.of_sample(closed).sample
    assert (info.key, info.sealed, info.answer) == (sample_key_id(KEY), True, -1)


def test_who_has_the_key_says_what_a_closed_sample_is(store: Store) -> None:
    closed = store.sample(came="closed", request="r-1")
    items = [AnnotationItem(request="r-1", label="walk")]
    result = store.annotations.take_in(AnnotationImport(items=items), "anna")
    assert (result.changed, result.refused) == (1, [])
    assert store.annotations.of_sample(closed).sample.label == "walk"


def test_a_dataset_has_no_closed_sample_and_one_of_them_alone_is_refused(store: Store) -> None:
    for minute in range(3):
        store.labelled("pi-1", "walk", minute=minute, came="closed")
    with pytest.raises(Refused) as caught:
        store.datasets.create(asked(), "anna")
    assert caught.value.code == "dataset.sealed"
    assert "3 samples of har are sealed" in caught.value.detail
    assert "--seal server" in caught.value.hint
    store.labelled("pi-2", "run", minute=5)
    info = store.datasets.create(asked(), "anna")
    assert info.rows == 1
    assert store.datasets.get("one").document["left_out"] == {"sealed": 3}
