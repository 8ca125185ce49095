"""The model for LiteRT as a converter made it: measured like others, or a row with why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgectl_protocol.requirements import Requirement
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.known import trial_key
from edgectl_server.pipeline.spec import Converted, PipelineSpec, TrialRow
from pipeline import crafted_tflite
from pipeline.conftest import Run, run
from pipeline.crafted_tflite import node, subgraph, tensor

WEIGHTS = np.arange(4, dtype=np.float32)


@pytest.fixture
def adder(tmp_path: Path) -> dict[str, Any]:
    """``y = x + [0, 1, 2, 3]`` with a free batch, and data for it; its twin is the crafted file."""
    kind = (TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "w"], ["b"])],
        "adder",
        [helper.make_tensor_value_info("a", *kind)],
        [helper.make_tensor_value_info("b", *kind)],
        [helper.make_tensor("w", TensorProto.FLOAT, [4], WEIGHTS)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "adder.onnx")
    values = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
    label = (values + WEIGHTS).argmax(axis=1)
    np.savez(tmp_path / "cal.npz", a=values[:50])
    np.savez(tmp_path / "eval.npz", a=values[50:], label=label[50:])
    return {
        "source": tmp_path / "adder.onnx",
        "evaluation": tmp_path / "eval.npz",
        "precisions": ("fp32",),
        "allowed": ("data",),
    }


def twin(folder: Path, content: bytes, precision: Any = "fp32") -> Converted:
    path = folder / f"twin-{precision}.tflite"
    path.write_bytes(content)
    return Converted(precision=precision, path=path)


def with_weights(weights: Any) -> bytes:
    return crafted_tflite.adder(buffers=[b"", np.asarray(weights, "<f4").tobytes()])


def pushed(tmp_path: Path, fields: dict[str, Any], *converted: Converted, **more: Any) -> Run:
    (work := tmp_path / "work").mkdir()
    both = ("onnxruntime", "litert")
    return run(work, **{"converted": converted, "runtimes": both} | fields | more)


def row_of(made: Run, recipe: str = "litert-fp32") -> TrialRow:
    return next(row for row in made.result.report.trials if row.recipe == recipe)


def test_a_twin_is_published_with_the_contract_of_its_model(
    tmp_path: Path, adder: dict[str, Any]
) -> None:
    made = pushed(tmp_path, adder, twin(tmp_path, with_weights(WEIGHTS)))
    row = row_of(made)
    assert (row.status, row.runtime, row.variant, row.value) == (
        "accepted",
        "litert",
        "litert-fp32",
        1.0,
    )
    assert row.latency_p50_us
    candidates = {one.variant: one for one in made.result.candidates}
    assert set(candidates) == {"fp32", "litert-fp32"}
    lite, fp32 = candidates["litert-fp32"], candidates["fp32"]
    assert (lite.inputs, lite.outputs, lite.scores) == (fp32.inputs, fp32.outputs, fp32.scores)
    assert lite.inputs[0].shape == (-1, 4)
    assert (lite.runtime, fp32.runtime) == ("litert", "onnxruntime")
    assert lite.quantization.tool.startswith("LiteRT ")
    with (
        np.load(tmp_path / "work" / "fp32" / "golden.npz") as ours,
        np.load(tmp_path / "work" / "litert-fp32" / "golden.npz") as theirs,
    ):
        assert set(ours) == set(theirs) == {"input.a", "output.b"}
        assert np.array_equal(ours["input.a"], theirs["input.a"])
    assert "onnxruntime" in made.result.report.measured_on
    assert "LiteRT" in made.result.report.measured_on


def test_a_twin_that_answers_otherwise_is_rejected_and_the_rest_published(
    tmp_path: Path, adder: dict[str, Any]
) -> None:
    made = pushed(tmp_path, adder, twin(tmp_path, with_weights([3, 2, 1, 0])))
    assert row_of(made).status == "rejected"
    assert "loses 100.00 points" in row_of(made).reason
    assert [one.variant for one in made.result.candidates] == ["fp32"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a model", "no .tflite file"),
        (with_weights(WEIGHTS)[:-200], "cannot be read"),
        (
            crafted_tflite.adder(
                subgraphs=[
                    subgraph(
                        [tensor("x", [1, 2]), tensor("w", [2], buffer=1), tensor("y", [1, 2])],
                        [node([0, 1], [2])],
                    )
                ]
            ),
            "its inputs are FP32 [2], not FP32 [4]",
        ),
        (
            crafted_tflite.adder(
                subgraphs=[
                    subgraph(
                        [tensor("x"), tensor("w", [1, 1, 4], buffer=1), tensor("y", [1, 1, 4])],
                        [node([0, 1], [2])],
                    )
                ]
            ),
            "output 'b' is float32 [1, 4]",
        ),
    ],
)
def test_a_file_that_is_not_the_model_is_a_row_with_its_reason(
    tmp_path: Path, adder: dict[str, Any], content: bytes, told: str
) -> None:
    made = pushed(tmp_path, adder, twin(tmp_path, content))
    assert row_of(made).status == "failed"
    assert told in row_of(made).reason
    assert [one.variant for one in made.result.candidates] == ["fp32"]


def test_what_could_not_be_converted_is_told(tmp_path: Path, adder: dict[str, Any]) -> None:
    made = pushed(
        tmp_path,
        adder,
        Converted(precision="fp32", reason="onnx2tf gave up"),
        Converted(precision="int8", reason="needs calibration data", tried=False),
    )
    assert (row_of(made).status, row_of(made).reason) == ("failed", "onnx2tf gave up")
    int8 = row_of(made, "litert-int8")
    assert (int8.status, int8.reason) == ("skipped", "needs calibration data")


def test_for_litert_alone(tmp_path: Path, adder: dict[str, Any]) -> None:
    one = twin(tmp_path, with_weights(WEIGHTS))
    made = pushed(tmp_path, adder, one, runtimes=("litert",))
    assert [one.variant for one in made.result.candidates] == ["litert-fp32"]
    assert [row.recipe for row in made.result.report.trials] == ["fp32", "litert-fp32"]


def test_for_litert_alone_and_rejected_the_push_is_refused(
    tmp_path: Path, adder: dict[str, Any]
) -> None:
    requirement = Requirement(name="size", direction="<=", bound=10)
    one = twin(tmp_path, with_weights(WEIGHTS))
    with pytest.raises(PipelineRefused) as caught:
        pushed(tmp_path, adder, one, runtimes=("litert",), requirements=(requirement,))
    assert caught.value.code == "pipeline.gates"


def test_what_is_known_of_other_trials_does_not_depend_on_it(
    tmp_path: Path, adder: dict[str, Any]
) -> None:
    one = twin(tmp_path, with_weights(WEIGHTS))
    fields = {"model": "m", "version": "1"} | adder
    assert trial_key(PipelineSpec(**fields)) == trial_key(
        PipelineSpec(**fields, converted=(one,), runtimes=("onnxruntime", "litert"))
    )
