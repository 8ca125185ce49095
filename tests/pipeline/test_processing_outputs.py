"""Steps behind a model give what NumPy gives, in every opset; names and order of outputs."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper

from edgectl_protocol.manifest import PROCESSING_LINE_MAX
from edgectl_server.pipeline.checks import check_model
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.nodes import processing_nodes
from edgectl_server.pipeline.steps import labels_of
from pipeline import crafted, references
from pipeline.processed import FLOAT, LIMITS, add, answer, behind, steps_of, through

OPSETS = (7, 9, 10, 11, 12, 13, 17, 18, 21, 23)
scores = arrays(np.float32, (3, 5), elements=st.floats(-10, 10, width=32), unique=True)
quick = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def sample(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32) * 3


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("shape", "axis"), [((4, 5), -1), ((2, 3, 4), 1), ((2, 3, 4, 5), -3)])
def test_softmax(opset, shape, axis):
    array = sample(*shape)
    (got,) = behind(array, [{"do": "softmax", "axis": axis}], opset=opset).values()
    np.testing.assert_allclose(got, references.softmax(array, axis), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("opset", OPSETS)
def test_sigmoid_scale_and_clip(opset):
    array = sample(4, 5)
    steps = [
        {"do": "sigmoid"},
        {"do": "scale", "multiply": 4, "add": -1},
        {"do": "clip", "minimum": 0, "maximum": 2},
    ]
    (got,) = behind(array, steps, opset=opset).values()
    wanted = np.clip(4 / (1 + np.exp(-array)) - 1, 0, 2)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("shape", "axis"), [((60, 5), -1), ((60, 3, 4), 1), ((60, 2, 5), 2)])
@pytest.mark.parametrize("minimum", [0.5, 0, -1.25, "each"])
def test_threshold(opset, shape, axis, minimum):
    array = np.round(sample(*shape) * 4) / 4 - 2  # some scores are the threshold itself
    if minimum == "each":
        minimum = np.linspace(-1, 2, shape[axis]).tolist()
    step = {"do": "threshold", "minimum": minimum, "axis": axis}
    (got,) = behind(array, [step], opset=opset).values()
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, references.threshold(array, minimum, axis))
    assert (got == -1).any()
    assert (got >= 0).any()


def test_nan_is_above_no_threshold():
    array = np.array([[np.nan, np.nan], [0.0, 1.0]], np.float32)
    (got,) = behind(array, [{"do": "threshold", "minimum": 0.5}]).values()
    assert got.tolist() == [-1, 1]


@pytest.mark.parametrize("opset", OPSETS)
def test_argmax(opset):
    array = sample(6, 3, 4)
    (got,) = behind(array, [{"do": "argmax", "axis": 1}], opset=opset).values()
    np.testing.assert_array_equal(got, array.argmax(1))


@quick
@given(scores, st.integers(1, 5), st.sampled_from([7, 10, 11, 17, 23]))
def test_top_k(array, k, opset):
    found = behind(array, [{"do": "top_k", "k": k}], opset=opset, name="best")
    order = np.argsort(-array, axis=1)[:, :k]
    assert list(found) == ["best", "best_indices"]
    np.testing.assert_array_equal(found["best"], np.take_along_axis(array, order, 1))
    np.testing.assert_array_equal(found["best_indices"], order)


def test_one_output_becomes_several_in_their_order():
    model = crafted.dense(scores=False)
    steps = steps_of(
        output=[
            {"name": "p", "tensor": "y", "steps": [{"do": "softmax"}]},
            {"name": "y", "tensor": "y", "steps": [{"do": "labels", "names": ["a", "b", "c"]}]},
            {"name": "class", "tensor": "y",
             "steps": [{"do": "softmax"}, {"do": "threshold", "minimum": 0.4}]},
        ]
    )  # fmt: skip
    assert labels_of(steps) == ("a", "b", "c")
    array = sample(20, 8)
    before = answer(model, x=array)["y"]
    processed = add(model, steps)
    found = answer(processed.model, x=array)
    assert list(found) == ["p", "y", "class"]
    np.testing.assert_array_equal(found["y"], before)
    probabilities = references.softmax(before, 1)
    np.testing.assert_allclose(found["p"], probabilities, rtol=1e-5)
    np.testing.assert_array_equal(found["class"], references.threshold(probabilities, 0.4, 1))
    assert list(answer(model, x=array)) == ["y"], "the model that was given stays as it is"
    shown = "output y: FP32 [N, 3] → softmax, threshold minimum 0.4 → class: INT64 [N]"
    assert processed.lines[2] == shown


def test_the_nodes_of_the_steps_are_told_apart():
    steps = steps_of(
        input=[{"datatype": "FP32", "layout": "NF", "shape": ["N", 8],
                "steps": [{"do": "scale", "divide": 2}]}],
        output=[{"steps": [{"do": "softmax"}]}],
    )  # fmt: skip
    model = crafted.dense(scores=False)
    made = add(model, steps).model
    names = processing_nodes(made)
    assert [node.op_type for node in made.graph.node if node.name in names] == ["Mul", "Softmax"]
    assert len(made.graph.node) == len(model.graph.node) + 2
    again = add(made, steps).model  # a model that has steps already gets other names
    assert len(set(processing_nodes(again))) == 4
    assert list(answer(again, x=sample(2, 8))) == ["y"]


@pytest.mark.parametrize("opset", [9, 17, 18, 23])
@pytest.mark.parametrize("by", ["mean", "max"])
def test_windows_are_joined_where_it_is_said(opset, by):
    weights = sample(12, 3)
    model = crafted.build(
        [
            helper.make_node("Flatten", ["x"], ["f"], axis=1),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
            helper.make_node("ArgMax", ["y"], ["class"], axis=1, keepdims=0),
        ],
        inputs=[helper.make_tensor_value_info("x", FLOAT, ("N", 2, 6))],
        outputs=[
            helper.make_tensor_value_info("y", FLOAT, ("N", 3)),
            helper.make_tensor_value_info("class", crafted.INT64, ("N",)),
        ],
        opset=opset,
        initializers=(crafted.constant("w", weights),),
    )
    entry = {"datatype": "FP32", "layout": "NTC", "shape": ["N", 20, 2],
             "steps": [{"do": "window", "length": 6, "hop": 4},
                       {"do": "layout", "to": "NCT"}]}  # fmt: skip
    array = sample(5, 20, 2)
    cut = references.windows(array, "NTC", 6, 4).transpose(0, 2, 1)
    raw = (cut.reshape(20, 12) @ weights).reshape(5, 4, 3)
    found = answer(add(model, steps_of(input=[entry])).model, x=array)
    np.testing.assert_allclose(found["y"], raw, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["class"], raw.argmax(2))
    joined = [{"tensor": "y", "name": "p", "steps": [{"do": "softmax"}, {"do": "join", "by": by}]}]
    found = answer(add(model, steps_of(input=[entry], output=joined)).model, x=array)
    soft = references.softmax(raw, 2)
    wanted = soft.mean(1) if by == "mean" else soft.max(1)
    np.testing.assert_allclose(found["p"], wanted, rtol=1e-4, atol=1e-5)
    assert found["class"].shape == (5, 4)


def test_a_branch_that_uses_a_renamed_tensor():
    """The input and an output are used inside an If, whose branches have names of their own."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "h"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", FLOAT, ("N", 3))],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["o"])],
        "other",
        [],
        [helper.make_tensor_value_info("o", FLOAT, ("N", 3))],
    )
    model = crafted.build(
        [
            helper.make_node("Neg", ["x"], ["h"]),
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
        ],
        outputs=[
            helper.make_tensor_value_info("h", FLOAT, ("N", 3)),
            helper.make_tensor_value_info("y", FLOAT, ("N", 3)),
        ],
        initializers=(crafted.constant("c", np.array(True)),),
    )
    entry = {"datatype": "FP32", "layout": "NF", "shape": ["N", 3],
             "steps": [{"do": "scale", "multiply": 2}]}  # fmt: skip
    outputs = [{"tensor": "h", "steps": [{"do": "clip", "minimum": -1, "maximum": 1}]}]
    array = sample(4, 3)
    found = answer(add(model, steps_of(input=[entry], output=outputs)).model, x=array)
    np.testing.assert_allclose(found["h"], np.clip(-2 * array, -1, 1))
    np.testing.assert_allclose(found["y"], np.zeros((4, 3)))


