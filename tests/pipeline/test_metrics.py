"""Each metric against scikit-learn or pycocotools, on random and on real data, and its refusals."""

import math

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, mean_squared_error, roc_auc_score, top_k_accuracy_score

from edgectl_protocol.manifest import Scores
from edgectl_server.pipeline.metrics import (
    METRICS,
    POINTS_MAX,
    Answers,
    NotMeasurable,
    auc_of_ranks,
    is_reconstruction,
    points,
)

seeds = st.integers(0, 2**32 - 1)


def classifier(scores, labels, kind="logits", **more):
    return Answers(
        outputs={"y": scores},
        labels=labels,
        inputs={},
        scores=Scores(output="y", kind=kind),
        **more,
    )


def value(name, answers):
    found = METRICS[name].value(answers)
    assert math.isfinite(found)
    assert METRICS[name].lowest <= found <= METRICS[name].highest
    return found


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


# ---------------------------------------------------------------- classes


@given(seeds, st.integers(1, 60), st.integers(2, 9))
def test_classes_as_scikit_learn_has_them(seed, count, classes):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    labels = random.integers(0, classes, count)
    answers = classifier(logits, labels)
    predicted = logits.argmax(axis=1)
    assert value("accuracy", answers) == pytest.approx(np.mean(predicted == labels))
    wanted = f1_score(labels, predicted, average="macro", zero_division=0)
    assert value("f1", answers) == pytest.approx(wanted)
    if classes > 5:
        wanted = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(classes))
        assert value("top5", answers) == pytest.approx(wanted)
    else:
        with pytest.raises(NotMeasurable, match="among the best 5"):
            value("top5", answers)


@given(seeds, st.integers(1, 40))
def test_top5_counts_no_more_than_five_of_equal_scores(seed, count):
    """What saturates is equal: a constant model names the classes 0 to 4, and no other."""
    labels = np.random.default_rng(seed).integers(0, 10, count)
    answers = classifier(np.zeros((count, 10), np.float32), labels)
    assert value("top5", answers) == np.mean(labels < 5)


def test_the_models_own_class_counts_before_its_scores():
    answers = Answers(
        outputs={"label": np.array([7, 9]), "p": np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)},
        labels=np.array([7, 7]),
        inputs={},
        scores=Scores(output="p", kind="probabilities"),
    )
    assert value("accuracy", answers) == 0.5


def test_f1_of_labels_that_are_no_small_numbers():
    huge = np.array([2**62, -5, 2**62, 3])
    answers = Answers(outputs={"label": huge.copy()}, labels=huge, inputs={})
    assert value("f1", answers) == 1.0


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1", "auc", "rmse", "map"])
def test_without_labels_nothing_is_made_up(name):
    with pytest.raises(NotMeasurable, match="no labels"):
        METRICS[name].value(classifier(np.zeros((4, 7), np.float32), None))


@pytest.mark.parametrize("name", ["accuracy", "f1", "top5", "auc"])
@pytest.mark.parametrize(
    "labels", [np.zeros(3), np.zeros((3, 2), np.int64), np.zeros(0, np.int64), np.zeros((3, 1, 5))]
)
def test_labels_of_another_kind(name, labels):
    with pytest.raises(NotMeasurable):
        METRICS[name].value(classifier(np.zeros((len(labels), 7), np.float32), labels))


@pytest.mark.parametrize("label", [-1, 7, 2**62])
def test_top5_with_labels_out_of_range(label):
    answers = classifier(np.zeros((2, 7), np.float32), np.array([0, label]))
    with pytest.raises(NotMeasurable, match="not all classes"):
        METRICS["top5"].value(answers)


# ---------------------------------------------------------------- AUC


