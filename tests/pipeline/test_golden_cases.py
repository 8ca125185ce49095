"""Golden cases: what is chosen, always the same, and what it finds that random samples do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl_protocol.chunks import BLOB_BYTES_MAX
from edgectl_protocol.manifest import Scores, TensorSpec
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Runner
from edgectl_server.pipeline.golden import write_golden
from edgectl_server.pipeline.golden_cases import choose_golden, fitting_cases
from edgectl_server.pipeline.scoring import find_scores
from edgectl_server.pipeline.search import search
from edgectl_server.pipeline.spec import PipelineSpec

SCORES = Scores(output="scores", kind="logits")


def made(count, classes, seed, *, ties=False):
    """Return samples and class scores for them; with `ties` many of the scores are equal."""
    random = np.random.default_rng(seed)
    inputs = {"x": random.normal(size=(count, 3)).astype(np.float32)}
    scores = random.normal(size=(count, classes)).astype(np.float32)
    scores += random.exponential(size=classes).astype(np.float32)  # some classes are rare
    if ties:
        scores = scores.round()
    labels = random.integers(0, classes, count)
    return Samples(role="evaluation", inputs=inputs, labels=labels), {"scores": scores}


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200),
    classes=st.integers(2, 40),
    wanted=st.integers(1, 64),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
)
def test_classes_are_covered_and_the_closest_call_is_there(count, classes, wanted, seed, ties):
    samples, outputs = made(count, classes, seed, ties=ties)
    chosen = choose_golden(samples, outputs, SCORES, count=wanted, seed=seed)
    assert len(set(chosen.rows)) == len(chosen.rows) == min(wanted, count)
    assert list(chosen.rows) == sorted(chosen.rows)
    assert 0 <= min(chosen.rows) <= max(chosen.rows) < count
    assert sum(chosen.kinds.values()) == len(chosen.rows)
    predicted = outputs["scores"].argmax(axis=1)
    covered = len(set(predicted[chosen.rows]))
    assert covered == min(len(set(predicted)), len(chosen.rows))
    top = np.sort(outputs["scores"].astype(np.float64), axis=1)
    margins = top[:, -1] - top[:, -2]
    if chosen.kinds.get("closest"):
        assert margins[chosen.rows].min() == margins.min()
    again = choose_golden(samples, outputs, SCORES, count=wanted, seed=seed)
    assert np.array_equal(again.rows, chosen.rows)
    assert again.kinds == chosen.kinds


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), wanted=st.integers(1, 64), seed=st.integers(0, 2**32 - 1))
def test_a_regressor_is_seen_over_its_whole_range(count, wanted, seed):
    random = np.random.default_rng(seed)
    samples = Samples(role="calibration", inputs={"x": random.normal(size=(count, 2))})
    outputs = {"y": random.exponential(size=(count, 1)).astype(np.float32)}
    chosen = choose_golden(samples, outputs, None, count=wanted, seed=seed)
    assert len(set(chosen.rows)) == len(chosen.rows) == min(wanted, count)
    answers = outputs["y"][:, 0]
    if wanted >= 2:
        assert answers[chosen.rows].min() == answers.min()
        assert answers[chosen.rows].max() == answers.max()
    if wanted >= 16 and count >= 100:  # no gap of more than two of the eight places
        ranks = np.sort(np.argsort(np.argsort(answers))[chosen.rows])
        assert np.diff(ranks).max() <= 2 * count / 7


def test_an_autoencoder_is_judged_by_how_well_it_rebuilds():
    inputs = np.zeros((100, 4), np.float32)
    rebuilt = np.zeros((100, 4), np.float32)
    rebuilt[37] = 5.0  # an anomaly, whose output is not like its input
    samples = Samples(role="evaluation", inputs={"x": inputs})
    assert 37 in choose_golden(samples, {"y": rebuilt}, None, count=4, seed=0).rows


def test_the_largest_inputs_are_there():
    samples, outputs = made(500, 4, 1)
    samples.inputs["x"][123, 1] = -900.0
    chosen = choose_golden(samples, outputs, SCORES, count=16, seed=0)
    assert 123 in chosen.rows
    assert chosen.kinds["largest"] >= 2


def test_a_call_within_the_noise_is_no_case_where_the_very_class_is_compared():
    samples, outputs = made(500, 2, 3)
    outputs["scores"][7] = (1.0, 1.0 + 1e-6)
    assert 7 in choose_golden(samples, outputs, SCORES, count=16, seed=0).rows
    outputs["label"] = outputs["scores"].argmax(axis=1)
    assert 7 not in choose_golden(samples, outputs, SCORES, count=16, seed=0).rows


def pictures(count, side):
    return np.broadcast_to(np.float32(0), (count, 3, side, side))


@pytest.mark.parametrize(("side", "cases"), [(224, 222), (1024, 10), (3200, 1)])
def test_no_more_cases_than_a_device_can_fetch(side, cases):
    samples = Samples(role="evaluation", inputs={"x": pictures(40, side)})
    outputs = {"y": pictures(40, side)}
    assert fitting_cases(samples, outputs) == cases
    case = 2 * 3 * 4 * side**2
    assert cases * case < BLOB_BYTES_MAX < (cases + 1) * case + 2**20


def test_a_sample_that_no_device_can_fetch_is_refused():
    samples = Samples(role="random", inputs={"x": pictures(1, 3400)})
    with pytest.raises(PipelineRefused) as caught:
        fitting_cases(samples, {"y": pictures(1, 3400)})
    assert (caught.value.code, bool(caught.value.hint)) == ("model.shape", True)


def test_a_run_makes_no_more_cases_than_fit(tmp_path, monkeypatch):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["N", 8])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 8])],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "source.onnx")
    monkeypatch.setattr("edgectl_server.pipeline.golden_cases._FILE_BYTES_MAX", 5 * 2 * 8 * 4)
    spec = PipelineSpec(
        model="m", version="1", source=tmp_path / "source.onnx", precisions=("fp32",)
    )
    (candidate,) = search(spec, tmp_path, lambda _: None).candidates
    assert candidate.golden.cases == 5


def test_numbers_that_are_none_are_survived():
    samples, outputs = made(20, 3, 5)
    outputs["scores"][3] = np.nan
    outputs["scores"][4] = np.inf
    assert len(choose_golden(samples, outputs, SCORES, count=8, seed=0).rows) == 8
    assert len(choose_golden(samples, outputs, None, count=8, seed=0).rows) == 8


# ---------------------------------------------------------------- on a real model


class Real:
    """The activity model, its evaluation data, and damaged copies of it."""

    def __init__(self, activity, directory):
        self.model = onnx.load(activity / "har_v1.onnx")
        data = np.load(activity / "eval.npz")
        x = data["input"][:600]
        self.inputs = (TensorSpec(name="input", datatype="FP32", shape=(-1, *x.shape[1:])),)
        self.samples = Samples(role="evaluation", inputs={"input": x}, labels=data["label"][:600])
        self.file = directory / "model.onnx"
        self.outputs = self.run(self.model)
        self.scores = find_scores(self.outputs)
        self.head = next(
            one
            for one in self.model.graph.initializer
            if list(one.dims)[:1] == [7] and len(one.dims) == 2
        )

    def runner(self, model):
        onnx.save(model, self.file)
        return Runner(self.file, self.inputs)

    def run(self, model):
        return self.runner(model).run(self.samples)

    def with_head(self, weights):
        """Return the outputs of a copy with other weights in its last layer."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        for one in copy.graph.initializer:
            if one.name == self.head.name:
                one.CopyFrom(onnx.numpy_helper.from_array(weights.astype(np.float32), one.name))
        return self.run(copy)