def test_a_model_of_ir_3():
    """Its constants are listed as inputs; they are none."""
    model = crafted.build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        inputs=[
            helper.make_tensor_value_info("w", FLOAT, (3,)),
            helper.make_tensor_value_info("x", FLOAT, ("N", 3)),
        ],
        initializers=(crafted.constant("w", np.ones(3, np.float32)),),
        opset=7,
    )
    model.ir_version = 3
    entry = {"name": "table", "datatype": "INT32", "layout": "NF", "shape": ["N", 3],
             "steps": [{"do": "normalize", "mean": [1, 2, 3], "std": [1, 2, 4]}]}  # fmt: skip
    made = add(model, steps_of(input=[entry])).model
    assert [one.name for one in check_model(made, LIMITS).inputs] == ["table"]
    found = answer(made, table=np.array([[1, 4, 11]], np.int32))
    assert found["y"].tolist() == [[1, 2, 3]]


def test_a_model_without_standard_operators():
    model = crafted.build(
        [helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])],
        domains=("ai.onnx.ml",),
    )
    del model.opset_import[0]
    entry = {"datatype": "INT64", "layout": "NF", "shape": ["N", 3],
             "steps": [{"do": "cast", "to": "FP32"}]}  # fmt: skip
    made = add(model, steps_of(input=[entry], output=[{"steps": [{"do": "argmax"}]}])).model
    assert answer(made, x=np.array([[1, 5, 2]]))["y"].tolist() == [1]


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([{"do": "softmax", "axis": 2}], "axis 2"),
        ([{"do": "softmax", "axis": 0}], "axis 0"),
        ([{"do": "argmax"}, {"do": "softmax"}], "axis -1"),
        ([{"do": "top_k", "k": 6}], "k = 5"),
        ([{"do": "threshold", "minimum": [0.1, 0.2]}], "2 numbers for 5 classes"),
        ([{"do": "join"}], "no row of windows"),
        ([{"do": "labels", "names": ["a", "b"]}], "2 class names"),
    ],
)
def test_what_does_not_fit_is_refused(steps, says):
    with pytest.raises(PipelineRefused, match=says) as caught:
        add(through(("N", 5)), steps_of(output=[{"steps": steps}]))
    assert caught.value.code == "processing.shape"
    assert caught.value.hint


def test_an_output_without_axes_is_refused():
    with pytest.raises(PipelineRefused, match="no axes") as caught:
        add(crafted.wrong_batch(), steps_of(output=[{"steps": [{"do": "softmax"}]}]))
    assert caught.value.code == "processing.shape"


def test_a_line_for_people_is_bounded():
    """A person's list of 4096 means does not become the report."""
    count = 4096
    step = {"do": "normalize", "mean": [0.1] * count, "std": [3.0] * count}
    entry = {"name": "n" * 256, "datatype": "FP32", "layout": "NF", "shape": ["N", count],
             "steps": [step] * 16}  # fmt: skip
    (line,) = add(through(("N", count)), steps_of(input=[entry])).lines
    assert len(line) == PROCESSING_LINE_MAX
    assert line.endswith("…")
    short = entry | {"name": "n", "steps": entry["steps"][:1]}
    (line,) = add(through(("N", count)), steps_of(input=[short])).lines
    assert "normalize mean [0.1 0.1 0.1 0.1 and 4092 more] std [3 3 3 3 and 4092 more]" in line
