"""Weights as int8: what they become, and that float arithmetic gives almost the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgectl_server.pipeline.stored_weights import _quantize, store_weights
from pipeline import crafted

RANDOM = np.random.default_rng(3)


@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    axis=st.integers(0, 3),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
)
def test_no_weight_moves_by_more_than_half_a_step(shape, axis, scale):
    axis %= len(shape)
    weights = (RANDOM.normal(size=shape) * scale).astype(np.float32)
    codes, scales = _quantize(weights, axis)
    assert codes.shape == weights.shape
    assert scales.shape == tuple(size if one == axis else 1 for one, size in enumerate(shape))
    assert (np.abs(codes * scales - weights) <= scales * 0.5001).all()


def test_a_channel_of_zeros_stays_zero():
    codes, scales = _quantize(np.zeros((3, 4), np.float32), 0)
    assert not codes.any()
    assert (scales == 1).all()


def layer(kind, weights, **attributes):
    shape = {"Conv": ("N", 8, 6), "ConvTranspose": ("N", 8, 6)}.get(kind, ("N", 8))
    rank = len(shape)
    return crafted.build(
        [helper.make_node(kind, ["x", "w"], ["y"], "layer", **attributes)],
        shape=shape,
        output=("N", *(f"d{n}" for n in range(rank - 1))),
        initializers=(numpy_helper.from_array(weights, "w"),),
    )


LAYERS = [
    ("MatMul", (8, 16), {}, 1),
    ("Gemm", (8, 16), {}, 1),
    ("Gemm", (16, 8), {"transB": 1}, 0),
    ("Conv", (12, 8, 3), {}, 0),
    ("ConvTranspose", (8, 12, 3), {}, 1),
]


@pytest.mark.parametrize(("kind", "shape", "attributes", "axis"), LAYERS)
def test_each_operator_has_its_channels(tmp_path, kind, shape, attributes, axis):
    weights = RANDOM.normal(size=shape).astype(np.float32)
    source = crafted.save(layer(kind, weights, **attributes), tmp_path / "source.onnx")
    target = tmp_path / "target.onnx"
    assert store_weights(source, target, ()) == 1
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    assert stored["w_int8"].dtype == np.int8
    assert stored["w_scale"].size == stored["w_scale"].shape[axis] == shape[axis]
    assert stored.keys() == {"w_int8", "w_scale"}
    x = RANDOM.normal(size=(5, 8, 6) if "Conv" in kind else (5, 8)).astype(np.float32)
    wanted, got = (
        onnxruntime.InferenceSession(path).run(None, {"x": x})[0] for path in (source, target)
    )
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()
    assert not np.array_equal(got, wanted)


def test_what_is_left_alone(tmp_path):
    target = tmp_path / "target.onnx"
    weights = RANDOM.normal(size=(8, 16)).astype(np.float32)
    source = crafted.save(layer("MatMul", weights), tmp_path / "excluded.onnx")
    assert store_weights(source, target, ("layer",)) == 0
    small = crafted.save(layer("MatMul", weights[:, :4]), tmp_path / "small.onnx")
    assert store_weights(small, target, ()) == 0
