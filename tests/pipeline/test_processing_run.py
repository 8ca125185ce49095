"""Steps through the whole run: data, contract, gate and golden cases are of raw inputs."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edgectl_protocol.manifest import (
    CONFIG_FILE,
    Lineage,
    decode_config,
    decode_manifest,
    layer_by_file,
)
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.nodes import is_processing
from edgectl_server.pipeline.pack import pack
from edgectl_server.pipeline.steps import decode_steps, labels_of
from edgectl_server.storage.blobs import BlobStore
from pipeline import crafted, references
from pipeline.conftest import run

LABELS = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying", "transition")
MEAN = np.array([0.5, -1, 2, 0, 9.81, 3], np.float32)
STD = np.array([2, 0.5, 1, 4, 3, 0.25], np.float32)
STEPS = f"""
[[input]]
name = "accelerometer"
datatype = "FP32"
layout = "NTC"
shape = ["N", 128, 6]
steps = [
  {{do = "scale", multiply = 1e-6}},
  {{do = "layout", to = "NCT"}},
  {{do = "normalize", mean = {MEAN.tolist()}, std = {STD.tolist()}}},
]

[[output]]
name = "probabilities"
steps = [{{do = "softmax"}}, {{do = "labels", names = {list(LABELS)}}}]

[[output]]
tensor = "logits"
name = "activity"
steps = [{{do = "softmax"}}, {{do = "threshold", minimum = 0.6}}]

