"""ONNX to TFLite: float32 and full-integer int8 of real models, checked against the ONNX."""

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from edgectl_server.converters.conversion import ConverterLimits, to_tflite
from edgectl_server.pipeline.errors import PipelineRefused

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


def test_a_network_with_channels_first(pictures, converted, lite):
    data = pictures / "digits.npz"
    source = converted(pictures / "cnn.pt2", data).conversion.path
    exact = lite(source, "fp32", data)
    (check,) = exact.checks
    assert exact.target_format == "tflite"
    assert exact.path.read_bytes()[4:8] == b"TFL3"
    assert check.max_abs < 1e-4
    assert check.agreement == 1.0
    assert {"onnx2tf", "onnxruntime", "python"} <= set(exact.tools)
    small = lite(source, "int8", data)
    (check,) = small.checks
    assert check.max_abs > 0, "it was rounded"
    assert check.agreement >= 0.95
    assert small.path.stat().st_size < source.stat().st_size


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