@given(seeds, st.integers(2, 80), st.integers(1, 6))
def test_auc_of_ranks_with_ties(seed, count, steps):
    random = np.random.default_rng(seed)
    positive = random.random(count) < 0.5
    scores = random.integers(0, steps, count).astype(np.float32)
    if positive.all() or not positive.any():
        with pytest.raises(NotMeasurable, match="both kinds"):
            auc_of_ranks(scores, positive)
    else:
        assert auc_of_ranks(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


@given(seeds, st.integers(2, 80), st.integers(3, 6))
def test_one_class_against_the_rest(seed, count, classes):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)) * 3
    labels = random.integers(0, classes, count)
    labels[:classes] = np.arange(classes)[:count]
    present = np.unique(labels)
    shares = softmax(logits)
    got = value("auc", classifier(shares, labels, "probabilities"))
    wanted = np.mean([roc_auc_score(labels == one, shares[:, one]) for one in present])
    assert got == pytest.approx(wanted)
    if len(present) == classes:
        assert got == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"))
    assert value("auc", classifier(logits, labels)) == pytest.approx(got), "logits are the same"


@given(seeds, st.integers(4, 60))
def test_two_classes_and_one_score_are_the_same(seed, count):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    logits = random.normal(size=(count, 2))
    shares = softmax(logits)
    wanted = roc_auc_score(labels, shares[:, 1])
    assert value("auc", classifier(logits, labels)) == pytest.approx(wanted)
    assert value("auc", classifier(shares, labels, "probabilities")) == pytest.approx(wanted)
    single = Answers(outputs={"p": shares[:, 1:]}, labels=labels, inputs={})
    assert value("auc", single) == pytest.approx(wanted)


def test_certain_logits_are_still_ranked():
    """Where the softmax is 1 in 64 bits, all would be equal; the logits are not."""
    logits = np.array([[200.0, 0, 0], [100.0, 0, 0], [300.0, 0, 0]])
    labels = np.array([0, 1, 0])
    assert roc_auc_score(labels == 0, softmax(logits)[:, 0]) == 0.5
    ranked = METRICS["auc"].value(classifier(logits, labels))
    assert ranked == 1.0


def test_constant_answers_rank_nothing():
    labels = np.array([0, 1, 2, 1])
    assert value("auc", classifier(np.zeros((4, 3), np.float32), labels)) == 0.5


@pytest.mark.parametrize(
    ("outputs", "labels", "says"),
    [
        ({"y": np.zeros((3, 3), np.float32)}, [1, 1, 1], "two classes"),
        ({"y": np.zeros((3, 2), np.float32)}, [0, 1, 2], "0 and 1"),
        ({"y": np.zeros((3, 3), np.float32)}, [9, 9, 8], "two classes"),
    ],
)
def test_auc_without_two_kinds(outputs, labels, says):
    with pytest.raises(NotMeasurable, match=says):
        METRICS["auc"].value(classifier(outputs["y"], np.array(labels)))


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_one_score_a_sample_without_two_kinds(labels):
    answers = Answers(outputs={"y": np.zeros((3, 1))}, labels=np.array(labels), inputs={})
    with pytest.raises(NotMeasurable):
        METRICS["auc"].value(answers)


# ---------------------------------------------------------------- autoencoders


@given(seeds, st.integers(2, 40), st.sampled_from([(3,), (8,), (2, 5)]))
def test_an_autoencoder_is_measured_by_its_error(seed, count, shape):
    random = np.random.default_rng(seed)
    given_ = random.normal(size=(count, *shape)).astype(np.float32)
    got = (given_ + random.normal(size=given_.shape)).astype(np.float32)
    labels = np.arange(count) % 2
    answers = Answers(outputs={"y": got}, labels=labels, inputs={"x": given_})
    error = np.square(got.astype(np.float64) - given_).reshape(count, -1).mean(axis=1)
    assert value("auc", answers) == pytest.approx(roc_auc_score(labels, error))


def test_what_looks_like_an_autoencoder():
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    assert is_reconstruction({"y": rows * 2}, {"x": rows})
    assert not is_reconstruction({"y": rows[:, :4]}, {"x": rows}), "another shape"
    assert not is_reconstruction({"y": softmax(rows)}, {"x": rows}), "shares of classes"
    assert not is_reconstruction({"y": rows[:, :2]}, {"x": rows[:, :2]}), "two numbers say nothing"
    assert not is_reconstruction({"y": rows, "z": rows}, {"x": rows}), "two outputs"
    assert not is_reconstruction({"y": rows.astype(np.int64)}, {"x": rows})


