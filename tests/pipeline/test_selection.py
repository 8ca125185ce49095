"""Gate, choice and order of the variants, and what follows when no int8 recipe passes."""

import numpy as np
import pytest

from edgectl_protocol.manifest import Scores
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.scoring import choose_yardstick, find_scores, same_outputs
from edgectl_server.pipeline.selection import (
    best_int8,
    check_int8,
    choose,
    comes_first,
    gate_reason,
    publish_order,
)
from edgectl_server.pipeline.spec import TrialRow


def row(
    recipe, status="accepted", *, us=100.0, size=1000, value=0.9, drop=0.0, reason="", portable=True
):
    precision = recipe if recipe in {"fp32", "fp16"} else "int8"
    return TrialRow(
        recipe=recipe,
        variant=precision,
        precision=precision,
        portable=portable,
        status=status,
        reason=reason,
        size_bytes=size,
        value=value,
        drop_points=drop,
        latency_p50_us=us,
    )


@pytest.mark.parametrize(
    ("value", "max_drop", "passes"),
    [
        (0.95, 0.0, True),
        (0.94, 1.0, True),
        (0.9399, 1.0, False),
        (0.99, 0.0, True),
        (0.0, 100, True),
    ],
)
def test_gate(value, max_drop, passes):
    reason = gate_reason("accuracy", 0.95, value, 100 * (0.95 - value), max_drop)
    assert (reason == "") is passes
    if not passes:
        assert "0.9500" in reason
        assert f"{value:.4f}" in reason


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([], None),
        ([row("a", "rejected"), row("b", "failed"), row("fp32", us=1)], None),
        ([row("a", us=100), row("b", us=120)], "a"),
        ([row("a", us=100), row("b", us=80), row("c", "rejected", us=10)], "b"),
        ([row("a", us=100, size=2000), row("b", us=104, size=1000)], "b"),
        ([row("a", us=100, size=2000), row("b", us=106, size=1000)], "a"),
        ([row("a", us=100, size=1000, value=0.90), row("b", us=101, size=1010, value=0.91)], "b"),
        ([row("a", us=100, size=1000, value=0.90), row("b", us=101, size=1030, value=0.91)], "a"),
    ],
)
def test_best_int8(rows, best):
    found = best_int8(rows)
    assert (found.recipe if found else None) == best


@pytest.mark.parametrize(
    ("us", "size", "first"),
    [(110, 900, True), (111, 900, False), (900, 599, True), (900, 600, False), (50, 2000, True)],
)
def test_order(us, size, first):
    assert comes_first(row("a", us=us, size=size), row("fp32", us=100, size=1000)) is first


@pytest.mark.parametrize(
    ("us", "size", "variants"),
    [
        (86, 1000, {"b": "int8"}),  # not clearly faster
        (84, 1000, {"a": "int8", "b": "int8-portable"}),
        (100, 910, {"b": "int8"}),  # not clearly smaller
        (100, 890, {"a": "int8", "b": "int8-portable"}),
    ],
)
def test_a_portable_variant_gives_way_only_to_a_clearly_better_one(us, size, variants):
    rows = [row("a", us=us, size=size, portable=False), row("b", us=100, size=1000, value=0.89)]
    chosen = choose(rows, ("int8",), "latency")
    assert {one.recipe: one.variant for one in chosen} == variants


def test_without_a_portable_one_the_best_stands_alone():
    (only,) = choose([row("a", portable=False)], ("int8",), "latency")
    assert (only.recipe, only.variant) == ("a", "int8")


def test_the_objective_says_what_is_looked_at_first():
    rows = [row("fast", us=50, size=2000), row("small", us=100, size=1000)]
    assert best_int8(rows, "latency").recipe == "fast"
    assert best_int8(rows, "size").recipe == "small"


def test_a_portable_variant_stands_beside_one_that_is_not():
    rows = [
        row("fp32", us=100, size=4000),
        row("fp16", us=100, size=2000),
        row("fast", us=50, portable=False),
        row("portable", us=80),
        row("slow", us=90),
    ]
    published = choose(rows, ("fp32", "fp16", "int8"), "latency")
    assert {one.recipe: one.variant for one in published} == {
        "fp32": "fp32", "fp16": "fp16", "fast": "int8", "portable": "int8-portable",
    }  # fmt: skip
    order = [one.variant for one in publish_order(published)]
    assert order == ["int8", "int8-portable", "fp16", "fp32"]
    alone = choose([rows[0], rows[3]], ("fp32", "int8"), "latency")
    assert [one.variant for one in alone] == ["fp32", "int8"]
    assert choose(rows[:1], ("int8",), "latency") == []


