"""What a version keeps of its parent: golden inputs and edges that are as good as new ones."""

import numpy as np
import pytest

from edgectl_protocol.manifest import Scores
from edgectl_protocol.watching import decode_reference
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.golden_cases import choose_golden
from edgectl_server.pipeline.kept_golden import Cases, judge_kept, read_kept
from edgectl_server.pipeline.reference import make_reference
from edgectl_server.pipeline.spec import KeptVariant
from edgectl_server.storage.files import make_private_directory
from edgectl_statistics.features import Described
from pipeline.conftest import run

SCORES = Scores(output="scores", kind="logits")
LIMIT = 2**30


def samples_of(count=60, seed=0):
    random = np.random.default_rng(seed)
    return Samples(
        role="evaluation", inputs={"x": random.normal(size=(count, 3)).astype(np.float32)}
    )


def golden_file(path, **inputs):
    np.savez(path, **{f"input.{name}": array for name, array in inputs.items()}, **{"output.y": 1})
    return path


def test_only_inputs_of_the_same_contract_and_count_are_taken(tmp_path):
    samples = samples_of()
    good = np.ones((16, 3), np.float32)
    cases = {
        "good": {"x": good},
        "another name": {"z": good},
        "one more": {"x": good, "z": good},
        "another type": {"x": good.astype(np.float64)},
        "another shape": {"x": np.ones((16, 4), np.float32)},
        "too few": {"x": good[:15]},
    }
    taken = {}
    for name, inputs in cases.items():
        path = golden_file(tmp_path / "golden.npz", **inputs)
        taken[name] = read_kept(path, samples, count=16, bytes_max=LIMIT) is not None
    assert [name for name, found in taken.items() if found] == ["good"]
    path = golden_file(tmp_path / "golden.npz", x=good)
    assert read_kept(path, samples, count=16, bytes_max=100) is None
    (tmp_path / "golden.npz").write_bytes(b"no archive")
    assert read_kept(path, samples, count=16, bytes_max=LIMIT) is None
    np.savez(path, **{"input.x": np.array([{}], object)}, allow_pickle=True)
    assert read_kept(path, samples, count=1, bytes_max=LIMIT) is None


def judged(answers):
    """Judge kept cases of these scores; those of the new ones are 0 or 3, for every class."""
    samples = samples_of()
    outputs = {"scores": np.eye(4, dtype=np.float32)[np.arange(60) % 4] * 3}
    choice = choose_golden(samples, outputs, SCORES, count=16, seed=0)
    kept, chosen = samples.take(np.arange(16)), samples.take(choice.rows)
    wanted = {"scores": outputs["scores"][choice.rows]}
    given = Cases(kept, {"scores": answers.astype(np.float32)})
    return judge_kept(given, Cases(chosen, wanted), SCORES).problem


def test_inputs_are_kept_while_scores_of_every_class_spread():
    every = np.eye(4)[np.arange(16) % 4] * 3
    assert judged(every) == ""
    assert judged(every * 0.6) == ""
    assert judged(every * 0.4) == "scores of class 0 are too much alike"
    never_named = every.copy()
    never_named[3::4] = [2.5, 0, 0, 2]
    assert judged(never_named) == "", "class 3 is second, and a wrong score of it shows"
    never_named[3::4] = [2.5, 0, 0, 1]
    assert judged(never_named) == "scores of class 3 are too much alike"
    assert "no number" in judged(every * np.nan)


def test_inputs_of_a_regressor_are_kept_while_answers_spread():
    samples = samples_of()
    outputs = {"y": np.linspace(0, 10, 60, dtype=np.float32)[:, np.newaxis]}
    choice = choose_golden(samples, outputs, None, count=16, seed=0)
    chosen = Cases(samples.take(choice.rows), {"y": outputs["y"][choice.rows]})
    for spread, problem in ((6.0, ""), (4.0, "answers to them are too much alike")):
        answers = {"y": np.linspace(3, 3 + spread, 16, dtype=np.float32)[:, np.newaxis]}
        kept = Cases(samples.take(np.arange(16)), answers)
        assert judge_kept(kept, chosen, None).problem == problem


def feature_of(values, before=None):
    described = Described(values[:, np.newaxis], np.zeros(len(values), np.int64))
    samples = Samples(role="evaluation", inputs={"x": values})
    reference = None if before is None else type("R", (), {"features": (before,)})()
    (feature,) = make_reference(("f",), described, samples, reference)
    return feature


def test_edges_are_kept_while_they_cut_the_rows():
    random = np.random.default_rng(3)
    before = feature_of(random.normal(size=4000))
    near = feature_of(random.normal(0.3, 1.2, size=4000), before)
    assert near.edges == before.edges
    assert near.counts != before.counts
    assert sum(near.counts) == 4000
    far = feature_of(random.normal(3, 1, size=4000), before)
    assert far.edges != before.edges
    assert max(far.counts) < 4000 / 16


@pytest.mark.parametrize("values", [
    np.arange(256) / 255, -np.arange(1, 200) / 7, np.array([1e300, 1.7e308, -1.7e308, 0.0]),
    np.array([0.1234567] * 50), np.arange(10.0) + 1e9,
])  # fmt: skip
def test_edges_of_six_digits_cut_where_longer_ones_do(values):
    values = np.repeat(values.astype(np.float64), 20)
    feature = feature_of(values)
    assert all(float(f"{one:.6g}") == one for one in feature.edges)
    exact = np.unique(np.quantile(values, np.arange(1, 32) / 32))
    own = np.searchsorted(np.array(feature.edges), values, "right")
    assert np.all(np.isfinite(feature.edges))
    if len(exact) == len(feature.edges):
        assert np.array_equal(own, np.searchsorted(exact, values, "right"))


def test_a_push_keeps_what_is_as_good(tmp_path, activity, activity_run):
    """The same model with fewer data: inputs and edges stay, the counts are its own."""
    with np.load(activity / "eval.npz") as arrays:
        np.savez(tmp_path / "eval.npz", **{name: arrays[name][100:] for name in arrays.files})
    before = activity_run.directory / "fp32"
    again = run(
        make_private_directory(tmp_path / "run"),
        source=activity / "har_v1.onnx",
        evaluation=tmp_path / "eval.npz",
        precisions=("fp32",),
        kept=(
            KeptVariant(
                variant="fp32",
                golden=before / "golden.npz",
                reference=before / "reference.json",
            ),
        ),
    )
    assert again.result.report.golden == {"kept": 16}
    after = again.directory / "fp32"
    with np.load(before / "golden.npz") as old, np.load(after / "golden.npz") as new:
        assert set(old.files) == set(new.files)
        for name in old.files:
            assert np.array_equal(old[name], new[name]) or name.startswith("output.")
    first, second = (
        decode_reference((one / "reference.json").read_bytes()) for one in (before, after)
    )
    assert second.rows == first.rows - 100
    assert [one.edges for one in second.features] == [one.edges for one in first.features]
    assert [one.counts for one in second.features] != [one.counts for one in first.features]
