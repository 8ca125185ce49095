"""Models and inputs that the device's benchmarks ask for: a dense layer, a camera image, a sensor.

The dense layer (64 to 10, 256 bytes in) shows what asking costs; the image (3 x 96 x 96 float32,
110 KB in) what moving a tensor costs; the activity model is a real one with a real window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from edgectl_agent.bundle import Bundle
from edgectl_protocol.manifest import (
    BundleConfig,
    Golden,
    Lineage,
    Quantization,
    Scores,
    TensorSpec,
    Tolerance,
)
from edgectl_protocol.names import digest_of

__all__ = ["Case", "activity", "image", "tiny"]

ACTIVITY = Path(__file__).parents[2] / "server" / "edgectl" / "demo" / "activity"
OPSET, IR_VERSION = 17, 9
Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    """A model and one input for it, float32, batch of one."""

    name: str
    bundle: Bundle
    input: Array


def activity(folder: Path) -> Case:
    """Return the activity model that comes with edgectl and a real window, (1, 6, 128)."""
    with np.load(ACTIVITY / "eval.npz") as data:
        window: Array = data["input"][:1]
    return Case("activity", _bundle(folder, "activity", ACTIVITY / "har_v1.onnx", window), window)


def tiny(folder: Path) -> Case:
    """Return a dense layer, (N, 64) to (N, 10)."""
    from onnx import helper

    random = np.random.default_rng(1)
    weights = {"weight": random.normal(size=(64, 10))}
    nodes = [helper.make_node("MatMul", ["input", "weight"], ["logits"])]
    values = random.normal(size=(1, 64)).astype(np.float32).round(3)
    return _made(folder, "tiny", nodes, weights, values)


def image(folder: Path) -> Case:
    """Return two convolutions, a mean and a dense layer, (N, 3, 96, 96) to (N, 10)."""
    from onnx import helper

    random = np.random.default_rng(2)
    weights = {
        "first": random.normal(size=(8, 3, 3, 3)) / 5,
        "second": random.normal(size=(16, 8, 3, 3)) / 9,
        "dense": random.normal(size=(16, 10)),
    }
    strided = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["a"], **strided),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], **strided),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["logits"]),
    ]
    values = random.integers(0, 256, size=(1, 3, 96, 96)).astype(np.float32) / 255
    return _made(folder, "image", nodes, weights, values.astype(np.float32))


def _made(
    folder: Path, name: str, nodes: list[Any], weights: dict[str, Array], values: Array
) -> Case:
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *values.shape[1:]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(one.astype(np.float32), key) for key, one in weights.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    path = folder / f"{name}.onnx"
    save(model, path)
    return Case(name, _bundle(folder, name, path, values), values)


def _bundle(folder: Path, slot: str, model: Path, values: Array) -> Bundle:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": values})
    golden = folder / f"{slot}.npz"
    np.savez(golden, **{"input.input": values, "output.logits": logits})
    return Bundle(
        slot=slot,
        version="1",
        variant="fp32",
        manifest=digest_of(model.read_bytes()),
        model=str(model),
        golden=str(golden),
        config=BundleConfig(
            model=slot,
            version="1",
            variant="fp32",
            runtime="onnxruntime",
            format="onnx",
            precision="fp32",
            inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, *values.shape[1:])),),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, logits.shape[1])),),
            golden=Golden(cases=1, tolerances={"logits": Tolerance(atol=1e-4, rtol=1e-4)}),
            quantization=Quantization(recipe="fp32"),
            lineage=Lineage(source=digest_of(model.read_bytes())),
            scores=Scores(output="logits", kind="logits"),
        ),
    )
