"""Flat models in Python: what is written is read, what is hostile refused, results are right."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.data import Samples, load_samples
from edgectl_server.pipeline.flat_export import to_flat
from edgectl_server.pipeline.flat_format import Factor, FlatInvalid, FlatModel, Step
from edgectl_server.pipeline.flat_reading import decode_flat
from edgectl_server.pipeline.flat_reference import dequantize, quantize, run_flat
from edgectl_server.pipeline.flat_shapes import FlatUnsupported
from edgectl_server.pipeline.flat_writing import encode_flat
from edgectl_server.pipeline.recipes import Recipe, calibrate, make
from firmware.crafted_flat import random_model

PER_CHANNEL = Recipe("x", "static", per_channel=True, activations="s8")
DEMO = Path(__file__).parents[2] / "server/edgectl/demo/activity"


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_is_read(seed: int) -> None:
    model = random_model(seed)
    content = encode_flat(model)
    assert decode_flat(content) == model
    assert encode_flat(decode_flat(content)) == content


@given(st.integers(0, 29), st.data())
def test_damaged_files_are_refused_or_models(seed: int, data: st.DataObject) -> None:
    content = bytearray(encode_flat(random_model(seed)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_flat(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except FlatInvalid:
        return


@pytest.mark.parametrize("number", [1.0, 0.3, 1e-9, 0.0, 0.999_999_999_9, 123_456.789, 2.0**-40])
def test_factors(number: float) -> None:
    factor = Factor.of(number)
    assert 0 <= factor.multiplier < 2**31
    assert math.isclose(math.ldexp(factor.multiplier, -factor.shift), number, rel_tol=1e-9)


@pytest.mark.parametrize("number", [-0.1, 2.0**29, math.inf, math.nan])
def test_what_is_no_factor(number: float) -> None:
    with pytest.raises(FlatInvalid):
        Factor.of(number)


@pytest.mark.parametrize("seed", range(200, 230))
def test_the_reference_against_plain_loops(seed: int) -> None:
    """As the specification says it, one value at a time, in Python's own integers."""
    model = random_model(seed)
    first = model.tensors[model.input]
    shape = (1, first.channels, first.height, first.width)
    values = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    assert run_flat(model, values)[0].tolist() == slow(model, values[0])


def slow(model: FlatModel, values: Any) -> Any:
    found = {model.input: values}
    for step in model.steps:
        target = model.tensors[step.output]
        result = np.zeros((target.channels, target.height, target.width), np.int8)
        flat = [found[step.first].reshape(-1)]
        flat += [found[step.second].reshape(-1)] if step.kind == 4 else []
        for number, place in enumerate(itertools.product(*map(range, result.shape))):
            if step.kind <= 3:
                value = window(model, step, found[step.first], place)
            else:
                value = single(model, step, [[int(one) for one in part] for part in flat], number)
            limited = value if step.kind == 5 else max(step.lowest, min(step.highest, value))
            result[place] = limited
        found[step.output] = result
    return found[model.output].tolist()


def window(model: FlatModel, step: Step, values: Any, place: tuple[int, ...]) -> int:
    source, target = model.tensors[step.first], model.tensors[step.output]
    channel, row, column = place
    weighted = step.kind == 1
    inside = source.channels // step.groups
    begin = channel // (target.channels // step.groups) * inside if weighted else channel
    weights = np.frombuffer(step.weights, np.int8).reshape(-1, inside, *step.kernel)
    total, seen = 0, [-128]
    for one in range(inside if weighted else 1):
        for i, j in itertools.product(range(step.kernel[0]), range(step.kernel[1])):
            y = row * step.stride[0] - step.padding[0] + i * step.dilation[0]
            x = column * step.stride[1] - step.padding[1] + j * step.dilation[1]
            if 0 <= y < source.height and 0 <= x < source.width:
                value = int(values[begin + one, y, x])
                seen.append(value)
                weight = int(weights[channel, one, i, j]) if weighted else 1
                total += (value - source.zero) * weight
    if step.kind == 2:
        return max(seen)
    factor = step.factors[channel if weighted else 0]
    total += step.biases[channel] if weighted else 0
    return nearest(total * factor.multiplier, factor.shift) + target.zero


def single(model: FlatModel, step: Step, parts: list[list[int]], number: int) -> int:
    if step.kind == 4:
        total = sum(
            (part[number] - model.tensors[tensor].zero) * factor.multiplier
            for part, tensor, factor in zip(
                parts, (step.first, step.second), step.factors, strict=True
            )
        )
        return nearest(total, step.factors[0].shift) + model.tensors[step.output].zero
    if step.kind == 5:
        return int(np.frombuffer(step.weights, np.int8)[parts[0][number] + 128])
    powers: list[int] = np.frombuffer(step.weights, "<u4").tolist()
    shares = [powers[max(parts[0]) - one] for one in parts[0]]
    return (512 * shares[number] + sum(shares)) // (2 * sum(shares)) - 128


def nearest(product: int, shift: int) -> int:
    return (product + (1 << (shift - 1))) >> shift


# ------------------------------------------------------------ from ONNX


