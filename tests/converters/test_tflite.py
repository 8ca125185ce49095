"""ONNX to TFLite: float32 and full-integer int8 of real models, checked against the ONNX."""

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from edgectl_server.converters.conversion import ConverterLimits, convert, to_tflite
from edgectl_server.converters.for_litert import convert_for_litert
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import PipelineLimits
from edgectl_server.pipeline.tflite_checks import check_tflite
from pipeline.conftest import run

ACTIVITY = Path(__file__).parents[2] / "server/edgectl/demo/activity"
pytestmark = pytest.mark.timeout(900)  # the first test of a machine installs


@pytest.fixture(scope="session")
def pictures(make, sklearn_models):
    """A network with channels first, of PyTorch: the layout that TFLite does not have."""
    return make("pytorch_models", "pytorch", sklearn_models / "digits.npz")


@pytest.fixture
def lite(environments, tmp_path):
    def run(source, precision, data):
        work = tmp_path / precision
        work.mkdir()
        return to_tflite(
            source,
            work,
            precision=precision,
            data=data,
            environments=environments,
            limits=ConverterLimits(),
            on_progress=lambda _: None,
            cancelled=lambda: False,
        )

    return run


@pytest.fixture(scope="module")
def network(pictures, environments, tmp_path_factory):
    """The network as ONNX."""
    return convert(
        pictures / "cnn.pt2",
        "pytorch",
        tmp_path_factory.mktemp("onnx"),
        data=pictures / "digits.npz",
        environments=environments,
        limits=ConverterLimits(),
        on_progress=lambda _: None,
        cancelled=lambda: False,
    ).path


@pytest.fixture(scope="module")
def made(pictures, network, environments, tmp_path_factory):
    """The network for LiteRT, float32 and int8."""
    return convert_for_litert(
        network,
        tmp_path_factory.mktemp("litert"),
        precisions=("fp32", "int8"),
        calibration=pictures / "digits.npz",
        evaluation=None,
        impossible="",
        alone=False,
        environments=environments,
        limits=ConverterLimits(),
        on_progress=lambda _: None,
        cancelled=lambda: False,
    )


def test_a_network_with_channels_first(made, network):
    exact, small = made.converted
    assert (exact.precision, small.precision) == ("fp32", "int8")
    found = [
        re.fullmatch(
            rf"converted for LiteRT, {precision}, onnx to tflite: differs by (\S+) at most, "
            r"same class (\S+), on 256 samples",
            note,
        )
        for precision, note in zip(("fp32", "int8"), made.notes, strict=True)
    ]
    (exact_off, exact_same), (small_off, small_same) = (
        tuple(map(float, one.groups())) for one in found
    )
    assert 0 < exact_off < 1e-4 < small_off, "that of int8 is rounded"
    assert (exact_same, small_same >= 0.95) == (1.0, True)
    assert small.path.stat().st_size < network.stat().st_size
    for one in (exact, small):
        facts = check_tflite(one.path.read_bytes(), PipelineLimits())
        assert [(spec.datatype, spec.shape) for spec in facts.inputs] == [("FP32", (1, 1, 8, 8))]
        assert facts.scalings == {}, "inputs and outputs are those of the ONNX"
        assert facts.precision == one.precision


def test_both_are_published_beside_the_onnx(made, network, pictures, tmp_path):
    """Through the pipeline's child: the contract is one, and the accuracy holds."""
    result = run(
        tmp_path,
        source=network,
        calibration=pictures / "digits.npz",
        evaluation=pictures / "digits.npz",
        converted=made.converted,
        runtimes=("onnxruntime", "litert"),
        recipes=("int8-static-minmax-per-tensor",),
        allowed=("data",),
    ).result
    rows = {row.recipe: row for row in result.report.trials}
    assert {rows[one].status for one in ("fp32", "litert-fp32", "litert-int8")} == {"accepted"}
    candidates = {one.variant: one for one in result.candidates}
    assert set(candidates) == {"fp32", "int8", "litert-fp32", "litert-int8"}
    assert len({(one.inputs, one.outputs) for one in result.candidates}) == 1
    assert candidates["litert-int8"].quantization.calibration_samples > 0
    assert rows["litert-int8"].size_bytes < rows["litert-fp32"].size_bytes


def test_what_cannot_be_converted_is_told_or_refused(environments, tmp_path):
    source = ACTIVITY / "har_v1.onnx"
    fields = {
        "precisions": ("fp32", "int8"),
        "calibration": None,
        "evaluation": ACTIVITY / "eval.npz",
        "environments": environments,
        "limits": ConverterLimits(wall_s=0.5),
        "on_progress": lambda _: None,
        "cancelled": lambda: False,
    }
    (folder := tmp_path / "both").mkdir()
    made = convert_for_litert(source, folder, impossible="", alone=False, **fields)
    assert [(one.precision, one.path, one.tried) for one in made.converted] == [
        ("fp32", None, True),
        ("int8", None, False),
    ]
    assert "more than 0.5 s" in made.converted[0].reason
    (folder := tmp_path / "alone").mkdir()
    with pytest.raises(PipelineFailed) as caught:
        convert_for_litert(source, folder, impossible="", alone=True, **fields)
    assert caught.value.code == "pipeline.time"
    with pytest.raises(PipelineRefused) as caught:
        convert_for_litert(source, folder, impossible="for a reason", alone=True, **fields)
    assert caught.value.code == "convert.unsupported"


def test_int8_without_data_and_operators_that_tflite_does_not_have(tmp_path, lite):
    node = helper.make_node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")
    kind = (TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", *kind)],
        [helper.make_tensor_value_info("y", *kind)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    source = tmp_path / "model.onnx"
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(source))
    with pytest.raises(PipelineRefused) as caught:
        lite(source, "int8", None)
    assert caught.value.code == "convert.data"
    np.savez(tmp_path / "data.npz", x=np.ones((3, 4), "f4"))
    with pytest.raises(PipelineRefused) as caught:
        lite(source, "fp32", tmp_path / "data.npz")
    assert caught.value.code == "convert.unsupported"
    assert caught.value.hint
