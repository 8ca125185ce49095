"""What rows are described by: kinds by shape, numbers that mean what their names say."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgectl_protocol.manifest import Scores, TensorSpec
from edgectl_protocol.watching import FEATURES_MAX, Feature, WatchedTensor
from edgectl_statistics.dispersion import Dispersion, design_effects, dispersion
from edgectl_statistics.features import Bins, plan_of
from edgectl_statistics.tensors import describe, names_of, watched_tensor


@pytest.mark.parametrize(
    ("shape", "kind", "channels_last"),
    [
        ((6, 128), "series", False),
        ((128, 6), "series", True),
        ((3, 32, 32), "image", False),
        ((96, 96, 1), "image", True),
        ((1, 49, 32), "image", False),
        ((5,), "tabular", False),
        ((), "tabular", False),
        ((2, 3), "moments", False),
        ((7, 9, 11), "moments", False),
        ((2, 3, 4, 5), "moments", False),
    ],
)
def test_a_shape_says_the_kind(shape: tuple[int, ...], kind: str, channels_last: bool) -> None:
    found = watched_tensor("x", shape, "FP32")
    assert found is not None
    assert (found.kind, found.channels_last) == (kind, channels_last)
    rows = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
    assert describe(found, rows).shape == (4, len(names_of(found, shape)))


def test_texts_are_not_described() -> None:
    assert watched_tensor("x", (1,), "BYTES") is None


def by_name(shape: tuple[int, ...], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Describe rows and name the columns."""
    tensor = watched_tensor("x", shape, "FP32")
    assert tensor is not None
    names = [name.removeprefix("x.") for name in names_of(tensor, shape)]
    return dict(zip(names, describe(tensor, rows).T, strict=True))


def test_pictures_are_described_by_what_a_camera_does_to_them() -> None:
    random = np.random.default_rng(2)
    dull = random.uniform(0.4, 0.6, size=(8, 3, 32, 32)).astype(np.float32)
    seen = by_name((3, 32, 32), dull)
    bright = by_name((3, 32, 32), dull + np.float32(0.2))
    assert bright["brightness"] == pytest.approx(seen["brightness"] + 0.2, abs=1e-5)
    assert bright["contrast"] == pytest.approx(seen["contrast"], abs=1e-5)
    strong = by_name((3, 32, 32), (dull - dull.mean()) * 2 + dull.mean())
    assert np.all(strong["contrast"] > 1.5 * seen["contrast"])
    blurred = (dull + np.roll(dull, 1, axis=3)) / 2
    assert np.all(by_name((3, 32, 32), blurred)["sharpness"] < seen["sharpness"])
    red = dull.copy()
    red[:, 0] += 0.3
    assert np.all(by_name((3, 32, 32), red)["red"] > seen["red"] + 0.15)
    assert np.all(by_name((3, 32, 32), np.clip(dull, 0.5, 0.55))["clipped"] > 0.5)
    # The same pictures with the channels last are the same pictures.
    last = by_name((32, 32, 3), np.moveaxis(dull, 1, -1))
    assert last["sharpness"] == pytest.approx(seen["sharpness"], rel=1e-5)


def test_the_power_of_a_series_is_in_the_band_of_its_frequency() -> None:
    time = np.arange(120)
    for frequency, band in ((5, "low"), (30, "middle"), (55, "high")):
        wave = np.sin(2 * np.pi * frequency * time / 120)
        rows = np.stack([wave, np.zeros(120)])[np.newaxis].astype(np.float32)
        seen = by_name((2, 120), rows)
        bands = {one: float(seen[f"0.{one}"][0]) for one in ("low", "middle", "high")}
        assert max(bands, key=lambda one: bands[one]) == band
        assert seen["0.deviation"][0] == pytest.approx(np.sqrt(0.5), rel=1e-3)
        assert seen["1.low"][0] == pytest.approx(-12)


def test_what_is_no_number_stays_none() -> None:
    rows = np.ones((2, 2, 64), np.float32)
    rows[1, 0, 3] = np.nan
    seen = by_name((2, 64), rows)
    assert np.isfinite([values[0] for values in seen.values()]).all()
    assert np.isnan(seen["0.mean"][1])
    assert np.isfinite(seen["1.mean"][1])


