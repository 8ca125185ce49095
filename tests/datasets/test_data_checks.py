"""Rules of data: each finds what it is for, and nothing in sound data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from datasets.made import CLASSES, INPUTS, Made, blob_of, make
from edgectl_datasets.checks import CHECKS, Bounds, Finding, check
from edgectl_datasets.documents import Row, SplitRule
from edgectl_datasets.facts import gather
from edgectl_datasets.samples import read_sample
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.watching import Feature, Reference, WatchedTensor
from edgectl_statistics.tensors import names_of

SOUND = make(devices=9, each=24)
TENSOR = WatchedTensor(name="x", kind="tabular")


def reference_of(values: np.ndarray, rows: int = 5000) -> Reference:
    features = []
    for name, column in zip(names_of(TENSOR, (4,)), values.T, strict=True):
        edges = np.quantile(column, np.linspace(0, 1, 11)[1:-1])
        counts = np.bincount(np.searchsorted(edges, column, side="right"), minlength=10)
        features.append(
            Feature(name=name, edges=tuple(edges), counts=tuple(map(int, counts)),
                    low=float(column.min()), high=float(column.max()))
        )  # fmt: skip
    return Reference(definition=1, source="evaluation", dataset="sha256:" + "c" * 64,
                     rows=rows, inputs=(TENSOR,), features=tuple(features))  # fmt: skip


def usual(seed: int = 7) -> np.ndarray:
    numbers = np.random.default_rng(seed)
    return numbers.normal(numbers.integers(0, 3, (5000, 1)), 0.5, (5000, 4))


def find(made: Made, bounds: Bounds | None = None, **known: Any) -> dict[str, Finding]:
    samples = [(row, read_sample(made.blobs[row.blob])[1]) for row in made.rows]
    facts = gather(made.dataset, made.rows, samples, **known)
    return {one.check: one for one in check(facts, bounds)}


def statuses(found: dict[str, Finding]) -> dict[str, str]:
    return {name: one.status for name, one in found.items() if one.status != "passed"}


def test_sound_data_passes_everything() -> None:
    found = find(SOUND, reference=reference_of(usual()), model_inputs=INPUTS)
    assert statuses(found) == {}
    assert list(found) == list(CHECKS)
    assert statuses(find(SOUND)) == {"ranges": "not_enough_data"}


def with_blob(made: Made, number: int, content: bytes) -> Made:
    from hashlib import sha256

    name = sha256(content).hexdigest()
    rows = list(made.rows)
    rows[number] = rows[number]._replace(blob=name)
    return Made(made.dataset, tuple(rows), made.blobs | {name: content})


def change(made: Made, wanted: Callable[[Row], bool], **fields: Any) -> Made:
    return made.with_rows([row._replace(**fields) if wanted(row) else row for row in made.rows])


def splits_of(made: Made, label: str) -> Sequence[str]:
    return [row.split for row in made.rows if row.label == label]


CASES: dict[str, tuple[Callable[[], Made], dict[str, str], str]] = {
    "another shape": (
        lambda: with_blob(SOUND, 3, blob_of([1, 2, 3])), {"schema": "failed"}, "[1, 3]",
    ),
    "no number": (
        lambda: with_blob(SOUND, 3, blob_of([1, 2, float("nan"), 3])),
        {"finite": "failed"},
        "1 samples",
    ),
    "a class that is not in train": (
        lambda: SOUND.with_rows(
            [row for row in SOUND.rows if row.split != "train" or row.label != "run"]
        ),
        {"classes": "failed", "rows": "failed"},
        "run",
    ),
    "a class that is not in test": (
        lambda: SOUND.with_rows(
            [row for row in SOUND.rows if row.split != "test" or row.label != "run"]
        ),
        {"classes": "warning"},
        "not in test: run",
    ),
    "a device in two splits": (
        lambda: change(SOUND, lambda row: row == SOUND.rows[0], split="test"),
        {"devices": "failed"},
        SOUND.rows[0].device,
    ),
    "an input with two labels": (
        lambda: change(
            with_blob(SOUND, 9, SOUND.blobs[SOUND.rows[0].blob]),
            lambda row: row.sample == SOUND.rows[9].sample,
            label="run", number=2,
        ),
        {"labels": "failed", "duplicates": "warning"},
        "1 inputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found(name: str) -> None:
    made, expected, said = CASES[name]
    found = find(made())
    assert statuses(found) == expected | {"ranges": "not_enough_data"}
    assert any(said in found[one].detail for one in expected), found


def test_an_input_in_two_splits() -> None:
    one = next(n for n, row in enumerate(SOUND.rows) if row.split == "train")
    other = next(
        n for n, row in enumerate(SOUND.rows)
        if row.split == "test" and row.label == SOUND.rows[one].label
    )  # fmt: skip
    found = find(with_blob(SOUND, other, SOUND.blobs[SOUND.rows[one].blob]))["duplicates"]
    assert found.status == "failed"
    assert set(found.samples) == {SOUND.rows[one].sample, SOUND.rows[other].sample}


def test_splits_by_time_leak_and_are_told() -> None:
    made = make(devices=1, each=60)
    assert made.dataset.split.by == "time"
    assert find(made)["devices"].status == "warning"
    rule = SplitRule(by="device", ratios=(0.7, 0.15, 0.15))
    lied = made._replace(dataset=msgspec.structs.replace(made.dataset, split=rule))
    assert find(lied)["devices"].status == "failed"


def test_ranges_against_the_reference() -> None:
    shifted = reference_of(usual() + 0.5)
    found = find(SOUND, reference=shifted)["ranges"]
    assert found.status == "warning"
    assert "distance" in found.detail
    far = find(SOUND, reference=reference_of(usual() + 30))["ranges"]
    assert (far.status, "100%" in far.detail) == ("failed", True)
    few = find(make(devices=3, each=3), reference=reference_of(usual()))["ranges"]
    assert few.status == "not_enough_data"


def test_alarms_without_cause_are_rare() -> None:
    """Of 60 sound datasets, with four features each; the level of one feature is 0.001."""
    reference = reference_of(usual())
    found = [find(make(devices=9, each=24, seed=seed), reference=reference) for seed in range(60)]
    assert sum(one["ranges"].status != "passed" for one in found) <= 1


def test_bounds_and_models_without_classes() -> None:
    assert find(SOUND, Bounds(class_rows_min=1000))["rows"].status == "failed"
    other = (TensorSpec(name="x", datatype="FP32", shape=(-1, 5)),)
    assert find(SOUND, model_inputs=other)["schema"].status == "failed"
    bare = make(classes=())
    rows = [row._replace(label=None, number=-1) for row in bare.rows]
    found = find(bare.with_rows(rows))
    none = ("ranges", "classes", "rows", "labels")
    assert statuses(found) == dict.fromkeys(none, "not_enough_data")
    assert CLASSES[0] == "sit"