def network(rng: np.random.Generator) -> Any:
    """Every operator that has a counterpart, with windows of all sorts."""
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, *shape: int) -> str:
        values = rng.normal(0, 0.4, shape).astype(np.float32)
        constants.append(numpy_helper.from_array(values, name))
        return name

    def add(kind: str, *inputs: str, **how: Any) -> str:
        name = f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **how))
        return name

    x = add(
        "Conv", "x", constant("w0", 8, 3, 3, 3), constant("b0", 8), strides=[2, 1],
        pads=[1, 1, 0, 1],
    )  # fmt: skip
    x = add("Relu", x)
    constants.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    constants.append(numpy_helper.from_array(np.array(6, np.float32), "six"))
    y = add("Conv", x, constant("w1", 8, 1, 3, 3), group=8, pads=[2] * 4, dilations=[2, 2])
    y = add("Clip", y, "zero", "six")
    y = add("Add", y, x)
    y = add("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = add("AveragePool", y, kernel_shape=[2, 2])
    y = add("Conv", y, constant("w2", 6, 8, 1, 1), constant("b2", 6))
    y = add("Sigmoid", y)
    z = add("GlobalAveragePool", y)
    z = add("Flatten", z)
    z = add("Gemm", z, constant("w3", 6, 5), constant("b3", 5))
    nodes.append(helper.make_node("Softmax", [z], ["p"], axis=-1))
    shape = (TensorProto.FLOAT, ["N", 3, 12, 10])
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", *shape)],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 5])], constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def quantized(folder: Path, model: Any, samples: Samples, recipe: Recipe = PER_CHANNEL) -> Any:
    onnx.save(model, folder / "model.onnx")
    calibrate("minmax", folder / "model.onnx", folder / "ranges-x.json", samples)
    make(recipe, folder / "model.onnx", folder / "int8.onnx", folder / "ranges-x.json")
    return onnx.load(folder / "int8.onnx")


def in_float(model: Any, feeds: dict[str, Any]) -> Any:
    """Run what lies between the quantization steps in float, as a processor without limits."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("activations", ["s8", "u8"])
def test_every_operator_gives_what_onnxruntime_does(tmp_path: Path, activations: Any) -> None:
    rng = np.random.default_rng(4)
    numbers = rng.normal(size=(64, 3, 12, 10)).astype(np.float32)
    recipe = Recipe("x", "static", per_channel=True, activations=activations)
    samples = Samples("calibration", {"x": numbers})
    int8 = quantized(tmp_path, network(rng), samples, recipe)
    model = to_flat(int8)
    assert {one.kind for one in model.steps} == {1, 2, 3, 4, 5, 6}
    first, last = model.tensors[model.input], model.tensors[model.output]
    found = dequantize(run_flat(model, quantize(numbers, first)), last).reshape(64, 5)
    wanted = in_float(int8, {"x": numbers})
    assert np.abs(found - wanted).max() < 0.03
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.95


def test_a_real_model_loses_what_its_quantization_does(tmp_path: Path) -> None:
    inputs = (TensorSpec(name="input", datatype="FP32", shape=(-1, 6, 128)),)
    calibration = load_samples(
        DEMO / "calibration.npz", "calibration", inputs, bytes_max=2**30
    ).choose(64, 0)
    int8 = quantized(tmp_path, onnx.load(DEMO / "har_v1.onnx"), calibration)
    model = to_flat(int8)
    with np.load(DEMO / "eval.npz") as data:
        numbers, label = data["input"][:200], data["label"][:200]
    values = run_flat(model, quantize(numbers, model.tensors[model.input]))
    found = dequantize(values, model.tensors[model.output]).reshape(200, -1)
    wanted = in_float(int8, {"input": numbers})
    assert (np.abs(found - wanted) < 1e-5).mean() > 0.98, "the same sums, rounded once less"
    accuracy = (found.argmax(axis=1) == label).mean()
    assert accuracy >= (wanted.argmax(axis=1) == label).mean() - 0.01
    assert len(encode_flat(model)) < 120_000
    assert model.arena_bytes < 16_384


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    model = network(rng)
    model.graph.node[-1].op_type = "LogSoftmax"
    numbers = rng.normal(size=(8, 3, 12, 10)).astype(np.float32)
    samples = Samples("calibration", {"x": numbers})
    with pytest.raises(FlatUnsupported, match="LogSoftmax"):
        to_flat(quantized(tmp_path, model, samples))


def reshaped(rng: np.random.Generator) -> Any:
    """Values that change their axes between a layer and a convolution."""
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (6, 24)), ("k", (3, 2, 3, 3)))
    ]
    shape = numpy_helper.from_array(np.array([-1, 2, 3, 4]), "shape")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="a"),
        helper.make_node("Reshape", ["a", "shape"], ["b"], name="b"),
        helper.make_node("Conv", ["b", "k"], ["y"], name="y"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 2])],
        [*weights, shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_axes_that_change_before_a_window_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    samples = Samples("calibration", {"x": rng.normal(size=(8, 6)).astype(np.float32)})
    with pytest.raises(FlatUnsupported, match="axes were changed"):
        to_flat(quantized(tmp_path, reshaped(rng), samples))


def test_an_average_that_leaves_out_padding_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    model = network(rng)
    pool = next(one for one in model.graph.node if one.op_type == "AveragePool")
    pool.attribute.append(helper.make_attribute("pads", [0, 0, 1, 1]))
    samples = Samples("calibration", {"x": rng.normal(size=(8, 3, 12, 10)).astype(np.float32)})
    with pytest.raises(FlatUnsupported, match="leaves out the padding"):
        to_flat(quantized(tmp_path, model, samples))
