"""Small models of one contract that answer the same, otherwise, slowly or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from agent.inference.models import make_bundle, save_model, tensor
from edgectl_agent.bundle import Bundle
from edgectl_protocol.manifest import Scores

LABELS = ("low", "middle", "high")
X = np.array([[1.0, 2.0, 3.0]], np.float32)
BODY = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1.0,2.0,3.0]}]}'


def scoring(
    directory: Path,
    version: str,
    *,
    factor: float = 1.0,
    slot: str = "scoring",
    labels: tuple[str, ...] = LABELS,
    **config: Any,
) -> Bundle:
    """Scores are the inputs times `factor`: a negative one answers another class."""
    model = save_model(
        directory / f"{slot}-{version}.onnx",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["rows", 3])],
        [tensor("y", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )
    return make_bundle(
        directory,
        model,
        slot=slot,
        version=version,
        golden_inputs={"x": X},
        golden_outputs={"y": X * np.float32(factor)},
        **{"labels": labels, "scores": Scores(output="y", kind="logits"), **config},
    )


def slow_scoring(directory: Path, version: str, *, slot: str = "scoring") -> Bundle:
    """Computes as many rounds as its first input says; scores are the inputs."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["again"]),
            helper.make_node("Identity", ["carried"], ["next"]),
        ],
        "body",
        [
            tensor("number", TensorProto.INT64, []),
            tensor("condition", TensorProto.BOOL, []),
            tensor("carried", TensorProto.FLOAT, ["rows", 3]),
        ],
        [tensor("again", TensorProto.BOOL, []), tensor("next", TensorProto.FLOAT, ["rows", 3])],
    )
    model = save_model(
        directory / f"{slot}-{version}.onnx",
        [
            helper.make_node("Slice", ["x", "zeros", "ones"], ["first"]),
            helper.make_node("Squeeze", ["first"], ["scalar"]),
            helper.make_node("Cast", ["scalar"], ["rounds"], to=TensorProto.INT64),
            helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body),
        ],
        [tensor("x", TensorProto.FLOAT, ["rows", 3])],
        [tensor("y", TensorProto.FLOAT, ["rows", 3])],
        [
            helper.make_tensor("zeros", TensorProto.INT64, [2], [0, 0]),
            helper.make_tensor("ones", TensorProto.INT64, [2], [1, 1]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    return make_bundle(
        directory,
        model,
        slot=slot,
        version=version,
        golden_inputs={"x": X},
        golden_outputs={"y": X},
        labels=LABELS,
        scores=True,
    )
