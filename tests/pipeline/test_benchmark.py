"""The benchmark of the pipeline: its catalogue, its scores, and its judgement."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from benchmarks.models import make_anomaly, make_large
from benchmarks.pipeline import __main__ as benchmark
from benchmarks.pipeline import baselines
from benchmarks.pipeline.measuring import Measured, measure
from benchmarks.pipeline.models import catalogue, load, score


@pytest.fixture(scope="module")
def anomaly(tmp_path_factory):
    models = catalogue(None, tmp_path_factory.mktemp("cache"))
    return next(model for model in models if model.kind == "anomaly")


def test_the_catalogue_of_the_repository_is_complete_and_real(tmp_path):
    models = catalogue(None, tmp_path)
    assert {model.kind for model in models} == {"sensor", "anomaly", "tabular"}
    for model in models:
        inputs, label = load(model.evaluation)
        assert len(set(label.tolist())) > 1, model
        session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
        outputs = dict(
            zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True)
        )
        assert score(model.metric, inputs, outputs, label) > 0.9, model


def test_area_under_the_curve():
    label = np.array([0, 0, 1, 1])
    zeros = {"x": np.zeros((4, 1), np.float32)}

    def area(*wrong):
        return score("auc", zeros, {"y": np.array(wrong, np.float32)[:, None]}, label)

    assert area(0, 1, 2, 3) == 1.0
    assert area(3, 2, 1, 0) == 0.0
    assert area(1, 1, 1, 1) == 0.5
    assert area(0, 2, 1, 3) == 0.75
    assert area(0, 1, 2, np.nan) == 0.0


def test_the_static_defaults_spoil_the_autoencoder(anomaly, tmp_path):
    """What the model is in the repository for: it must stay so when onnxruntime changes."""
    made = baselines.make("static", anomaly.path, anomaly.calibration, tmp_path / "static.onnx")
    assert made.failure == ""
    assert made.seconds > 0
    measured = measure(anomaly, {"fp32": anomaly.path, "static": made.path})
    assert measured["fp32"].value > 0.98
    assert measured["fp32"].value - measured["static"].value > 0.03
    assert measured["static"].size < 0.6 * measured["fp32"].size
    assert measured["static"].p50_us > 0


def test_a_baseline_that_cannot_be_made_says_why(anomaly, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(anomaly.path.read_bytes()[:1000])
    made = baselines.make("dynamic", broken, anomaly.calibration, tmp_path / "out.onnx")
    assert made.failure.startswith("exit code 1: ")


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        (Measured(100, 0.90, 10.0), []),
        (Measured(100, 0.88, 10.0), ["loses 2.00 points"]),
        (Measured(50, 0.90, 12.0), []),
        (Measured(110, 0.90, 10.0), ["static is better"]),
        (Measured(100, 0.90, 12.0), ["static is better"]),
        (Measured(300, 0.90, 9.0), []),
        (None, ["refused"]),
    ],
)
def test_what_is_worse(ours, found):
    measured = {
        "fp32": Measured(400, 0.90, 20.0),
        "static": Measured(100, 0.895, 10.0),
        "dynamic": Measured(90, 0.5, 1.0),
    }
    if ours is not None:
        measured["edgectl"] = ours
    assert [one.split(":")[0] for one in benchmark._worse(measured)] == found


def test_the_network_learns_and_its_onnx_file_agrees(tmp_path, monkeypatch):
    monkeypatch.setattr(make_anomaly, "EPOCHS", 1)
    assert make_anomaly.main([str(tmp_path)]) == 0
    inputs, label = load(tmp_path / "eval.npz")
    committed, _ = load(make_anomaly.FOLDER / "eval.npz")
    assert np.array_equal(inputs["input"], committed["input"]), "the committed data is made by it"
    session = onnxruntime.InferenceSession(tmp_path / "ae.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, inputs)
    assert score("auc", inputs, {"output": output}, label) > 0.8


def test_weights_are_read_without_running_what_a_pickle_says():
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (Path("evil"),))

    with pytest.raises(pickle.UnpicklingError, match="not expected in weights"):
        make_large.read_weights(pickle.dumps(Evil()))
