"""Bundles of real models for LiteRT, with golden data from the runtime here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from agent.inference.models import Array
from edgectl_agent.bundle import Bundle
from edgectl_protocol.manifest import (
    BundleConfig,
    Golden,
    Lineage,
    Quantization,
    TensorSpec,
    Tolerance,
)
from edgectl_protocol.names import digest_of
from pipeline.crafted_tflite import (
    ADD,
    BOOL,
    FLOAT32,
    GREATER_EQUAL,
    WHILE,
    node,
    subgraph,
    tensor,
    write,
)

MODELS = Path(__file__).parents[2] / "data" / "tflite"
SINE = MODELS / "hello_world_float.tflite"
SINE_INT8 = MODELS / "hello_world_int8.tflite"
MOBILENET = MODELS / "mobilenet.tflite"
DATATYPES = {"float32": "FP32", "int8": "INT8", "uint8": "UINT8"}


def answers(model: Path, samples: Array) -> Array:
    """Return what LiteRT itself says, sample by sample."""
    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    rows = []
    for sample in samples:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[np.newaxis])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(rows)


def inputs_of(model: Path, count: int = 4) -> Array:
    """Return made-up samples of the model's type and shape."""
    detail = Interpreter(model_path=str(model), num_threads=1).get_input_details()[0]
    shape = (count, *detail["shape"][1:])
    random = np.random.default_rng(5)
    if detail["dtype"] is np.float32:
        return random.uniform(0, 6, shape).astype(np.float32)
    bounds = np.iinfo(detail["dtype"])
    return random.integers(bounds.min, bounds.max, shape, detail["dtype"], endpoint=True)


def endless(path: Path) -> Path:
    """A model that doubles a number while it equals itself: done at once for NaN, else never."""

    def graph(names: str, kinds: tuple[int, int], one: dict[str, Any]) -> dict[str, Any]:
        tensors = [tensor(name, [1], kind=kind) for name, kind in zip(names, kinds, strict=True)]
        return subgraph(tensors, [one], outputs=(1,))

    graphs = [
        graph("xy", (FLOAT32, FLOAT32), node([0], [1], calls=(1, 2))),
        graph("ab", (FLOAT32, BOOL), node([0, 0], [1], code=1)),
        graph("cd", (FLOAT32, FLOAT32), node([0, 0], [1], code=2)),
    ]
    path.write_bytes(write([(WHILE, ""), (GREATER_EQUAL, ""), (ADD, "")], [b""], graphs))
    return path


def make_litert_bundle(
    directory: Path, model: Path = SINE, samples: Array | None = None, **config: Any
) -> Bundle:
    """Make a bundle of a ``.tflite`` file with one input ``x`` and one output ``y``."""
    samples = inputs_of(model) if samples is None else samples
    outputs = answers(model, samples)
    golden = directory / "golden.npz"
    np.savez(golden, **{"input.x": samples, "output.y": outputs})
    described = BundleConfig(
        model="sine",
        version="1",
        variant="fp32",
        runtime="litert",
        format="tflite",
        precision="fp32",
        inputs=(_spec("x", samples),),
        outputs=(_spec("y", outputs),),
        golden=Golden(cases=len(samples), tolerances={"y": Tolerance(atol=1e-4, rtol=1e-4)}),
        quantization=Quantization(recipe="litert-fp32"),
        lineage=Lineage(source=digest_of(model.read_bytes())),
    )
    described = msgspec.structs.replace(described, **config)
    return Bundle(
        slot="sine",
        version="1",
        variant=described.variant,
        manifest=digest_of(f"sine {model}".encode()),
        model=str(model),
        golden=str(golden),
        config=described,
    )


def _spec(name: str, array: Array) -> TensorSpec:
    datatype: Any = DATATYPES[array.dtype.name]
    return TensorSpec(name=name, datatype=datatype, shape=(1, *array.shape[1:]))
