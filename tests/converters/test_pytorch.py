"""PyTorch exported programs, and the pickles that are called so."""

import json
import pickle

import numpy as np
import onnx
import onnxruntime
import pytest

from converters.conftest import archive, rewritten
from edgectl_server.pipeline.checks import check_model, parse_model
from edgectl_server.pipeline.spec import PipelineLimits

pytestmark = pytest.mark.timeout(900)  # the first test of a machine installs


@pytest.fixture(scope="session")
def models(make, sklearn_models):
    return make("pytorch_models", "pytorch", sklearn_models / "digits.npz")


def test_a_network_answers_as_before(models, converted):
    conversion = converted(models / "cnn.pt2", models / "digits.npz").conversion
    (check,) = conversion.checks
    assert (check.samples, check.agreement) == (256, 1.0)
    assert check.max_abs < 1e-4
    assert conversion.tools["torch"].startswith("2.")
    content = conversion.path.read_bytes()
    facts = check_model(parse_model(content, PipelineLimits()), PipelineLimits())
    assert [(one.name, one.shape) for one in facts.inputs] == [("input", (-1, 1, 8, 8))]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with np.load(models / "digits.npz") as data:
        (scores,) = session.run(None, {"input": data["input"]})
        assert (scores.argmax(axis=1) == data["label"]).mean() > 0.9
    model = onnx.load_from_string(content)
    assert not any(node.metadata_props for node in model.graph.node), "no paths of the author"


def test_a_program_of_one_sample_is_compared_sample_by_sample(models, converted):
    (check,) = converted(models / "one.pt2").conversion.checks
    assert (check.samples, check.made_up) == (64, True)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("fixed", "convert.batch", "exactly 2 samples"),
        ("unusual", "convert.unsupported", "i1e"),
        ("torchscript", "convert.pickle", "TorchScript"),
        ("pickled", "convert.pickle", "torch.save"),
        ("weights", "convert.pickle", "torch.save"),
    ],
)
def test_refusals(models, refused, name, code, says):
    error = refused(models / f"{name}.pt2")
    assert error.code == code
    assert says in error.detail
    assert error.hint


def test_no_pickle_inside_is_read(models, tmp_path, refused):
    """Not of the example inputs, which PyTorch would read with the power of pickle."""

    class Planted:
        def __reduce__(self):
            return (open, (str(tmp_path / "work" / "taken-over"), "w"))

    evil = pickle.dumps(Planted())

    def change(name, content):
        return evil if "sample_inputs" in name else content

    error = refused(rewritten(models / "cnn.pt2", tmp_path / "evil.pt2", change))
    assert error.code in ("convert.pickle", "convert.damaged")
    assert not (tmp_path / "work" / "taken-over").exists()


@pytest.mark.parametrize("change", [{"use_pickle": True}, {"path_name": "opaque_obj_0"}])
def test_weights_that_are_pickles_are_refused_before_pytorch_is_asked(
    models, tmp_path, refused, change
):
    def changed(name, content):
        if not name.endswith("model_weights_config.json"):
            return content
        document = json.loads(content)
        next(iter(document["config"].values())).update(change)
        return json.dumps(document).encode()

    error = refused(rewritten(models / "cnn.pt2", tmp_path / "evil.pt2", changed))
    assert error.code == "convert.pickle"
    assert "as pickles" in error.detail


@pytest.mark.parametrize("members", [{"a/b": "1"}, {"m/archive_format": "pt2"}])
def test_other_archives(tmp_path, refused, members):
    assert refused(archive(tmp_path / "model.pt2", members)).code == "convert.no_model"
