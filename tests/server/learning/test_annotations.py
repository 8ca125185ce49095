"""Labels of samples: who says what, what it amounts to, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from edgectl_server.annotations import AnnotationFilter, QueueQuery
from edgectl_server.errors import NotFound, Refused, ServerError
from edgectl_server.samples import SampleFilter
from edgectl_server.schemas import AnnotationImport, AnnotationItem
from edgectl_server.storage.tables import SampleRow
from server.fleet.fleet_helpers import PAGE_ALL
from server.learning.store import START, Store, contract


def test_several_labellers_of_one_sample(store: Store) -> None:
    sample = store.sample()
    put = store.annotations.put
    assert put(sample, "walk", "anna").sample.label == "walk"
    assert put(sample, "run", "ben").sample.label_state == "conflict"
    third = put(sample, None, "carla").sample
    assert (third.label_state, third.label) == ("conflict", None), "cannot tell is no vote"
    settled = put(sample, "walk", "carla")
    assert (settled.sample.label_state, settled.sample.label) == ("labelled", "walk")
    assert [(one.labeller, one.label) for one in settled.annotations] == [
        ("anna", "walk"), ("ben", "run"), ("carla", "walk"),
    ]  # fmt: skip
    assert store.annotations.remove(sample, "carla").sample.label_state == "conflict"
    assert store.annotations.remove(sample, "carla").sample.label_state == "conflict"
    truth = AnnotationImport(items=[AnnotationItem(sample=sample, label="sit")], truth=True)
    assert store.annotations.take_in(truth, "ben").changed == 1
    assert store.annotations.of_sample(sample).sample.label == "sit", "the field has seen it"
    assert store.annotations.take_in(truth, "ben").unchanged == 1
    found = store.annotations.page(PAGE_ALL, AnnotationFilter(model="har", source="field"))
    assert [(one.labeller, one.label, one.model) for one in found.items] == [("ben", "sit", "har")]
    labelled = SampleFilter(label_state="labelled", label="sit")
    assert [one.id for one in store.samples.page(PAGE_ALL, labelled).items] == [sample]


def test_what_no_label_can_be(small: Store) -> None:
    sample = small.sample()
    plain = small.sample(manifest=small.publish(contract(labels=(), scores=None)), minute=1)
    gone = small.sample(manifest="sha256:" + "9" * 64, minute=2)
    cases: list[tuple[str, str, str]] = [
        ("0" * 16, "sit", "sample.unknown"),
        (sample, "swim", "annotation.class"),
        (sample, "Sit", "annotation.class"),
        (plain, "sit", "annotation.classes"),
        (gone, "sit", "annotation.classes"),
    ]
    for at, label, code in cases:
        with pytest.raises(ServerError) as caught:
            small.annotations.put(at, label, "anna")
        assert caught.value.code == code, (at, label)
    numbered = small.sample(manifest=small.publish(contract(labels=())), minute=3)
    assert small.annotations.put(numbered, "2", "anna").sample.label == "2"
    with pytest.raises(Refused):
        small.annotations.put(numbered, "3", "anna")
    assert small.annotations.put(plain, None, "anna").sample.label_state == "skipped"


def test_an_import_is_judged_item_by_item(store: Store) -> None:
    one, other = store.sample(), store.sample("pi-2", minute=1)
    with store.database.write() as session:
        for sample in (one, other):
            session.get_one(SampleRow, sample).request = "r-7"
    items = [
        AnnotationItem(sample=one, label="walk", labeller="anna"),
        AnnotationItem(sample="f" * 16, label="walk"),
        AnnotationItem(sample=other, label="swim"),
        AnnotationItem(label="walk"),
        AnnotationItem(sample=one, request="r-7", label="walk"),
        AnnotationItem(request="r-7", label="walk"),
        AnnotationItem(request="r-8", label="walk"),
        AnnotationItem(request="r-7", device="pi-2", label="run"),
    ]
    asked = AnnotationImport(items=items, model="har")
    only = store.annotations.take_in(asked.model_copy(update={"check": True}), "ben")
    assert (only.changed, len(only.refused)) == (2, 6)
    assert store.annotations.of_sample(one).annotations == [], "it was only asked"
    found = store.annotations.take_in(asked, "ben")
    assert [(each.index, each.code) for each in found.refused] == [
        (1, "sample.unknown"), (2, "annotation.class"), (3, "annotation.item"),
        (4, "annotation.item"), (5, "annotation.ambiguous"), (6, "annotation.request"),
    ]  # fmt: skip
    assert (found.changed, found.unchanged) == (2, 0)
    again = store.annotations.take_in(asked, "ben")
    assert (again.changed, again.unchanged, len(again.refused)) == (0, 2, 6)
    assert store.annotations.of_sample(other).sample.label == "run"
    wrong = asked.model_copy(update={"model": "kws", "items": items[:1]})
    assert store.annotations.take_in(wrong, "ben").refused[0].code == "annotation.model"


def test_an_import_never_takes_the_place_of_what_somebody_said(small: Store) -> None:
    sample = small.labelled("pi-1", "walk")
    forged = AnnotationItem(sample=sample, label="sit", labeller="anna")
    small.annotations.take_in(AnnotationImport(items=[forged]), "mallory")
    found = small.annotations.of_sample(sample)
    assert [(one.source, one.labeller, one.label, one.entered_by) for one in found.annotations] == [
        ("person", "anna", "walk", "anna"), ("import", "anna", "sit", "mallory"),
    ]  # fmt: skip
    assert found.sample.label_state == "conflict"


def test_the_queue_begins_with_what_is_least_certain(store: Store) -> None:
    sure = store.sample(scores=(0.05, 0.9, 0.05))
    unsure = store.sample(minute=1, scores=(0.3, 0.4, 0.3), reason="uncertain")
    broken = store.sample(minute=2, scores=(0.3, float("nan"), 0.3))

    def queue(user: str = "anna", **asked: object) -> list[str]:
        return [one.id for one in store.annotations.queue("har", QueueQuery(**asked), user).items]

    assert queue() == [unsure, sure, broken]
    assert queue(first="newest") == [broken, unsure, sure]
    assert queue(reason="uncertain") == [unsure]
    found = store.annotations.queue("har", QueueQuery(limit=1), "anna")
    assert (found.classes, found.waiting, len(found.items)) == (["sit", "walk", "run"], 3, 1)
    assert (found.items[0].answer, found.items[0].confidence) == (1, pytest.approx(0.4))

    store.annotations.put(unsure, "walk", "anna")
    store.annotations.put(sure, None, "anna")
    assert queue() == [broken], "what she has seen does not come again"
    assert queue("ben") == [sure, broken], "what she cannot tell, another may"
    assert queue("ben", labellers=2) == [unsure, sure, broken]
    store.annotations.put(unsure, "run", "ben")
    assert queue("carla", first="conflict") == [unsure]
    assert store.annotations.queue("kws", QueueQuery(), "anna").items == []


def test_how_far_it_is(store: Store) -> None:
    for minute, (label, other, reason) in enumerate(
        [
            ("walk", "walk", "random"),
            ("walk", "walk", "random"),
            ("sit", "sit", "random"),
            ("run", "walk", "uncertain"),
            ("run", None, "uncertain"),
        ]
    ):
        sample = store.labelled("pi-1", label, minute=minute, reason=reason)
        store.annotations.put(sample, other, "ben")
    store.sample(minute=9)
    found = store.annotations.summary("har")
    assert found.states == {"labelled": 4, "conflict": 1, "unlabelled": 1}
    assert found.by_class == {"walk": 2, "sit": 1, "run": 1}
    assert found.by_reason == {"random": 1}
    assert found.labellers == {"anna": 5, "ben": 5}
    assert found.right == {"random": (2, 3), "uncertain": (0, 1)}
    (pair,) = found.pairs
    assert (pair.one, pair.other, pair.samples, pair.agreed) == ("anna", "ben", 4, 3)
    assert pair.kappa == pytest.approx((0.75 - 7 / 16) / (1 - 7 / 16))
    assert found.agreement == pytest.approx((0.75 - 30 / 64) / (1 - 30 / 64))
    assert store.annotations.summary("kws").classes == []


def test_annotations_go_with_their_sample(store: Store) -> None:
    kept, deleted, old = (store.labelled("pi-1", "walk", minute=minute) for minute in range(3))
    store.samples.delete(deleted)
    with store.database.write() as session:
        from edgectl_server.storage.tables import DeviceUpload

        row = session.get_one(SampleRow, old)
        session.get_one(DeviceUpload, row.upload).expires_at = START
    assert store.annotations.summary("har").states == {"labelled": 1}, "one is about to go"
    store.device_uploads.delete_old()
    found = store.annotations.page(PAGE_ALL, AnnotationFilter())
    assert [one.sample for one in found.items] == [kept]
    store.now += timedelta(days=31)
    store.device_uploads.delete_old()
    with pytest.raises(NotFound):
        store.annotations.of_sample(kept)


@pytest.mark.parametrize(
    ("shape", "scale", "kind"),
    [((3, 8, 10), 1.0, "image"), ((8, 10, 1), 255.0, "image"), ((6, 64), 3.0, "series")],
)
def test_content_is_ready_for_a_page(
    small: Store, shape: tuple[int, ...], scale: float, kind: str, decode_png: Callable
) -> None:
    import numpy as np

    from edgectl_protocol.manifest import TensorSpec

    values = np.random.default_rng(1).random(shape) * scale
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, *shape))
    manifest = small.publish(contract(inputs=(spec,)))
    sample = small.sample(values=values, manifest=manifest)
    found = small.annotations.content(sample)
    (shown,) = found.inputs
    assert (shown.kind, shown.shape) == (kind, [1, *shape])
    assert shown.low == pytest.approx(float(values.min()), rel=1e-5)
    (scores,) = found.outputs
    assert scores.names == found.classes == ["sit", "walk", "run"]
    assert scores.values == [0.2, 0.7, 0.1]
    if kind == "series":
        assert np.allclose(shown.channels, values, rtol=1e-4)
        assert shown.left_out == 0
        return
    assert shown.png is not None
    pixels = decode_png(shown.png)
    expected = np.moveaxis(values, 0, -1) if shape[0] == 3 else values[..., 0]
    assert np.abs(pixels / 255.0 * scale - expected).max() <= scale / 255


def test_content_is_bounded(small: Store) -> None:
    import numpy as np

    from edgectl_protocol.manifest import TensorSpec

    shapes = {"series": (70, 9000), "image": (3, 700, 400), "table": (300,)}
    for minute, (kind, shape) in enumerate(shapes.items()):
        spec = TensorSpec(name="x", datatype="FP32", shape=(-1, *shape))
        manifest = small.publish(contract(inputs=(spec,)))
        values = np.full(shape, np.nan, "<f4")
        sample = small.sample(values=values, manifest=manifest, minute=minute)
        content = small.annotations.content(sample)
        assert len(content.model_dump_json()) < 800_000, kind
        (shown,) = content.inputs
        assert (shown.low, shown.high) == (None, None)
        assert shown.left_out > 0 or shown.png
