"""The built-in trainer: heads found and refused, a real shift unlearned, in the real sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgectl_server.deltas.encoder import encode
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.training.heads import (
    Weights,
    find_head,
    read_weights,
    with_features,
    write_weights,
)
from edgectl_server.training.refit import Rows, refit, softmax
from edgectl_server.training.runner import run_examination, run_head_trainer
from edgectl_server.training.spec import MODEL, OUT, SOURCE, TrainSpec
from training.activity import evaluation, lay_out, turned, with_convolution

SPEC = TrainSpec(task="head", model="har")
EXAMINE = TrainSpec(task="examine", model="har")


def graph(kind: str) -> onnx.ModelProto:
    """A classifier of 4 features and 3 classes, whose scores come out of it in some way."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = {
        "gemm": [helper.make_node("Gemm", ["f", "w", "b"], ["y"])],
        "turned": [helper.make_node("Gemm", ["f", "wt", "b"], ["y"], transB=1)],
        "matmul": [helper.make_node("MatMul", ["f", "w"], ["p"]),
                   helper.make_node("Add", ["b", "p"], ["y"])],
        "softmax": [helper.make_node("Gemm", ["f", "w", "b"], ["l"]),
                    helper.make_node("Softmax", ["l"], ["y"])],
        "shared": [helper.make_node("MatMul", ["f", "w"], ["q"]),
                   helper.make_node("Gemm", ["f", "w", "b"], ["l"]),
                   helper.make_node("Add", ["l", "q"], ["y"])],
        "scaled": [helper.make_node("Gemm", ["f", "w", "b"], ["y"], alpha=2.0)],
        "none": [helper.make_node("MatMul", ["f", "w"], ["p"]),
                 helper.make_node("Relu", ["p"], ["y"])],
    }[kind]  # fmt: skip
    arrays = {"w": weight, "wt": np.ascontiguousarray(weight.T), "b": np.ones(3, np.float32)}
    made = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["f"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("kind", ["gemm", "turned", "matmul", "softmax"])
def test_heads_are_found_read_and_written(kind: str) -> None:
    model = graph(kind)
    head = find_head(model, "y")
    assert head.features == "f"
    weights = read_weights(model, head)
    assert weights.matrix.tolist() == np.arange(12).reshape(4, 3).T.tolist()
    write_weights(model, head, Weights(weights.matrix * 2, weights.bias * 3))
    again = read_weights(model, head)
    assert again.matrix.tolist() == (weights.matrix * 2).tolist()
    assert again.bias.tolist() == [3, 3, 3]
    onnx.checker.check_model(model)


def of_places(*nodes: onnx.NodeProto, kernel: int = 1) -> onnx.ModelProto:
    """A classifier of 4 channels and 3 classes, on pictures."""
    weight = np.arange(12 * kernel * kernel, dtype=np.float32).reshape(3, 4, kernel, kernel)
    arrays = {"w": weight, "b": np.ones(3, np.float32), "axes": np.array([2, 3]),
              "shape": np.array([0, -1])}  # fmt: skip
    made = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["f"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


CONV = helper.make_node("Conv", ["f", "w", "b"], ["c"])
MEAN = helper.make_node("GlobalAveragePool", ["c"], ["m"])
FLAT = helper.make_node("Flatten", ["m"], ["y"])
OF_PLACES = {
    "mean, flatten": [CONV, MEAN, FLAT],
    "mean, reshape": [CONV, MEAN, helper.make_node("Reshape", ["m", "shape"], ["y"])],
    "reduced": [CONV, helper.make_node("ReduceMean", ["c", "axes"], ["y"], keepdims=0)],
    "softmax": [CONV, MEAN, helper.make_node("Squeeze", ["m", "axes"], ["l"]),
                helper.make_node("Softmax", ["l"], ["y"])],
    "mean before": [helper.make_node("GlobalAveragePool", ["f"], ["g"]),
                    helper.make_node("Conv", ["g", "w", "b"], ["m"]), FLAT],
}  # fmt: skip


@pytest.mark.parametrize("nodes", OF_PLACES.values(), ids=OF_PLACES)
def test_a_convolution_of_one_element_is_a_layer_on_the_mean(
    nodes: list[onnx.NodeProto],
) -> None:
    model = of_places(*nodes)
    onnx.checker.check_model(model)
    head = find_head(model, "y")
    weights = read_weights(model, head)
    assert weights.matrix.tolist() == np.arange(12).reshape(3, 4).tolist()
    pictures = np.random.default_rng(0).normal(size=(7, 4, 5, 6)).astype(np.float32)
    opened, seen = with_features(model, head)
    features, logits = ort_run(opened, [seen.features, seen.logits], pictures)
    assert features.shape == (7, 4)
    assert np.allclose(features @ weights.matrix.T + weights.bias, logits, atol=1e-4)
    write_weights(model, head, Weights(weights.matrix * 0.1, weights.bias * 3))
    onnx.checker.check_model(model)
    (answers,) = ort_run(model, ["y"], pictures)
    wanted = features @ weights.matrix.T * 0.1 + weights.bias * 3
    assert np.allclose(answers, softmax(wanted) if "Softmax" in {n.op_type for n in nodes}
                       else wanted, atol=1e-4)  # fmt: skip


def ort_run(model: onnx.ModelProto, names: list[str], pictures: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return list(session.run(names, {"x": pictures}))


@pytest.mark.parametrize(
    "model",
    [
        of_places(CONV, helper.make_node("Relu", ["c"], ["r"]),
                  helper.make_node("GlobalAveragePool", ["r"], ["m"]), FLAT),
        of_places(CONV, helper.make_node("GlobalMaxPool", ["c"], ["m"]), FLAT),
        of_places(helper.make_node("Conv", ["f", "w", "b"], ["c"], strides=[2, 2]), MEAN, FLAT),
        of_places(helper.make_node("Conv", ["f", "w", "b"], ["c"], pads=[1, 1, 1, 1]), MEAN, FLAT),
        of_places(helper.make_node("Conv", ["f", "w", "b"], ["c"], group=2), MEAN, FLAT),
        of_places(CONV, MEAN, FLAT, kernel=3),
        of_places(helper.make_node("Conv", ["f", "w"], ["c"]), MEAN, FLAT),
        of_places(CONV, helper.make_node("ReduceMean", ["c"], ["y"], keepdims=0)),
    ],
    ids=["relu", "max", "strides", "pads", "groups", "kernel", "no bias", "all axes"],
)  # fmt: skip
def test_what_is_not_linear_in_the_mean_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(PipelineRefused) as caught:
        find_head(model, "y")
    assert caught.value.code == "training.no_head"


@pytest.mark.parametrize("kind", ["shared", "scaled", "none"])
def test_what_is_no_head_is_refused(kind: str) -> None:
    with pytest.raises(PipelineRefused) as caught:
        find_head(graph(kind), "y")
    assert caught.value.code == "training.no_head"


def test_a_strong_prior_keeps_the_layer_and_a_weak_one_learns() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 5))
    before = Weights(random.normal(size=(3, 5)), np.zeros(3))
    truth = (features @ random.normal(size=(5, 3))).argmax(axis=1)
    rows = Rows(features, np.eye(3)[truth], np.ones(300))
    kept = refit(rows, before, 1e6)
    assert np.abs(kept.matrix - before.matrix).max() < 1e-3
    learnt = refit(rows, before, 1e-4)
    assert ((features @ learnt.matrix.T + learnt.bias).argmax(axis=1) == truth).mean() > 0.95
    assert np.allclose(softmax(features[:, :3]).sum(axis=1), 1)


def test_a_head_of_places_learns_as_much_as_a_gemm(tmp_path: Path) -> None:
    """The same classifier with its last layer as a convolution: real data, the real sandbox."""
    windows, _, _ = evaluation()
    found = []
    for name in ("gemm", "places"):
        tmp_path.chmod(0o755)
        run = tmp_path / name
        lay_out(run, turned(windows), labels=150, test=200)
        if name == "places":
            model = with_convolution(onnx.load(run / SOURCE))
            (run / SOURCE).write_bytes(model.SerializeToString())
        run_head_trainer(SPEC, run, on_progress=lambda _: None, cancelled=lambda: False)
        examined = run_examination(EXAMINE, run, cancelled=lambda: False)
        new = examined.new
        found.append((new.champion / new.rows, new.challenger / new.rows))
        before, after = (run / SOURCE).read_bytes(), (run / OUT / MODEL).read_bytes()
        assert len(encode(before, after).content) < 0.02 * len(after)
    assert found[1][1] > found[1][0] + 0.15
    assert found[1] == pytest.approx(found[0], abs=0.02)


def test_a_turned_phone_is_unlearned_with_300_labels(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    run = tmp_path / "run"
    lay_out(run, turned(evaluation()[0]), labels=300, test=400)
    told: list[str] = []
    trained = run_head_trainer(
        SPEC, run, on_progress=lambda one: told.append(one.stage), cancelled=lambda: False
    )
    assert {"features", "fit"} <= set(told)
    assert trained.metrics["train_rows"] == 300
    found = run_examination(EXAMINE, run, cancelled=lambda: False)
    assert found.old is not None
    before, during = found.old.champion / found.old.rows, found.new.champion / found.new.rows
    after = found.new.challenger / found.new.rows
    assert (after - during) / (before - during) >= 0.8, (before, during, after)
    assert found.old.champion - found.old.challenger <= 0.03 * found.old.rows
    source, made = (run / SOURCE).read_bytes(), (run / OUT / MODEL).read_bytes()
    assert len(encode(source, made).content) <= 0.03 * len(source)
    with np.load(run / OUT / "evaluation.npz") as pushed:
        assert len(pushed["label"]) == 1500 + 400

    bad = [
        ("other outputs", graph("gemm").SerializeToString(), "training.incompatible"),
        ("no model", b"\x00" * 100, "model.not_onnx"),
        ("nan", _spoilt(source), "training.incompatible"),
    ]
    for what, content, code in bad:
        (run / OUT / MODEL).write_bytes(content)
        with pytest.raises(PipelineRefused) as caught:
            run_examination(EXAMINE, run, cancelled=lambda: False)
        assert caught.value.code == code, what


def _spoilt(source: bytes) -> bytes:
    """The model with a head of NaN."""
    model = onnx.ModelProto.FromString(source)
    head = find_head(model, "logits")
    weights = read_weights(model, head)
    write_weights(model, head, Weights(weights.matrix * np.nan, weights.bias))
    return model.SerializeToString()
