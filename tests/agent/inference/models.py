"""Real models and bundles for the tests, and a client of the endpoint."""

from __future__ import annotations

import http.client
import json
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

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

ACTIVITY = Path(__file__).parents[3] / "server" / "edgectl" / "demo" / "activity"
HAR = ACTIVITY / "har_v1.onnx"
TYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(int16)": "INT16",
    "tensor(int8)": "INT8",
    "tensor(uint64)": "UINT64",
    "tensor(uint32)": "UINT32",
    "tensor(uint16)": "UINT16",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}

Array = np.ndarray[Any, Any]


@cache
def activity() -> tuple[Array, Array]:
    """Real windows of acceleration, (1500, 6, 128) float32, and their classes."""
    with np.load(ACTIVITY / "eval.npz") as data:
        return data["input"], data["label"]


def save_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto] | None = None,
) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def tensor(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def make_bundle(
    directory: Path,
    model: Path = HAR,
    *,
    slot: str = "activity",
    version: str = "1",
    golden_inputs: dict[str, Array] | None = None,
    golden_outputs: dict[str, Array] | None = None,
    scores: bool = False,
    **config: Any,
) -> Bundle:
    """Make a bundle of a real model file, with golden data from the runtime here."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs, outputs = (
        tuple(
            TensorSpec(
                name=node.name,
                datatype=TYPES[node.type],
                shape=tuple(size if isinstance(size, int) else -1 for size in node.shape),
            )
            for node in nodes
        )
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    if golden_inputs is None:
        golden_inputs = {"input": activity()[0][:16]}
    cases = len(next(iter(golden_inputs.values())))
    if golden_outputs is None:
        rows = [
            session.run(None, {k: v[i : i + 1] for k, v in golden_inputs.items()})
            for i in range(cases)
        ]
        golden_outputs = {
            spec.name: np.concatenate([row[number] for row in rows])
            for number, spec in enumerate(outputs)
        }
    golden = directory / f"golden-{slot}-{version}.npz"
    np.savez(
        golden,
        **{f"input.{name}": values for name, values in golden_inputs.items()},
        **{f"output.{name}": values for name, values in golden_outputs.items()},
    )
    described = BundleConfig(
        model=slot,
        version=version,
        variant="fp32",
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        inputs=inputs,
        outputs=outputs,
        golden=Golden(
            cases=cases,
            tolerances={name: Tolerance(atol=1e-4, rtol=1e-4) for name in golden_outputs},
        ),
        quantization=Quantization(recipe="fp32"),
        lineage=Lineage(source=digest_of(model.read_bytes())),
        scores=Scores(output=outputs[0].name, kind="logits") if scores else None,
    )
    described = msgspec.structs.replace(described, **config)
    return Bundle(
        slot=slot,
        version=version,
        variant=described.variant,
        manifest=digest_of(f"{slot} {version} {model}".encode()),
        model=str(model),
        golden=str(golden),
        config=described,
    )


class Client:
    """A keep-alive JSON client of one endpoint."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        assert address.hostname is not None
        self.connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = None if body is None else content
        status, _, text = self.ask(method, path, sent, headers)
        return status, json.loads(text) if text else None

    def ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()

    def close(self) -> None:
        self.connection.close()


KINDS: dict[str, tuple[int, Any, list[Any]]] = {
    "FP32": (TensorProto.FLOAT, np.float32, [1.5, -2.0]),
    "FP64": (TensorProto.DOUBLE, np.float64, [1e300, -2.0]),
    "FP16": (TensorProto.FLOAT16, np.float16, [0.5, 65504.0]),
    "INT64": (TensorProto.INT64, np.int64, [2**63 - 1, -(2**63)]),
    "INT32": (TensorProto.INT32, np.int32, [2**31 - 1, -1]),
    "INT16": (TensorProto.INT16, np.int16, [2**15 - 1, -1]),
    "INT8": (TensorProto.INT8, np.int8, [127, -128]),
    "UINT64": (TensorProto.UINT64, np.uint64, [2**64 - 1, 0]),
    "UINT32": (TensorProto.UINT32, np.uint32, [2**32 - 1, 0]),
    "UINT16": (TensorProto.UINT16, np.uint16, [2**16 - 1, 0]),
    "UINT8": (TensorProto.UINT8, np.uint8, [255, 0]),
    "BOOL": (TensorProto.BOOL, np.bool_, [True, False]),
    "BYTES": (TensorProto.STRING, np.str_, ["d\u00e9j\u00e0", ""]),
}
"""Every datatype of the protocol that a runtime has: ONNX, NumPy and a row of two values."""


def identity_bundle(directory: Path, slot: str = "identity") -> Bundle:
    """A model with an input and an output of each datatype, (N, 2): what it gets it gives back."""
    model = save_model(
        directory / "identity.onnx",
        [helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in KINDS],
        [tensor(f"in_{kind}", code, ["N", 2]) for kind, (code, _, _) in KINDS.items()],
        [tensor(f"out_{kind}", code, ["N", 2]) for kind, (code, _, _) in KINDS.items()],
    )
    values = {kind: np.array([row], dtype) for kind, (_, dtype, row) in KINDS.items()}
    return make_bundle(
        directory,
        model,
        slot=slot,
        golden_inputs={f"in_{kind}": row for kind, row in values.items()},
        golden_outputs={f"out_{kind}": row for kind, row in values.items()},
    )


def infinite_loop(directory: Path) -> Path:
    """A model whose run takes hours: a loop of 2^50 additions."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "step"], ["next"]),
            helper.make_node("Identity", ["condition"], ["again"]),
        ],
        "body",
        [
            tensor("number", TensorProto.INT64, []),
            tensor("condition", TensorProto.BOOL, []),
            tensor("carried", TensorProto.FLOAT, [1, 1]),
        ],
        [tensor("again", TensorProto.BOOL, []), tensor("next", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor("step", TensorProto.FLOAT, [1, 1], [1.0])],
    )
    return save_model(
        directory / "loop.onnx",
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        [tensor("x", TensorProto.FLOAT, [1, 1])],
        [tensor("y", TensorProto.FLOAT, [1, 1])],
        [
            helper.make_tensor("rounds", TensorProto.INT64, [], [2**50]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )


def counted_bundle(directory: Path, golden_rounds: int = 20_000) -> Bundle:
    """A model that loops as often as its input says.

    20,000 golden rounds take longer than an inline model may, so that it gets the worker thread;
    with 10 it computes on the event loop.
    """
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["again"]),
            helper.make_node("Add", ["carried", "step"], ["next"]),
        ],
        "body",
        [
            tensor("number", TensorProto.INT64, []),
            tensor("condition", TensorProto.BOOL, []),
            tensor("carried", TensorProto.FLOAT, [1]),
        ],
        [tensor("again", TensorProto.BOOL, []), tensor("next", TensorProto.FLOAT, [1])],
        [helper.make_tensor("step", TensorProto.FLOAT, [1], [1.0])],
    )
    model = save_model(
        directory / "counted.onnx",
        [
            helper.make_node("Squeeze", ["rounds"], ["count"]),
            helper.make_node("Loop", ["count", "yes", "zero"], ["y"], body=graph),
        ],
        [tensor("rounds", TensorProto.INT64, [1])],
        [tensor("y", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        ],
    )
    return make_bundle(
        directory,
        model,
        slot="counted",
        golden_inputs={"rounds": np.array([[golden_rounds]], np.int64)},
        golden_outputs={"y": np.array([[golden_rounds]], np.float32)},
    )
