"""SavedModel and Keras: real models of real TensorFlow, and what is refused."""

import zipfile

import numpy as np
import onnxruntime
import pytest

from converters.conftest import archive
from edgectl.saved_models import one_file
from edgectl_server.pipeline.checks import check_model, parse_model
from edgectl_server.pipeline.spec import PipelineLimits

pytestmark = pytest.mark.timeout(900)  # the first test of a machine installs


@pytest.fixture(scope="session")
def models(make, sklearn_models):
    return make("tensorflow_models", "tensorflow", sklearn_models / "digits.npz")


@pytest.fixture
def packed(models, tmp_path):
    """Return a file, or a SavedModel packed as the command line does."""

    def pack(name):
        with one_file(models / name) as file:
            path = tmp_path / file.name
            path.write_bytes(file.read_bytes())
        return path

    return pack


def accuracy(path, data):
    with np.load(data) as file:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (name,) = (one.name for one in session.get_inputs())
        (scores,) = session.run(None, {name: file["input"]})
        return (scores.argmax(axis=1) == file["label"]).mean()


@pytest.mark.parametrize("name", ["cnn.keras", "cnn.h5", "cnn"])
def test_a_network_answers_as_before(models, converted, packed, name):
    conversion, progress = converted(packed(name), models / "digits.npz")
    (check,) = conversion.checks
    assert check.samples == 256
    assert check.max_abs < 1e-4
    assert check.agreement == 1.0
    assert conversion.source_format == ("keras" if "." in name else "savedmodel")
    assert {"keras", "onnxruntime", "python", "tf2onnx"} <= set(conversion.tools)
    assert [one.message for one in progress][-2] == "comparing"
    content = conversion.path.read_bytes()
    facts = check_model(parse_model(content, PipelineLimits()), PipelineLimits())
    assert [one.shape for one in facts.inputs] == [(-1, 8, 8, 1)]
    assert accuracy(content, models / "digits.npz") > 0.8


def test_two_inputs_and_two_outputs_keep_their_names(converted, packed):
    conversion = converted(packed("two")).conversion
    session = onnxruntime.InferenceSession(conversion.path, providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} == {"values", "kinds"}
    assert {one.name for one in session.get_outputs()} == {"total", "weighted"}
    assert {check.output for check in conversion.checks} == {"total", "weighted"}


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("plain", "convert.signature", "serving_default"),
        ("unusual", "convert.unsupported", "Betainc"),
        ("lambda.keras", "convert.unsafe", "Lambda"),
        ("lambda.h5", "convert.unsafe", "Lambda"),
    ],
)
def test_refusals(refused, packed, name, code, says):
    error = refused(packed(name))
    assert error.code == code
    assert says in error.detail
    assert error.hint


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"readme.txt": "no model"}, "convert.no_model"),
        ({"saved_model.pb": b"\xff\xff\xff no protobuf"}, "convert.damaged"),
        ({"saved_model.pb": "1", "../../keys/root.pem": "mine"}, "convert.path"),
        ({"saved_model.pb": "1", "/etc/cron.d/x": "mine"}, "convert.path"),
    ],
)
def test_archives_that_are_no_saved_model(tmp_path, refused, members, code):
    assert refused(archive(tmp_path / "model.zip", members)).code == code


def test_a_link_in_a_saved_model(tmp_path, refused):
    path = tmp_path / "model.zip"
    info = zipfile.ZipInfo("variables")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, "/etc")
    assert refused(path).code == "convert.path"


def test_a_bomb(tmp_path, refused):
    path = archive(tmp_path / "model.zip", {"saved_model.pb": bytes(50_000_000)})
    assert refused(path, unpacked_bytes_max=10_000_000).code == "convert.too_large"