def test_no_data_publishes_fp32_with_a_warning():
    rows = [row("fp32"), row("int8-dynamic", "skipped")]
    warning = check_int8(rows, measured=False, fp32_wanted=True)
    assert "int8 was not tried" in warning
    with pytest.raises(PipelineRefused) as caught:
        check_int8(rows, measured=False, fp32_wanted=False)
    assert caught.value.code == "pipeline.no_data"


def test_nothing_to_quantize_publishes_fp32_with_a_warning():
    rows = [row("fp32"), row("int8-dynamic", "skipped", reason="a forest")]
    assert "a forest" in check_int8(rows, measured=True, fp32_wanted=True)
    with pytest.raises(PipelineRefused) as caught:
        check_int8(rows, measured=True, fp32_wanted=False)
    assert caught.value.code == "pipeline.quantization"


def test_all_rejected_names_the_nearest_and_a_drop_that_would_do():
    rows = [
        row("fp32"),
        row("int8-static-a", "rejected", drop=7.0, reason="loses 7.00 points"),
        row("int8-static-b", "rejected", drop=2.34, reason="loses 2.34 points"),
        row("int8-dynamic", "failed"),
    ]
    with pytest.raises(PipelineRefused) as caught:
        check_int8(rows, measured=True, fp32_wanted=True)
    error = caught.value
    assert error.code == "pipeline.accuracy"
    assert "int8-static-b" in error.detail
    assert "--max-drop 2.4" in error.hint
    assert "--precision fp32" in error.hint
    assert "--calibration" not in error.hint


def test_all_failed_is_another_refusal():
    rows = [row("fp32"), row("int8-dynamic", "failed", reason="no kernel")]
    with pytest.raises(PipelineRefused) as caught:
        check_int8(rows, measured=True, fp32_wanted=True)
    assert caught.value.code == "pipeline.quantization"
    assert "no kernel" in caught.value.detail


# ---------------------------------------------------------------- metrics

SCORES = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9]], np.float32)


def samples(labels=None, role="evaluation"):
    return Samples(
        role=role,
        inputs={"x": np.zeros((4, 1), np.float32)},
        labels=None if labels is None else np.array(labels),
    )


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (SCORES, Scores(output="y", kind="probabilities")),
        (SCORES * 4, Scores(output="y", kind="logits")),
        (-SCORES, Scores(output="y", kind="logits")),
        (SCORES[:, :1], None),
        (SCORES[:, :, None], None),
        (np.zeros((4, 1025), np.float32), None),
        (np.zeros((4, 2), np.int64), None),
    ],
)
def test_find_scores(array, expected):
    assert find_scores({"y": array}) == expected


def test_accuracy_by_the_highest_score():
    outputs = {"y": SCORES}
    yardstick, warnings = choose_yardstick(samples([0, 1, 1, 1]), outputs, find_scores(outputs))
    assert (yardstick.metric, yardstick.reference, warnings) == ("accuracy", 0.75, ())
    assert yardstick.value({"y": 1 - SCORES}) == 0.25
    broken = SCORES.copy()
    broken[0, 0] = np.nan
    assert yardstick.value({"y": broken}) is None
    assert yardstick.drop_points(0.5) == pytest.approx(25)


def test_accuracy_by_the_models_own_label():
    """Classes need not be numbered from 0 where the model names them itself."""
    outputs = {"label": np.array([5, 9, 5, 9]), "p": SCORES}
    yardstick, _ = choose_yardstick(samples([5, 9, 9, 9]), outputs, find_scores(outputs))
    assert yardstick.reference == 0.75
    assert yardstick.value({"label": np.array([9, 9, 9, 9]), "p": SCORES}) == 0.75


def test_agreement_without_labels_says_so():
    outputs = {"y": SCORES}
    yardstick, warnings = choose_yardstick(samples(), outputs, find_scores(outputs))
    assert (yardstick.metric, yardstick.reference) == ("agreement", 1.0)
    assert "does not say how good" in warnings[0]
    changed = SCORES.copy()
    changed[0] = [0.4, 0.6]
    assert yardstick.value({"y": changed}) == 0.75


def test_agreement_of_numbers_is_r_squared():
    outputs = {"y": np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)}
    yardstick, _ = choose_yardstick(samples(), outputs, None)
    assert yardstick.value(outputs) == 1.0
    assert yardstick.value({"y": outputs["y"] + 0.5}) == pytest.approx(1 - 4 * 0.25 / 5)
    assert yardstick.value({"y": outputs["y"] * -9}) == 0.0


def test_labels_that_fit_no_output_are_not_used():
    outputs = {"y": np.zeros((4, 2, 2), np.float32)}
    yardstick, warnings = choose_yardstick(samples([0, 0, 1, 2]), outputs, None)
    assert yardstick.metric == "agreement"
    assert "the labels cannot be used" in warnings[0]


