"""The examples of docs/processing.md, on models of the kind that the page speaks of."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgectl_server.pipeline.steps import decode_steps, labels_of
from pipeline import crafted, references
from pipeline.processed import add, answer, picture

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/processing.md").read_text(), re.DOTALL)
ACTIVITY = ROOT / "server/edgectl/demo/activity"
OCCUPANCY = ROOT / "tests/data/occupancy"


@pytest.mark.parametrize("opset", [13, 18])
def test_a_picture(opset):
    model = crafted.pictures(height=32, width=32, opset=opset)
    steps = decode_steps(EXAMPLES[0])
    assert labels_of(steps) == ("cat", "dog", "bird", "fish")
    pictures = picture(1, 5, 48, 64, 3)
    small = references.resize(pictures, "NHWC", 32, 32, mode="linear", antialias=True)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    scaled = references.normalize(small.transpose(0, 3, 1, 2) / 255, "NCHW", mean, std)
    wanted = references.softmax(answer(model, x=scaled)["y"], 1)
    found = answer(add(model, steps).model, picture=pictures)
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-4, atol=1e-5)
    free = decode_steps(EXAMPLES[0].replace("48, 64", "-1, -1"))
    if opset == 18:
        found = answer(add(model, free).model, picture=pictures)
        np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-4, atol=1e-5)


def test_a_series():
    model = onnx.load(ACTIVITY / "har_v1.onnx")
    data = np.load(ACTIVITY / "eval.npz")
    stream = data["input"][:80].reshape(20, 4, 6, 128).transpose(0, 1, 3, 2).reshape(20, 512, 6)
    cut = references.windows(stream, "NTC", 128, 64).transpose(0, 2, 1)
    scores = references.softmax(answer(model, input=cut)["logits"], 1).reshape(20, 7, 7).mean(1)
    found = answer(add(model, decode_steps(EXAMPLES[1])).model, motion=stream)
    np.testing.assert_allclose(found["probabilities"], scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["activity"], references.threshold(scores, 0.6, 1))


def test_a_table():
    model = onnx.load(OCCUPANCY / "occ_mlp.onnx")
    data = dict(np.load(OCCUPANCY / "test.npz"))
    rows = data.pop("X")
    fahrenheit = rows * np.array([1.8, 1, 1, 1, 1], np.float32) + np.array([32, 0, 0, 0, 0])
    wanted = answer(model, X=rows)
    found = answer(add(model, decode_steps(EXAMPLES[2])).model, room=fahrenheit.astype(np.float32))
    assert list(found) == ["label", "state", "probabilities"]
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=1e-3)
    assert (found["label"] == data["label"]).mean() == pytest.approx(0.917, abs=0.003)
    sure = wanted["probabilities"].max(1) >= 0.9
    assert 0.5 < sure.mean() < 1
    assert (found["state"] >= 0).mean() == pytest.approx(sure.mean(), abs=0.005)


def test_the_page_has_no_other_example():
    assert len(EXAMPLES) == 3