def test_scores_are_described_by_confidence_margin_and_entropy() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]], np.float32))
    output = TensorSpec(name="y", datatype="FP32", shape=(-1, 3))
    given = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    plan = plan_of([given], [output], Scores(output="y", kind="logits"))
    assert plan is not None
    inputs, outputs = {"x": np.zeros((2, 2), np.float32)}, {"y": logits}
    assert plan.names(inputs, outputs)[:3] == ("confidence", "margin", "entropy")
    found = plan.describe(inputs, outputs)
    assert found.values[0, :2] == pytest.approx([0.7, 0.5], abs=1e-6)
    assert found.values[1, 2] == pytest.approx(np.log(3), abs=1e-6)
    assert found.classes[0] == 0


def test_integers_that_stand_for_scores_are_taken_as_what_they_stand_for() -> None:
    output = TensorSpec(name="y", datatype="INT8", shape=(-1, 2))
    scores = Scores(output="y", kind="probabilities", scale=1 / 256, zero_point=-128)
    plan = plan_of([], [output], scores)
    assert plan is not None
    found = plan.describe({}, {"y": np.array([[64, -64]], np.int8)})
    assert found.values[0, 0] == pytest.approx(0.75)


def test_a_model_without_classes_has_its_answers_described() -> None:
    output = TensorSpec(name="y", datatype="FP32", shape=(-1, 1))
    wide = TensorSpec(name="z", datatype="FP32", shape=(-1, 500))
    plan = plan_of([TensorSpec(name="x", datatype="BYTES", shape=(-1, 1))], [output, wide], None)
    assert plan is not None
    assert [one.kind for one in plan.outputs] == ["tabular", "embedding"]
    many = [TensorSpec(name=f"x{n}", datatype="FP32", shape=(-1, 32)) for n in range(4)]
    plan = plan_of(many, [output], None)
    assert plan is not None
    arrays = {one.name: np.zeros((1, 32), np.float32) for one in many} | {"y": np.zeros((1, 1))}
    assert plan.describe(arrays, arrays).values.shape == (1, FEATURES_MAX)


def test_a_classifier_has_its_embedding_described_beside_its_scores() -> None:
    given = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    scores = TensorSpec(name="y", datatype="FP32", shape=(-1, 20))
    embedding = TensorSpec(name="e", datatype="FP32", shape=(-1, 64))
    small = TensorSpec(name="s", datatype="FP32", shape=(-1, 3))
    plan = plan_of([given], [scores, embedding, small], Scores(output="y", kind="logits"))
    assert plan is not None
    assert [(one.name, one.kind) for one in plan.outputs] == [("e", "embedding")]
    random = np.random.default_rng(4)
    rows = random.normal(size=(4000, 64)).astype(np.float32)
    inputs = {"x": np.zeros((4000, 2), np.float32)}
    outputs = {"y": np.zeros((4000, 20), np.float32), "e": rows}
    names = plan.names(inputs, outputs)
    assert names[-9:] == ("e.length", *(f"e.projection.{n}" for n in range(8)))
    found = plan.describe(inputs, outputs).values[:, -9:]
    np.testing.assert_allclose(found[:, 0], np.linalg.norm(rows, axis=1), rtol=1e-6)
    # Of independent numbers of variance 1 each has variance 1, and tells little of the others.
    np.testing.assert_allclose(np.cov(found[:, 1:].T), np.eye(8), atol=0.4)
    moved = rows + 0.5 * random.choice([-1, 1], 64).astype(np.float32)
    change = plan.describe(inputs, outputs | {"e": moved}).values[:, -8:] - found[:, -8:]
    assert np.abs(change.mean(axis=0)).max() > 0.5, "a move in any direction is seen in some"


def test_projections_are_the_same_everywhere() -> None:
    """The first signs of two of them, as SHAKE-256 gives them elsewhere too."""
    seen = describe(WatchedTensor(name="e", kind="embedding"), np.eye(16, dtype=np.float32))
    assert (np.abs(seen[:, 1:]) == 0.25).all()
    for number in (0, 7):
        bits = hashlib.shake_256(f"edgectl projection {number}".encode()).digest(2)
        expected = [1 if byte >> (7 - bit) & 1 else -1 for byte in bits for bit in range(8)]
        assert (np.sign(seen[:, 1 + number]) == expected).all()
    broken = np.full((1, 16), np.nan, np.float32)
    assert np.isnan(describe(WatchedTensor(name="e", kind="embedding"), broken)).all()