RECONSTRUCTED = np.arange(16, dtype=np.float32).reshape(4, 4)
BOXES = np.array([[[0, 0, 2, 2, 0.9, 1]]] * 4, np.float32)


@pytest.mark.parametrize(
    ("output", "inputs", "labels", "metric"),
    [
        (SCORES, None, [0, 1, 1, 1], "accuracy"),
        (np.array([5, 9, 5, 9]), None, [5, 9, 9, 9], "accuracy"),
        (SCORES[:, 1], None, [0, 1, 1, 0], "auc"),
        (SCORES[:, 1:], None, [0, 1, 1, 0], "auc"),
        (SCORES[:, 1:], None, [0, 3, 1, 0], "rmse"),
        (SCORES[:, 1:], None, [0.0, 1.0, 1.0, 0.0], "rmse"),
        (SCORES, None, [[0.5, 1.0]] * 4, "rmse"),
        (RECONSTRUCTED * 2, RECONSTRUCTED, [0, 1, 1, 0], "auc"),
        (RECONSTRUCTED * 2, RECONSTRUCTED, [1, 1, 1, 1], "agreement"),
        (RECONSTRUCTED * 2, RECONSTRUCTED, None, "agreement"),
        (BOXES, None, [[[1.0, 0, 0, 2, 2]]] * 4, "map"),
        (BOXES, None, None, "agreement"),
    ],
)
def test_the_metric_is_chosen_by_data_and_model(output, inputs, labels, metric):
    given = Samples(
        role="evaluation",
        inputs={"x": np.zeros((4, 1), np.float32) if inputs is None else inputs},
        labels=None if labels is None else np.array(labels),
    )
    outputs = {"y": output}
    yardstick, _ = choose_yardstick(given, outputs, find_scores(outputs, given.inputs))
    assert yardstick.metric == metric
    assert yardstick.value(outputs) == yardstick.reference
    assert yardstick.drop_points(yardstick.reference) == 0.0


def test_a_reconstruction_has_no_classes():
    assert find_scores({"y": RECONSTRUCTED * 2}, {"x": RECONSTRUCTED}) is None
    assert find_scores({"y": RECONSTRUCTED * 2}, {"x": RECONSTRUCTED[:, :2]}) is not None


@pytest.mark.parametrize("metric", ["f1", "auc", "accuracy", "agreement"])
def test_a_metric_that_is_asked_for(metric):
    outputs = {"y": SCORES}
    yardstick, warnings = choose_yardstick(
        samples([0, 1, 1, 1]), outputs, find_scores(outputs), metric=metric
    )
    assert (yardstick.metric, warnings) == (metric, ())


@pytest.mark.parametrize(
    ("metric", "labels"), [("top5", [0, 1, 1, 1]), ("auc", [1, 1, 1, 1]), ("map", [0, 1, 1, 1])]
)
def test_a_metric_that_does_not_fit_is_refused(metric, labels):
    outputs = {"y": SCORES}
    with pytest.raises(PipelineRefused) as caught:
        choose_yardstick(samples(labels), outputs, find_scores(outputs), metric=metric)
    assert caught.value.code == "pipeline.metric"
    assert metric in caught.value.detail


def test_labels_of_a_classifier_are_integers():
    outputs = {"y": SCORES}
    with pytest.raises(PipelineRefused) as caught:
        choose_yardstick(samples([0.0, 1.0, 1.0, 1.0]), outputs, find_scores(outputs))
    assert caught.value.code == "data.dtype"


def test_calibration_data_as_the_measure_is_said():
    outputs = {"y": SCORES}
    _, warnings = choose_yardstick(
        samples([0, 1, 0, 1], "calibration"), outputs, find_scores(outputs)
    )
    assert "static recipes have seen" in warnings[0]


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [0, -1, 0, 1]])
def test_labels_that_are_no_classes(labels):
    outputs = {"y": SCORES}
    with pytest.raises(PipelineRefused) as caught:
        choose_yardstick(samples(labels), outputs, find_scores(outputs))
    assert caught.value.code == "data.label"


def test_same_outputs():
    left = {"y": SCORES, "n": np.array([1, 2, 3, 4])}
    assert same_outputs(left, {"y": SCORES + 5e-5, "n": left["n"]}, 1e-4)
    assert not same_outputs(left, {"y": SCORES + 5e-4, "n": left["n"]}, 1e-4)
    assert not same_outputs(left, {"y": SCORES, "n": left["n"] + 1}, 1e-4)
    assert not same_outputs(left, {"y": SCORES}, 1e-4)
    assert not same_outputs(left, {"y": SCORES[:3], "n": left["n"]}, 1e-4)
