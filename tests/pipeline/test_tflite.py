"""A pushed ``.tflite`` file: checked before LiteRT sees it, measured, and published as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgectl_protocol.manifest import Lineage, decode_config, decode_manifest
from edgectl_protocol.requirements import Requirement
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.pack import pack
from edgectl_server.pipeline.spec import Candidate
from edgectl_server.pipeline.tflite_checks import Scaling
from pipeline.conftest import Run, run

MODELS = Path(__file__).parents[1] / "data" / "tflite"
SINE, SINE_INT8 = MODELS / "hello_world_float.tflite", MODELS / "hello_world_int8.tflite"
MOBILENET = MODELS / "mobilenet.tflite"


@pytest.fixture(scope="module")
def sine_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers and their sine, as floats: what both sine models were trained for."""
    path = tmp_path_factory.mktemp("data") / "sine.npz"
    x = np.linspace(0, 2 * np.pi, 500, dtype=np.float32).reshape(-1, 1)
    np.savez(path, input=x, label=np.sin(x))
    return path


def only(made: Run) -> Candidate:
    (candidate,) = made.result.candidates
    return candidate


@pytest.mark.parametrize(
    ("model", "precision", "rmse_max"), [(SINE, "fp32", 0.06), (SINE_INT8, "int8", 0.07)]
)
def test_a_model_is_measured_and_published_as_it_is(
    tmp_path: Path, sine_data: Path, model: Path, precision: str, rmse_max: float
) -> None:
    made = run(
        tmp_path,
        source=model,
        evaluation=sine_data,
        requirements=(Requirement(name="rmse", direction="<=", bound=0.1),),
    )
    report, candidate = made.result.report, only(made)
    assert (report.metric, report.samples, report.opset, report.nodes) == ("rmse", 500, 0, 3)
    assert report.reference is not None
    assert 0 < report.reference < rmse_max
    (row,) = report.trials
    assert (row.recipe, row.variant, row.precision) == ("as-pushed", precision, precision)
    assert (row.runtime, row.status, row.drop_points) == ("litert", "accepted", 0.0)
    assert row.latency_p50_us
    assert "LiteRT" in report.measured_on
    assert "onnxruntime" not in report.measured_on
    assert (candidate.variant, candidate.runtime) == (precision, "litert")
    assert (tmp_path / precision / "model.tflite").read_bytes() == model.read_bytes()
    assert {gate.name: gate.status for gate in candidate.gates}["rmse"] == "passed"
    datatype = "FP32" if precision == "fp32" else "INT8"
    assert [(one.name, one.datatype, one.shape) for one in candidate.inputs] == [
        ("dense_input", datatype, (-1, 1))
    ]
    assert [(one.name, one.datatype, one.shape) for one in candidate.outputs] == [
        ("dense_2", datatype, (-1, 1))
    ]


def test_golden_cases_are_what_the_device_sees(tmp_path: Path, sine_data: Path) -> None:
    candidate = only(run(tmp_path, source=SINE_INT8, evaluation=sine_data))
    with np.load(tmp_path / "int8" / "golden.npz") as data:
        inputs, outputs = data["input.dense_input"], data["output.dense_2"]
    assert (inputs.dtype, outputs.dtype, len(inputs)) == (np.int8, np.int8, 16)
    interpreter = Interpreter(model_path=str(SINE_INT8))
    interpreter.allocate_tensors()
    for given, wanted in zip(inputs, outputs, strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given[np.newaxis])
        interpreter.invoke()
        got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        assert np.array_equal(got[0], wanted)
    tolerance = candidate.golden.tolerances["dense_2"]
    assert 1 <= tolerance.atol <= 13, "of 256 steps, a twentieth"