@pytest.fixture(scope="module")
def real(activity, tmp_path_factory):
    return Real(activity, tmp_path_factory.mktemp("real"))


def finds(golden, wanted, got, rows):
    """Say whether a device would turn the variant down: the rule of `edgectl_agent.golden`."""
    good = np.ones(len(rows), bool)
    for name, tolerance in golden.tolerances.items():
        right = wanted[name][rows].astype(np.float64)
        wrong = np.abs(got[name][rows] - right) > tolerance.atol + tolerance.rtol * np.abs(right)
        good &= ~wrong.reshape(len(rows), -1).any(axis=1)
    return bool(good.mean() < golden.agreement_min)


def test_damage_of_a_real_model_is_found_as_often_as_by_random_cases(real, tmp_path):
    """Perturbs one class of the last layer, and swaps two labels; counts what each choice finds."""
    runner = real.runner(real.model)
    random = np.random.default_rng(11)
    weights = onnx.numpy_helper.to_array(real.head)
    damaged = []
    for strength in (0.003, 0.01, 0.03, 0.1):
        for name in range(7):
            worse = weights.copy()
            worse[name] += random.normal(size=worse[name].shape) * strength * weights.std()
            damaged.append(real.with_head(worse))
    for left, right in ((0, 6), (3, 4), (1, 2)):
        order = np.arange(7)
        order[[left, right]] = right, left
        damaged.append({name: values[:, order] for name, values in real.outputs.items()})

    def found(rows):
        cases = real.samples.take(rows)
        golden, _ = write_golden(tmp_path / "golden.npz", runner, cases)
        return [finds(golden, real.outputs, got, rows) for got in damaged]

    ours = choose_golden(real.samples, real.outputs, real.scores, count=16, seed=0)
    named = len(set(real.outputs["logits"][ours.rows].argmax(1)))
    assert named == 7
    assert set(ours.kinds) >= {"closest", "class", "confident", "largest"}
    by_ours = found(ours.rows)
    draws = [np.sort(random.choice(600, 16, replace=False)) for _ in range(20)]
    by_random = np.mean([found(rows) for rows in draws], axis=0)
    covered = np.mean([len(set(real.outputs["logits"][rows].argmax(1))) for rows in draws])
    print(f"found of {len(damaged)}: chosen {sum(by_ours)}, random {by_random.sum():.2f}")
    print(f"classes among the cases, of 7: chosen {named}, random {covered:.1f}")
    assert all(by_ours[-3:]), "a swapped label order is always found"
    assert sum(by_ours) >= by_random.sum()
    assert named > covered


def test_golden_cases_of_the_pipeline_are_the_chosen_ones(activity_run):
    kinds = activity_run.result.report.golden
    assert sum(kinds.values()) == activity_run.spec.limits.golden_cases
    assert kinds["closest"] >= 1
    golden = np.load(activity_run.directory / "fp32/golden.npz", allow_pickle=False)
    assert len(set(golden["output.logits"].argmax(axis=1))) == 7
