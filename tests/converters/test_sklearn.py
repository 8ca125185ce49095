"""scikit-learn from .skops files: real estimators, and what is refused."""

import pickle
import zipfile

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from converters.conftest import archive, rewritten
from edgectl_server.converters.formats import recognise
from edgectl_server.pipeline.checks import check_model, parse_model
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import PipelineLimits

pytestmark = pytest.mark.timeout(600)  # the first test of a machine installs


def test_a_perceptron_answers_as_before(sklearn_models, converted):
    conversion, progress = converted(sklearn_models / "mlp.skops", sklearn_models / "digits.npz")
    (check,) = conversion.checks
    assert (check.output, check.samples, check.made_up) == ("probabilities", 256, False)
    assert check.max_abs < 1e-5
    assert check.agreement == 1.0
    assert conversion.source_format == "sklearn"
    assert {"python", "scikit-learn", "skl2onnx", "onnxruntime"} <= set(conversion.tools)
    assert {one.stage for one in progress} == {"convert"}
    assert "same class 1.000" in progress[-1].message
    content = conversion.path.read_bytes()
    facts = check_model(parse_model(content, PipelineLimits()), PipelineLimits())
    assert [(one.name, one.shape) for one in facts.inputs] == [("input", (-1, 64))]
    with np.load(sklearn_models / "digits.npz") as data:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {"input": data["input"]})
        assert (scores.argmax(axis=1) == data["label"]).mean() > 0.97
    msgspec.json.encode(conversion, enc_hook=str)


def test_classes_by_name_become_labels(sklearn_models, converted):
    """And the input has the name that the data give it."""
    conversion = converted(sklearn_models / "forest.skops", sklearn_models / "iris.npz").conversion
    assert conversion.labels == ("setosa", "versicolor", "virginica")
    model = onnx.load(str(conversion.path))
    assert [one.name for one in model.graph.output] == ["probabilities"]
    assert [one.name for one in model.graph.input] == ["flower"]


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("boosting", ["probabilities"]),
        ("regression", ["variable"]),
        ("clusters", ["label", "scores"]),
        ("machine", ["label", "probabilities"]),
    ],
)
def test_other_estimators(sklearn_models, converted, name, outputs):
    conversion = converted(sklearn_models / f"{name}.skops").conversion
    assert [check.output for check in conversion.checks] == outputs
    assert all(check.made_up and check.outside <= 0.001 for check in conversion.checks)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("function", "convert.forbidden_type", "posixpath.join"),
        ("numpy_function", "convert.forbidden_type", "numpy.testing"),
        ("sklearn_function", "convert.forbidden_type", "load_iris"),
        ("centroid", "convert.unsupported", "NearestCentroid"),
        ("machine_names", "convert.classes", "LinearSVC"),
        ("unfitted", "convert.no_model", "GaussianNB"),
        ("scaler", "convert.no_model", "StandardScaler"),
    ],
)
def test_refusals(sklearn_models, refused, name, code, says):
    error = refused(sklearn_models / f"{name}.skops")
    assert error.code == code
    assert says in error.detail
    assert error.hint


class Planted:
    def __reduce__(self):
        return (print, ("taken over",))


def test_a_pickle_that_is_called_skops(tmp_path, refused):
    path = tmp_path / "model.skops"
    path.write_bytes(pickle.dumps(Planted()))
    error = refused(path)
    assert error.code == "convert.pickle"
    assert "skops.io.dump" in error.hint


def test_a_type_from_elsewhere_is_named_and_not_loaded(sklearn_models, tmp_path, refused):
    def change(name, content):
        if name != "schema.json":
            return content
        return content.replace(b'"__class__": "GaussianNB"', b'"__class__": "Popen"').replace(
            b'"__module__": "sklearn.naive_bayes"', b'"__module__": "subprocess"'
        )

    path = rewritten(sklearn_models / "unfitted.skops", tmp_path / "evil.skops", change)
    error = refused(path)
    assert error.code == "convert.forbidden_type"
    assert error.data["types"] == ["subprocess.Popen"]


def test_a_pickle_inside_is_not_read(sklearn_models, tmp_path, refused):
    """NumPy's own format can hold a pickle; skops reads arrays of numbers alone."""
    evil = np.array([Planted()], dtype=object)

    def change(name, content):
        if not name.endswith(".npy"):
            return content
        np.save(tmp_path / "evil.npy", evil, allow_pickle=True)
        return (tmp_path / "evil.npy").read_bytes()

    path = rewritten(sklearn_models / "scaler.skops", tmp_path / "evil.skops", change)
    error = refused(path)
    assert error.code == "convert.damaged"
    assert "allow_pickle" in error.detail


def test_a_bomb_is_not_unpacked(tmp_path, refused):
    path = archive(tmp_path / "bomb.skops", {"schema.json": b" " * 50_000_000})
    assert path.stat().st_size < 100_000
    assert refused(path, unpacked_bytes_max=10_000_000).code == "convert.too_large"


def test_a_file_beyond_the_limit(sklearn_models, refused):
    error = refused(sklearn_models / "mlp.skops", source_bytes_max=1000)
    assert error.code == "convert.too_large"
    assert "1000 bytes" in error.detail


def test_a_model_that_answers_otherwise_is_refused_with_numbers(sklearn_models, refused):
    """Its features are near ten million, where float32, in which ONNX computes, is coarse."""
    error = refused(sklearn_models / "offset.skops", sklearn_models / "offset.npz")
    assert error.code == "convert.differs"
    (check,) = error.data["checks"]
    assert check["output"] == "probabilities"
    assert check["max_abs"] > 0.01
    assert f"{check['max_abs']:.3g}" in error.detail
    assert "--evaluation" in error.hint


@pytest.mark.parametrize("content", [{"other": ""}, {"schema.json": "[1"}, {"schema.json": "{}"}])
def test_archives_that_skops_cannot_read(tmp_path, refused, content):
    assert refused(archive(tmp_path / "empty.skops", content)).code == "convert.damaged"


def test_data_that_do_not_fit(sklearn_models, tmp_path, refused):
    np.savez(tmp_path / "wide.npz", input=np.zeros((3, 65), "f4"))
    error = refused(sklearn_models / "mlp.skops", tmp_path / "wide.npz")
    assert error.code == "convert.data"
    assert "[64]" in error.detail


def test_a_zip_is_a_format_by_its_name_alone(tmp_path):
    path = archive(tmp_path / "model.onnx", {"a": "b"})
    with pytest.raises(PipelineRefused) as caught:
        recognise(path, "model.onnx")
    assert caught.value.code == "convert.format"
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["a"]