def test_bins_count_as_the_edges_say() -> None:
    features = [
        Feature(name="a", edges=(0.0, 1.0), counts=(1, 1, 1), low=-1.0, high=2.0),
        Feature(name="b", edges=(5.0,), counts=(1, 1), low=0.0, high=9.0),
    ]
    bins = Bins(features)
    nan = np.nan
    bins.add(np.array([[-5.0, 5.0], [0.0, 4.9], [1.0, nan], [0.5, 99.0]]))
    assert bins.histograms() == ((1, 2, 1), (1, 2))
    assert bins.missing.tolist() == [0, 1]
    assert bins.outside.tolist() == [1, 1]
    bins.clear()
    assert bins.histograms() == ((0, 0, 0), (0, 0))


def test_independent_rows_are_worth_themselves_and_correlated_ones_less() -> None:
    random = np.random.default_rng(3)
    edges = np.linspace(-2, 2, 31)

    def blocks(levels: np.ndarray) -> np.ndarray:
        rows = levels[:, np.newaxis] + random.normal(size=(len(levels), 100))
        return np.stack([np.bincount(np.searchsorted(edges, row), minlength=32) for row in rows])

    (independent,) = design_effects([[dispersion(blocks(np.zeros(400)))]])
    assert independent == pytest.approx(1.0, abs=0.2)
    # Each block has a level of its own with variance 0.25: one block is worth few rows.
    (correlated,) = design_effects([[dispersion(blocks(random.normal(scale=0.5, size=400)))]])
    assert 10 < correlated < 30
    assert design_effects([[dispersion(np.array([[5, 5]]))]]) == [1.0], "one block says nothing"
    assert design_effects([]) == []


def test_independent_counts_vary_as_they_should() -> None:
    """Mean and variance of what is found, over many windows of independent rows, for any edges."""
    random = np.random.default_rng(4)
    for shares in (np.full(32, 1 / 32), np.array([0.3, 0.7]), np.array([0.9, 0.05, 0.05])):
        parts = [dispersion(random.multinomial(300, shares, size=6)) for _ in range(3000)]
        found = np.array([one.found for one in parts])
        assert found.mean() == pytest.approx(parts[0].freedom, rel=0.03)
        assert found.var() == pytest.approx(np.mean([one.variance for one in parts]), rel=0.15)
    # Anderson and Darling: over edges everywhere it is 2 (pi² - 9) / 3 for each degree of freedom.
    dense = dispersion(random.multinomial(10**6, np.full(1000, 1e-3), size=2))
    assert dense.variance == pytest.approx(2 * (np.pi**2 - 9) / 3, rel=0.02)


def test_few_blocks_learn_of_a_design_effect_from_all_features() -> None:
    """Two features of independent rows among ten, or all of them: the same six windows."""
    random = np.random.default_rng(5)
    edges = np.linspace(-2, 2, 31)

    def feature(scale: float) -> list[Dispersion]:
        levels = random.normal(scale=scale, size=(6, 1))
        rows = levels + np.sqrt(1 - scale**2) * random.normal(size=(6, 200))
        counts = [np.bincount(np.searchsorted(edges, row), minlength=32) for row in rows]
        return [dispersion(np.stack(counts))]

    alike = [design_effects([feature(0.0) for _ in range(10)]) for _ in range(100)]
    alone = [design_effects([feature(0.0)]) for _ in range(100)]
    assert np.mean(alike) < 1.1
    assert np.mean(alone) > 1.15
    mixed = [
        design_effects([*(feature(0.0) for _ in range(8)), *(feature(0.4) for _ in range(2))])
        for _ in range(100)
    ]
    effects = np.mean(mixed, axis=0)  # of the two the true one is 1 + 199 * 0.16 = 33
    assert effects[8:].min() > 20, "a feature apart keeps its own"
    assert effects[:8].max() < 10
    constant = design_effects([[dispersion(np.array([[90, 0]] * 6))], feature(0.9)])
    assert constant[0] == constant[1] > 10, "what does not vary is no better known than the rest"