[[output]]
tensor = "logits"
name = "energy"
steps = [{{do = "scale", multiply = 1e6}}]
"""
FLOAT_STEPS = {"Mul", "Transpose", "Sub", "Div", "Softmax", "ArgMax", "Greater", "Cast", "Add"}
RECIPES = ("int8-static-minmax-per-channel-reduced", "int8-dynamic", "fp16")


def raw(source, target):
    """The data as a sensor gives it: in millionths, unscaled, time first."""
    arrays = dict(np.load(source))
    scaled = arrays.pop("input")
    unscaled = (scaled * STD[:, None] + MEAN[:, None]).transpose(0, 2, 1) * 1e6
    np.savez(target, accelerometer=np.ascontiguousarray(unscaled, np.float32), **arrays)
    return target


@pytest.fixture(scope="module")
def processed_run(activity, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processed")
    steps = decode_steps(STEPS)
    return run(
        folder,
        model="har",
        source=activity / "har_v1.onnx",
        calibration=raw(activity / "calibration.npz", folder / "calibration.npz"),
        evaluation=raw(activity / "eval.npz", folder / "evaluation.npz"),
        processing=steps,
        labels=labels_of(steps),
        precisions=("fp32", "fp16", "int8"),
        recipes=RECIPES,
    )


def test_the_accuracy_is_that_of_the_class_that_applications_get(processed_run, activity):
    """As the model with scaled data and NumPy behind it; no class counts as a wrong one."""
    data = np.load(activity / "eval.npz")
    session = onnxruntime.InferenceSession(activity / "har_v1.onnx")
    (logits,) = session.run(None, {"input": data["input"]})
    found = references.threshold(references.softmax(logits, 1), 0.6, 1)
    report = processed_run.result.report
    assert report.reference == pytest.approx((found == data["label"]).mean(), abs=0.002)
    assert report.reference == pytest.approx(0.924, abs=0.002)
    assert report.metric == "accuracy"
    assert {row.recipe: row.status for row in report.trials} == dict.fromkeys(
        ("fp32", *RECIPES), "accepted"
    )
    fp16 = next(row for row in report.trials if row.recipe == "fp16")
    assert fp16.value == pytest.approx(report.reference, abs=0.002), "millions fit in no FP16"
    assert report.parameters == 110_535, "the model's own"
    assert [line.split(":")[0] for line in report.processing] == [
        "input accelerometer", "output logits", "output logits", "output logits"
    ]  # fmt: skip


def test_millions_come_through_fp16(processed_run):
    """Raw values and outputs are beyond what FP16 holds; only the model between them is in it."""
    session = onnxruntime.InferenceSession(processed_run.directory / "fp16.onnx")
    golden = np.load(processed_run.directory / "fp32" / "golden.npz")
    (energy,) = session.run(["energy"], {"accelerometer": golden["input.accelerometer"]})
    wanted = golden["output.energy"]
    assert np.abs(wanted).max() > 1e6
    np.testing.assert_allclose(energy, wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_the_contract_is_that_of_the_steps(processed_run):
    for candidate in processed_run.result.candidates:
        assert [(one.name, one.datatype, one.shape) for one in candidate.inputs] == [
            ("accelerometer", "FP32", (-1, 128, 6))
        ]
        assert [(one.name, one.datatype, one.shape) for one in candidate.outputs] == [
            ("probabilities", "FP32", (-1, 7)),
            ("activity", "INT64", (-1,)),
            ("energy", "FP32", (-1, 7)),
        ]
        assert candidate.scores.output == "probabilities"
        assert candidate.scores.kind == "probabilities"
        golden = np.load(processed_run.directory / candidate.variant / "golden.npz")
        assert golden["input.accelerometer"].shape == (16, 128, 6)
        assert golden["output.activity"].dtype == np.int64


@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_stay_in_float(processed_run, recipe):
    model = onnx.load(processed_run.directory / f"{recipe}.onnx")
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.output)}
    types |= {one.name: one.type.tensor_type.elem_type for one in graph.input}
    made = {name: node for node in graph.node for name in node.output}
    steps = [node for node in graph.node if is_processing(node) and node.op_type in FLOAT_STEPS]
    assert {node.op_type for node in steps} >= {"Sub", "Div", "Softmax", "ArgMax"}
    for node in steps:
        if "_cast_to_fp" in node.name:  # where the model's own FP16 begins
            continue
        for dequantized in [made[n] for n in node.input if n in made]:
            if dequantized.op_type == "DequantizeLinear":  # what the model itself gives
                quantized = made[dequantized.input[0]]
                assert not is_processing(made[quantized.input[0]]), node.name
        assert types[node.output[0]] != onnx.TensorProto.FLOAT16, node.name
    others = [node.op_type for node in graph.node if not is_processing(node)]
    if recipe != "fp16":
        assert any("Linear" in kind or "Integer" in kind for kind in others)


def test_the_matrices_of_a_resize_stay_in_float(tmp_path):
    """They are weights of a MatMul, but not of the model."""
    steps = decode_steps(
        """
        [[input]]
        datatype = "UINT8"
        layout = "NHWC"
        shape = ["N", 30, 40, 3]
        steps = [
          {do = "resize", height = 8, width = 8, antialias = true},
          {do = "layout", to = "NCHW"},
          {do = "normalize", mean = 128, std = 64},
        ]
        """
    )
    pictures = np.random.default_rng(1).integers(0, 256, (40, 30, 40, 3), dtype=np.uint8)
    recipes = ("int8-weights", "int8-dynamic", "int8-static-minmax-u8u8")
    made = run(
        tmp_path,
        source=crafted.save(crafted.pictures(opset=13), tmp_path / "m.onnx"),
        calibration=crafted.save_arrays(tmp_path / "c.npz", x=pictures),
        processing=steps,
        recipes=recipes,
        max_drop_points=100.0,
    )
    assert {row.status for row in made.result.report.trials} == {"accepted"}
    for recipe in recipes:
        graph = onnx.load(tmp_path / f"{recipe}.onnx").graph
        floats = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
        matrices = [node for node in graph.node if node.op_type == "MatMul"]
        assert len(matrices) == 2
        assert all(floats & {*node.input} for node in matrices)


def test_the_bundle_says_what_the_steps_are(processed_run, tmp_path):
    blobs = BlobStore(str(tmp_path / "blobs"))
    packed = pack(
        processed_run.result,
        processed_run.directory,
        blobs=blobs,
        model="har",
        version="1",
        labels=LABELS,
        lineage=Lineage(source=processed_run.result.source),
    )
    layer = layer_by_file(decode_manifest(packed[0].manifest), CONFIG_FILE)
    config = decode_config(blobs.read(layer.digest))
    assert config.processing == processed_run.result.report.processing
    assert config.labels == LABELS
    assert "normalize mean [0.5 -1 2 0 and 2 more]" in config.processing[0]


def test_a_stream_is_cut_and_its_windows_joined(tmp_path, activity):
    """Four windows of the real data in a row are one stream; its answer is their mean."""
    scaled = np.load(activity / "eval.npz")["input"][:40]
    streams = scaled.reshape(10, 4, 6, 128).transpose(0, 2, 1, 3).reshape(10, 6, 512)
    steps = decode_steps(
        """
        [[input]]
        datatype = "FP32"
        layout = "NCT"
        shape = ["N", 6, 512]
        steps = [{do = "window", length = 128, hop = 128}]
        [[output]]
        name = "probabilities"
        steps = [{do = "softmax"}, {do = "join", by = "mean"}]
        """
    )
    made = run(
        tmp_path,
        source=activity / "har_v1.onnx",
        calibration=crafted.save_arrays(tmp_path / "c.npz", input=streams),
        processing=steps,
        precisions=("fp32",),
    )
    session = onnxruntime.InferenceSession(tmp_path / "fp32/model.onnx")
    (got,) = session.run(None, {"input": streams})
    plain = onnxruntime.InferenceSession(activity / "har_v1.onnx")
    (logits,) = plain.run(None, {"input": scaled})
    soft = references.softmax(logits, 1)
    np.testing.assert_allclose(got, soft.reshape(10, 4, 7).mean(1), rtol=1e-4, atol=1e-6)
    assert made.result.candidates[0].scores.kind == "probabilities"


def test_pictures_of_any_size_are_one_input(tmp_path):
    """Whoever pushes has pictures of one size; a device takes all sizes."""
    steps = decode_steps(
        """
        [[input]]
        name = "picture"
        datatype = "UINT8"
        layout = "NHWC"
        shape = ["N", -1, -1, 3]
        steps = [
          {do = "resize", height = 8, width = 8, antialias = true},
          {do = "layout", to = "NCHW"},
          {do = "scale", divide = 255},
        ]
        """
    )
    source = crafted.save(crafted.pictures(opset=18), tmp_path / "m.onnx")
    pictures = np.random.default_rng(1).integers(0, 256, (20, 30, 40, 3), dtype=np.uint8)
    data = crafted.save_arrays(tmp_path / "c.npz", picture=pictures)
    made = run(tmp_path, source=source, calibration=data, processing=steps, precisions=("fp32",))
    assert made.result.candidates[0].inputs[0].shape == (-1, -1, -1, 3)
    session = onnxruntime.InferenceSession(tmp_path / "fp32/model.onnx")
    for height, width in ((8, 8), (5, 90), (64, 33)):
        (got,) = session.run(None, {"picture": np.full((2, height, width, 3), 255, np.uint8)})
        assert got.shape == (2, 4)
    without = run(tmp_path, source=source, processing=steps, precisions=("fp32",))
    assert "for lack of data" in " ".join(without.result.report.warnings)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"input_shapes": {"x": (-1, 9)}}, "model.input_shape"),
        ({"processing": decode_steps('[[output]]\nname="q"\nsteps=[{do="join"}]')},
         "processing.shape"),
    ],
)  # fmt: skip
def test_a_refusal_comes_out_of_the_child(tmp_path, fields, code):
    source = crafted.save(crafted.dense(), tmp_path / "m.onnx")
    with pytest.raises(PipelineRefused) as caught:
        run(tmp_path, source=source, **fields)
    assert caught.value.code == code
    assert caught.value.hint


def test_an_input_shape_is_fixed(tmp_path):
    source = crafted.save(crafted.pictures(height="H", width="W"), tmp_path / "m.onnx")
    with pytest.raises(PipelineRefused, match=r"--input-shape x=Nx3x224x224"):
        run(tmp_path, source=source, precisions=("fp32",))
    shapes = {"x": (-1, 3, 12, 9)}
    made = run(tmp_path, source=source, input_shapes=shapes, precisions=("fp32",))
    assert made.result.candidates[0].inputs[0].shape == (-1, 3, 12, 9)
