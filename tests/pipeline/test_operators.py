"""Operators against the opset that a model declares, and against the oldest runtime on a device."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, version_converter

from edgectl_server.pipeline import operators
from edgectl_server.pipeline.checks import ML_OPSET_MAX, OPSET_MAX, OPSET_MIN, check_model
from edgectl_server.pipeline.errors import PipelineRefused
from pipeline import crafted
from pipeline.processed import FLOAT, LIMITS, answer

ROOT = Path(__file__).parents[2]


def refusal(model):
    with pytest.raises(PipelineRefused) as caught:
        check_model(model, LIMITS)
    assert caught.value.hint.endswith(".")
    return caught.value


def unary(operator, opset, **attributes):
    return crafted.build([helper.make_node(operator, ["x"], ["y"], **attributes)], opset=opset)


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 17, 18, 20, 21, 22, 23])
@pytest.mark.parametrize("name", ["har_v1.onnx", "occ_mlp.onnx", "dense"])
def test_real_models_pass_in_the_opsets_that_they_can_be_converted_to(
    activity, occupancy, name, opset
):
    folder = activity if name.startswith("har") else occupancy
    model = crafted.dense() if name == "dense" else onnx.load(folder / name)
    before = check_model(model, LIMITS)
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # noqa: BLE001  # the converter's errors have no common base
        assert opset < before.opset, f"models go up: {error}"  # noqa: PT017
        return
    facts = check_model(converted, LIMITS)
    assert facts.opset == opset
    shape = [3 if size < 0 else size for size in before.inputs[0].shape]
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    wanted = answer(model, **{before.inputs[0].name: array})
    for output, got in answer(converted, **{before.inputs[0].name: array}).items():
        np.testing.assert_allclose(got, wanted[output], rtol=1e-4, atol=1e-5)


def test_an_operator_of_a_later_opset():
    error = refusal(unary("Gelu", 17))
    assert error.code == "model.operator"
    assert error.detail == "The model has opset 17, and Gelu exists only since opset 20."
    assert "opset_version=20" in error.hint


@pytest.mark.parametrize("operator", ["Upsample", "Scatter"])
def test_deprecated_operators_are_named_with_what_has_their_place(operator):
    since = {"Upsample": 10, "Scatter": 11}[operator]
    node = {
        "Upsample": helper.make_node("Upsample", ["x", "s"], ["y"], name="up"),
        "Scatter": helper.make_node("Scatter", ["x", "i", "x"], ["y"], name="up"),
    }[operator]

    def build(opset):
        return crafted.build(
            [node],
            opset=opset,
            output=("N", "T") if operator == "Upsample" else ("N", 3),
            initializers=(
                crafted.constant("s", np.ones(2, np.float32)),
                crafted.constant("i", np.zeros((1, 3), np.int64)),
            ),
        )

    error = refusal(build(17))
    assert error.code == "model.operator"
    assert f"'up': {operator} is deprecated since opset {since}" in error.detail
    assert {"Upsample": "Resize", "Scatter": "ScatterElements"}[operator] in error.detail
    assert f"opset_version={since - 1}" in error.hint
    assert check_model(build(9), LIMITS).opset == 9


def roi_align(opset):
    return crafted.build(
        [helper.make_node("RoiAlign", ["x", "r", "b"], ["y"])],
        shape=("N", 1, 8, 8),
        opset=opset,
        output=("N", 1, 1, 1),
        initializers=(
            crafted.constant("r", np.zeros((1, 4), np.float32)),
            crafted.constant("b", np.zeros(1, np.int64)),
        ),
    )


def test_what_the_oldest_runtime_lacks():
    error = refusal(roi_align(22))
    assert error.code == "model.operator"
    assert "onnxruntime 1.23" in error.detail
    assert "opset_version=21" in error.hint
    assert check_model(roi_align(21), LIMITS).opset == 21
    error = refusal(
        crafted.build(
            [helper.make_node("DeformConv", ["x", "w", "o"], ["y"])],
            shape=("N", 1, 3, 3),
            output=("N", 1, 1, 1),
            opset=19,
            initializers=(
                crafted.constant("w", np.zeros((1, 1, 3, 3), np.float32)),
                crafted.constant("o", np.zeros((1, 18, 1, 1), np.float32)),
            ),
        )
    )
    assert "no opset" in error.hint


def test_the_oldest_runtime_is_the_one_that_agents_are_promised():
    agent = (ROOT / "packaging/agent/pyproject.toml").read_text()
    oldest = re.search(r"onnxruntime>=([0-9.]+)", agent)[1]
    assert f"onnxruntime {oldest}" == operators.OLDEST_RUNTIME


def test_every_operator_of_the_table_exists_in_an_opset_that_is_taken():
    known = {
        (schema.name, schema.since_version)
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.domain == "" and OPSET_MIN <= schema.since_version <= OPSET_MAX
    }
    assert not operators._LACKING - known


def test_hidden_in_a_branch():
    branch = helper.make_graph(
        [helper.make_node("Gelu", ["x"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", FLOAT, ("N", 3))],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = crafted.build([node], initializers=(crafted.constant("c", np.array(True)),))
    assert refusal(model).code == "model.operator"


def test_a_domain_without_a_version():
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])
    error = refusal(crafted.build([node]))
    assert error.code == "model.operator"
    assert "ai.onnx.ml" in error.detail
    model = crafted.build([node], domains=("ai.onnx.ml",))
    assert check_model(model, LIMITS).nodes == 1
    model.opset_import[1].version = ML_OPSET_MAX + 1
    assert refusal(model).code == "model.opset"


def test_the_newest_of_what_is_taken_runs_here():
    for operator, opset in (("Gelu", 20), ("Swish", 24)):
        model = unary(operator, min(opset, OPSET_MAX))
        if opset > OPSET_MAX:
            assert refusal(model).code == "model.operator"
        else:
            check_model(model, LIMITS)
            assert answer(model, x=np.ones((1, 3), np.float32))["y"].shape == (1, 3)