def test_a_classifier_of_integers(tmp_path: Path) -> None:
    """MobileNet: uint8 pixels in, probabilities as uint8 out; its own answers are the labels."""
    random = np.random.default_rng(3)
    pictures = random.integers(0, 256, (40, 128, 128, 3), np.uint8)
    interpreter = Interpreter(model_path=str(MOBILENET), num_threads=1)
    interpreter.allocate_tensors()
    labels = []
    for picture in pictures:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[np.newaxis])
        interpreter.invoke()
        place = interpreter.get_output_details()[0]["index"]
        labels.append(int(interpreter.get_tensor(place).argmax()))
    labels[0] = (labels[0] + 1) % 1001
    data = tmp_path / "eval.npz"
    np.savez(data, input=pictures, label=np.array(labels))
    made = run(tmp_path, source=MOBILENET, evaluation=data, allowed=("data",))
    assert (made.result.report.metric, made.result.report.reference) == ("accuracy", 39 / 40)
    scores = only(made).scores
    assert scores is not None
    assert (scores.output, scores.scale, scores.zero_point) == (
        "MobilenetV1/Predictions/Reshape_1",
        1 / 256,
        0,
    )
    assert only(made).inputs[0].shape == (1, 128, 128, 3)


def test_without_data_it_is_published_too(tmp_path: Path) -> None:
    made = run(tmp_path, source=SINE_INT8)
    assert only(made).golden.cases == 16
    assert made.result.report.metric is None


def test_integers_and_numbers() -> None:
    scaling = Scaling(0.5, -3)
    numbers = np.array([-100.0, -62.5, 0.0, 0.24, 0.26, 64.9, 65.0, 1e9])
    elements = scaling.elements(numbers, np.dtype(np.int8))
    assert elements.tolist() == [-128, -128, -3, -3, -2, 127, 127, 127]
    assert elements.dtype == np.int8
    assert scaling.numbers(elements[2:5]).tolist() == [0.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("fields", "code", "told"),
    [
        ({"source": SINE, "precisions": ("int8",)}, "model.tflite", "this one is fp32"),
        ({"source": SINE_INT8, "precisions": ("fp32",)}, "model.tflite", "this one is int8"),
        ({"source": SINE, "input_shapes": {"dense_input": (1, 1)}}, "model.tflite", "shapes"),
    ],
)
def test_what_a_file_cannot_have_is_refused(
    tmp_path: Path, fields: dict[str, object], code: str, told: str
) -> None:
    with pytest.raises(PipelineRefused) as caught:
        run(tmp_path, **fields)
    assert caught.value.code == code
    assert told in caught.value.detail
    assert caught.value.hint


def test_a_gate_refuses_it(tmp_path: Path, sine_data: Path) -> None:
    requirement = Requirement(name="rmse", direction="<=", bound=0.001)
    with pytest.raises(PipelineRefused) as caught:
        run(tmp_path, source=SINE, evaluation=sine_data, requirements=(requirement,))
    assert caught.value.code == "pipeline.gates"
    assert caught.value.data["report"]["trials"][0]["status"] == "rejected"


class _Store:
    """Blobs in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def add_bytes(self, content: bytes) -> str:
        from edgectl_protocol.names import digest_of

        self.blobs[digest_of(content)] = content
        return digest_of(content)

    def add_file(self, path: Path, *, expected: str | None = None) -> str:
        return self.add_bytes(path.read_bytes())


def test_the_bundle(tmp_path: Path, sine_data: Path) -> None:
    made = run(tmp_path, source=SINE_INT8, evaluation=sine_data)
    store = _Store()
    (packed,) = pack(
        made.result,
        tmp_path,
        blobs=store,
        model="sine",
        version="1",
        labels=(),
        lineage=Lineage(source=made.result.source),
        encrypt=(),
    )
    manifest = decode_manifest(packed.manifest)
    assert [layer.file for layer in manifest.layers][:2] == ["model.tflite", "edgectl.json"]
    config = decode_config(store.blobs[manifest.layers[1].digest])
    assert (config.runtime, config.format, config.precision) == ("litert", "tflite", "int8")
    assert store.blobs[manifest.layers[0].digest] == SINE_INT8.read_bytes()
    assert json.loads(store.blobs[manifest.config.digest])["config"]["format"] == "tflite"
    assert packed.trial["runtime"] == "litert"
    card = next(layer for layer in manifest.layers if layer.file == "model-card.md")
    assert "opset 0" not in store.blobs[card.digest].decode()
