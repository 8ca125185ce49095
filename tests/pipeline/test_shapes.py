"""Free sizes of inputs, fixed by whoever pushes; and what the refusal without it says."""

import re

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgectl.push_options import parse_input_shapes
from edgectl_server.pipeline.checks import check_model
from edgectl_server.pipeline.errors import PipelineRefused
from pipeline import crafted
from pipeline.processed import FLOAT, LIMITS, answer


def fix(model, **shapes):
    return check_model(model, LIMITS, input_shapes=shapes)


def refusal(model, **shapes):
    with pytest.raises(PipelineRefused) as caught:
        fix(model, **shapes)
    error = caught.value
    assert error.detail.endswith(".")
    assert error.hint.endswith(".")
    return error


def pair():
    """Two inputs that share the size T, and a value_info that names it too."""
    model = crafted.build(
        [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Relu", ["s"], ["y"])],
        inputs=[helper.make_tensor_value_info(name, FLOAT, ("N", "T", 3)) for name in "xz"],
        outputs=[helper.make_tensor_value_info("y", FLOAT, ("N", "T", 3))],
    )
    model.graph.value_info.append(helper.make_tensor_value_info("s", FLOAT, ("N", "T", 3)))
    return model


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (("N", 3, "H", "W"), (-1, 3, 12, 9)),
        (("N", 3, "H", "W"), (1, 3, 12, 9)),
        ((None, None, None, None), (-1, 3, 12, 9)),
        ((1, 3, None, 9), (1, 3, 12, 9)),
        (("N", 3, 12, 9), (-1, 3, 12, 9)),
    ],
)
def test_free_sizes_are_fixed(shape, sizes):
    model = crafted.relu(shape=shape, output=shape)
    assert fix(model, x=sizes).inputs[0].shape == sizes
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in inferred.dim[1:]] == [3, 12, 9]
    array = np.ones((1, 3, 12, 9), np.float32)
    assert answer(model, x=array)["y"].shape == array.shape


def test_a_named_size_is_fixed_wherever_it_stands():
    model = pair()
    assert [one.shape for one in fix(model, x=(-1, 7, 3)).inputs] == [(-1, 7, 3), (-1, 7, 3)]
    assert not model.graph.value_info, "what was said of the inside is stale"
    assert "6 and 7" in refusal(pair(), x=(-1, 6, 3), z=(-1, 7, 3)).detail


def test_stale_shapes_inside_branches_are_dropped():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"]), helper.make_node("Neg", ["b"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", FLOAT, ("N", "T"))],
        value_info=[helper.make_tensor_value_info("b", FLOAT, ("N", "T"))],
    )
    model = crafted.build(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        shape=("N", "T"),
        output=("N", "T"),
        initializers=(crafted.constant("c", np.array(True)),),
    )
    assert fix(model, x=(-1, 5)).inputs[0].shape == (-1, 5)
    assert not model.graph.node[0].attribute[0].g.value_info
    assert answer(model, x=np.ones((2, 5), np.float32))["y"].tolist() == [[-1.0] * 5] * 2


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((-1, 4, 12, 9), "size 2 is 3 and not 4"),
        ((-1, -1, 12, 9), "no shape"),
        ((-1, 3, 12), "has 3 sizes"),
        ((-1, 3, 12, 9, 1), "has 5 sizes"),
        ((2, 3, 12, 9), "no shape"),
        ((-1, 3, 0, 9), "no shape"),
        ((-1, 3, 2**31, 9), "no shape"),
        ((-1, 3, 2**24, 2**24), "no shape"),
        ((-1, 3, 2**63, 9), "no shape"),
        ((), "no shape"),
    ],
)
def test_what_cannot_be_is_refused_with_an_example(sizes, says):
    error = refusal(crafted.pictures(height="H", width="W"), x=sizes)
    assert error.code == "model.input_shape"
    assert says in error.detail
    assert "--input-shape x=Nx3x224x224" in error.hint


def test_an_input_that_is_not_there():
    error = refusal(crafted.relu(), wrong=(-1, 3))
    assert error.code == "model.input_shape"
    assert "'x'" in error.hint


def test_a_batch_of_one_is_not_made_free():
    assert "size 1 is 1 and not free" in refusal(crafted.relu(shape=(1, "T")), x=(-1, 3)).detail


@pytest.mark.parametrize(
    ("shape", "option"),
    [
        (("N", 3, "H", "W"), "--input-shape x=Nx3x224x224"),
        ((1, "T", 6), "--input-shape x=1x128x6"),
        (("N", None, None, None, 2), "--input-shape x=Nx64x64x64x2"),
    ],
)
def test_the_refusal_without_the_option_shows_it_filled_in(shape, option):
    error = refusal(crafted.relu(shape=shape, output=shape))
    assert error.code == "model.shape"
    assert option in error.hint
    shown = re.search(r"x=(\S+)\.", error.hint)[1]
    (sizes,) = parse_input_shapes([f"x={shown}"]).values()
    assert fix(crafted.relu(shape=shape, output=shape), x=tuple(sizes)).inputs[0].shape == tuple(
        sizes
    )


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    st.lists(st.one_of(st.integers(1, 5), st.sampled_from([None, "N", "T"])), max_size=4),
    st.lists(st.integers(-2, 6), max_size=5),
)
def test_any_shape_is_fixed_or_refused(declared, sizes):
    model = crafted.relu(shape=tuple(declared), output=tuple(declared))
    try:
        facts = fix(model, x=tuple(sizes))
    except PipelineRefused as error:
        assert error.code in {"model.input_shape", "model.shape"}  # noqa: PT017
    else:
        assert facts.inputs[0].shape == tuple(sizes)