# ---------------------------------------------------------------- numbers


@given(seeds, st.integers(1, 30), st.sampled_from([(), (1,), (3,), (2, 2)]))
def test_rmse(seed, count, shape):
    random = np.random.default_rng(seed)
    target = random.normal(size=(count, *shape)) * 100
    got = (target + random.normal(size=target.shape)).astype(np.float32)
    answers = Answers(outputs={"y": got}, labels=target, inputs={})
    wanted = math.sqrt(mean_squared_error(target.reshape(count, -1), got.reshape(count, -1)))
    assert value("rmse", answers) == pytest.approx(wanted)


def test_rmse_in_several_chunks(monkeypatch):
    monkeypatch.setattr("edgectl_server.pipeline.metrics._CHUNK_VALUES", 7)
    target = np.arange(40.0).reshape(20, 2)
    answers = Answers(outputs={"y": target[..., None] + 3}, labels=target, inputs={})
    assert value("rmse", answers) == pytest.approx(3.0)


def test_rmse_of_other_shapes():
    answers = Answers(outputs={"y": np.zeros((4, 3))}, labels=np.zeros((4, 2)), inputs={})
    with pytest.raises(NotMeasurable, match=r"\[4, 2\]"):
        METRICS["rmse"].value(answers)


# ---------------------------------------------------------------- real data


def test_the_activity_model_by_every_metric_of_classes(activity):
    with np.load(activity / "eval.npz") as file:
        data = dict(file)
    session = onnxruntime.InferenceSession(activity / "har_v1.onnx")
    (logits,) = session.run(None, {"input": data["input"]})
    labels = data["label"]
    answers = classifier(logits, labels)
    assert value("accuracy", answers) == pytest.approx(0.954, abs=0.002)
    wanted = f1_score(labels, logits.argmax(axis=1), average="macro")
    assert value("f1", answers) == pytest.approx(wanted)
    wanted = top_k_accuracy_score(labels, logits, k=5)
    assert value("top5", answers) == pytest.approx(wanted)
    wanted = roc_auc_score(labels, softmax(logits.astype(np.float64)), multi_class="ovr")
    assert value("auc", answers) == pytest.approx(wanted)


def test_the_occupancy_model_by_its_probabilities(occupancy):
    with np.load(occupancy / "test.npz") as file:
        data = dict(file)
    session = onnxruntime.InferenceSession(occupancy / "occ_mlp.onnx")
    label, shares = session.run(None, {"X": data["X"]})
    answers = Answers(
        outputs={"label": label, "probabilities": shares},
        labels=data["label"],
        inputs={"X": data["X"]},
        scores=Scores(output="probabilities", kind="probabilities"),
    )
    # In float32 p1 - p0 and p1 are rounded differently: what is equal in one is not in the other.
    wanted = roc_auc_score(data["label"], shares[:, 1])
    assert value("auc", answers) == pytest.approx(wanted, abs=1e-4)
    assert value("f1", answers) == pytest.approx(f1_score(data["label"], label, average="macro"))


# ---------------------------------------------------------------- points


@given(st.floats(0, 1), st.floats(0, 1))
def test_points_of_scores_are_a_difference(reference, other):
    lost = points(reference, other, higher_is_better=True)
    assert lost == pytest.approx(100 * (reference - other))


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_points_of_errors_are_a_percentage(reference, other):
    lost = points(reference, other, higher_is_better=False)
    assert abs(lost) <= POINTS_MAX
    assert (lost > 0) == (other > reference) or math.isclose(other, reference)
    if reference > 1e-9 and abs(lost) < POINTS_MAX:
        assert lost == pytest.approx(100 * (other / reference - 1), abs=1e-6)


def test_an_error_that_was_zero():
    assert points(0.0, 0.0, higher_is_better=False) == 0.0
    assert points(0.0, 1e-9, higher_is_better=False) == POINTS_MAX
